//! What may come next, case by case, and that there is always a way to the end.

use std::sync::Arc;

use proptest::prelude::*;

use super::super::task::{Cadence, Rules};
use super::super::vocabulary::tests::music;
use super::*;

const fn note(midi: u8, tied: bool) -> Token {
    Token::Note { midi, tied }
}

/// A frame of given voices, 0 for a free one.
fn frame(voices: [u8; VOICES]) -> Frame {
    let voices = voices.map(|midi| if midi == 0 { Given::Free } else { Given::Note { midi, tied: false } });
    Frame { voices, fermata: Some(false), ..Frame::default() }
}

fn task(frames: &[Frame], rules: Rules) -> Arc<Task> {
    Task::harmonize(frames.to_vec(), &rules, 0, &music(36, 84)).expect("known notes")
}

/// The cursor behind tokens, each of which must be allowed.
fn after(task: &Task, tokens: &[Token]) -> Cursor {
    let mut cursor = Cursor::new(task);
    for &token in tokens {
        assert!(cursor.allowed(task).has(token), "{token} may not come");
        cursor.push(task, token);
    }
    cursor
}

fn check(task: &Task, said: &[Token], yes: &[Token], no: &[Token]) {
    let allowed = after(task, said).allowed(task);
    yes.iter().for_each(|&token| assert!(allowed.has(token), "{token} may not come after {said:?}"));
    no.iter().for_each(|&token| assert!(!allowed.has(token), "{token} may come after {said:?}"));
}

fn count(allowed: Allowed) -> u32 {
    let special = [allowed.fermata, allowed.frame_end, allowed.end];
    let special = special.into_iter().map(u32::from).sum::<u32>();
    allowed.struck.count_ones() + allowed.tied.count_ones() + special
}

#[test]
fn a_melody_forces_its_notes_ties_fermatas_and_the_end() {
    let mut frames = [frame([72, 0, 0, 0]), frame([72, 0, 0, 0])];
    frames[1].voices[0] = Given::Note { midi: 72, tied: true };
    frames[1].fermata = Some(true);
    let task = task(&frames, Rules::NONE);
    let mut said = vec![];
    for token in [note(72, false), Token::FrameEnd, Token::Fermata, note(72, true), Token::End] {
        let allowed = after(&task, &said).allowed(&task);
        let forced = !matches!(token, Token::FrameEnd | Token::End);
        assert!(allowed.has(token) && (count(allowed) == 1) == forced, "{token} after {said:?}");
        said.push(token);
    }
    let end = after(&task, &said);
    assert!(end.has_ended() && count(end.allowed(&task)) == 0);
}

#[test]
fn notes_descend_and_tie_only_to_what_a_voice_held() {
    let task = task(&[frame([72, 0, 0, 0]); 2], Rules::NONE);
    let said = [note(72, false), note(64, false), Token::FrameEnd, note(72, false)];
    let yes = [note(64, true), note(64, false), note(65, false), Token::End];
    check(&task, &said, &yes, &[note(65, true), note(72, true), note(73, false), Token::FrameEnd]);
}

#[test]
fn a_voice_cannot_hold_what_another_had() {
    let task = task(&[frame([64, 0, 0, 0]), frame([72, 0, 0, 0])], Rules::NONE);
    let full = [note(64, false), note(60, false), note(55, false), note(48, false)];
    let mut said = full.to_vec();
    said.extend([Token::FrameEnd, note(72, false)]);
    // The soprano had 64. Only where a frame has fewer notes may another voice have had it, too.
    check(&task, &said, &[note(64, false), note(60, true)], &[note(64, true)]);
    said.remove(3);
    check(&task, &said, &[note(64, true)], &[]);
}

#[test]
fn after_four_notes_a_frame_must_end() {
    let task = task(&[frame([72, 0, 0, 0]); 2], Rules::default());
    let chord = [72, 67, 60, 48].map(|midi| note(midi, false));
    let allowed = after(&task, &chord).allowed(&task);
    assert!(allowed.frame_end && count(allowed) == 1);
}

#[test]
fn voices_keep_to_their_ranges_and_all_sound() {
    let task = task(&[frame([72, 0, 0, 0])], Rules::default());
    // 53 to 74 is the alto's, 48 to 69 the tenor's, 36 to 64 the bass's.
    check(&task, &[note(72, false)], &[note(71, false), note(53, false)], &[note(40, false), Token::End]);
    // Below 60 there is room for the bass alone, or for a tenor whose note the alto shares.
    let said = [note(72, false), note(60, false)];
    check(&task, &said, &[note(48, false), note(36, false)], &[Token::End, note(61, false)]);
    let said = [note(72, false), note(60, false), note(48, false)];
    check(&task, &said, &[Token::End, note(36, false)], &[]);
    let three = Rules { notes_min: 4, ..Rules::default() };
    let task = self::task(&[frame([72, 0, 0, 0])], three);
    check(&task, &said, &[note(36, false)], &[Token::End]);
}

