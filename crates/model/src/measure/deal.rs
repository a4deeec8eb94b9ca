//! Which voice sings which note of a frame: the way that moves the voices least over the whole piece (Viterbi).

use kapell_music::counterpoint::VOICES;
use kapell_music::decode::Frame;

/// By voice the place of its note in the frame; none rests.
pub(super) type Deal = [Option<usize>; VOICES];

/// The middles of the voices' ranges in C major and a minor.
const MIDDLES: [i32; VOICES] = [71, 65, 58, 50];

// Costs, in semitones of movement.
const LOST_TIE: i32 = 100;
const UNISON: i32 = 3;
const REST: i32 = 20;

/// Deals out the notes of all frames, each frame's in their order from soprano to bass.
pub(super) fn deal(frames: &[Frame]) -> Vec<Deal> {
    let ways: Vec<Vec<Deal>> = frames.iter().map(|frame| ways(frame.notes.len())).collect();
    let mut costs = vec![0_i64];
    let mut before = vec![[None; VOICES]];
    let mut from_ways: Vec<Vec<usize>> = Vec::with_capacity(frames.len());
    for (frame, ways) in frames.iter().zip(&ways) {
        let best = |deal: &Deal| {
            let total =
                |(at, held): (usize, &[Option<u8>; VOICES])| (costs[at] + cost(frame, deal, held), at);
            before.iter().enumerate().map(total).min().unwrap_or_default()
        };
        let (next, from): (Vec<i64>, Vec<usize>) = ways.iter().map(best).unzip();
        from_ways.push(from);
        costs = next;
        before =
            ways.iter().map(|deal| deal.map(|place| place.map(|place| frame.notes[place].midi))).collect();
    }
    let mut at = (0..costs.len()).min_by_key(|&at| costs[at]).unwrap_or(0);
    let mut chosen: Vec<Deal> = Vec::with_capacity(frames.len());
    for (ways, from) in ways.iter().zip(&from_ways).rev() {
        chosen.push(ways[at]);
        at = from[at];
    }
    chosen.reverse();
    chosen
}

/// All ways: every one of the first four notes is sung, in order, by one voice or by several neighbours.
fn ways(notes: usize) -> Vec<Deal> {
    let notes = notes.min(VOICES);
    let choice = |code: usize| -> Deal {
        let mut left = code;
        std::array::from_fn(|_| {
            let digit = left % (notes + 1);
            left /= notes + 1;
            (digit < notes).then_some(digit)
        })
    };
    let is_order = |deal: &Deal| {
        let mut next = 0;
        for place in deal.iter().flatten() {
            if *place > next || place + 1 < next {
                return false;
            }
            next = place + 1;
        }
        next == notes
    };
    (0..(notes + 1).pow(4)).map(choice).filter(is_order).collect()
}

fn cost(frame: &Frame, deal: &Deal, before: &[Option<u8>; VOICES]) -> i64 {
    let mut cost = 0;
    let mut sung = None;
    for (voice, place) in deal.iter().enumerate() {
        let Some(place) = place else {
            cost += REST;
            continue;
        };
        let note = frame.notes[*place];
        let midi = i32::from(note.midi);
        cost += match before[voice] {
            Some(held) => (midi - i32::from(held)).abs(),
            None => (midi - MIDDLES[voice]).abs() / 2,
        };
        if sung == Some(*place) {
            cost += UNISON;
        } else if note.tied && before[voice] != Some(note.midi) {
            cost += LOST_TIE;
        }
        sung = Some(*place);
    }
    i64::from(cost)
}
