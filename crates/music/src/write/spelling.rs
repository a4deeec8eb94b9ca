//! How a sounding pitch is written in a key: F sharp or G flat.

use crate::score::Pitch;

/// Spells a MIDI pitch in the key of `fifths` sharps: of the names it could have, the one on the line of fifths
/// between three flats and eight sharps of the key's major tonic. So in C major and a minor: E flat, B flat,
/// F sharp, C sharp, G sharp; the raised sixth and seventh of minor come out as raised.
#[must_use]
pub fn spell(midi: u8, fifths: i8) -> Pitch {
    let fifths = i32::from(fifths.clamp(-7, 7));
    // On the line of fifths C is 0, G 1, F -1; seven further is the same letter, a sharp higher.
    let lowest = fifths - 3;
    let class = i32::from(midi) * 7;
    let place = lowest + (class - lowest).rem_euclid(12);
    // Double accidentals stay within what a pitch can hold.
    let place = if place > 19 {
        place - 12
    } else if place < -15 {
        place + 12
    } else {
        place
    };
    const LETTERS: [u8; 7] = [3, 0, 4, 1, 5, 2, 6];
    let from_f = place + 1;
    let step = usize::try_from(from_f.rem_euclid(7)).map_or(0, |i| LETTERS[i]);
    let alter = i8::try_from(from_f.div_euclid(7)).unwrap_or(0);
    Pitch { midi, step, alter }
}

/// The octave number of a spelled pitch: 4 for middle C, also for the B sharp that sounds like the C above.
pub(crate) fn octave(pitch: Pitch) -> i32 {
    (i32::from(pitch.midi) - i32::from(pitch.alter)).div_euclid(12) - 1
}

#[cfg(test)]
mod tests {
    use super::*;

    const NATURAL: [i32; 7] = [0, 2, 4, 5, 7, 9, 11];

    #[test]
    fn every_spelling_sounds_as_the_pitch_it_spells() {
        for fifths in -7..=7 {
            for midi in 0..=127 {
                let pitch = spell(midi, fifths);
                assert!((-2..=2).contains(&pitch.alter), "{pitch:?} in {fifths}");
                let sounds =
                    (octave(pitch) + 1) * 12 + NATURAL[usize::from(pitch.step)] + i32::from(pitch.alter);
                assert_eq!(sounds, i32::from(midi), "{pitch:?} in {fifths}");
            }
        }
    }

    #[test]
    fn accidentals_follow_the_key() {
        let names = |fifths: i8, midis: &[u8]| -> Vec<String> {
            let name = |&m: &u8| {
                let p = spell(m, fifths);
                format!("{}{}", ["C", "D", "E", "F", "G", "A", "B"][usize::from(p.step)], p.alter)
            };
            midis.iter().map(name).collect()
        };
        assert_eq!(names(0, &[61, 63, 66, 68, 70]), ["C1", "E-1", "F1", "G1", "B-1"]);
        assert_eq!(names(-3, &[60, 63, 66, 71, 69]), ["C0", "E-1", "G-1", "B0", "A0"]);
        assert_eq!(names(4, &[61, 63, 72, 70]), ["C1", "D1", "B1", "A1"]);
    }
}
