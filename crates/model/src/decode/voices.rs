//! Which voice sings which note: from frames of one to four descending notes to four continuous voices.
//!
//! A frame has fewer notes than voices where voices sing in unison (the encoding keeps one token of a unison) or
//! rest. Of all ways to deal the notes of a piece out in descending order, the one that moves the voices least in
//! all is taken (Viterbi's algorithm over frames).

use kapell_music::encode::Token;

/// Soprano, alto, tenor, bass.
pub const VOICES: usize = 4;

/// What a voice does in a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sung {
    pub midi: u8,
    /// Goes on from the frame before.
    pub tied: bool,
}

/// One frame, as decoded.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Frame {
    pub fermata: bool,
    /// In descending order; one a voice at most.
    pub notes: Vec<Sung>,
}

/// What the top voice may do in a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Top {
    /// It has the highest note: it is the given melody's.
    Melody,
    /// It rests: the given melody does.
    Rest,
    /// As the other voices.
    Free,
}

/// Usual ranges S A T B in the model's C major or a minor, and the middle of each.
const RANGES: [(i32, i32); VOICES] = [(58, 83), (52, 76), (47, 71), (35, 66)];
const MIDDLES: [i32; VOICES] = [71, 65, 58, 50];

// Costs, in semitones of movement.
const LOST_TIE: i32 = 100;
const UNISON: i32 = 3;
const REST: i32 = 20;
const BASS_REST: i32 = 10;
const OUT_OF_RANGE: i32 = 12;

/// Cuts a stream, START to END, into frames.
#[must_use]
pub fn frames_of(tokens: &[Token]) -> Vec<Frame> {
    let mut frames = Vec::new();
    let mut frame = Frame::default();
    for &token in tokens {
        match token {
            Token::Start => {}
            Token::Fermata => frame.fermata = true,
            Token::Note { midi, tied } => frame.notes.push(Sung { midi, tied }),
            Token::FrameEnd | Token::End => frames.push(std::mem::take(&mut frame)),
        }
    }
    frames
}

/// A way to deal out a frame: the index of each voice's note, or the number of notes for a rest.
type Deal = [usize; VOICES];

/// Deals the notes of every frame out to the voices. `melody` says, by frame, whether a given soprano sounds; without
/// one, the soprano is a voice like the others.
#[must_use]
pub fn assign(frames: &[Frame], melody: Option<&[bool]>) -> Vec<[Option<Sung>; VOICES]> {
    let tops = (0..frames.len()).map(|at| match melody.and_then(|sounds| sounds.get(at)) {
        Some(true) => Top::Melody,
        Some(false) => Top::Rest,
        None => Top::Free,
    });
    let deals: Vec<Vec<Deal>> =
        frames.iter().zip(tops).map(|(frame, top)| deals(frame.notes.len(), top)).collect();
    let mut held = [None; VOICES];
    let chosen = cheapest(frames, &deals).into_iter().zip(frames).map(|(deal, frame)| {
        let voices = std::array::from_fn(|voice| {
            let sung = frame.notes.get(deal[voice])?;
            // A tied note goes on only in a voice that had it.
            Some(Sung { tied: sung.tied && held[voice] == Some(sung.midi), ..*sung })
        });
        held = pitches(&deal, frame);
        voices
    });
    chosen.collect()
}

/// All ways to deal out so many notes; where there is none (more notes than voices), everyone rests.
fn deals(count: usize, top: Top) -> Vec<Deal> {
    let deal = |code: usize| {
        let mut left = code;
        std::array::from_fn(|_| {
            let digit = left % (count + 1);
            left /= count + 1;
            digit
        })
    };
    let mut deals: Vec<Deal> =
        (0..(count + 1).pow(4)).map(deal).filter(|deal| is_order(deal, count, top)).collect();
    if deals.is_empty() {
        deals.push([count; VOICES]);
    }
    deals
}

/// One way for each frame, with the lowest total cost.
fn cheapest(frames: &[Frame], deals: &[Vec<Deal>]) -> Vec<Deal> {
    // By way of the current frame: the cost so far, and, for every frame, the way of the frame before.
    let mut costs: Vec<i64> = vec![0];
    let mut befores = vec![[None; VOICES]];
    let mut back: Vec<Vec<usize>> = Vec::with_capacity(frames.len());
    for (frame, deals) in frames.iter().zip(deals) {
        let mut from = Vec::with_capacity(deals.len());
        let mut next = Vec::with_capacity(deals.len());
        for deal in deals {
            let total = |(at, before): (usize, &[Option<u8>; VOICES])| {
                (costs[at] + i64::from(cost_of(deal, &frame.notes, before)), at)
            };
            let (cost, at) = befores.iter().enumerate().map(total).min().unwrap_or_default();
            next.push(cost);
            from.push(at);
        }
        costs = next;
        befores = deals.iter().map(|deal| pitches(deal, frame)).collect();
        back.push(from);
    }
    let mut at = (0..costs.len()).min_by_key(|&at| costs[at]).unwrap_or(0);
    let mut chosen = Vec::with_capacity(frames.len());
    for (from, deals) in back.iter().zip(deals).rev() {
        chosen.push(deals[at]);
        at = from[at];
    }
    chosen.reverse();
    chosen
}

/// What each voice sings.
fn pitches(deal: &Deal, frame: &Frame) -> [Option<u8>; VOICES] {
    deal.map(|index| frame.notes.get(index).map(|sung| sung.midi))
}

