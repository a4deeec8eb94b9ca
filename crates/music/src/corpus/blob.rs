//! The canonical bytes of a corpus: one corpus, one blob, one digest; and back, whatever the bytes are.
//!
//! Layout, all numbers little-endian: the magic line, kind and protocol (one byte each), the name, the
//! vocabulary (count, then strings), the pieces (count, then id, part, token count, tokens as u16). A string is
//! its length in bytes as u32 and its UTF-8; counts are u32.

use std::collections::HashSet;

use sha2::{Digest, Sha256};

use super::{Corpus, Kind, PartOfSplit, Piece, Protocol, START};

const MAGIC: &[u8] = b"kapell-corpus 1\n";
/// A blob larger than this is refused unread.
pub const BLOB_BYTES_MAX: usize = 512 << 20;
const STRING_BYTES_MAX: usize = 1024;
const VOCABULARY_MAX: usize = 1 << 16;

/// Why bytes are no corpus.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BlobError {
    #[error("not a corpus blob of this format")]
    Magic,
    #[error("the blob has {bytes} bytes, more than the {BLOB_BYTES_MAX} that are read")]
    TooLarge { bytes: usize },
    #[error("the blob ends in the middle of {what}")]
    Truncated { what: &'static str },
    #[error("{extra} bytes follow the last piece")]
    TrailingBytes { extra: usize },
    #[error("invalid {what}")]
    Invalid { what: &'static str },
    #[error("the piece \"{id}\" is there twice")]
    DuplicatePiece { id: String },
    #[error("the piece \"{id}\" has token {token}, the vocabulary ends before it")]
    UnknownToken { id: String, token: u16 },
}

impl Corpus {
    /// The canonical bytes. Equal corpora give equal bytes; `from_bytes` gives the corpus back as long as its
    /// strings are at most 1024 bytes long, which `build` sees to.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(64 + self.token_count() * 2 + self.pieces.len() * 32);
        out.extend_from_slice(MAGIC);
        out.push(match self.kind {
            Kind::Scores => 0,
            Kind::Text => 1,
        });
        out.push(match self.protocol {
            Protocol::Pieces => 0,
            Protocol::Contiguous => 1,
        });
        put_string(&mut out, &self.name);
        put_count(&mut out, self.vocabulary.len());
        for spelling in &self.vocabulary {
            put_string(&mut out, spelling);
        }
        put_count(&mut out, self.pieces.len());
        for piece in &self.pieces {
            put_string(&mut out, &piece.id);
            out.push(match piece.part {
                PartOfSplit::Train => 0,
                PartOfSplit::Val => 1,
                PartOfSplit::Test => 2,
            });
            put_count(&mut out, piece.tokens.len());
            for token in &piece.tokens {
                out.extend_from_slice(&token.to_le_bytes());
            }
        }
        out
    }

    /// The corpus of a blob. Checks everything that the rest of the house relies on: ids unique, tokens within
    /// the vocabulary, nothing left over. Allocates no more than a small multiple of `bytes`.
    ///
    /// # Errors
    /// Any deviation from the layout; never panics.
    pub fn from_bytes(bytes: &[u8]) -> Result<Corpus, BlobError> {
        if bytes.len() > BLOB_BYTES_MAX {
            return Err(BlobError::TooLarge { bytes: bytes.len() });
        }
        let mut reader = Reader { rest: bytes.strip_prefix(MAGIC).ok_or(BlobError::Magic)? };
        let kind = match reader.byte("the kind")? {
            0 => Kind::Scores,
            1 => Kind::Text,
            _ => return Err(BlobError::Invalid { what: "kind" }),
        };
        let protocol = match reader.byte("the protocol")? {
            0 => Protocol::Pieces,
            1 => Protocol::Contiguous,
            _ => return Err(BlobError::Invalid { what: "protocol" }),
        };
        let name = reader.string("the name")?;
        let vocabulary = read_vocabulary(&mut reader)?;
        let pieces = read_pieces(&mut reader, vocabulary.len())?;
        match reader.rest.len() {
            0 => Ok(Corpus { name, kind, protocol, vocabulary, pieces }),
            extra => Err(BlobError::TrailingBytes { extra }),
        }
    }

    /// `sha256:<hex>` of the blob.
    #[must_use]
    pub fn digest(&self) -> String {
        digest(&self.to_bytes())
    }

    /// `sha256:<hex>` of the written-down split: the protocol's name, then a line "id, tab, part" a piece.
    #[must_use]
    pub fn split_digest(&self) -> String {
        let mut text = String::from(match self.protocol {
            Protocol::Pieces => "pieces\n",
            Protocol::Contiguous => "contiguous\n",
        });
        for piece in &self.pieces {
            text.push_str(&piece.id);
            text.push('\t');
            text.push_str(piece.part.name());
            text.push('\n');
        }
        digest(text.as_bytes())
    }
}

