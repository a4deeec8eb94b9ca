//! Which chord follows which: a small functional-harmony table, cadences, and the plan of a piece.

use crate::mix::{below, mix};
use crate::score::Mode;

/// Scale degrees in a local key and the member in the bass: `I6` has its third there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(clippy::upper_case_acronyms, reason = "Roman numerals, as harmony writes them")]
pub(crate) enum Degree {
    I,
    I6,
    II,
    II6,
    III,
    IV,
    IV6,
    V,
    V6,
    V7,
    VI,
    VII6,
}

use Degree::{I, I6, II, II6, III, IV, IV6, V, V6, V7, VI, VII6};

/// What may follow a degree, with weights. Tonic goes anywhere, predominants go on to the dominant, the dominant
/// comes home or deceives.
fn successors(degree: Degree) -> &'static [(Degree, u64)] {
    match degree {
        I => &[(IV, 4), (V, 4), (VI, 3), (II6, 2), (V6, 2), (I6, 2), (VII6, 2), (II, 1), (IV6, 1), (III, 1)],
        I6 => &[(IV, 3), (II6, 3), (V, 2), (VII6, 1), (I, 1)],
        II => &[(V, 4), (V7, 2), (V6, 1), (VII6, 1)],
        II6 => &[(V, 4), (V7, 3)],
        III => &[(VI, 3), (IV, 2)],
        IV => &[(V, 4), (I, 2), (I6, 2), (II, 1), (V7, 1), (VII6, 1)],
        IV6 => &[(V, 2), (V6, 2), (I6, 1)],
        V => &[(I, 4), (VI, 2), (I6, 2), (V6, 1)],
        V6 => &[(I, 1)],
        V7 => &[(I, 4), (VI, 1)],
        VI => &[(IV, 3), (II, 2), (II6, 2), (V, 2), (I6, 1)],
        VII6 => &[(I, 3), (I6, 3)],
    }
}

/// A chord's pitch classes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Chord {
    /// Root, third, fifth and, of `V7`, the seventh.
    pub(crate) members: Vec<u8>,
    pub(crate) bass: u8,
    /// The leading tone of the local key, where the chord has it.
    pub(crate) leading: Option<u8>,
    /// Begins a phrase: what came before need not be resolved.
    pub(crate) begins: bool,
    /// Ends a phrase: sounds for `beats`, under a fermata.
    pub(crate) ends: bool,
    pub(crate) beats: usize,
    /// The local key's scale, as a set of pitch classes.
    pub(crate) scale: u16,
}

/// The plan of a piece: metre, key and chords.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Plan {
    pub(crate) tonic: u8,
    pub(crate) mode: Mode,
    pub(crate) beats_per_measure: usize,
    pub(crate) pickup_beats: usize,
    pub(crate) chords: Vec<Chord>,
}

impl Plan {
    /// Signature of the home key, sharps positive, -5..=6.
    pub(crate) fn fifths(&self) -> i8 {
        let major = match self.mode {
            Mode::Major => self.tonic,
            Mode::Minor => (self.tonic + 3) % 12,
        };
        const FIFTHS: [i8; 12] = [0, -5, 2, -3, 4, -1, 6, 1, -4, 3, -2, 5];
        FIFTHS[usize::from(major % 12)]
    }
}

/// A local key: tonic pitch class and mode.
type Key = (u8, Mode);

/// Draws the plan of piece `key` (its words name seed, index and attempt).
pub(crate) fn plan(key: &[u64; 3]) -> Plan {
    let draw = |purpose: u64, bound: u64| below(&[key[0], key[1], key[2], purpose], bound);
    let tonic = u8::try_from(draw(1, 12)).unwrap_or(0);
    let mode = if draw(2, 5) < 3 { Mode::Major } else { Mode::Minor };
    let (beats_per_measure, phrase_beats) = if draw(3, 5) == 0 { (3, 12) } else { (4, 8) };
    let pickup_beats = usize::from(draw(4, 5) < 3);
    let phrases = 4 + draw(5, 4);
    let mut chords = Vec::new();
    for phrase in 0..phrases {
        let stream = mix(&[key[0], key[1], key[2], 100 + phrase]);
        let last = phrase + 1 == phrases;
        let local = local_key((tonic, mode), phrase, last, stream);
        // The last chord fills the phrase up to the next one's upbeat.
        let hold = match (beats_per_measure, pickup_beats) {
            (4, 1) => 1,
            (4, _) | (_, 1) => 2,
            _ => 3,
        };
        let degrees = progression(phrase_beats - hold + 1, last, stream);
        let count = degrees.len();
        for (i, degree) in degrees.into_iter().enumerate() {
            let ends = i + 1 == count;
            let beats = if ends { hold } else { 1 };
            chords.push(Chord { begins: i == 0, ends, beats, ..chord(local, degree) });
        }
    }
    Plan { tonic, mode, beats_per_measure, pickup_beats, chords }
}

