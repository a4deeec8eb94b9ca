//! Bars from a MIDI file's time signatures.

use super::events::Song;
use crate::score::{Measure, TICKS_PER_QUARTER};

const MEASURES_MAX: usize = 100_000;

/// The measures up to `end`. A first bar that is cut short by a longer metre is a pickup.
pub(super) fn measures(song: &Song, end: i64) -> Result<Vec<Measure>, String> {
    // A change stands on the grid, wherever the file's rounding has put it; of two at one place the later one holds.
    let grid = TICKS_PER_QUARTER / 16;
    let mut times: Vec<(i64, (u32, u32))> = Vec::new();
    for &(tick, time) in &song.times {
        let tick = (tick + grid / 2) / grid * grid;
        times.pop_if(|&mut (at, _)| at == tick);
        if times.last().is_none_or(|&(_, before)| before != time) {
            times.push((tick, time));
        }
    }
    let mut measures: Vec<Measure> = Vec::new();
    let mut start = 0;
    while start < end {
        if measures.len() >= MEASURES_MAX {
            return Err("more than 100000 measures; cut it into movements".to_owned());
        }
        let time = times.iter().rev().find(|&&(tick, _)| tick <= start).map_or((4, 4), |&(_, time)| time);
        let full = i64::from(time.0) * 4 * TICKS_PER_QUARTER / i64::from(time.1);
        let next = times.iter().find(|&&(tick, _)| tick > start && tick < start + full);
        let duration = next.map_or(full, |&(tick, _)| tick - start);
        let number = (measures.len() + 1).to_string();
        measures.push(Measure { number, start, duration, time, ..Measure::default() });
        start += duration;
    }
    pickup(&mut measures);
    Ok(measures)
}

fn pickup(measures: &mut [Measure]) {
    let [first, second, ..] = measures else { return };
    let whole = |time: (u32, u32)| i64::from(time.0) * 4 * TICKS_PER_QUARTER / i64::from(time.1);
    if first.time == second.time && first.duration == whole(first.time)
        || first.duration >= whole(second.time)
    {
        return;
    }
    first.time = second.time;
    first.implicit = true;
    for (measure, number) in measures.iter_mut().zip(0_usize..) {
        measure.number = number.to_string();
    }
}
