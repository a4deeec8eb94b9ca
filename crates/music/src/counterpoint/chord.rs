//! Which triad or seventh chord sounds.

/// A chord's root and what stands on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Harmony {
    /// Pitch class.
    pub root: u8,
    pub kind: Kind,
}

/// Of triads, seventh chords, and what is left of them without a third or a fifth.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Major,
    Minor,
    Diminished,
    Augmented,
    /// Major triad, minor seventh.
    DominantSeventh,
    /// Major triad, major seventh.
    MajorSeventh,
    /// Minor triad, minor seventh.
    MinorSeventh,
    /// Diminished triad, minor seventh.
    HalfDiminishedSeventh,
    /// Diminished triad, diminished seventh.
    DiminishedSeventh,
    /// Root and fifth, or the root alone: neither major nor minor.
    Bare,
}

/// What is recognised, in this order, as semitones above the root.
const CHORDS: [(Kind, &[u8]); 16] = [
    (Kind::Major, &[0, 4, 7]),
    (Kind::Minor, &[0, 3, 7]),
    (Kind::Diminished, &[0, 3, 6]),
    (Kind::Augmented, &[0, 4, 8]),
    (Kind::DominantSeventh, &[0, 4, 7, 10]),
    (Kind::MinorSeventh, &[0, 3, 7, 10]),
    (Kind::MajorSeventh, &[0, 4, 7, 11]),
    (Kind::HalfDiminishedSeventh, &[0, 3, 6, 10]),
    (Kind::DiminishedSeventh, &[0, 3, 6, 9]),
    (Kind::DominantSeventh, &[0, 4, 10]),
    (Kind::MinorSeventh, &[0, 3, 10]),
    (Kind::MajorSeventh, &[0, 4, 11]),
    (Kind::Major, &[0, 4]),
    (Kind::Minor, &[0, 3]),
    (Kind::Bare, &[0, 7]),
    (Kind::Bare, &[0]),
];

/// The chord of these pitches, if their classes are exactly those of one: a major, minor, diminished or augmented
/// triad; a seventh chord on a major triad (both sevenths), a minor one (minor seventh) or a diminished one (minor and
/// diminished seventh); a triad or one of the first three sevenths without its fifth; a bare fifth; one pitch class.
/// Of chords that have several roots (augmented triads, diminished sevenths) the bass is taken for it.
#[must_use]
pub fn identify(pitches: impl IntoIterator<Item = u8>) -> Option<Harmony> {
    let (mut classes, mut bass) = (0_u16, u8::MAX);
    for pitch in pitches {
        classes |= 1 << (pitch % 12);
        bass = bass.min(pitch);
    }
    let from_bass = |up: u8| (bass % 12 + up) % 12;
    let stands_on = |root: u8, members: &[u8]| {
        members.iter().fold(0_u16, |set, member| set | 1 << ((root + member) % 12)) == classes
    };
    CHORDS.iter().find_map(|&(kind, members)| {
        let root = (0..12).map(from_bass).find(|&root| stands_on(root, members))?;
        Some(Harmony { root, kind })
    })
}

impl Harmony {
    /// Whether it can be a dominant of the chord on `tonic`: a major triad or dominant seventh a fifth above, or a
    /// diminished triad or seventh a semitone below.
    pub(super) fn leads_to(self, tonic: u8) -> bool {
        let above = (self.root + 12 - tonic % 12) % 12;
        match self.kind {
            Kind::Major | Kind::DominantSeventh => above == 7,
            Kind::Diminished | Kind::HalfDiminishedSeventh | Kind::DiminishedSeventh => above == 11,
            _ => false,
        }
    }

    /// Whether it can be what a phrase comes to rest on.
    pub(super) fn is_at_rest(self) -> bool {
        matches!(self.kind, Kind::Major | Kind::Minor | Kind::Bare)
    }
}
