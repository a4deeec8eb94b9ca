//! The key that a melody is heard in: said by the user, declared by the score, or found by analysis.

use kapell_music::key::{Key, find_key};
use kapell_music::score::{KeySignature, Mode, Note, Part, Score};

/// A key and the signature it is written with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tonality {
    pub key: Key,
    /// Sharps, -7..=7.
    pub fifths: i8,
    pub source: Source,
}

/// Where a tonality comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// The user said so.
    Said,
    /// The score's key signature.
    Declared,
    /// The notes.
    Analysed,
}

/// A word that names no key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no key")]
pub struct ParseKeyError(pub String);

const LETTERS: [&str; 7] = ["C", "D", "E", "F", "G", "A", "B"];
const NATURAL: [u8; 7] = [0, 2, 4, 5, 7, 9, 11];
/// Of the major keys of the letters, in sharps.
const LETTER_FIFTHS: [i8; 7] = [0, 2, 4, -1, 1, 3, 5];
/// A signature without sharps or flats and without a mode is believed if this share of the melody needs none.
const DIATONIC_SHARE: (i64, i64) = (9, 10);

/// Reads a key as people write it: `G`, `Bb`, `f# minor`, `E-flat major`; a small letter alone means minor.
///
/// # Errors
/// If it is none of these, or would need more than seven sharps or flats.
pub fn parse_key(text: &str) -> Result<Tonality, ParseKeyError> {
    parse(text.trim()).ok_or_else(|| ParseKeyError(text.chars().take(40).collect()))
}

fn parse(text: &str) -> Option<Tonality> {
    let letter = text.chars().next()?;
    let step = LETTERS.iter().position(|&name| name.eq_ignore_ascii_case(&letter.to_string()))?;
    let rest = text[1..].to_lowercase();
    let (alter, rest) =
        [("-sharp", 1), ("-flat", -1), (" sharp", 1), (" flat", -1), ("#", 1), ("♯", 1), ("b", -1)]
            .into_iter()
            .chain([("♭", -1)])
            .find_map(|(sign, alter)| rest.strip_prefix(sign).map(|rest| (alter, rest)))
            .unwrap_or((0_i8, rest.as_str()));
    let mode = match rest.trim_start_matches(['-', ' ', '_']) {
        "" if letter.is_lowercase() => Mode::Minor,
        "" | "major" | "maj" | "dur" => Mode::Major,
        "minor" | "min" | "m" | "moll" => Mode::Minor,
        _ => return None,
    };
    let minor = if mode == Mode::Minor { 3 } else { 0 };
    let fifths = LETTER_FIFTHS[step] + 7 * alter - minor;
    (-7..=7).contains(&fifths).then(|| Tonality { key: key_of(fifths, mode), fifths, source: Source::Said })
}

/// The key of a signature.
fn key_of(fifths: i8, mode: Mode) -> Key {
    let tonic = |above: i16| u8::try_from((i16::from(fifths) * 7 + above).rem_euclid(12)).unwrap_or(0);
    match mode {
        Mode::Major => Key { tonic: tonic(0), mode },
        Mode::Minor => Key { tonic: tonic(9), mode },
    }
}

/// The key of a melody: its declared signature at the first note, else what its notes tell.
#[must_use]
pub fn tonality_of(score: &Score, part: &Part) -> Tonality {
    let alone = Score { parts: vec![part.clone()], ..Score::default() };
    let heard = find_key(&alone);
    let start = part.notes.first().map_or(0, |note| note.onset);
    let measure = score.measures.iter().rev().find(|measure| measure.start <= start);
    let analysed = Tonality { key: heard, fifths: fifths_of(heard), source: Source::Analysed };
    let Some(measure) = measure else { return analysed };
    let mut own = part.signatures_in(measure);
    // Another part may say more of the same signature.
    own.key.mode = own.key.mode.or(measure.key.mode.filter(|_| measure.key.fifths == own.key.fifths));
    if own.mode.is_none() && !is_declared(own.key, &part.notes) {
        return analysed;
    }
    let fifths = own.key.fifths.clamp(-7, 7);
    let key = own.mode.and_then(|name| modal_key(fifths, &name)).unwrap_or_else(|| {
        key_of(fifths, own.key.mode.unwrap_or_else(|| mode_of(fifths, heard, &part.notes)))
    });
    Tonality { key, fifths, source: Source::Declared }
}

