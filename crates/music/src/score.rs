//! A score as the rest of the house sees it: parts of timed notes on one exact time line.

/// Ticks in a quarter note. Divisible by 2^5, 3^2, 5 and 7, so that every usual tuplet is exact.
pub const TICKS_PER_QUARTER: i64 = 10_080;

/// Ticks in a sixteenth: one frame of the token encoding.
pub const TICKS_PER_FRAME: i64 = TICKS_PER_QUARTER / 4;

/// A whole score: what the file says, in sounding pitch, on the written (not expanded) time line.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Score {
    pub title: Option<String>,
    pub composer: Option<String>,
    /// In file order.
    pub parts: Vec<Part>,
    /// In time order, shared by all parts.
    pub measures: Vec<Measure>,
    /// Quarter notes a minute, where the file says so.
    pub tempo: Option<f64>,
}

/// One part (instrument, singer). Several voices of one staff share a part.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Part {
    pub id: String,
    pub name: String,
    /// Sorted by onset, then voice, then ascending pitch. Rests are the gaps. Grace notes are dropped.
    pub notes: Vec<Note>,
    /// Ticks up to which the part is written, rests included; 0 where that is not known.
    pub written_until: i64,
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
    /// The first verse's syllable; "-" at its end says that the word goes on.
    pub lyric: Option<String>,
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

impl Note {
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
    /// The end of the last measure or note, in ticks.
    #[must_use]
    pub fn duration(&self) -> i64 {
        let measures = self.measures.last().map_or(0, |m| m.start.saturating_add(m.duration));
        let parts = self.parts.iter().map(Part::duration).max().unwrap_or(0);
        measures.max(parts)
    }
}
