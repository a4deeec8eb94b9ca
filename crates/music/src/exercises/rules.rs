//! The rules of voice leading that every exercise keeps.

use super::harmony::Chord;
use super::voicing::Voicing;

/// Two voices that both move and stand in a unison, octave or fifth before and after.
pub(crate) fn has_parallels(a: &Voicing, b: &Voicing) -> bool {
    (0..4).any(|low| {
        (0..low).any(|high| {
            let class = |v: &Voicing| v[high].abs_diff(v[low]) % 12;
            a[high] != b[high] && a[low] != b[low] && class(a) == class(b) && matches!(class(a), 0 | 7)
        })
    })
}

/// A voice that goes beyond where its neighbour just was.
pub(crate) fn overlaps(a: &Voicing, b: &Voicing) -> bool {
    (0..3).any(|v| b[v + 1] > a[v] || b[v] < a[v + 1])
}

/// Soprano and bass that go the same way into a fifth or octave, the soprano by a leap.
pub(crate) fn hidden_outer(a: &Voicing, b: &Voicing) -> bool {
    let same_way = (b[0] > a[0] && b[3] > a[3]) || (b[0] < a[0] && b[3] < a[3]);
    same_way && a[0].abs_diff(b[0]) > 2 && matches!((b[0] - b[3]) % 12, 0 | 7)
}

/// A melodic interval that is hard to sing: a tritone, a sixth or more but the octave, an augmented second.
pub(crate) fn awkward(from: &Chord, to: &Chord, a: u8, b: u8) -> bool {
    let size = a.abs_diff(b);
    let augmented_second = [from.leading, to.leading].into_iter().flatten().any(|leading| {
        let sixth = (leading + 9) % 12;
        size == 3 && ((a % 12 == sixth && b % 12 == leading) || (a % 12 == leading && b % 12 == sixth))
    });
    matches!(size, 6 | 8..=11 | 13..) || augmented_second
}

/// A leading tone in an outer voice that does not rise into the tonic, or a seventh that does not fall.
pub(crate) fn unresolved(from: &Chord, to: &Chord, voice: usize, a: u8, b: u8) -> bool {
    let leading = from.leading == Some(a % 12)
        && matches!(voice, 0 | 3)
        && to.members.contains(&((a + 1) % 12))
        && b != a + 1;
    let seventh = from.members.get(3) == Some(&(a % 12)) && !(b < a && a - b <= 2) && b != a;
    leading || seventh
}