#[test]
fn ranges_are_of_sounding_pitches() {
    let frames = vec![frame([74, 0, 0, 0])];
    // Sounding a fourth lower: the bass ends at 36, which is 41 here.
    let task = Task::harmonize(frames, &Rules::default(), -5, &music(36, 84)).expect("known notes");
    let said = [note(74, false), note(70, false), note(60, false)];
    check(&task, &said, &[note(41, false)], &[note(40, false)]);
}

#[test]
fn given_voices_are_sung_at_their_place_and_others_stay_between() {
    let task = task(&[frame([72, 0, 60, 0])], Rules::default());
    check(
        &task,
        &[note(72, false)],
        &[note(65, false), note(61, false), note(60, false)],
        &[note(59, false), Token::End],
    );
    check(&task, &[note(72, false), note(65, false)], &[note(60, false)], &[note(61, false), Token::End]);
    // The alto shares the tenor's note, or the soprano's.
    check(&task, &[note(72, false), note(60, false)], &[note(48, false)], &[note(61, false)]);
}

#[test]
fn given_voices_that_share_a_note_say_it_once() {
    let task = task(&[frame([72, 60, 60, 48])], Rules::default());
    check(&task, &[note(72, false), note(60, false)], &[note(48, false)], &[Token::End]);
    check(&task, &[note(72, false), note(60, false), note(48, false)], &[Token::End], &[]);
}

#[test]
fn given_voices_that_cross_free_their_frame_of_rules() {
    let task = task(&[frame([60, 0, 67, 48])], Rules::default());
    assert_eq!(task.freed(), 1);
    check(&task, &[note(60, false)], &[note(67, false)], &[Token::End]);
    let said = [note(60, false), note(64, false), note(67, false), note(48, false)];
    check(&task, &said, &[Token::End], &[]);
}

#[test]
fn a_phrase_ends_on_a_triad_in_root_position() {
    let end = Frame { cadence: Some(Cadence::Phrase), ..frame([72, 0, 0, 0]) };
    let task = task(&[end], Rules::default());
    // C above E and G: the bass must be C.
    let said = [note(72, false), note(67, false), note(64, false)];
    check(&task, &said, &[note(60, false), note(48, false)], &[note(57, false), note(52, false), Token::End]);
    // C and A: F major, a minor, or with E flat nothing.
    let said = [note(72, false), note(69, false)];
    check(&task, &said, &[note(65, false), note(64, false)], &[note(63, false), note(62, false)]);
}

#[test]
fn a_piece_ends_on_its_tonic_where_the_melody_does() {
    let end = |midi, minor| Frame { cadence: Some(Cadence::Piece { minor }), ..frame([midi, 0, 0, 0]) };
    let major = task(&[end(72, false)], Rules::default());
    check(&major, &[note(72, false)], &[note(64, false), note(67, false)], &[note(69, false)]);
    let minor = task(&[end(69, true)], Rules::default());
    // With the raised third, too.
    let yes = [note(60, false), note(61, false), note(64, false)];
    check(&minor, &[note(69, false)], &yes, &[note(65, false)]);
    let elsewhere = task(&[end(74, false)], Rules::default());
    check(&elsewhere, &[note(74, false)], &[note(67, false), note(71, false)], &[]);
}

#[test]
fn between_phrases_free_voices_may_rest() {
    let mut silent = frame([0; VOICES]);
    silent.voices[0] = Given::Rest;
    let inside = task(&[silent], Rules::default());
    check(&inside, &[], &[note(60, false)], &[Token::End]);
    silent.between_phrases = true;
    let between = task(&[silent], Rules::default());
    check(&between, &[], &[note(60, false), Token::End], &[]);
}

#[test]
fn a_composition_ends_after_a_frame_of_notes_or_at_its_limit() {
    let task = Task::compose(2, &Rules::NONE, &music(36, 84));
    check(&task, &[], &[Token::Fermata, note(60, false)], &[Token::End]);
    check(&task, &[Token::Fermata], &[note(60, false)], &[Token::Fermata]);
    check(&task, &[note(60, false)], &[Token::End, Token::FrameEnd], &[Token::Fermata]);
    check(&task, &[note(60, false), Token::FrameEnd], &[Token::End], &[Token::FrameEnd]);
}