/// `sha256:<hex>` of some bytes.
#[must_use]
pub fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(bytes)))
}

/// A piece's id can be written to a line of its own and into a table.
pub(crate) fn is_piece_id(id: &str) -> bool {
    !id.is_empty() && id.len() <= STRING_BYTES_MAX && !id.chars().any(char::is_control)
}

fn read_vocabulary(reader: &mut Reader<'_>) -> Result<Vec<String>, BlobError> {
    let count = reader.count("the vocabulary", 4)?;
    if !(2..=VOCABULARY_MAX).contains(&count) {
        return Err(BlobError::Invalid { what: "size of the vocabulary" });
    }
    let mut seen = HashSet::with_capacity(count);
    let mut vocabulary = Vec::with_capacity(count);
    for _ in 0..count {
        let spelling = reader.string("the vocabulary")?;
        if !seen.insert(spelling.clone()) {
            return Err(BlobError::Invalid { what: "vocabulary: a spelling is there twice" });
        }
        vocabulary.push(spelling);
    }
    Ok(vocabulary)
}

fn read_pieces(reader: &mut Reader<'_>, vocabulary_len: usize) -> Result<Vec<Piece>, BlobError> {
    let count = reader.count("the pieces", 9)?;
    let mut seen = HashSet::with_capacity(count);
    let mut pieces = Vec::with_capacity(count);
    for _ in 0..count {
        let id = reader.string("a piece's id")?;
        if !is_piece_id(&id) {
            return Err(BlobError::Invalid { what: "piece id" });
        }
        let part = match reader.byte("a piece's part")? {
            0 => PartOfSplit::Train,
            1 => PartOfSplit::Val,
            2 => PartOfSplit::Test,
            _ => return Err(BlobError::Invalid { what: "part of the split" }),
        };
        let len = reader.count("a piece's tokens", 2)?;
        let tokens: Vec<u16> = reader
            .take(len * 2, "a piece's tokens")?
            .chunks_exact(2)
            .map(|b| u16::from_le_bytes([b[0], b[1]]))
            .collect();
        if let Some(&token) = tokens.iter().find(|&&t| usize::from(t) >= vocabulary_len) {
            return Err(BlobError::UnknownToken { id, token });
        }
        if tokens.first() != Some(&START) {
            return Err(BlobError::Invalid { what: "piece: it does not begin with START" });
        }
        if !seen.insert(id.clone()) {
            return Err(BlobError::DuplicatePiece { id });
        }
        pieces.push(Piece { id, part, tokens });
    }
    Ok(pieces)
}

fn put_string(out: &mut Vec<u8>, string: &str) {
    put_count(out, string.len());
    out.extend_from_slice(string.as_bytes());
}

/// Counts above u32 do not occur: the memory of the corpus would be above 8 GiB. Saturated, they read back as
/// an error, not as another corpus.
fn put_count(out: &mut Vec<u8>, count: usize) {
    out.extend_from_slice(&u32::try_from(count).unwrap_or(u32::MAX).to_le_bytes());
}

struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    fn take(&mut self, len: usize, what: &'static str) -> Result<&'a [u8], BlobError> {
        let (taken, rest) = self.rest.split_at_checked(len).ok_or(BlobError::Truncated { what })?;
        self.rest = rest;
        Ok(taken)
    }

    fn byte(&mut self, what: &'static str) -> Result<u8, BlobError> {
        self.take(1, what).map(|b| b[0])
    }

    /// A count of things of at least `size_min` bytes each, all of which must still be there.
    fn count(&mut self, what: &'static str, size_min: usize) -> Result<usize, BlobError> {
        let mut number = [0; 4];
        number.copy_from_slice(self.take(4, what)?);
        let count = usize::try_from(u32::from_le_bytes(number)).map_err(|_| BlobError::Invalid { what })?;
        if count > self.rest.len() / size_min {
            return Err(BlobError::Truncated { what });
        }
        Ok(count)
    }

    fn string(&mut self, what: &'static str) -> Result<String, BlobError> {
        let len = self.count(what, 1)?;
        if len > STRING_BYTES_MAX {
            return Err(BlobError::Invalid { what });
        }
        let bytes = self.take(len, what)?.to_vec();
        String::from_utf8(bytes).map_err(|_| BlobError::Invalid { what })
    }
}
