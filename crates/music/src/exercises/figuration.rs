//! From chords to moving voices, on a grid of eighths: passing notes, suspensions, held notes.

use super::harmony::Chord;
use super::rules;
use super::voicing::Voicing;
use crate::mix::below;

/// Slots in a beat: the grid is of eighths.
pub(crate) const SLOTS_PER_BEAT: usize = 2;

/// What the four voices do, slot by slot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Texture {
    pub(crate) pitches: Vec<Voicing>,
    /// Whether each voice strikes a note in the slot, or goes on with the one before.
    pub(crate) strikes: Vec<[bool; 4]>,
    /// The slots in which a phrase's last chord begins.
    pub(crate) fermatas: Vec<usize>,
}

/// Lays the chords out and moves the voices where no rule is broken by it.
pub(crate) fn figure(chords: &[Chord], path: &[Voicing], stream: u64) -> Texture {
    let mut texture = lay_out(chords, path);
    let mut slot = 0;
    for (i, pair) in chords.windows(2).enumerate() {
        let next = slot + pair[0].beats * SLOTS_PER_BEAT;
        if !pair[0].ends {
            for (voice, (&from, &to)) in path[i].iter().zip(&path[i + 1]).enumerate() {
                let dice = below(&[stream, 20, u64::try_from(i * 4 + voice).unwrap_or(0)], 100);
                texture.decorate(pair, voice, next, (from, to), dice);
            }
        }
        slot = next;
    }
    texture
}

fn lay_out(chords: &[Chord], path: &[Voicing]) -> Texture {
    let mut texture = Texture { pitches: Vec::new(), strikes: Vec::new(), fermatas: Vec::new() };
    for (chord, voicing) in chords.iter().zip(path) {
        if chord.ends {
            texture.fermatas.push(texture.pitches.len());
        }
        for slot in 0..chord.beats * SLOTS_PER_BEAT {
            texture.pitches.push(*voicing);
            texture.strikes.push([slot == 0; 4]);
        }
    }
    texture
}

impl Texture {
    /// Perhaps changes how `voice` goes from one chord of the pair to the other, which begins in slot `next`.
    /// Nothing is held up into a last chord: it is to be written as one note under its fermata.
    fn decorate(&mut self, pair: &[Chord], voice: usize, next: usize, (from, to): (u8, u8), dice: u64) {
        let (chord, arrives) = (&pair[0], pair[1].ends);
        if chord.beats == 1 && self.strikes[next - 1][voice] {
            // A suspension resolves there.
            return;
        }
        let before = (self.pitches[next - 1], self.pitches[next], self.strikes[next - 1], self.strikes[next]);
        match from.abs_diff(to) {
            3 | 4 if dice < 45 => {
                if let Some(between) = passing(chord, from, to) {
                    self.pitches[next - 1][voice] = between;
                    self.strikes[next - 1][voice] = true;
                }
            }
            1 | 2 if to < from && voice != 3 && !arrives && dice < 25 && next + 1 < self.pitches.len() => {
                self.pitches[next][voice] = from;
                self.strikes[next][voice] = false;
                self.strikes[next + 1][voice] = true;
            }
            0 if voice != 0 && !arrives && dice < 30 => self.strikes[next][voice] = false,
            _ => {}
        }
        if !self.is_clean(next) {
            (self.pitches[next - 1], self.pitches[next], self.strikes[next - 1], self.strikes[next]) = before;
            if next + 1 < self.strikes.len() {
                self.strikes[next + 1][voice] = false;
            }
        }
    }

    /// No parallels from any slot around `slot` to the following one or to the next beat; no crossing.
    fn is_clean(&self, slot: usize) -> bool {
        let near = slot.saturating_sub(3)..(slot + 2).min(self.pitches.len());
        near.clone().all(|i| self.pitches[i].is_sorted_by(|high, low| high >= low))
            && near.clone().skip(1).all(|i| !rules::has_parallels(&self.pitches[i - 1], &self.pitches[i]))
            && near.clone().skip(2).all(|i| !rules::has_parallels(&self.pitches[i - 2], &self.pitches[i]))
    }
}

/// The note between two a third apart: a step from either, of the scale if there is one.
fn passing(chord: &Chord, from: u8, to: u8) -> Option<u8> {
    let (low, high) = (from.min(to), from.max(to));
    let steps = || (low + 1..high).filter(|m| m - low <= 2 && high - m <= 2);
    steps().find(|m| chord.scale & (1 << (m % 12)) != 0).or_else(|| steps().next())
}
