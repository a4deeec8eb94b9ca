//! What is to be decoded: frame by frame what is given, and what the voices under it may do.
//!
//! Everything is in the model's key. A frame whose given voices leave no room for a rule (a melody below the alto, two
//! given voices that cross) is freed of it, of one rule after another until there is a way.

use std::sync::Arc;

use super::grammar::Chord;
use super::vocabulary::Vocabulary;

/// Soprano, alto, tenor, bass.
pub const VOICES: usize = 4;

/// What one voice does in a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Given {
    /// To be decoded.
    #[default]
    Free,
    /// Given: it rests.
    Rest,
    /// Given: it sounds; `tied` where it goes on from the frame before.
    Note { midi: u8, tied: bool },
}

/// One sixteenth of a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Frame {
    pub voices: [Given; VOICES],
    /// Whether the frame lies under a fermata; none where the model may choose.
    pub fermata: Option<bool>,
    /// Whether free voices may rest here: between phrases, while the given ones do.
    pub between_phrases: bool,
    /// Whether the chord here ends a phrase.
    pub cadence: Option<Cadence>,
}

/// The chord that a phrase ends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cadence {
    /// A major or minor triad in root position.
    Phrase,
    /// The tonic triad in root position, where the melody's note is in it; in minor, major does as well.
    Piece { minor: bool },
}

/// Lowest and highest MIDI pitch of each voice, sounding.
pub type Ranges = [(u8, u8); VOICES];

/// The voices' ranges in Bach's chorales.
pub const RANGES: Ranges = [(60, 81), (53, 74), (48, 69), (36, 64)];

/// Reads the ranges of S, A, T, B: "60-81,53-74,48-69,36-64".
#[must_use]
pub fn parse_ranges(text: &str) -> Option<Ranges> {
    let range = |text: &str| {
        let (low, high) = text.split_once('-')?;
        let (low, high) = (low.trim().parse::<u8>().ok()?, high.trim().parse::<u8>().ok()?);
        (low <= high && high < 128).then_some((low, high))
    };
    let ranges: Vec<(u8, u8)> = text.split(',').map(range).collect::<Option<_>>()?;
    ranges.try_into().ok()
}

/// What free voices are held to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rules {
    /// Sounding; none: wherever the model likes.
    pub ranges: Option<Ranges>,
    /// Every voice sounds within a phrase.
    pub no_rests: bool,
    /// Different notes that a struck chord has at least.
    pub notes_min: usize,
    /// Phrases end on triads in root position.
    pub cadences: bool,
    /// No voice moves in parallel fifths or octaves with a free one, where there is another way.
    pub no_parallels: bool,
}

impl Default for Rules {
    fn default() -> Self {
        Self { ranges: Some(RANGES), no_rests: true, notes_min: 3, cadences: true, no_parallels: true }
    }
}

impl Rules {
    /// The grammar alone: notes in descending order, ties from what sounded.
    pub const NONE: Self =
        Self { ranges: None, no_rests: false, notes_min: 0, cadences: false, no_parallels: false };
}

/// What free voices are held to in one frame, in the model's key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Law {
    /// Pitches of each voice, a bit each.
    pub(super) pitches: [u128; VOICES],
    pub(super) may_rest: bool,
    /// Whether voices may cross, which only given ones can make them.
    pub(super) may_cross: bool,
    /// Of a struck chord.
    pub(super) notes_min: usize,
    /// Triads that the frame may be, as bits by [`triad`]; none: any chord.
    pub(super) triads: Option<u32>,
    pub(super) no_parallels: bool,
}

/// What is decoded.
#[derive(Debug, Clone)]
pub struct Task {
    frames: Vec<Frame>,
    laws: Vec<Law>,
    /// Where nothing is given: the piece may end after any frame, and does so after this many.
    frames_max: Option<usize>,
    /// Frames that had to be freed of a rule.
    freed: usize,
}

/// A given note, or the fermata of a frame, that the model has no token for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the model has no token for a given note ({0})")]
pub struct Unknown(pub u8);

impl Task {
    /// Voices under given ones. `shift` is added to the model's pitches to get the sounding ones.
    ///
    /// # Errors
    /// A given note that the vocabulary lacks.
    pub fn harmonize(
        frames: Vec<Frame>,
        rules: &Rules,
        shift: i16,
        vocabulary: &Vocabulary,
    ) -> Result<Arc<Self>, Unknown> {
        let given = frames.iter().flat_map(|frame| frame.voices);
        for voice in given {
            if let Given::Note { midi, tied } = voice
                && !vocabulary.knows_note(midi, tied)
            {
                return Err(Unknown(midi));
            }
        }
        let mut freed = 0;
        let laws = frames.iter().map(|frame| {
            let (law, free) = possible_law(frame, rules, shift, vocabulary);
            freed += usize::from(free);
            law
        });
        let laws = laws.collect();
        Ok(Arc::new(Self { frames, laws, frames_max: None, freed }))
    }

