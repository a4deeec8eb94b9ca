//! Tokens back to frames, and frames to four voices: the inverse of the encoding.

use crate::encode::Token;
use crate::score::{Notation, Note, TICKS_PER_FRAME};
use crate::voices::VOICE_NAMES;
use crate::write::spelling::spell;

/// One sixteenth.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Frame {
    pub fermata: bool,
    /// In the order of the stream, each pitch once.
    pub notes: Vec<FrameNote>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct FrameNote {
    pub midi: u8,
    /// Goes on from the frame before.
    pub tied: bool,
}

/// Why tokens are no piece.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    #[error("a piece begins with START, but this one begins with {0}")]
    NoStart(String),
    #[error("the piece has no END; it was cut off after {frames} frames")]
    NoEnd { frames: usize },
    #[error(
        "token {position}, {token}, is out of place: START comes first, END last, (.) first in its frame"
    )]
    Misplaced { position: usize, token: Token },
    #[error("frame {frame} has {notes} notes, more than four voices can sing")]
    TooManyNotes { frame: usize, notes: usize },
    #[error("frame {frame}: a note leaves the MIDI range when moved by {semitones} semitones")]
    OutOfRange { frame: usize, semitones: i8 },
}

/// Cuts a stream, START to END, into its frames. A pitch that a frame has twice counts once.
///
/// # Errors
/// Where the tokens are not START, frames with `|||` between them, END.
pub fn decode(tokens: &[Token]) -> Result<Vec<Frame>, DecodeError> {
    let Some((Token::Start, rest)) = tokens.split_first() else {
        let first = tokens.first().map_or_else(|| "nothing".to_owned(), Token::to_string);
        return Err(DecodeError::NoStart(first));
    };
    let mut frames = vec![];
    let mut frame = Frame::default();
    for (position, &token) in rest.iter().enumerate() {
        let misplaced = DecodeError::Misplaced { position: position + 1, token };
        match token {
            Token::Start => return Err(misplaced),
            Token::End if position + 1 < rest.len() => return Err(misplaced),
            Token::Fermata if frame.fermata || !frame.notes.is_empty() => return Err(misplaced),
            Token::Fermata => frame.fermata = true,
            Token::Note { midi, tied } => {
                if frame.notes.iter().all(|note| note.midi != midi) {
                    frame.notes.push(FrameNote { midi, tied });
                }
            }
            Token::FrameEnd => frames.push(std::mem::take(&mut frame)),
            Token::End => {
                // Without any frame there is nothing between START and END.
                if rest.len() > 1 {
                    frames.push(frame);
                }
                return Ok(frames);
            }
        }
    }
    Err(DecodeError::NoEnd { frames: frames.len() })
}

/// Frames dealt out to soprano, alto, tenor and bass as notes, moved by `semitones` (the opposite of the piece's
/// transposition brings it home) and spelt in the key of `fifths` sharps.
///
/// Of all ways to deal a frame's notes out in order, the one that moves the voices least is taken. A unison is one
/// note: where the encoding kept one token of two voices, one of them rests. Encoded again, the voices give the same
/// tokens.
///
/// # Errors
/// More than four notes in a frame; a pitch that leaves the MIDI range.
pub fn four_voices(frames: &[Frame], semitones: i8, fifths: i8) -> Result<[Vec<Note>; 4], DecodeError> {
    let mut choir = Choir::new();
    for (index, frame) in frames.iter().enumerate() {
        choir.sing(index, frame)?;
    }
    choir.mark_fermatas(frames);
    let mut voices: [Vec<Note>; 4] = Default::default();
    for (voice, notes) in voices.iter_mut().zip(choir.sung) {
        for sung in notes {
            voice.push(sung.to_note(semitones, fifths)?);
        }
    }
    Ok(voices)
}

/// A note in frames.
#[derive(Clone, Copy)]
struct Sung {
    start: usize,
    end: usize,
    midi: u8,
    tie_from: bool,
    tie_to: bool,
    fermata: bool,
}

impl Sung {
    fn to_note(self, semitones: i8, fifths: i8) -> Result<Note, DecodeError> {
        let midi = i16::from(self.midi) + i16::from(semitones);
        let midi = u8::try_from(midi).ok().filter(|midi| *midi <= 127);
        let midi = midi.ok_or(DecodeError::OutOfRange { frame: self.start, semitones })?;
        let ticks = |frames: usize| i64::try_from(frames).unwrap_or(i64::MAX).saturating_mul(TICKS_PER_FRAME);
        Ok(Note {
            onset: ticks(self.start),
            duration: ticks(self.end - self.start),
            pitch: spell(midi, fifths),
            tie_from: self.tie_from,
            tie_to: self.tie_to,
            fermata: self.fermata,
            voice: 1,
            notation: Notation::default(),
        })
    }
}

