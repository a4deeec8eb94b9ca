//! Melodies as people have them, and what a model sees of them.

use kapell_music::score::{KeySignature, Measure, Note, Pitch};

use super::*;
use crate::decode::tests::{beats, line, score_of};
use crate::decode::tonality::parse_key;
use crate::decode::vocabulary::tests::{music, spellings};

/// What the model sees of the only part.
fn seen(score: &Score) -> Melody {
    of(score, None, &music(36, 84)).expect("a melody")
}

/// The only part as a soprano, whose phrases are its fermatas.
fn of(score: &Score, key: Option<Tonality>, vocabulary: &Vocabulary) -> Result<Melody, MelodyError> {
    Melody::new(score, &[Some(0), None, None, None], key, Phrases::Fermatas, vocabulary)
}

fn soprano(frame: &Frame) -> Option<(u8, bool)> {
    match frame.voices[0] {
        Given::Note { midi, tied } => Some((midi, tied)),
        _ => None,
    }
}

fn sopranos(melody: &Melody) -> Vec<Option<(u8, bool)>> {
    melody.frames.iter().map(soprano).collect()
}

#[test]
fn notes_become_frames_of_sixteenths_struck_once_and_then_tied() {
    let melody = seen(&score_of(line(&[(72, 0.0, 0.5), (74, 0.5, 0.25), (74, 0.75, 0.5)]), 0));
    let wanted = [(72, false), (72, true), (74, false), (74, false), (74, true)];
    assert_eq!(sopranos(&melody), wanted.map(Some));
    assert!(melody.remarks.is_empty(), "{:?}", melody.remarks);
}

#[test]
fn a_tied_note_goes_on_over_the_bar_line() {
    let mut notes = line(&[(72, 0.0, 0.25), (72, 0.25, 0.25)]);
    notes[0].tie_to = true;
    notes[1].tie_from = true;
    assert_eq!(sopranos(&seen(&score_of(notes, 0))), [Some((72, false)), Some((72, true))]);
}

#[test]
fn a_melody_is_moved_to_c_major_or_a_minor_as_in_training() {
    for (fifths, by) in [(1, 5), (2, -2), (-1, -5), (-3, -3), (6, 6), (-6, 6), (4, -4)] {
        let melody = seen(&score_of(line(&[(71, 0.0, 0.25)]), fifths));
        assert_eq!((melody.transposition, melody.octaves), (by, 0), "{fifths} sharps");
        assert_eq!(soprano(&melody.frames[0]), Some((71_u8.wrapping_add_signed(by), false)));
    }
}

#[test]
fn the_user_may_say_the_key() {
    let score = score_of(line(&[(71, 0.0, 0.25)]), 0);
    let key = parse_key("e minor").expect("a key");
    let melody = of(&score, Some(key), &music(36, 84)).expect("a melody");
    assert_eq!(melody.transposition, 5);
}

#[test]
fn rests_are_frames_without_a_soprano_but_for_those_at_the_start() {
    let melody = seen(&score_of(line(&[(72, 1.0, 0.25), (74, 1.5, 0.25)]), 0));
    assert_eq!(melody.first_frame, 4);
    assert_eq!(sopranos(&melody), [Some((72, false)), None, Some((74, false))]);
}

#[test]
fn a_fermata_lies_on_all_frames_of_its_note() {
    let mut notes = line(&[(72, 0.0, 0.25), (74, 0.25, 0.5)]);
    notes[1].fermata = true;
    let score = score_of(notes, 0);
    let fermatas: Vec<bool> = seen(&score).frames.iter().map(|frame| frame.fermata == Some(true)).collect();
    assert_eq!(fermatas, [false, true, true]);
    let deaf: Vec<String> = spellings(60, 80).into_iter().filter(|word| word != "(.)").collect();
    let deaf = Vocabulary::new(&deaf).expect("a vocabulary");
    let melody = of(&score, None, &deaf).expect("a melody");
    assert!(melody.frames.iter().all(|frame| frame.fermata == Some(false)));
    assert!(melody.remarks[0].contains("no fermatas"));
}

#[test]
fn triplets_are_rounded_and_said() {
    let third = 1.0 / 3.0;
    let notes = [(72, 0.0, third), (74, third, third), (76, 2.0 * third, third), (77, 1.0, 1.0)];
    let melody = seen(&score_of(line(&notes), 0));
    let struck: Vec<u8> =
        sopranos(&melody).iter().flatten().filter(|note| !note.1).map(|note| note.0).collect();
    assert_eq!((struck.as_slice(), melody.frames.len()), ([72, 74, 76, 77].as_slice(), 8));
    assert!(melody.remarks[0].starts_with("3 notes are not on sixteenths"), "{:?}", melody.remarks);
}

