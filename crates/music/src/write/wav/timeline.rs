//! When each note sounds, in seconds.

use crate::score::{Note, Part, Score, TICKS_PER_QUARTER};

/// Quarter notes a minute where the score says nothing: a chorale, sung.
const TEMPO: f64 = 88.0;
/// How much longer the held end of a note under a fermata takes, and how much of it is held, in ticks.
const HOLD: f64 = 0.75;
const HELD_TICKS_MAX: i64 = TICKS_PER_QUARTER;

/// The sounding notes of a score.
#[derive(Debug)]
pub(super) struct Timeline {
    /// By start.
    pub(super) tones: Vec<Tone>,
    /// Up to the end of the score, rests included.
    pub(super) seconds: f64,
}

/// A note as it sounds, ties joined.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Tone {
    pub(super) part: usize,
    pub(super) midi: u8,
    /// Seconds.
    pub(super) start: f64,
    /// Seconds; after `start`.
    pub(super) end: f64,
}

impl Timeline {
    pub(super) fn new(score: &Score) -> Self {
        let clock = Clock::new(score);
        let mut tones = Vec::new();
        for (part, notes) in score.parts.iter().map(joined).enumerate() {
            tones.extend(notes.into_iter().map(|(onset, end, midi)| Tone {
                part,
                midi,
                start: clock.seconds(onset),
                end: clock.seconds(end),
            }));
        }
        tones.sort_by(|a, b| a.start.total_cmp(&b.start));
        Self { tones, seconds: clock.seconds(score.duration()) }
    }
}

/// Onset, end and pitch of what a part sounds, tied notes as one.
fn joined(part: &Part) -> Vec<(i64, i64, u8)> {
    let mut heard: Vec<(i64, i64, u8)> = Vec::new();
    for note in part.notes.iter().filter(|note| is_placed(note)) {
        let (onset, end, midi) = (note.onset, note.end(), note.pitch.midi.min(127));
        let held = |before: &&mut (i64, i64, u8)| before.2 == midi && before.1 >= onset;
        // Voices of a part that meet on a note sound it once.
        match heard.iter_mut().rev().take(64).find(held) {
            Some(before) if note.tie_from || before.0 == onset => before.1 = before.1.max(end),
            Some(before) => {
                before.1 = before.1.min(onset);
                heard.push((onset, end, midi));
            }
            None => heard.push((onset, end, midi)),
        }
    }
    heard
}

fn is_placed(note: &Note) -> bool {
    note.onset >= 0 && note.duration > 0 && note.onset.checked_add(note.duration).is_some()
}

/// From ticks to seconds: an even tempo, but for fermatas.
pub(super) struct Clock {
    seconds_per_tick: f64,
    /// Where time is stretched, from tick to tick; ascending, apart from each other.
    held: Vec<(i64, i64)>,
}

impl Clock {
    pub(super) fn new(score: &Score) -> Self {
        let tempo = score.tempo.filter(|tempo| (4.0..=1000.0).contains(tempo)).unwrap_or(TEMPO);
        let notes = score.parts.iter().flat_map(|part| &part.notes);
        let under = notes.filter(|note| note.fermata && is_placed(note));
        let mut held: Vec<(i64, i64)> =
            under.map(|note| (note.onset.max(note.end() - HELD_TICKS_MAX), note.end())).collect();
        held.sort_unstable();
        held.dedup_by(|next, before| {
            let meets = next.0 < before.1;
            before.1 = if meets { before.1.max(next.1) } else { before.1 };
            meets
        });
        Self { seconds_per_tick: 60.0 / tempo / TICKS_PER_QUARTER as f64, held }
    }

    pub(super) fn seconds(&self, tick: i64) -> f64 {
        let before = self.held.iter().take_while(|(from, _)| *from < tick);
        let stretched: i64 = before.map(|&(from, to)| tick.min(to) - from).sum();
        (tick as f64 + HOLD * stretched as f64) * self.seconds_per_tick
    }
}