/// A church mode as what it is closest to: major or minor by its third, on its own final.
fn modal_key(fifths: i8, name: &str) -> Option<Key> {
    let (above, mode) = match name {
        "dorian" => (2, Mode::Minor),
        "phrygian" => (4, Mode::Minor),
        "lydian" => (5, Mode::Major),
        "mixolydian" => (7, Mode::Major),
        "locrian" => (11, Mode::Minor),
        _ => return None,
    };
    let tonic = u8::try_from((i16::from(fifths) * 7 + above).rem_euclid(12)).unwrap_or(0);
    Some(Key { tonic, mode })
}

/// Readers give "no sharps, no mode" both to a score that says so and to one that says nothing.
fn is_declared(signature: KeySignature, notes: &[Note]) -> bool {
    if signature != KeySignature::default() {
        return true;
    }
    let length = |notes: &mut dyn Iterator<Item = &Note>| notes.map(|note| note.duration).sum::<i64>();
    let white = length(&mut notes.iter().filter(|note| NATURAL.contains(&(note.pitch.midi % 12))));
    white * DIATONIC_SHARE.1 >= length(&mut notes.iter()) * DIATONIC_SHARE.0
}

/// Major or its relative minor, where the signature does not say.
fn mode_of(fifths: i8, heard: Key, notes: &[Note]) -> Mode {
    let minor = key_of(fifths, Mode::Minor);
    let ends_on_minor_tonic = notes.last().is_some_and(|note| note.pitch.midi % 12 == minor.tonic);
    if heard == minor || (ends_on_minor_tonic && heard != key_of(fifths, Mode::Major)) {
        Mode::Minor
    } else {
        Mode::Major
    }
}

/// The signature with the fewest sharps or flats; of six sharps and six flats, the flats.
fn fifths_of(key: Key) -> i8 {
    let candidates = (-6..=5_i8).find(|&fifths| key_of(fifths, key.mode) == key);
    candidates.unwrap_or(0)
}

/// A key as people say it: `G major`, `b-flat minor` is `Bb minor`.
#[must_use]
pub fn key_name(tonality: Tonality) -> String {
    let major = match tonality.key.mode {
        Mode::Major => tonality.fifths,
        Mode::Minor => tonality.fifths + 3,
    };
    let step = LETTER_FIFTHS.iter().position(|&fifths| (major - fifths) % 7 == 0).unwrap_or(0);
    let sign = match (major - LETTER_FIFTHS[step]) / 7 {
        1 => "#",
        -1 => "b",
        _ => "",
    };
    let mode = match tonality.key.mode {
        Mode::Major => "major",
        Mode::Minor => "minor",
    };
    format!("{}{sign} {mode}", LETTERS[step])
}

#[cfg(test)]
mod tests {
    use super::*;
    use kapell_music::score::{Measure, Pitch, Signatures, TICKS_PER_QUARTER};

    fn melody(midis: &[u8]) -> Part {
        let note = |(at, &midi): (i64, &u8)| Note {
            onset: at * TICKS_PER_QUARTER,
            duration: TICKS_PER_QUARTER,
            pitch: Pitch { midi, step: 0, alter: 0 },
            tie_from: false,
            tie_to: false,
            fermata: false,
            voice: 1,
            notation: kapell_music::score::Notation::default(),
        };
        Part { notes: (0..).zip(midis).map(note).collect(), ..Part::default() }
    }

    fn declared(fifths: i8, mode: Option<Mode>) -> Score {
        let measure = Measure {
            number: "1".into(),
            start: 0,
            duration: 4 * TICKS_PER_QUARTER,
            time: (4, 4),
            key: KeySignature { fifths, mode },
            ..Measure::default()
        };
        Score { measures: vec![measure], ..Score::default() }
    }

    const G_MAJOR: [u8; 8] = [67, 69, 71, 72, 74, 66, 67, 67];

