//! Finding the key of a score: pitch-class profiles, correlated.

use crate::score::{Mode, Score};

/// A tonic and a mode.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Key {
    /// Pitch class, 0..=11: C is 0.
    pub tonic: u8,
    pub mode: Mode,
}

/// How well each scale degree, counted in semitones from the tonic, fits a major key (Aarden and Essen: counts in
/// the Essen folk-song collection, per cent).
const MAJOR: [f64; 12] = [
    17.7661, 0.145624, 14.9265, 0.160186, 19.8049, 11.3587, 0.291248, 22.062, 0.145624, 8.15494, 0.232998,
    4.95122,
];

/// The same for a minor key.
const MINOR: [f64; 12] = [
    18.2648, 0.737619, 14.0499, 16.8599, 0.702494, 14.4362, 0.702494, 18.6161, 4.56621, 1.93186, 7.37619,
    1.75623,
];

/// The key of a score: of 24, the one whose profile correlates best (Pearson) with how long each pitch class
/// sounds, over all notes of all parts. A score without notes, or with all pitch classes alike, is in C major.
#[must_use]
pub fn find_key(score: &Score) -> Key {
    let mut sounding = [0.0_f64; 12];
    for note in score.parts.iter().flat_map(|part| &part.notes) {
        #[expect(clippy::cast_precision_loss, reason = "durations are far below 2^53 ticks")]
        let duration = note.duration as f64;
        sounding[usize::from(note.pitch.midi % 12)] += duration;
    }
    key_of_histogram(&sounding)
}

/// The same from the time that each pitch class sounds, in any unit.
#[must_use]
pub fn key_of_histogram(sounding: &[f64; 12]) -> Key {
    let mut best = (f64::NEG_INFINITY, Key { tonic: 0, mode: Mode::Major });
    for (mode, profile) in [(Mode::Major, &MAJOR), (Mode::Minor, &MINOR)] {
        for tonic in 0..12_u8 {
            let fit = correlation(profile, sounding, usize::from(tonic));
            if fit > best.0 {
                best = (fit, Key { tonic, mode });
            }
        }
    }
    best.1
}

/// Pearson's correlation of a profile with a histogram seen from a tonic; NaN where one of them is flat.
fn correlation(profile: &[f64; 12], sounding: &[f64; 12], tonic: usize) -> f64 {
    let profile_mean = profile.iter().sum::<f64>() / 12.0;
    let sounding_mean = sounding.iter().sum::<f64>() / 12.0;
    let (mut product, mut profile_square, mut sounding_square) = (0.0, 0.0, 0.0);
    for (degree, weight) in profile.iter().enumerate() {
        let a = weight - profile_mean;
        let b = sounding[(degree + tonic) % 12] - sounding_mean;
        product += a * b;
        profile_square += a * a;
        sounding_square += b * b;
    }
    product / (profile_square * sounding_square).sqrt()
}

/// Semitones, -5..=6, that take a major key to C major and a minor key to a minor. The tritone goes up.
#[must_use]
pub fn transposition_to_c_or_a(key: Key) -> i8 {
    let target: i16 = match key.mode {
        Mode::Major => 0,
        Mode::Minor => 9,
    };
    #[expect(clippy::cast_possible_truncation, reason = "a remainder of 12")]
    let up = (target - i16::from(key.tonic)).rem_euclid(12) as i8;
    if up > 6 { up - 12 } else { up }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A scale's pitch classes with weights for tonic, dominant and the rest.
    fn scale(tonic: usize, steps: &[usize]) -> [f64; 12] {
        let mut sounding = [0.0; 12];
        for step in steps {
            sounding[(tonic + step) % 12] = match step {
                0 => 4.0,
                7 => 3.0,
                _ => 1.5,
            };
        }
        sounding
    }

    #[test]
    fn every_scale_is_found_in_its_key() {
        for tonic in 0..12_u8 {
            let at = usize::from(tonic);
            let major = key_of_histogram(&scale(at, &[0, 2, 4, 5, 7, 9, 11]));
            assert_eq!(major, Key { tonic, mode: Mode::Major });
            let minor = key_of_histogram(&scale(at, &[0, 2, 3, 5, 7, 8, 11]));
            assert_eq!(minor, Key { tonic, mode: Mode::Minor });
        }
    }

    #[test]
    fn a_transposition_ends_in_c_major_or_a_minor_by_the_nearest_way() {
        for tonic in 0..12_u8 {
            for (mode, target) in [(Mode::Major, 0), (Mode::Minor, 9)] {
                let by = transposition_to_c_or_a(Key { tonic, mode });
                assert!((-5..=6).contains(&by));
                assert_eq!((i16::from(tonic) + i16::from(by)).rem_euclid(12), target);
            }
        }
        assert_eq!(transposition_to_c_or_a(Key { tonic: 6, mode: Mode::Major }), 6);
        assert_eq!(transposition_to_c_or_a(Key { tonic: 7, mode: Mode::Major }), 5);
    }

    #[test]
    fn silence_is_in_c_major() {
        assert_eq!(find_key(&Score::default()), Key { tonic: 0, mode: Mode::Major });
    }
}
