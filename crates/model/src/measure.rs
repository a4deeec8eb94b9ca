//! What a model is worth as a harmoniser, by numbers: likelihood by voice, wrong notes, and counterpoint.
//!
//! All of it is measured on whole held-out pieces, in the model's key (C major or a minor), on the grid of sixteenths:
//! [`likelihood`] of the pieces themselves; what a decoder makes of some of their voices, note by note beside the
//! composer's; and the faults of both, by [`kapell_music::counterpoint`].

mod deal;
mod errors;
pub mod harmony;
pub mod likelihood;

use kapell_music::counterpoint::{self, VOICES};
use kapell_music::decode::{DecodeError, FrameNote, decode};
use kapell_music::encode::Token;
use kapell_music::key::{Key, key_of_histogram};
use kapell_music::score::{Mode, Note, Part, Score, TICKS_PER_FRAME};
use kapell_music::voices::VOICE_NAMES;
use kapell_music::write::spelling::spell;

pub use errors::Errors;

/// A piece of a corpus, its notes dealt out to four voices.
#[derive(Debug, Clone, PartialEq)]
pub struct Reference {
    pub name: String,
    /// START to END.
    pub tokens: Vec<Token>,
    /// S A T B; a unison, one token, is sung by both of its voices.
    pub frames: Vec<counterpoint::Frame>,
    /// C major or a minor: all pieces of a corpus are in one of them.
    pub key: Key,
    /// By frame and place in it, the highest voice that sings the note: whom a token is counted for.
    owners: Vec<Vec<usize>>,
}

impl Reference {
    /// Reads a piece. The stream names a frame's notes from soprano to bass, so that four notes are four voices. Where
    /// there are fewer, voices share a note or rest: of all ways to deal a piece out, the one that moves the voices least
    /// is taken, and a note is counted for the highest voice that sings it. Where there are more (divided voices), the
    /// fifth and further notes are nobody's, and are counted for the bass.
    ///
    /// # Errors
    /// Tokens that are no piece.
    pub fn new(name: &str, tokens: Vec<Token>) -> Result<Self, DecodeError> {
        let stream = decode(&tokens)?;
        let deals = deal::deal(&stream);
        let mut held = [None; VOICES];
        let mut frames = Vec::with_capacity(stream.len());
        let mut owners = Vec::with_capacity(stream.len());
        for (frame, deal) in stream.iter().zip(&deals) {
            let voices = std::array::from_fn(|voice| {
                let note = frame.notes[deal[voice]?];
                // A note goes on only in a voice that had it.
                let tied = note.tied && held[voice] == Some(note.midi);
                Some(FrameNote { midi: note.midi, tied })
            });
            held = voices.map(|note: Option<FrameNote>| note.map(|note| note.midi));
            frames.push(counterpoint::Frame { voices, fermata: frame.fermata });
            let owner = |place| deal.iter().position(|note| *note == Some(place)).unwrap_or(VOICES - 1);
            owners.push((0..frame.notes.len()).map(owner).collect());
        }
        let key = key_of(&frames);
        Ok(Self { name: name.to_owned(), tokens, frames, key, owners })
    }

    /// Of the four sixteenths of a quarter, the one on which most notes are struck: where the beats are, since the stream
    /// tells no bars and a piece may begin with a pickup.
    #[must_use]
    pub fn first_beat(&self) -> usize {
        let struck = |offset: usize| {
            let on_beat = self.frames.iter().skip(offset).step_by(4);
            on_beat.flat_map(|frame| frame.voices.iter().flatten()).filter(|note| !note.tied).count()
        };
        (0..4).max_by_key(|&offset| (struck(offset), std::cmp::Reverse(offset))).unwrap_or(0)
    }

    /// The piece as a score of four parts without bars.
    #[must_use]
    pub fn score(&self) -> Score {
        let parts = (0..VOICES).map(|voice| Part {
            id: format!("P{}", voice + 1),
            name: VOICE_NAMES[voice].to_owned(),
            notes: self.notes(voice),
            written_until: ticks(self.frames.len()),
            ..Part::default()
        });
        Score { parts: parts.collect(), ..Score::default() }
    }

    /// A voice's notes; one has a fermata where its last frame is the last of a phrase.
    fn notes(&self, voice: usize) -> Vec<Note> {
        let mut notes: Vec<Note> = Vec::new();
        let mut sounds = false;
        for (at, frame) in self.frames.iter().enumerate() {
            let Some(note) = frame.voices[voice] else {
                sounds = false;
                continue;
            };
            let goes_on = self.frames.get(at + 1).is_some_and(|next| next.fermata);
            let fermata = frame.fermata && !goes_on;
            match notes.last_mut() {
                Some(last) if sounds && note.tied => {
                    last.duration += TICKS_PER_FRAME;
                    last.fermata |= fermata;
                }
                _ => notes.push(Note {
                    onset: ticks(at),
                    duration: TICKS_PER_FRAME,
                    pitch: spell(note.midi, 0),
                    fermata,
                    ..Note::default()
                }),
            }
            sounds = true;
        }
        notes
    }
}

fn ticks(frames: usize) -> i64 {
    i64::try_from(frames).unwrap_or(i64::MAX).saturating_mul(TICKS_PER_FRAME)
}

/// Of C major and a minor the one that the notes tell; C major for pieces that sound like neither.
fn key_of(frames: &[counterpoint::Frame]) -> Key {
    let mut sounding = [0.0; 12];
    for note in frames.iter().flat_map(|frame| frame.voices.iter().flatten()) {
        sounding[usize::from(note.midi % 12)] += 1.0;
    }
    let minor = Key { tonic: 9, mode: Mode::Minor };
    if key_of_histogram(&sounding) == minor { minor } else { Key { tonic: 0, mode: Mode::Major } }
}

/// Four voices of a score on the grid, in so many frames as `fermatas` tells of: the inverse of [`Reference::score`].
#[must_use]
pub fn frames_of(score: &Score, fermatas: &[bool]) -> Vec<counterpoint::Frame> {
    let mut frames = counterpoint::frames_of(score);
    frames.resize(fermatas.len(), counterpoint::Frame::default());
    for (frame, &fermata) in frames.iter_mut().zip(fermatas) {
        frame.fermata = fermata;
    }
    frames
}

#[cfg(test)]
mod tests;