/// The four voices as far as they have sung.
struct Choir {
    sung: [Vec<Sung>; 4],
    /// Where each voice was last, to measure its movement from.
    last: [u8; 4],
}

/// Movement that a broken tie counts as: more than any melody moves.
const BROKEN_TIE: u32 = 1_000;

impl Choir {
    fn new() -> Self {
        // The middles of the voices' ranges.
        Self { sung: Default::default(), last: [72, 66, 60, 51] }
    }

    fn sing(&mut self, index: usize, frame: &Frame) -> Result<(), DecodeError> {
        let notes = frame.notes.as_slice();
        if notes.len() > VOICE_NAMES.len() {
            return Err(DecodeError::TooManyNotes { frame: index, notes: notes.len() });
        }
        for (voice, note) in self.deal(index, notes) {
            match self.sung[voice].last_mut() {
                Some(last) if note.tied && last.end == index && last.midi == note.midi => last.end += 1,
                _ => self.begin(voice, index, note),
            }
            self.last[voice] = note.midi;
        }
        Ok(())
    }

    fn begin(&mut self, voice: usize, index: usize, note: FrameNote) {
        let FrameNote { midi, tied } = note;
        // The voice that held the pitch before passes it on.
        if tied {
            // That voice may have begun its next note already.
            let before = self.sung.iter_mut().flat_map(|notes| notes.iter_mut().rev().take(2));
            before.filter(|last| last.end == index && last.midi == midi).for_each(|last| last.tie_to = true);
        }
        self.sung[voice].push(Sung {
            start: index,
            end: index + 1,
            midi,
            tie_from: tied,
            tie_to: false,
            fermata: false,
        });
    }

    /// Which voice takes which note: of the choices that keep the order, the one with the least movement.
    fn deal(&self, index: usize, notes: &[FrameNote]) -> Vec<(usize, FrameNote)> {
        let choices = (0..16_u32).filter(|choice| usize::try_from(choice.count_ones()) == Ok(notes.len()));
        let voices = |choice: u32| (0..4).filter(move |voice| choice >> voice & 1 == 1);
        let cost = |choice: &u32| -> u32 {
            voices(*choice).zip(notes).map(|(voice, note)| self.movement(voice, index, *note)).sum()
        };
        let best = choices.min_by_key(cost).unwrap_or(0);
        voices(best).zip(notes.iter().copied()).collect()
    }

    fn movement(&self, voice: usize, index: usize, note: FrameNote) -> u32 {
        let holds = self.sung[voice].last().is_some_and(|last| last.end == index && last.midi == note.midi);
        let moved = u32::from(self.last[voice].abs_diff(note.midi));
        if note.tied && !holds { BROKEN_TIE + moved } else { moved }
    }

    /// A fermata lies on every note that ends with a slice of frames under one. Slices are cut where the encoding
    /// cuts them; where no note begins or ends, the top note of the frame is cut and tied.
    fn mark_fermatas(&mut self, frames: &[Frame]) {
        let mut index = 0;
        while index < frames.len() {
            if !frames[index].fermata {
                index += 1;
                continue;
            }
            let mut end = index + 1;
            while frames.get(end).is_some_and(|frame| frame.fermata) && !self.is_cut(end) {
                end += 1;
            }
            if !self.is_cut(index) {
                self.cut(index);
            }
            if !self.ends(end) {
                self.cut(end);
            }
            let ending = self.sung.iter_mut().flatten().filter(|note| note.end == end);
            ending.for_each(|note| note.fermata = true);
            index = end;
        }
    }

    /// The note of a voice that begins before a frame and ends at it or later.
    fn reaching(notes: &[Sung], frame: usize) -> Option<usize> {
        let at = notes.partition_point(|note| note.start < frame).checked_sub(1)?;
        (notes[at].end >= frame).then_some(at)
    }

    fn ends(&self, frame: usize) -> bool {
        self.sung.iter().any(|notes| Self::reaching(notes, frame).is_some_and(|at| notes[at].end == frame))
    }

    fn is_cut(&self, frame: usize) -> bool {
        let begins = |notes: &Vec<Sung>| notes.binary_search_by_key(&frame, |note| note.start).is_ok();
        self.ends(frame) || self.sung.iter().any(begins)
    }

    /// Cuts the top note that goes on across a frame's beginning in two, tied.
    fn cut(&mut self, frame: usize) {
        for notes in &mut self.sung {
            let Some(at) = Self::reaching(notes, frame).filter(|at| notes[*at].end > frame) else { continue };
            let whole = notes[at];
            notes[at] = Sung { end: frame, tie_to: true, ..whole };
            notes.insert(at + 1, Sung { start: frame, tie_from: true, ..whole });
            return;
        }
    }
}
