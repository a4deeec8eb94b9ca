//! Scores in: what a file is, told by its content, and the reader for it.

mod direction;
mod lyric;
mod midi;
mod musicxml;
mod mxl;
mod note;
mod part;
mod pitch;
mod signatures;
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
    #[error("{name}, {place}: {what}")]
    Midi { name: String, place: String, what: String },
    #[error("{name}: its only notes are a drum's, without a pitch; choose a score with a melody")]
    Percussion { name: String },
}

/// Reads a MusicXML score, plain (partwise or timewise) or compressed, or a MIDI file, telling them apart by content.
/// `name` is used in messages only.
///
/// # Errors
/// Whatever is none of these, is damaged, too large, has entities of its own or no note at all.
pub fn read_score(bytes: &[u8], name: &str) -> Result<Score, ReadError> {
    if bytes.len() > SCORE_BYTES_MAX {
        return Err(ReadError::TooLarge {
            name: name.to_owned(),
            bytes: bytes.len(),
            bytes_max: SCORE_BYTES_MAX,
        });
    }
    if midi::is_midi(bytes) {
        return midi::read(bytes, name);
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

/// Files that people try, by how they begin: what they are, and what to do.
const KNOWN: [(&[u8], &str, &str); 13] = [
    (b"%PDF", "a PDF", "export MusicXML from the program that made it"),
    (b"!!!", "a Humdrum file", "convert it to MusicXML, for example with music21 or Verovio"),
    (b"**", "a Humdrum file", "convert it to MusicXML, for example with music21 or Verovio"),
    (b"X:", "an ABC tune", "convert it to MusicXML, for example with EasyABC or abc2xml"),
    (b"%abc", "an ABC tune", "convert it to MusicXML, for example with EasyABC or abc2xml"),
    (b"\\version", "a LilyPond file", "export MusicXML or MIDI from it, for example with Frescobaldi"),
    (b"\x0fSIBELIUS", "a Sibelius file", "in Sibelius: File > Export > MusicXML"),
    (b"ENIGMA", "a Finale file", "in Finale: File > Export > MusicXML"),
    (b"\x18FICHIER GUITAR", "a Guitar Pro file", "in Guitar Pro: File > Export > MusicXML"),
    (b"\x89PNG", "a picture", PICTURE),
    (b"\xff\xd8\xff", "a picture", PICTURE),
    (b"GIF8", "a picture", PICTURE),
    (b"RIFF", "a sound recording", "write the melody in a notation program and export it as MusicXML"),
];
const PICTURE: &str = "read it with a music scanner such as Audiveris, and export MusicXML";

/// What a file that is no XML is, and what to do with it.
fn foreign(bytes: &[u8]) -> Option<(&'static str, &'static str)> {
    let is = |magic: &[u8]| bytes.starts_with(magic);
    if bytes.is_empty() {
        return Some(("an empty file", "copy or export the score again"));
    }
    let known = KNOWN.iter().find(|(magic, ..)| is(magic));
    if let Some((_, kind, hint)) = known {
        return Some((kind, hint));
    }
    if is(b"\xff\xfe") || is(b"\xfe\xff") {
        return None;
    }
    let start = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    match start.iter().find(|byte| !byte.is_ascii_whitespace()) {
        Some(b'<') => None,
        _ => Some(("not a score that is known here", "export it as MusicXML or MIDI")),
    }
}