/// Whether the voices descend, every note is sung, and the top voice does what it must.
fn is_order(choice: &Deal, count: usize, top: Top) -> bool {
    let mut next = 0;
    for &index in choice.iter().filter(|&&index| index < count) {
        if index > next || index + 1 < next {
            return false;
        }
        next = index + 1;
    }
    let soprano = match top {
        Top::Melody => choice[0] == 0,
        Top::Rest => choice[0] == count,
        Top::Free => true,
    };
    next == count && soprano
}

fn cost_of(choice: &Deal, notes: &[Sung], before: &[Option<u8>; VOICES]) -> i32 {
    let mut cost = 0;
    let mut sung = None;
    for (voice, &index) in choice.iter().enumerate() {
        let Some(note) = notes.get(index) else {
            cost += REST + if voice + 1 == VOICES { BASS_REST } else { 0 };
            continue;
        };
        let midi = i32::from(note.midi);
        let from = before[voice].map_or(MIDDLES[voice], i32::from);
        let move_cost = (midi - from).abs();
        cost += if before[voice].is_some() { move_cost } else { move_cost / 2 };
        let (low, high) = RANGES[voice];
        let outside = (low - midi).max(midi - high).max(0);
        cost += if outside > 0 { OUT_OF_RANGE + 2 * outside } else { 0 };
        if sung == Some(index) {
            cost += UNISON;
        } else if note.tied && before[voice] != Some(note.midi) {
            cost += LOST_TIE;
        }
        sung = Some(index);
    }
    cost
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn frame(notes: &[(u8, bool)]) -> Frame {
        let notes = notes.iter().map(|&(midi, tied)| Sung { midi, tied }).collect();
        Frame { fermata: false, notes }
    }

    fn midis(dealt: &[[Option<Sung>; VOICES]]) -> Vec<[Option<u8>; VOICES]> {
        dealt.iter().map(|voices| voices.map(|sung| sung.map(|sung| sung.midi))).collect()
    }

    #[test]
    fn four_notes_are_sung_from_soprano_to_bass() {
        let dealt = assign(&[frame(&[(72, false), (67, false), (64, false), (48, false)])], Some(&[true]));
        assert_eq!(midis(&dealt), [[Some(72), Some(67), Some(64), Some(48)]]);
    }

    #[test]
    fn of_three_notes_two_voices_share_the_one_that_is_nearest_to_both() {
        let frames = [
            frame(&[(72, false), (67, false), (60, false), (48, false)]),
            frame(&[(72, true), (64, false), (48, true)]),
            frame(&[(72, true), (64, false), (60, false), (48, true)]),
        ];
        let dealt = assign(&frames, Some(&[true; 3]));
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
        let dealt = assign(&frames, Some(&[true; 2]));
        let [_, _, tenor, bass] = dealt[1];
        assert_eq!(tenor, Some(Sung { midi: 64, tied: true }));
        assert_eq!(bass, Some(Sung { midi: 55, tied: true }));
    }

    #[test]
    fn a_note_that_the_soprano_leaves_was_sung_by_the_alto_too() {
        let frames =
            [frame(&[(62, false), (57, false), (48, false)]), frame(&[(67, false), (62, true), (48, true)])];
        let dealt = assign(&frames, Some(&[true; 2]));
        assert_eq!(dealt[0][1], Some(Sung { midi: 62, tied: false }));
        assert_eq!(dealt[1][1], Some(Sung { midi: 62, tied: true }));
    }

    #[test]
    fn a_lone_high_note_is_not_sung_by_the_bass() {
        let dealt = assign(&[frame(&[(79, false)])], Some(&[true]));
        assert_eq!(midis(&dealt)[0][3], None);
    }

    #[test]
    fn while_the_melody_rests_the_soprano_does() {
        let dealt = assign(&[frame(&[(67, false), (60, false), (48, false)])], Some(&[false]));
        assert_eq!(midis(&dealt), [[None, Some(67), Some(60), Some(48)]]);
    }

    #[test]
    fn a_silent_frame_is_silent_in_all_voices() {
        assert_eq!(midis(&assign(&[frame(&[])], None)), [[None; 4]]);
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn every_note_is_sung_voices_descend_and_ties_go_on(
            chords in prop::collection::vec(prop::collection::btree_set(36_u8..84, 0..=4), 1..20)
        ) {
            let mut before: Vec<u8> = Vec::new();
            let mut frames = Vec::new();
            for chord in &chords {
                let notes: Vec<(u8, bool)> =
                    chord.iter().rev().map(|&midi| (midi, before.contains(&midi))).collect();
                before = chord.iter().copied().collect();
                frames.push(frame(&notes));
            }
            let dealt = assign(&frames, None);
            let mut held = [None; VOICES];
            for (chord, voices) in chords.iter().zip(&dealt) {
                let sung: Vec<u8> = voices.iter().flatten().map(|sung| sung.midi).collect();
                prop_assert!(sung.is_sorted_by(|a, b| a >= b));
                let all: std::collections::BTreeSet<u8> = sung.into_iter().collect();
                prop_assert_eq!(&all, chord);
                for (sung, held) in voices.iter().zip(&mut held) {
                    prop_assert!(sung.is_none_or(|sung| !sung.tied || *held == Some(sung.midi)));
                    *held = sung.map(|sung| sung.midi);
                }
            }
        }
    }
}
