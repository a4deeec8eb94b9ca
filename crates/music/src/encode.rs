//! A four-part score as tokens: BachBot's encoding, a frame a sixteenth.

use std::cmp::Reverse;
use std::collections::BTreeSet;

use crate::key::{Key, find_key, transposition_to_c_or_a};
use crate::score::{Mode, Note, Score, TICKS_PER_FRAME};
use crate::voices::find_voices;

pub use crate::token::{ParseTokenError, Token};

/// Frames in a piece, at most: 24 hours at 60 quarter notes a minute would have fewer.
pub const FRAMES_MAX: i64 = 400_000;

/// Sounding notes a frame, on average, at most.
const FRAME_NOTES_MAX: i64 = 16;

/// A score as the model sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EncodedPiece {
    /// START, the frames with `|||` between them, END.
    pub tokens: Vec<Token>,
    /// Semitones, -5..=6, that were added to every pitch.
    pub transposition: i8,
    /// The mode of the key that was found.
    pub mode: Mode,
    /// Sixteenths.
    pub frames: usize,
}

/// Why a score cannot be encoded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EncodeError {
    #[error(
        "a chorale has four voices, but this score's parts are: {}; name four of them Soprano, Alto, Tenor and Bass, \
         or leave exactly four parts",
        part_list(parts)
    )]
    NoFourVoices {
        /// Their names.
        parts: Vec<String>,
    },
    #[error("the {voice} has no notes; a chorale needs notes in all of its four voices")]
    SilentVoice { voice: &'static str },
    #[error(
        "the score is {frames} sixteenths long, more than the {FRAMES_MAX} of the longest piece; cut it up"
    )]
    TooLong { frames: i64 },
    #[error("a note of the {voice} leaves the MIDI range when moved by {transposition} semitones: {midi}")]
    OutOfRange { voice: &'static str, transposition: i8, midi: i16 },
    #[error("more than {FRAME_NOTES_MAX} notes sound at once for the whole piece; a chorale has four voices")]
    Crowded,
    #[error("a note at tick {onset} with a duration of {duration} is on no time line")]
    BadNote { onset: i64, duration: i64 },
}

fn part_list(parts: &[String]) -> String {
    let shown = parts.iter().take(12).map(|name| if name.is_empty() { "(no name)" } else { name.as_str() });
    let list = shown.collect::<Vec<_>>().join(", ");
    match parts.len() {
        0 => "(none)".to_owned(),
        count if count > 12 => format!("{list}, ... ({count})"),
        _ => list,
    }
}

/// Encodes a chorale: tells its voices apart, finds its key over all parts, moves it to C major or a minor.
///
/// # Errors
/// Where there are no four voices with notes, or what `encode_voices` refuses.
pub fn encode_chorale(score: &Score) -> Result<EncodedPiece, EncodeError> {
    let parts = find_voices(score).ok_or_else(|| EncodeError::NoFourVoices {
        parts: score.parts.iter().map(|part| part.name.clone()).collect(),
    })?;
    let voices = parts.map(|index| score.parts[index].notes.as_slice());
    for (voice, notes) in crate::voices::VOICE_NAMES.into_iter().zip(voices) {
        if notes.is_empty() {
            return Err(EncodeError::SilentVoice { voice });
        }
    }
    let key = find_key(score);
    let duration = parts.iter().map(|index| score.parts[*index].duration()).max().unwrap_or(0);
    encode_voices(voices, key, duration)
}