    #[test]
    fn keys_are_read_as_people_write_them() {
        let cases = [
            ("G", 7, Mode::Major, 1),
            ("g", 7, Mode::Minor, -2),
            ("Bb", 10, Mode::Major, -2),
            ("F# minor", 6, Mode::Minor, 3),
            ("e-flat major", 3, Mode::Major, -3),
            ("c sharp minor", 1, Mode::Minor, 4),
            ("Am", 9, Mode::Minor, 0),
            ("B", 11, Mode::Major, 5),
            ("b", 11, Mode::Minor, 2),
            ("Cb", 11, Mode::Major, -7),
        ];
        for (text, tonic, mode, fifths) in cases {
            let key = Key { tonic, mode };
            assert_eq!(parse_key(text), Ok(Tonality { key, fifths, source: Source::Said }), "{text}");
        }
        for text in ["", "H", "G# major", "G mixolydian", "Fbb", "é", "Gé"] {
            assert!(parse_key(text).is_err(), "{text} was taken for a key");
        }
    }

    #[test]
    fn a_keys_name_is_read_back_as_that_key() {
        for fifths in -7..=7 {
            for mode in [Mode::Major, Mode::Minor] {
                let tonality = Tonality { key: key_of(fifths, mode), fifths, source: Source::Said };
                assert_eq!(parse_key(&key_name(tonality)), Ok(tonality));
            }
        }
    }

    #[test]
    fn a_declared_signature_is_believed_before_the_notes() {
        let found = tonality_of(&declared(-3, Some(Mode::Minor)), &melody(&G_MAJOR));
        assert_eq!((found.key, found.source), (Key { tonic: 0, mode: Mode::Minor }, Source::Declared));
    }

    #[test]
    fn a_signature_without_a_mode_is_major_or_minor_by_its_notes() {
        let major = tonality_of(&declared(1, None), &melody(&G_MAJOR));
        assert_eq!(major.key, Key { tonic: 7, mode: Mode::Major });
        let minor = tonality_of(&declared(1, None), &melody(&[64, 66, 67, 71, 64, 71, 63, 64]));
        assert_eq!(minor.key, Key { tonic: 4, mode: Mode::Minor });
    }

    #[test]
    fn a_church_mode_is_declared_and_keeps_its_final() {
        let told = |fifths: i8, name: &str| {
            let mut score = declared(fifths, None);
            score.measures[0].notation.mode = Some(name.to_owned());
            let found = tonality_of(&score, &melody(&G_MAJOR));
            (found.key.tonic, found.key.mode, found.fifths, found.source)
        };
        assert_eq!(told(0, "dorian"), (2, Mode::Minor, 0, Source::Declared));
        assert_eq!(told(-1, "mixolydian"), (0, Mode::Major, -1, Source::Declared));
        assert_eq!(told(1, "phrygian"), (11, Mode::Minor, 1, Source::Declared));
        assert_eq!(told(2, "hypo"), (2, Mode::Major, 2, Source::Declared), "by the signature");
    }

    #[test]
    fn a_parts_own_signature_is_believed_before_the_scores() {
        let score = declared(0, Some(Mode::Major));
        let key = KeySignature { fifths: -3, mode: Some(Mode::Minor) };
        let mut part = melody(&G_MAJOR);
        part.signatures.insert(0, Signatures { key, ..Signatures::default() });
        assert_eq!(tonality_of(&score, &part).fifths, -3);
        let unsaid = KeySignature { fifths: 0, mode: None };
        part.signatures.insert(0, Signatures { key: unsaid, ..Signatures::default() });
        let found = tonality_of(&score, &part);
        assert_eq!((found.key, found.source), (Key { tonic: 0, mode: Mode::Major }, Source::Declared));
    }

    #[test]
    fn a_score_without_a_signature_is_analysed() {
        let found = tonality_of(&declared(0, None), &melody(&G_MAJOR));
        assert_eq!((found.key.tonic, found.fifths, found.source), (7, 1, Source::Analysed));
        let white = tonality_of(&declared(0, None), &melody(&[60, 62, 64, 65, 67, 59, 60]));
        assert_eq!((white.key.tonic, white.source), (0, Source::Declared));
    }
}
