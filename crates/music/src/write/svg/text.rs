//! Names of pitches and keys, and text within XML.

use crate::score::{KeySignature, Mode, Pitch};
use crate::write::spelling::{octave, spell};

const LETTERS: [&str; 7] = ["C", "D", "E", "F", "G", "A", "B"];

/// "F♯", "B♭".
pub(super) fn class(pitch: Pitch) -> String {
    let sign = match pitch.alter {
        2.. => "𝄪",
        1 => "♯",
        -1 => "♭",
        ..=-2 => "♭♭",
        0 => "",
    };
    format!("{}{sign}", LETTERS[usize::from(pitch.step % 7)])
}

/// "F♯4"; middle C is C4.
pub(super) fn pitch(pitch: Pitch) -> String {
    format!("{}{}", class(pitch), octave(pitch))
}

/// Pitch class of the key's tonic; that of the major key where no mode is declared.
pub(super) fn tonic(key: KeySignature) -> u8 {
    let major = i32::from(key.fifths) * 7;
    let tonic = if key.mode == Some(Mode::Minor) { major + 9 } else { major };
    u8::try_from(tonic.rem_euclid(12)).unwrap_or(0)
}

/// "G major", "f♯ minor"; the signature alone where no mode is declared.
pub(super) fn key(key: KeySignature) -> String {
    let name = class(spell(60 + tonic(key), key.fifths));
    match (key.mode, key.fifths) {
        (Some(Mode::Major), _) => format!("{name} major"),
        (Some(Mode::Minor), _) => format!("{} minor", name.to_lowercase()),
        (None, 0) => "no sharps or flats".to_owned(),
        (None, 1) => "1 sharp".to_owned(),
        (None, -1) => "1 flat".to_owned(),
        (None, sharps @ 2..) => format!("{sharps} sharps"),
        (None, flats) => format!("{} flats", flats.unsigned_abs()),
    }
}
