//! Scores in: what a file is, told by its content, and the reader for it.

mod musicxml;
mod mxl;
mod note;
mod part;
mod time;
mod xml;

use std::borrow::Cow;

use crate::score::Score;

/// Bytes of a score, at most: as a file, and inflated.
pub const SCORE_BYTES_MAX: usize = 50 << 20;

/// Where in a score something is wrong.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Place {
    /// Of the XML, from 1.
    pub line: usize,
    /// The part's id and the measure's number, as printed, where they are known.
    pub part: Option<String>,
    pub measure: Option<String>,
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "line {}", self.line)?;
        if let Some(part) = &self.part {
            write!(f, ", part {part}")?;
        }
        if let Some(measure) = &self.measure {
            write!(f, ", measure {measure}")?;
        }
        Ok(())
    }
}

/// Why a score could not be read. Each message names the file, says where, and what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    #[error(
        "{name}: {bytes} bytes are more than the {bytes_max} that such a file may have; cut it into movements"
    )]
    TooLarge { name: String, bytes: usize, bytes_max: usize },
    #[error(
        "{name}: the score inside is more than {SCORE_BYTES_MAX} bytes when unpacked, which no score needs; \
         do not trust this file"
    )]
    InflatesTooFar { name: String },
    #[error("{name}: {kind}; {hint}")]
    NotMusicXml { name: String, kind: &'static str, hint: &'static str },
    #[error("{name}: a damaged or truncated .mxl ({what}); copy or export it again")]
    Container { name: String, what: String },
    #[error("{name}, line {line}: not well-formed XML ({what}); copy or export the score again")]
    Xml { name: String, line: usize, what: String },
    #[error(
        "{name}, line {line}: it declares or uses XML entities of its own, which MusicXML does not need and which \
         are never expanded or fetched; remove the part of the DOCTYPE in [ ], or export the score again"
    )]
    Entities { name: String, line: usize },
    #[error("{name}, {place}: {what}")]
    Music { name: String, place: Place, what: String },
    #[error("{name}: no part of the score has a note; there is nothing to read")]
    NoNotes { name: String },
}

/// Reads a MusicXML score, plain (partwise or timewise) or compressed, telling them apart by content. `name` is used
/// in messages only.
///
/// # Errors
/// Whatever is no MusicXML, is damaged, too large, has entities of its own or no note at all.
pub fn read_score(bytes: &[u8], name: &str) -> Result<Score, ReadError> {
    if bytes.len() > SCORE_BYTES_MAX {
        return Err(ReadError::TooLarge {
            name: name.to_owned(),
            bytes: bytes.len(),
            bytes_max: SCORE_BYTES_MAX,
        });
    }
    let xml = if bytes.starts_with(b"PK\x03\x04") || bytes.starts_with(b"PK\x05\x06") {
        Cow::Owned(mxl::inflate(bytes, name)?)
    } else {
        Cow::Borrowed(bytes)
    };
    if let Some((kind, hint)) = foreign(&xml) {
        return Err(ReadError::NotMusicXml { name: name.to_owned(), kind, hint });
    }
    let text = xml::decode_text(&xml, name)?;
    musicxml::read(&text, name)
}

const EXPORT: &str = "export it as MusicXML";

/// What a file that is no XML is, and what to do with it.
fn foreign(bytes: &[u8]) -> Option<(&'static str, &'static str)> {
    let is = |magic: &[u8]| bytes.starts_with(magic);
    if bytes.is_empty() {
        return Some(("an empty file", "copy or export the score again"));
    }
    if is(b"MThd") || is(b"RIFF") {
        return Some((
            "a MIDI file, and scores are read from MusicXML",
            "open it in a notation program and export it",
        ));
    }
    if is(b"%PDF") {
        return Some(("a PDF", "export MusicXML from the program that made it"));
    }
    if is(b"!!!") || is(b"**") {
        return Some(("a Humdrum file", "convert it to MusicXML, for example with music21 or Verovio"));
    }
    if is(b"\xff\xfe") || is(b"\xfe\xff") {
        return None;
    }
    let start = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    match start.iter().find(|byte| !byte.is_ascii_whitespace()) {
        Some(b'<') => None,
        _ => Some(("not a score that is known here", EXPORT)),
    }
}
