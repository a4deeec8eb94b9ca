//! Deals of single frames and their order in time.

use std::sync::Arc;

use super::*;
use crate::decode::task::{Frame, Given, Rules};
use crate::decode::vocabulary::tests::music;

fn frame(notes: &[(u8, bool)]) -> DecodedFrame {
    let notes = notes.iter().map(|&(midi, tied)| Sung { midi, tied }).collect();
    DecodedFrame { fermata: false, notes }
}

/// A task whose soprano is the highest note of each frame, or rests.
fn under(frames: &[DecodedFrame], sounds: bool, rules: Rules) -> Arc<Task> {
    let given = |frame: &DecodedFrame| match frame.notes.first() {
        Some(&Sung { midi, tied }) if sounds => Given::Note { midi, tied },
        _ => Given::Rest,
    };
    let frame = |frame: &DecodedFrame| Frame {
        voices: [given(frame), Given::Free, Given::Free, Given::Free],
        fermata: Some(false),
        ..Frame::default()
    };
    Task::harmonize(frames.iter().map(frame).collect(), &rules, 0, &music(36, 84)).expect("known notes")
}

fn midis(dealt: &[[Option<Sung>; VOICES]]) -> Vec<[Option<u8>; VOICES]> {
    dealt.iter().map(|voices| voices.map(|sung| sung.map(|sung| sung.midi))).collect()
}

fn dealt(frames: &[DecodedFrame], rules: Rules) -> Vec<[Option<Sung>; VOICES]> {
    assign(&under(frames, true, rules), frames)
}

#[test]
fn four_notes_are_sung_from_soprano_to_bass() {
    let frames = [frame(&[(72, false), (67, false), (64, false), (48, false)])];
    assert_eq!(midis(&dealt(&frames, Rules::NONE)), [[Some(72), Some(67), Some(64), Some(48)]]);
}

#[test]
fn of_three_notes_two_voices_share_the_one_that_is_nearest_to_both() {
    let frames = [
        frame(&[(72, false), (67, false), (60, false), (48, false)]),
        frame(&[(72, true), (64, false), (48, true)]),
        frame(&[(72, true), (64, false), (60, false), (48, true)]),
    ];
    let dealt = dealt(&frames, Rules::NONE);
    assert_eq!(midis(&dealt)[1], [Some(72), Some(64), Some(64), Some(48)]);
    assert_eq!(midis(&dealt)[2], [Some(72), Some(64), Some(60), Some(48)]);
    assert!(dealt[1][3].is_some_and(|bass| bass.tied) && dealt[2][1].is_some_and(|alto| !alto.tied));
}

#[test]
fn a_voice_that_holds_a_tied_note_keeps_it() {
    let frames = [
        frame(&[(72, false), (67, false), (64, false), (55, false)]),
        frame(&[(76, false), (64, true), (55, true)]),
    ];
    let dealt = dealt(&frames, Rules::NONE);
    let [_, _, tenor, bass] = dealt[1];
    assert_eq!(tenor, Some(Sung { midi: 64, tied: true }));
    assert_eq!(bass, Some(Sung { midi: 55, tied: true }));
}

#[test]
fn a_note_that_the_soprano_leaves_was_sung_by_the_alto_too() {
    let frames =
        [frame(&[(62, false), (57, false), (48, false)]), frame(&[(67, false), (62, true), (48, true)])];
    let dealt = dealt(&frames, Rules::NONE);
    assert_eq!(dealt[0][1], Some(Sung { midi: 62, tied: false }));
    assert_eq!(dealt[1][1], Some(Sung { midi: 62, tied: true }));
}

#[test]
fn ranges_decide_who_shares_a_note() {
    // The tenor cannot reach 72, nor the alto 48.
    let frames = [frame(&[(72, false), (62, false), (48, false)])];
    let [[_, alto, tenor, bass]] = midis(&dealt(&frames, Rules::default()))[..] else { panic!("one frame") };
    assert_eq!((alto, bass), (Some(62), Some(48)));
    assert!(tenor == Some(62) || tenor == Some(48));
}

#[test]
fn while_the_melody_rests_the_soprano_does() {
    let frames = [frame(&[(67, false), (60, false), (48, false)])];
    let dealt = assign(&under(&frames, false, Rules::default()), &frames);
    assert_eq!(midis(&dealt), [[None, Some(67), Some(60), Some(48)]]);
}

#[test]
fn frames_of_another_task_are_not_dealt_out() {
    let frames = [frame(&[(72, false), (67, false), (60, false), (48, false)])];
    let other = [frame(&[(71, false), (67, false), (60, false), (48, false)])];
    assert!(assign(&under(&frames, true, Rules::default()), &other).is_empty());
}
