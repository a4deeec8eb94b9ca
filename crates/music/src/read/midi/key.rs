//! The key of a MIDI file, and the spelling of its notes.

use crate::key::{Key, find_key};
use crate::score::{KeySignature, Mode, Score};
use crate::write::spelling::spell;

/// C major is what programs say that know nothing. It is believed if at least so much of the music is on white keys.
const WHITE_SHARE: (i64, i64) = (85, 100);
const MAJOR: [&str; 15] = ["Cb", "Gb", "Db", "Ab", "Eb", "Bb", "F", "C", "G", "D", "A", "E", "B", "F#", "C#"];
const MINOR: [&str; 15] = ["Ab", "Eb", "Bb", "F", "C", "G", "D", "A", "E", "B", "F#", "C#", "G#", "D#", "A#"];

/// Gives the measures their keys, declared or else found, and spells the notes in them.
pub(super) fn spell_in_key(score: &mut Score, keys: &[(i64, KeySignature)]) {
    let nothing = KeySignature { fifths: 0, mode: Some(Mode::Major) };
    let says_nothing = keys.iter().all(|&(_, key)| key == nothing);
    if says_nothing && (keys.is_empty() || !is_white(score)) {
        let key = signature(find_key(score));
        score.key_guessed = true;
        let name = name(key);
        let lacks =
            if keys.is_empty() { "has no key signature" } else { "says C major, which its notes do not" };
        score.remarks.push(format!(
            "the MIDI file {lacks}: they sound like {name}, which is its key now; --key says otherwise"
        ));
        score.declare_key(key);
        return;
    }
    for measure in &mut score.measures {
        let in_force = keys.iter().rev().find(|&&(tick, _)| tick <= measure.start).or(keys.first());
        measure.key = in_force.map_or(nothing, |&(_, key)| key);
    }
    for note in score.parts.iter_mut().flat_map(|part| &mut part.notes) {
        let at = score.measures.partition_point(|measure| measure.start <= note.onset);
        let fifths = at.checked_sub(1).map_or(0, |at| score.measures[at].key.fifths);
        note.pitch = spell(note.pitch.midi, fifths);
    }
}

fn is_white(score: &Score) -> bool {
    let (mut white, mut all) = (0, 0);
    for note in score.parts.iter().flat_map(|part| &part.notes) {
        let is_white = [0, 2, 4, 5, 7, 9, 11].contains(&(note.pitch.midi % 12));
        white += if is_white { note.duration } else { 0 };
        all += note.duration;
    }
    white * WHITE_SHARE.1 >= all * WHITE_SHARE.0
}

/// With the fewest sharps or flats.
fn signature(key: Key) -> KeySignature {
    let tonic_of = |fifths: i8| {
        let above = if key.mode == Mode::Minor { 9 } else { 0 };
        (i16::from(fifths) * 7 + above).rem_euclid(12)
    };
    let fifths = (-6..=5_i8).find(|&fifths| tonic_of(fifths) == i16::from(key.tonic)).unwrap_or(0);
    KeySignature { fifths, mode: Some(key.mode) }
}

fn name(key: KeySignature) -> String {
    let at = usize::try_from(i16::from(key.fifths) + 7).unwrap_or(7).min(14);
    match key.mode {
        Some(Mode::Minor) => format!("{} minor", MINOR[at]),
        _ => format!("{} major", MAJOR[at]),
    }
}
