//! Which voice sings which note: from frames of one to four notes to four continuous voices.
//!
//! A frame has fewer notes than voices where voices sing in unison (the encoding keeps one token of a unison) or
//! rest. Of all ways to deal the notes of a piece out that its task allows, the one that moves the voices least in all
//! is taken (Viterbi's algorithm over frames).

use kapell_music::encode::Token;

use super::grammar::{SILENT, ways};
use super::task::{Task, VOICES};

/// What a voice does in a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sung {
    pub midi: u8,
    /// Goes on from the frame before.
    pub tied: bool,
}

/// One frame, as decoded.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct DecodedFrame {
    pub fermata: bool,
    /// From the soprano down; one a voice at most.
    pub notes: Vec<Sung>,
}

/// The middle of each voice's range in C major and a minor.
const MIDDLES: [i32; VOICES] = [71, 65, 58, 50];

// Costs, in semitones of movement.
const UNISON: i32 = 3;
const REST: i32 = 20;
const BASS_REST: i32 = 10;

/// Cuts a stream, START to END, into frames.
#[must_use]
pub fn frames_of(tokens: &[Token]) -> Vec<DecodedFrame> {
    let mut frames = Vec::new();
    let mut frame = DecodedFrame::default();
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

/// What each voice sings, `SILENT` for a rest.
type Deal = [u8; VOICES];

/// A way to deal a frame out, the total cost so far, and the way of the frame before.
#[derive(Debug, Clone, Copy)]
struct Way {
    deal: Deal,
    cost: i64,
    from: usize,
}

/// Deals the notes of every frame out to the voices S A T B. Empty if the frames are not of that task.
#[must_use]
pub fn assign(task: &Task, frames: &[DecodedFrame]) -> Vec<[Option<Sung>; VOICES]> {
    let mut columns: Vec<Vec<Way>> = vec![vec![Way { deal: [SILENT; VOICES], cost: 0, from: 0 }]];
    for (at, frame) in frames.iter().enumerate() {
        let notes: Vec<(u8, bool)> = frame.notes.iter().map(|sung| (sung.midi, sung.tied)).collect();
        let mut column: Vec<Way> = Vec::new();
        for (from, before) in columns[at].iter().enumerate() {
            for deal in ways(task, at, before.deal, &notes) {
                let cost = before.cost + i64::from(cost_of(&deal, &before.deal));
                match column.iter_mut().find(|way| way.deal == deal) {
                    Some(way) if way.cost <= cost => {}
                    Some(way) => *way = Way { deal, cost, from },
                    None => column.push(Way { deal, cost, from }),
                }
            }
        }
        columns.push(column);
    }
    let last = columns.last().map(Vec::as_slice).unwrap_or_default();
    let Some(mut at) = (0..last.len()).min_by_key(|&at| last[at].cost) else { return Vec::new() };
    let mut deals = Vec::with_capacity(frames.len());
    for column in columns[1..].iter().rev() {
        deals.push(column[at].deal);
        at = column[at].from;
    }
    deals.reverse();
    sung(frames, &deals)
}

fn sung(frames: &[DecodedFrame], deals: &[Deal]) -> Vec<[Option<Sung>; VOICES]> {
    let mut before = [SILENT; VOICES];
    let voices = frames.iter().zip(deals).map(|(frame, deal)| {
        let voice = |voice: usize| {
            let note = frame.notes.iter().find(|note| note.midi == deal[voice])?;
            // A tied note goes on only in a voice that had it.
            Some(Sung { midi: note.midi, tied: note.tied && before[voice] == note.midi })
        };
        let voices = std::array::from_fn(voice);
        before = *deal;
        voices
    });
    voices.collect()
}

fn cost_of(deal: &Deal, before: &Deal) -> i32 {
    let mut cost = 0;
    let mut above = SILENT;
    for (voice, &midi) in deal.iter().enumerate() {
        if midi == SILENT {
            cost += REST + if voice + 1 == VOICES { BASS_REST } else { 0 };
            continue;
        }
        let (midi_wide, held) = (i32::from(midi), before[voice]);
        cost += match held {
            SILENT => (midi_wide - MIDDLES[voice]).abs() / 2,
            held => (midi_wide - i32::from(held)).abs(),
        };
        if midi == above {
            cost += UNISON;
        }
        above = midi;
    }
    cost
}

#[cfg(test)]
mod tests;
