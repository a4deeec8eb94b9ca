//! Four voices for a row of chords: every voicing of each chord, and the cheapest path through them.

use super::harmony::Chord;
use super::rules;
use crate::mix::below;

/// Soprano, alto, tenor, bass, as MIDI numbers.
pub(crate) type Voicing = [u8; 4];

/// Lowest and highest note of each voice, and where it likes to be.
pub(crate) const RANGES: [(u8, u8); 4] = [(60, 79), (55, 74), (48, 67), (40, 62)];

/// What a broken rule costs; a path that costs as much has broken one.
const FORBIDDEN: u64 = 100_000;

/// The cheapest voicings of all chords in turn, and whether they keep every rule. `stream` draws the small
/// differences of taste that make one exercise unlike another.
pub(crate) fn voice(chords: &[Chord], stream: u64) -> (Vec<Voicing>, bool) {
    let mut layers: Vec<Vec<Voicing>> = Vec::with_capacity(chords.len());
    let mut back: Vec<Vec<usize>> = Vec::with_capacity(chords.len());
    let mut costs: Vec<u64> = Vec::new();
    for (i, chord) in chords.iter().enumerate() {
        let voicings = voicings(chord);
        let taste = |v: &Voicing| static_cost(chord, v) + contour_cost(v, i, stream);
        let (next_costs, from): (Vec<u64>, Vec<usize>) = voicings
            .iter()
            .map(|v| {
                let step = |(k, before): (usize, &Voicing)| {
                    (costs[k] + move_cost(&chords[i - 1], chord, before, v), k)
                };
                let (cost, k) = match layers.last() {
                    Some(layer) => layer.iter().enumerate().map(step).min().unwrap_or((FORBIDDEN, 0)),
                    None => (0, 0),
                };
                (cost + taste(v), k)
            })
            .unzip();
        layers.push(voicings);
        back.push(from);
        costs = next_costs;
    }
    let Some((&cost, mut at)) = costs.iter().zip(0..).min() else {
        return (Vec::new(), false);
    };
    let mut path = Vec::with_capacity(chords.len());
    for (layer, from) in layers.iter().zip(&back).rev() {
        path.push(layer[at]);
        at = from[at];
    }
    path.reverse();
    (path, cost < FORBIDDEN)
}

/// Every way to sing a chord: in range, in order, no gap above an octave between the upper voices, root and third
/// there, the fifth missing at most once the root is in the bass, leading tone and seventh once.
fn voicings(chord: &Chord) -> Vec<Voicing> {
    let notes = |voice: usize| {
        let (low, high) = RANGES[voice];
        (low..=high).filter(|m| chord.members.contains(&(m % 12)))
    };
    let mut found = Vec::new();
    for bass in notes(3).filter(|m| m % 12 == chord.bass) {
        for tenor in notes(2).filter(|&t| t > bass && t - bass <= 19) {
            for alto in notes(1).filter(|&a| a >= tenor && a - tenor <= 12) {
                for soprano in notes(0).filter(|&s| s > alto && s - alto <= 12) {
                    let voicing = [soprano, alto, tenor, bass];
                    if is_complete(chord, &voicing) {
                        found.push(voicing);
                    }
                }
            }
        }
    }
    found
}

fn is_complete(chord: &Chord, voicing: &Voicing) -> bool {
    let times = |pc: u8| voicing.iter().filter(|&m| m % 12 == pc).count();
    let root_position = chord.bass == chord.members[0];
    let fifth = times(chord.members[2]);
    times(chord.members[0]) >= 1
        && times(chord.members[1]) >= 1
        && (fifth >= 1 || (root_position && chord.ends))
        && chord.members.get(3).is_none_or(|&seventh| times(seventh) == 1)
        && chord.leading.is_none_or(|leading| times(leading) == 1)
}

fn static_cost(chord: &Chord, v: &Voicing) -> u64 {
    let times = |pc: u8| v.iter().filter(|&m| m % 12 == pc).count();
    let mut cost = 0;
    if times(chord.members[1]) > 1 {
        cost += if chord.leading.is_some() { 2 } else { 7 };
    }
    if times(chord.members[2]) != 1 {
        cost += 3;
    }
    if v[1] == v[2] {
        cost += 6;
    }
    if chord.ends && v[0] % 12 != chord.members[0] {
        cost += 5;
    }
    cost
}

/// The soprano's wish to be somewhere: a line drawn through random points three beats apart.
fn contour_cost(v: &Voicing, beat: usize, stream: u64) -> u64 {
    let third = u64::try_from(beat / 3).unwrap_or(0);
    let wish = 65 + u8::try_from(below(&[stream, 7, third], 11)).unwrap_or(0);
    let taste = below(&[stream, 8, u64::try_from(beat).unwrap_or(0), u64::from(v[0]), u64::from(v[1])], 5);
    u64::from(v[0].abs_diff(wish)) + taste
}

fn move_cost(from: &Chord, to: &Chord, a: &Voicing, b: &Voicing) -> u64 {
    if rules::has_parallels(a, b) || rules::overlaps(a, b) || rules::hidden_outer(a, b) {
        return FORBIDDEN;
    }
    let mut cost = 0;
    for voice in 0..4 {
        let size = a[voice].abs_diff(b[voice]);
        if rules::awkward(from, to, a[voice], b[voice]) {
            return FORBIDDEN;
        }
        if !to.begins && rules::unresolved(from, to, voice, a[voice], b[voice]) {
            return FORBIDDEN;
        }
        cost += match (voice, size) {
            (0, 1 | 2) => 0,
            (0, 0) => 4,
            (0, 3 | 4) => 3,
            (0, 5..=7) => 7,
            (1 | 2, _) => 2 * u64::from(size),
            (3, 0) => 5,
            (3, _) => u64::from(size) / 2,
            _ => 14,
        };
    }
    cost
}
