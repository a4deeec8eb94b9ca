//! A score as the rest of the house sees it: parts of timed notes on one exact time line.

mod notation;
mod signatures;

use std::collections::BTreeMap;

use crate::write::spelling::spell;

pub use notation::{
    Clef, Credit, Direction, Grace, Lyric, Markup, MeasureNotation, NOTE_VALUES, Notation, NoteValue, Rest,
    Syllabic, Syllable, Tuplet, mode_named,
};
pub use signatures::Signatures;

/// Ticks in a quarter note. Divisible by 2^5, 3^2, 5 and 7, so that every usual tuplet is exact.
pub const TICKS_PER_QUARTER: i64 = 10_080;

/// Ticks in a sixteenth: one frame of the token encoding.
pub const TICKS_PER_FRAME: i64 = TICKS_PER_QUARTER / 4;

/// A whole score: what the file says, in sounding pitch, on the written (not expanded) time line.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Score {
    pub title: Option<String>,
    pub composer: Option<String>,
    /// Others that the file names: lyricist, arranger, rights.
    pub credits: Vec<Credit>,
    /// In file order.
    pub parts: Vec<Part>,
    /// In time order, shared by all parts.
    pub measures: Vec<Measure>,
    /// Quarter notes a minute, where the file says so: the first tempo. Later ones are in the measures' directions.
    pub tempo: Option<f64>,
    /// The file declares no key: the measures have the one that its notes tell.
    pub key_guessed: bool,
    /// What a reader had to decide, in sentences.
    pub remarks: Vec<String>,
}

/// One part (instrument, singer). Several voices of one staff share a part.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Part {
    pub id: String,
    pub name: String,
    /// Sorted by onset, then voice, then ascending pitch. Rests are the gaps.
    pub notes: Vec<Note>,
    /// Those rests that are written, sorted by onset.
    pub rests: Vec<Rest>,
    /// Ticks up to which the part is written, rests included; 0 where that is not known.
    pub written_until: i64,
    /// Where they are not those of the measures: by the measure's start in ticks.
    pub signatures: BTreeMap<i64, Signatures>,
    /// In time order.
    pub clefs: Vec<Clef>,
    /// What concerns this part alone, such as dynamics; in time order.
    pub directions: Vec<Direction>,
    /// What a reader had to decide about this part, in sentences.
    pub remarks: Vec<String>,
}

/// A bar line to bar line span with the signatures in force.
#[derive(Debug, Clone, PartialEq)]
pub struct Measure {
    /// As printed ("1", "0", "12a").
    pub number: String,
    /// Ticks from the score's start.
    pub start: i64,
    /// Ticks really filled; a pickup's is shorter than its time signature says.
    pub duration: i64,
    /// Beats and beat type, for example (4, 4).
    pub time: (u32, u32),
    pub key: KeySignature,
    /// A pickup, or the rest of a split bar: not counted.
    pub implicit: bool,
    pub repeat_start: bool,
    pub repeat_end: bool,
    pub notation: MeasureNotation,
}

/// A declared key: sharps are positive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct KeySignature {
    /// -7..=7.
    pub fifths: i8,
    pub mode: Option<Mode>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Mode {
    Major,
    Minor,
}

/// A sounding note.
#[derive(Debug, Clone, PartialEq)]
pub struct Note {
    /// Ticks from the score's start.
    pub onset: i64,
    /// Ticks; above 0.
    pub duration: i64,
    pub pitch: Pitch,
    /// Continues a note before it.
    pub tie_from: bool,
    /// Is continued by a note after it.
    pub tie_to: bool,
    pub fermata: bool,
    /// As the file numbers it, from 1.
    pub voice: u8,
    pub notation: Notation,
}

/// A sounding pitch and its spelling.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Pitch {
    /// 60 is middle C.
    pub midi: u8,
    /// 0..=6 for C D E F G A B.
    pub step: u8,
    /// Semitones of the accidental: -2..=2.
    pub alter: i8,
}

/// A bar of 4/4.
impl Default for Measure {
    fn default() -> Self {
        Self {
            number: String::new(),
            start: 0,
            duration: 4 * TICKS_PER_QUARTER,
            time: (4, 4),
            key: KeySignature::default(),
            implicit: false,
            repeat_start: false,
            repeat_end: false,
            notation: MeasureNotation::default(),
        }
    }
}

/// Middle C, a quarter.
impl Default for Note {
    fn default() -> Self {
        Self {
            onset: 0,
            duration: TICKS_PER_QUARTER,
            pitch: Pitch { midi: 60, step: 0, alter: 0 },
            tie_from: false,
            tie_to: false,
            fermata: false,
            voice: 1,
            notation: Notation::default(),
        }
    }
}

impl Note {
    /// The first verse's words; "-" at their end says that the word goes on.
    #[must_use]
    pub fn lyric(&self) -> Option<String> {
        let lyric = self.notation.lyrics.iter().find(|lyric| lyric.verse == "1");
        lyric.or(self.notation.lyrics.first()).map(Lyric::words).filter(|words| !words.is_empty())
    }

    /// Ticks from the score's start.
    #[must_use]
    pub fn end(&self) -> i64 {
        self.onset.saturating_add(self.duration)
    }
}

impl Part {
    /// The end of the last note or written rest, in ticks.
    #[must_use]
    pub fn duration(&self) -> i64 {
        let notes = self.notes.iter().map(Note::end).max().unwrap_or(0);
        notes.max(self.written_until)
    }
}

impl Score {
    /// Takes a key for that of all measures, and spells the notes in it: of a score that declares none.
    pub fn declare_key(&mut self, key: KeySignature) {
        self.measures.iter_mut().for_each(|measure| measure.key = key);
        for note in self.parts.iter_mut().flat_map(|part| &mut part.notes) {
            note.pitch = spell(note.pitch.midi, key.fifths);
        }
    }

    /// The end of the last measure or note, in ticks.
    #[must_use]
    pub fn duration(&self) -> i64 {
        let measures = self.measures.last().map_or(0, |m| m.start.saturating_add(m.duration));
        let parts = self.parts.iter().map(Part::duration).max().unwrap_or(0);
        measures.max(parts)
    }
}
