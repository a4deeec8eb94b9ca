//! How phrases end.

use std::ops::AddAssign;

use serde::{Deserialize, Serialize};

use super::Chord;
use super::chord::{Harmony, Kind};
use crate::key::Key;
use crate::score::Mode;

/// Ends of phrases by kind. The last chord that can be named is judged with the one before it on another root.
/// Chorales end phrases in other keys than their own, so that a dominant before its tonic is authentic in any key; the
/// other kinds are told in the piece's key and its relative. The first that fits is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Cadences {
    /// A major triad or dominant seventh a fifth above, or a diminished triad or seventh a semitone below, then a
    /// major or minor triad.
    pub authentic: u64,
    /// V or V7, then the triad on the sixth degree.
    pub deceptive: u64,
    /// IV or iv (with a seventh or without), then I or i.
    pub plagal: u64,
    /// The major triad on the fifth degree at the end.
    pub half: u64,
    /// Everything else: other chords, or none that has a name.
    pub other: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cadence {
    Authentic,
    Deceptive,
    Plagal,
    Half,
    Other,
}

/// The kinds by name, in the order of [`Cadences::kinds`].
pub const KINDS: [&str; 5] = ["authentic", "deceptive", "plagal", "half", "other"];

impl Cadences {
    /// The counts of [`KINDS`], in that order.
    #[must_use]
    pub fn kinds(&self) -> [u64; KINDS.len()] {
        [self.authentic, self.deceptive, self.plagal, self.half, self.other]
    }

    /// Phrases in all.
    #[must_use]
    pub fn phrases(&self) -> u64 {
        self.kinds().iter().sum()
    }

    pub(super) fn add(&mut self, cadence: Cadence) {
        let count = match cadence {
            Cadence::Authentic => &mut self.authentic,
            Cadence::Deceptive => &mut self.deceptive,
            Cadence::Plagal => &mut self.plagal,
            Cadence::Half => &mut self.half,
            Cadence::Other => &mut self.other,
        };
        *count += 1;
    }
}

impl AddAssign for Cadences {
    fn add_assign(&mut self, other: Self) {
        self.authentic += other.authentic;
        self.deceptive += other.deceptive;
        self.plagal += other.plagal;
        self.half += other.half;
        self.other += other.other;
    }
}

pub(super) fn of(phrase: &[Chord], key: Key) -> Cadence {
    let Some(last) = phrase.last().and_then(|chord| chord.harmony).filter(|last| last.is_at_rest()) else {
        return Cadence::Other;
    };
    let named = phrase.iter().rev().filter_map(|chord| chord.harmony);
    let before = named.into_iter().find(|harmony| harmony.root != last.root);
    if before.is_some_and(|before| before.leads_to(last.root)) {
        return Cadence::Authentic;
    }
    let keys = [key, relative(key)];
    let among =
        |is: &dyn Fn(Key, Harmony) -> bool| before.is_some_and(|b| keys.iter().any(|&key| is(key, b)));
    if among(&|key, before| is_deceptive(key, before, last)) {
        Cadence::Deceptive
    } else if among(&|key, before| is_plagal(key, before, last)) {
        Cadence::Plagal
    } else if last.kind == Kind::Major && keys.iter().any(|key| last.root == degree(*key, 7)) {
        Cadence::Half
    } else {
        Cadence::Other
    }
}

fn is_deceptive(key: Key, before: Harmony, last: Harmony) -> bool {
    let submediant = degree(key, if key.mode == Mode::Major { 9 } else { 8 });
    let is_dominant =
        matches!(before.kind, Kind::Major | Kind::DominantSeventh) && before.root == degree(key, 7);
    is_dominant && last.root == submediant
}

fn is_plagal(key: Key, before: Harmony, last: Harmony) -> bool {
    let has_third =
        matches!(before.kind, Kind::Major | Kind::Minor | Kind::MajorSeventh | Kind::MinorSeventh);
    has_third && before.root == degree(key, 5) && last.root == key.tonic
}

/// The pitch class so many semitones above the tonic.
pub(super) fn degree(key: Key, semitones: u8) -> u8 {
    (key.tonic + semitones) % 12
}

/// The key of the other mode with the same signature.
fn relative(key: Key) -> Key {
    match key.mode {
        Mode::Major => Key { tonic: degree(key, 9), mode: Mode::Minor },
        Mode::Minor => Key { tonic: degree(key, 3), mode: Mode::Major },
    }
}