#[test]
fn of_notes_too_short_for_the_grid_the_nearest_to_it_is_seen() {
    let scale = (0_u8..).zip([60, 62, 64, 65, 67, 69, 71, 72]);
    let notes: Vec<(u8, f64, f64)> = scale.map(|(at, midi)| (midi, f64::from(at) / 8.0, 0.125)).collect();
    let melody = seen(&score_of(line(&notes), 0));
    let struck: Vec<u8> =
        sopranos(&melody).iter().flatten().filter(|note| !note.1).map(|note| note.0).collect();
    assert_eq!(struck[..4], [60, 64, 67, 71]);
    assert!(melody.remarks[0].contains("too short"), "{:?}", melody.remarks);
}

#[test]
fn of_chords_and_voices_the_highest_notes_are_seen() {
    let notes = line(&[(60, 0.0, 0.5), (67, 0.0, 0.5), (65, 0.25, 0.25), (72, 0.5, 0.5), (76, 0.75, 0.25)]);
    let melody = seen(&score_of(notes, 0));
    let wanted = [(67, false), (67, true), (72, false), (76, false)];
    assert_eq!(sopranos(&melody), wanted.map(Some));
    assert!(melody.remarks[0].contains("highest"));
}

#[test]
fn a_melody_far_from_the_soprano_is_seen_in_its_octave() {
    for (low, octaves) in [(36, 3), (48, 2), (55, 1), (60, 0), (72, 0), (88, -1), (100, -2)] {
        let melody = seen(&score_of(line(&[(low, 0.0, 1.0), (low + 4, 1.0, 1.0)]), 0));
        let moved = melody.octaves;
        assert!((moved - octaves).abs() <= 1 && (moved != 0) == (octaves != 0), "{low}: {moved}");
        let pitch = soprano(&melody.frames[0]).map_or(0, |note| note.0);
        assert!((60..=81).contains(&pitch), "{low} is seen as {pitch}");
        assert_eq!(melody.remarks.is_empty(), octaves == 0);
    }
}

#[test]
fn a_note_that_the_model_does_not_know_is_seen_as_its_nearest_octave() {
    let score = score_of(line(&[(72, 0.0, 2.0), (83, 2.0, 0.25)]), 0);
    let melody = of(&score, None, &music(60, 80)).expect("a melody");
    assert_eq!(soprano(&melody.frames[8]), Some((71, false)));
    assert!(melody.remarks[0].starts_with("1 notes lie outside"), "{:?}", melody.remarks);
}

#[test]
fn parts_are_chosen_by_name_by_number_or_by_what_they_are() {
    let mut score = score_of(line(&[(48, 0.0, 1.0)]), 0);
    let part = |name: &str, notes| Part { name: name.into(), notes, ..Part::default() };
    score.parts[0].name = "Piano".into();
    assert_eq!(choose_part(&score, None), Ok((0, None)));
    score.parts.push(part("Soprano 1", line(&[(72, 0.0, 1.0)])));
    score.parts.push(part("", Vec::new()));
    let (chosen, remark) = choose_part(&score, None).expect("a part");
    assert_eq!(chosen, 1);
    assert!(remark.is_some_and(|remark| remark.contains("Soprano 1") && remark.contains("Piano")));
    assert_eq!(choose_part(&score, Some("piano")), Ok((0, None)));
    assert_eq!(choose_part(&score, Some("2")), Ok((1, None)));
    assert_eq!(choose_part(&score, Some("3")), Err(MelodyError::NoNotes("part 3".into())));
    for wanted in ["0", "4", "Oboe"] {
        assert!(matches!(choose_part(&score, Some(wanted)), Err(MelodyError::NoPart { .. })), "{wanted}");
    }
}

#[test]
fn impossible_melodies_are_errors() {
    let check = |notes: Vec<Note>| {
        let score = score_of(notes, 0);
        of(&score, None, &music(36, 84)).map(|_| ())
    };
    assert_eq!(check(line(&[(72, 0.0, 1.0), (72, 8000.0, 1.0)])), Err(MelodyError::TooLong));
    assert!(matches!(check(Vec::new()), Err(MelodyError::NoNotes(_))));
    let mut endless = line(&[(72, 1.0, 1.0)]);
    endless[0].duration = i64::MAX;
    assert!(matches!(check(endless), Err(MelodyError::BadNote { .. })));
    let mut long = line(&[(72, 0.0, 1.0)]);
    long[0].duration = i64::MAX / 2;
    assert_eq!(check(long), Err(MelodyError::TooLong));
}