#[test]
fn free_voices_do_not_move_in_parallel_fifths_or_octaves() {
    let task = task(&[frame([72, 0, 0, 0]), frame([74, 0, 0, 0])], Rules::default());
    let said = [72, 67, 60, 48].map(|midi| note(midi, false));
    let mut said = said.to_vec();
    said.extend([Token::FrameEnd, note(74, false)]);
    // The soprano rises from an octave above the tenor: it does not follow.
    said.push(note(65, false));
    check(&task, &said, &[note(60, true), note(59, false)], &[note(62, false)]);
    // The bass was an octave below the tenor and two below the soprano; a fall against the soprano's rise is no parallel.
    said.push(note(59, false));
    check(
        &task,
        &said,
        &[note(38, false), note(43, false), note(53, false)],
        &[note(50, false), note(47, false)],
    );
}

#[test]
fn given_voices_may_move_in_parallel_and_others_where_there_is_no_other_way() {
    let given = task(&[frame([72, 0, 0, 60]), frame([74, 0, 0, 62])], Rules::default());
    let said = [note(72, false), note(67, false), note(64, false), note(60, false), Token::FrameEnd];
    check(&given, &said, &[note(74, false)], &[]);
    // The tenor's only note doubles the soprano's rise.
    let rules = Rules { ranges: Some([(60, 81), (65, 74), (60, 62), (36, 40)]), ..Rules::default() };
    let frames = [frame([72, 0, 60, 0]), frame([74, 0, 0, 0])];
    let narrow = Rules { ranges: Some([(60, 81), (65, 74), (62, 62), (36, 40)]), ..rules };
    let task = task(&frames, narrow);
    let said = [note(72, false), note(67, false), note(60, false), note(36, false), Token::FrameEnd];
    let mut said = said.to_vec();
    said.extend([note(74, false), note(67, true)]);
    check(&task, &said, &[note(62, false)], &[]);
}

fn any_given() -> impl Strategy<Value = Given> {
    prop_oneof![
        6 => Just(Given::Free),
        1 => Just(Given::Rest),
        3 => (36_u8..=84, any::<bool>()).prop_map(|(midi, tied)| Given::Note { midi, tied }),
    ]
}

fn any_frame() -> impl Strategy<Value = Frame> {
    let cadence = prop_oneof![
        3 => Just(None),
        1 => Just(Some(Cadence::Phrase)),
        1 => Just(Some(Cadence::Piece { minor: true })),
    ];
    (prop::array::uniform4(any_given()), any::<bool>(), any::<bool>(), cadence).prop_map(
        |(voices, fermata, between_phrases, cadence)| Frame {
            voices,
            fermata: Some(fermata),
            between_phrases,
            cadence,
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(2000) })]

    /// Whatever is given, however it crosses, and whatever a search chooses: a piece comes to its end, and says the
    /// given notes.
    #[test]
    fn there_are_no_dead_ends(
        frames in prop::collection::vec(any_frame(), 1..6),
        picks in prop::collection::vec(any::<prop::sample::Index>(), 64),
        shift in -6_i16..=6,
        ruled in any::<bool>(),
    ) {
        let rules = if ruled { Rules::default() } else { Rules::NONE };
        let vocabulary = music(36, 84);
        let task = Task::harmonize(frames.clone(), &rules, shift, &vocabulary).expect("known notes");
        let mut cursor = Cursor::new(&task);
        let mut said = Vec::new();
        for pick in picks {
            let allowed = cursor.allowed(&task);
            let choices: Vec<Token> =
                vocabulary.iter().map(|(_, token)| token).filter(|token| allowed.has(*token)).collect();
            prop_assert!(!choices.is_empty(), "nothing may come after {:?}", said);
            let token = *pick.get(&choices);
            cursor.push(&task, token);
            said.push(token);
            if cursor.has_ended() {
                break;
            }
        }
        prop_assert!(cursor.has_ended());
        let decoded = super::super::voices::frames_of(&said);
        prop_assert_eq!(decoded.len(), frames.len());
        let voices = super::super::voices::assign(&task, &decoded);
        prop_assert_eq!(voices.len(), frames.len());
        for (frame, voices) in frames.iter().zip(&voices) {
            for (given, sung) in frame.voices.iter().zip(voices) {
                match given {
                    Given::Free => {}
                    Given::Rest => prop_assert!(sung.is_none()),
                    Given::Note { midi, .. } => prop_assert_eq!(sung.map(|sung| sung.midi), Some(*midi)),
                }
            }
        }
    }
}