/// Encodes four voices in the order S A T B that are in a known key; `duration` is the piece's, in ticks (rests at
/// its end make empty frames).
///
/// # Errors
/// A piece that is too long or too crowded, or notes that leave the time line or the MIDI range.
pub fn encode_voices(voices: [&[Note]; 4], key: Key, duration: i64) -> Result<EncodedPiece, EncodeError> {
    let transposition = transposition_to_c_or_a(key);
    let mut on_grid = Vec::with_capacity(4);
    for (voice, notes) in crate::voices::VOICE_NAMES.into_iter().zip(voices) {
        let notes = notes.iter().map(|note| GridNote::new(note, voice, transposition));
        let mut notes = notes.collect::<Result<Vec<_>, _>>()?;
        // In a divided voice the upper note comes first.
        notes.sort_by_key(|note| (note.onset, Reverse(note.midi)));
        on_grid.push(notes);
    }
    let last = on_grid.iter().flatten().map(|note| note.end).max().unwrap_or(0);
    let frames = last.max(nearest_frame(duration));
    if frames > FRAMES_MAX {
        return Err(EncodeError::TooLong { frames });
    }
    let note_frames: i64 = on_grid.iter().flatten().map(|note| note.end - note.start).sum();
    if note_frames > FRAME_NOTES_MAX * frames {
        return Err(EncodeError::Crowded);
    }
    let frames = usize::try_from(frames).unwrap_or(0);
    let tokens = tokens_of(&on_grid, frames);
    Ok(EncodedPiece { tokens, transposition, mode: key.mode, frames })
}

/// A note on the grid of sixteenths.
struct GridNote {
    /// Ticks, before rounding.
    onset: i64,
    /// Frames.
    start: i64,
    /// Above `start`.
    end: i64,
    midi: u8,
    tie_from: bool,
    fermata: bool,
}

impl GridNote {
    fn new(note: &Note, voice: &'static str, transposition: i8) -> Result<Self, EncodeError> {
        let bad = EncodeError::BadNote { onset: note.onset, duration: note.duration };
        let Some(end) = note.onset.checked_add(note.duration) else { return Err(bad) };
        if note.onset < 0 || note.duration <= 0 {
            return Err(bad);
        }
        if end / TICKS_PER_FRAME > FRAMES_MAX {
            return Err(EncodeError::TooLong { frames: end / TICKS_PER_FRAME });
        }
        let midi = i16::from(note.pitch.midi) + i16::from(transposition);
        let start = nearest_frame(note.onset);
        Ok(Self {
            onset: note.onset,
            start,
            end: nearest_frame(end).max(start + 1),
            midi: u8::try_from(midi).ok().filter(|midi| *midi <= 127).ok_or(EncodeError::OutOfRange {
                voice,
                transposition,
                midi,
            })?,
            tie_from: note.tie_from,
            fermata: note.fermata,
        })
    }
}

/// The sixteenth nearest to a tick; halves go up.
fn nearest_frame(tick: i64) -> i64 {
    tick.saturating_add(TICKS_PER_FRAME / 2).div_euclid(TICKS_PER_FRAME)
}

fn tokens_of(voices: &[Vec<GridNote>], frames: usize) -> Vec<Token> {
    let mut sounding: Vec<Vec<(u8, bool)>> = vec![Vec::new(); frames];
    for note in voices.iter().flatten() {
        for frame in note.start..note.end {
            let tied = note.tie_from || frame > note.start;
            let Some(slot) = usize::try_from(frame).ok().and_then(|frame| sounding.get_mut(frame)) else {
                break;
            };
            if slot.iter().all(|(midi, _)| *midi != note.midi) {
                slot.push((note.midi, tied));
            }
        }
    }
    let fermatas = fermata_frames(voices, frames);
    let mut tokens = vec![Token::Start];
    for (frame, notes) in sounding.iter().enumerate() {
        if frame > 0 {
            tokens.push(Token::FrameEnd);
        }
        if fermatas[frame] {
            tokens.push(Token::Fermata);
        }
        tokens.extend(notes.iter().map(|&(midi, tied)| Token::Note { midi, tied }));
    }
    tokens.push(Token::End);
    tokens
}

/// The frames of the last slice of each note with a fermata. Slices are cut at every onset and end of any voice.
fn fermata_frames(voices: &[Vec<GridNote>], frames: usize) -> Vec<bool> {
    let cuts: BTreeSet<i64> = voices.iter().flatten().flat_map(|note| [note.start, note.end]).collect();
    let mut under = vec![false; frames];
    for note in voices.iter().flatten().filter(|note| note.fermata) {
        let slice_start = cuts.range(note.start..note.end).next_back().copied().unwrap_or(note.start);
        for frame in slice_start..note.end {
            if let Some(slot) = usize::try_from(frame).ok().and_then(|frame| under.get_mut(frame)) {
                *slot = true;
            }
        }
    }
    under
}