/// The first and last phrases stand at home, half of the others go to the dominant or to the relative key.
fn local_key(home: Key, phrase: u64, last: bool, stream: u64) -> Key {
    if phrase == 0 || last {
        return home;
    }
    match (home.1, below(&[stream, 1], 8)) {
        (_, 0..=3) => home,
        (Mode::Major, 4..=5) => ((home.0 + 7) % 12, Mode::Major),
        (Mode::Major, _) => ((home.0 + 9) % 12, Mode::Minor),
        (Mode::Minor, 4..=6) => ((home.0 + 3) % 12, Mode::Major),
        (Mode::Minor, _) => ((home.0 + 7) % 12, Mode::Minor),
    }
}

/// `count` degrees from the tonic to a cadence: authentic at the end, elsewhere also half or deceptive.
fn progression(count: usize, last: bool, stream: u64) -> Vec<Degree> {
    let cadence: &[Degree] = match (last, below(&[stream, 2], 10)) {
        (true, 0..=4) => &[II6, V, I],
        (true, _) => &[IV, V7, I],
        (false, 0..=2) => &[II6, V, I],
        (false, 3..=4) => &[IV, V, I],
        (false, 5..=6) => &[II, V7, I],
        (false, 7) => &[IV, V],
        (false, 8) => &[I, V],
        (false, _) => &[IV, V, VI],
    };
    let mut degrees = vec![if below(&[stream, 3], 4) == 0 { V } else { I }];
    let walk = count.saturating_sub(cadence.len());
    while degrees.len() < walk {
        let here = degrees[degrees.len() - 1];
        let left = walk - degrees.len();
        let open: Vec<(Degree, u64)> =
            successors(here).iter().copied().filter(|&(next, _)| reaches(next, left, cadence[0])).collect();
        degrees.push(weighted(&open, &[stream, 4, u64::try_from(left).unwrap_or(0)]).unwrap_or(I));
    }
    degrees.extend_from_slice(cadence);
    degrees
}

/// Whether `goal` can stand `steps` chords after `from`.
fn reaches(from: Degree, steps: usize, goal: Degree) -> bool {
    if steps == 0 {
        return from == goal;
    }
    // Six steps reach everything from everywhere; asking further would only cost time.
    steps > 6 || successors(from).iter().any(|&(next, _)| reaches(next, steps - 1, goal))
}

fn weighted(open: &[(Degree, u64)], words: &[u64]) -> Option<Degree> {
    let total = open.iter().map(|&(_, weight)| weight).sum();
    let mut at = below(words, total);
    for &(degree, weight) in open {
        if at < weight {
            return Some(degree);
        }
        at -= weight;
    }
    None
}

fn chord((tonic, mode): Key, degree: Degree) -> Chord {
    let steps: [u8; 7] = match mode {
        Mode::Major => [0, 2, 4, 5, 7, 9, 11],
        Mode::Minor => [0, 2, 3, 5, 7, 8, 10],
    };
    let (root, bass_member, dominant) = match degree {
        I => (0, 0, false),
        I6 => (0, 1, false),
        II => (1, if mode == Mode::Minor { 1 } else { 0 }, false),
        II6 => (1, 1, false),
        III => (2, 0, false),
        IV => (3, 0, false),
        IV6 => (3, 1, false),
        V | V7 => (4, 0, true),
        V6 => (4, 1, true),
        VI => (5, 0, false),
        VII6 => (6, 1, true),
    };
    let leading = (tonic + 11) % 12;
    let pitch_class = |step: usize| {
        let raised = dominant && step % 7 == 6;
        if raised { leading } else { (tonic + steps[step % 7]) % 12 }
    };
    let sizes: &[usize] = if degree == V7 { &[0, 2, 4, 6] } else { &[0, 2, 4] };
    let members: Vec<u8> = sizes.iter().map(|size| pitch_class(root + size)).collect();
    let scale = steps.iter().fold(0, |set, step| set | 1 << ((tonic + step) % 12));
    Chord {
        bass: members[bass_member],
        leading: members.contains(&leading).then_some(leading),
        members,
        begins: false,
        ends: false,
        beats: 1,
        scale,
    }
}