#[test]
fn a_missing_signature_is_analysed_and_said() {
    let scale = (0_u8..).zip([67, 69, 71, 72, 74, 66, 67, 67]);
    let notes: Vec<(u8, f64, f64)> = scale.map(|(at, midi)| (midi, f64::from(at), 1.0)).collect();
    let melody = seen(&score_of(line(&notes), 0));
    assert_eq!(melody.transposition, 5);
    assert!(melody.remarks[0].contains("G major"), "{:?}", melody.remarks);
}

#[test]
fn the_signature_at_the_first_note_counts() {
    let mut score = score_of(line(&[(71, 4.0, 1.0)]), 0);
    let key = KeySignature { fifths: 2, mode: None };
    score.measures.push(Measure { start: beats(4.0), key, ..score.measures[0].clone() });
    assert_eq!(seen(&score).transposition, -2);
    assert_eq!(Pitch { midi: 71, step: 6, alter: 0 }, score.parts[0].notes[0].pitch);
}

#[test]
fn voices_are_given_together_on_one_time_line() {
    let mut score = score_of(line(&[(72, 1.0, 0.5)]), 1);
    score.parts[0].name = "Soprano".into();
    for (name, midi) in [("Alto", 67), ("Tenor", 60), ("Bass", 48)] {
        score.parts.push(Part { name: name.into(), notes: line(&[(midi, 0.75, 1.0)]), ..Part::default() });
    }
    assert_eq!(choose_parts(&score, &[0, 3], None), Ok(([Some(0), None, None, Some(3)], None)));
    let given = [Some(0), None, None, Some(3)];
    let melody = Melody::new(&score, &given, None, Phrases::Auto, &music(36, 84)).expect("a melody");
    assert_eq!((melody.first_frame, melody.frames.len(), melody.octaves), (3, 4, 0));
    let voices: Vec<[Given; VOICES]> = melody.frames.iter().map(|frame| frame.voices).collect();
    let (bass, held) = (Given::Note { midi: 53, tied: false }, Given::Note { midi: 53, tied: true });
    let note = |tied| Given::Note { midi: 77, tied };
    assert_eq!(voices[0], [Given::Rest, Given::Free, Given::Free, bass]);
    assert_eq!(voices[1], [note(false), Given::Free, Given::Free, held]);
    assert_eq!(voices[2], [note(true), Given::Free, Given::Free, held]);
    assert_eq!(voices[3], [Given::Rest, Given::Free, Given::Free, held]);
}

#[test]
fn a_lone_part_may_be_any_voice_and_a_missing_one_is_said() {
    let mut score = score_of(line(&[(40, 0.0, 1.0)]), 0);
    assert_eq!(choose_parts(&score, &[3], None), Ok(([None, None, None, Some(0)], None)));
    let melody = Melody::new(&score, &[None, None, None, Some(0)], None, Phrases::Auto, &music(36, 84));
    assert_eq!(melody.map(|melody| melody.octaves), Ok(0), "a bass is where it belongs");
    score.parts[0].name = "Bass".into();
    assert!(
        matches!(choose_parts(&score, &[0, 3], None), Err(MelodyError::NoPart { wanted, .. }) if wanted == "soprano")
    );
}

#[test]
fn the_last_note_of_a_phrase_has_a_cadence_at_its_onset_and_end() {
    let mut notes = line(&[(72, 0.0, 1.0), (74, 1.0, 1.0), (72, 3.0, 1.0), (72, 4.0, 1.0)]);
    notes[1].fermata = true;
    let melody = seen(&score_of(notes, 0));
    let cadences: Vec<usize> =
        (0..melody.frames.len()).filter(|&at| melody.frames[at].cadence == Some(Cadence::Phrase)).collect();
    assert_eq!(cadences, [4, 7]);
    let last: Vec<usize> = (0..melody.frames.len())
        .filter(|&at| melody.frames[at].cadence == Some(Cadence::Piece { minor: false }))
        .collect();
    assert_eq!(last, [16, 19]);
    // Behind the phrase the melody rests, and so may the others.
    let rests: Vec<usize> =
        (0..melody.frames.len()).filter(|&at| melody.frames[at].between_phrases).collect();
    assert_eq!(rests, [8, 9, 10, 11]);
}