    /// All voices, until the model ends the piece, or the limit does.
    #[must_use]
    pub fn compose(frames_max: usize, rules: &Rules, vocabulary: &Vocabulary) -> Arc<Self> {
        let frame = Frame::default();
        let (law, _) = possible_law(&frame, rules, 0, vocabulary);
        Arc::new(Self { frames: vec![frame], laws: vec![law], frames_max: Some(frames_max.max(1)), freed: 0 })
    }

    /// What is given in a frame.
    #[must_use]
    pub fn frame(&self, at: usize) -> Frame {
        self.frames[at.min(self.frames.len() - 1)]
    }

    pub(super) fn law(&self, at: usize) -> &Law {
        &self.laws[at.min(self.laws.len() - 1)]
    }

    /// Whether this frame ends the piece; none where it may.
    pub(super) fn is_last(&self, at: usize) -> Option<bool> {
        match self.frames_max {
            Some(limit) if at + 1 >= limit => Some(true),
            Some(_) => None,
            None => Some(at + 1 >= self.frames.len()),
        }
    }

    /// Frames, at most.
    #[must_use]
    pub fn frames_max(&self) -> usize {
        self.frames_max.unwrap_or(self.frames.len())
    }

    /// Frames whose given voices left no room for a rule.
    #[must_use]
    pub fn freed(&self) -> usize {
        self.freed
    }
}

/// The rules as they can be held to in a frame, and whether one had to go.
fn possible_law(frame: &Frame, rules: &Rules, shift: i16, vocabulary: &Vocabulary) -> (Law, bool) {
    let wide = vocabulary.pitches();
    let ranges = rules.ranges.map(|ranges| ranges.map(|range| wide & bits(range, shift)));
    let resting = frame.voices.iter().filter(|voice| **voice == Given::Rest).count();
    let asked = Law {
        pitches: ranges.unwrap_or([wide; VOICES]),
        may_rest: !rules.no_rests || frame.between_phrases,
        may_cross: false,
        notes_min: if frame.between_phrases { 0 } else { rules.notes_min.min(VOICES - resting) },
        triads: frame.cadence.filter(|_| rules.cadences).map(|cadence| triads_of(cadence, frame)),
        no_parallels: rules.no_parallels,
    };
    let free = |law: Law| Law { pitches: [wide; VOICES], ..law };
    let ladder = [
        asked,
        Law { triads: asked.triads.map(|_| ALL_TRIADS), ..asked },
        Law { triads: None, ..asked },
        Law { triads: None, notes_min: 0, ..asked },
        free(Law { triads: None, notes_min: 0, ..asked }),
        free(Law { triads: None, notes_min: 0, may_cross: true, ..asked }),
    ];
    let anything = free(Law { triads: None, notes_min: 0, may_cross: true, may_rest: true, ..asked });
    let law = ladder.into_iter().find(|law| Chord::can_be(frame, law)).unwrap_or(anything);
    (law, law != asked)
}

/// The pitches of a sounding range in the model's key.
fn bits((low, high): (u8, u8), shift: i16) -> u128 {
    let seen = |midi: u8| (i16::from(midi) - shift).clamp(0, 127);
    (seen(low)..=seen(high)).fold(0, |bits, midi| bits | 1 << midi)
}

/// Every major and minor triad.
const ALL_TRIADS: u32 = (1 << 24) - 1;

/// The bit of a triad: major on C, C sharp ..., then minor.
pub(super) const fn triad(root: u32, minor: bool) -> u32 {
    1 << (root + if minor { 12 } else { 0 })
}

/// The pitch classes of a triad, by the number of its bit: root, third, fifth.
pub(super) const fn triad_classes(number: u32) -> [u8; 3] {
    let (root, minor) = (number % 12, number >= 12);
    let third = (root + if minor { 3 } else { 4 }) % 12;
    #[expect(clippy::cast_possible_truncation, reason = "below 12")]
    let classes = [root as u8, third as u8, ((root + 7) % 12) as u8];
    classes
}

/// The triads that a cadence may be on, if the given notes fit; else all.
fn triads_of(cadence: Cadence, frame: &Frame) -> u32 {
    let tonics = match cadence {
        Cadence::Phrase => return ALL_TRIADS,
        Cadence::Piece { minor: false } => triad(0, false),
        Cadence::Piece { minor: true } => triad(9, true) | triad(9, false),
    };
    let fits = |number: u32| {
        let classes = triad_classes(number);
        let fits = |voice: &Given| match voice {
            Given::Note { midi, .. } => classes.contains(&(midi % 12)),
            _ => true,
        };
        frame.voices.iter().all(fits)
    };
    let fitting = (0..24).filter(|&number| tonics >> number & 1 == 1 && fits(number));
    match fitting.fold(0, |bits, number| bits | 1 << number) {
        0 => ALL_TRIADS,
        bits => bits,
    }
}
