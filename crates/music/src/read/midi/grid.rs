//! From played to written time: onsets and ends on a grid.
//!
//! A part most of whose onsets lie on thirty-seconds or triplet sixteenths was written, not played: they stay where
//! they are. Of a played one each beat gets the grid that its onsets miss least.

use super::events::Played;
use crate::score::TICKS_PER_QUARTER;

const Q: i64 = TICKS_PER_QUARTER;
/// Parts of a quarter that a written onset may lie on: the coarsest that it does is its own.
const WRITTEN: [i64; 9] = [1, 2, 4, 3, 8, 6, 12, 5, 7];
/// Parts of a quarter for what was played, the likelier first, and what a grid must be better by than those before it.
const PLAYED: [(i64, i64); 5] = [(2, 1), (4, 1), (3, 2), (8, 6), (6, 6)];
/// Two onsets that are further apart than this are two.
const APART: i64 = Q / 14;

/// Moves onsets and ends to the grid, and drops notes that come twice; how many notes were moved further than the
/// rounding of a file would.
pub(super) fn quantise(notes: &mut Vec<Played>, pulse: i64) -> usize {
    let tolerance = pulse * 3 / 4 + 1;
    notes.sort_by_key(|note| (note.onset, note.key));
    let mut struck: Vec<i64> = notes.iter().map(|note| note.onset).collect();
    struck.dedup();
    let on_grid = struck.iter().filter(|&&onset| written(onset, tolerance).is_some()).count();
    let is_written = on_grid * 10 >= struck.len() * 9;
    let onsets = if is_written { written_onsets(&struck, tolerance) } else { played_onsets(&struck) };
    let place = |onset: i64| struck.binary_search(&onset).map_or(onset, |at| onsets[at]);
    let mut moved = 0;
    let end_tolerance = if is_written { 2 * tolerance } else { 0 };
    for note in notes.iter_mut() {
        let after = struck.partition_point(|&onset| onset <= note.struck);
        note.onset = place(note.struck);
        moved += usize::from((note.onset - note.struck).abs() > tolerance);
        let next =
            (after..struck.len()).find(|&at| onsets[at] > note.onset).map(|at| (struck[at], onsets[at]));
        note.end = end_of(note, next, end_tolerance).max(note.onset + Q / 12);
    }
    notes.sort_by_key(|note| (note.onset, note.key, -note.end));
    notes.dedup_by_key(|note| (note.onset, note.key));
    notes.sort_by_key(|note| (note.struck, note.key));
    moved
}

/// The nearest place of a grid of so many parts of a quarter.
fn nearest(tick: i64, parts: i64) -> i64 {
    let index = (2 * tick * parts + Q).div_euclid(2 * Q);
    (2 * index * Q + parts).div_euclid(2 * parts)
}

/// The place on the coarsest grid that is near enough.
fn written(tick: i64, tolerance: i64) -> Option<i64> {
    WRITTEN.iter().map(|&parts| nearest(tick, parts)).find(|place| (place - tick).abs() <= tolerance)
}

fn written_onsets(struck: &[i64], tolerance: i64) -> Vec<i64> {
    struck.iter().map(|&onset| written(onset, tolerance).unwrap_or_else(|| nearest(onset, 4))).collect()
}

/// Beat by beat.
fn played_onsets(struck: &[i64]) -> Vec<i64> {
    let beats = struck.chunk_by(|a, b| a.div_euclid(Q) == b.div_euclid(Q));
    beats
        .flat_map(|beat| {
            let parts = parts_of(beat);
            beat.iter().map(move |&onset| nearest(onset, parts))
        })
        .collect()
}

/// The grid of a beat: the one that its onsets miss least, where it is no rarer than it must be.
fn parts_of(beat: &[i64]) -> i64 {
    let miss = |parts: i64| -> i64 {
        let squares = beat.iter().map(|&onset| (onset - nearest(onset, parts)).pow(2)).sum::<i64>();
        // Two that fall together though they were apart.
        let lost = beat
            .windows(2)
            .filter(|pair| pair[1] - pair[0] > APART && nearest(pair[0], parts) == nearest(pair[1], parts));
        squares + lost.map(|_| Q * Q / 16).sum::<i64>()
    };
    // A miss of a sixteenth of a quarter is nobody's fault.
    let least = (Q / 48).pow(2);
    let mut best = (PLAYED[0].0, miss(PLAYED[0].0).max(least));
    for &(parts, better) in &PLAYED[1..] {
        let missed = miss(parts).max(least);
        if missed * better < best.1 {
            best = (parts, missed);
        }
    }
    best.0
}

/// Where a note ends; `next` is the next onset of its part, as struck and on the grid.
fn end_of(note: &Played, next: Option<(i64, i64)>, tolerance: i64) -> i64 {
    if tolerance > 0 {
        // Fifths and sevenths end where they began: else a shortened note may seem to.
        let near = |parts: &&i64| (nearest(note.end, **parts) - note.end).abs() <= tolerance;
        let usual = |parts: i64| parts != 5 && parts != 7;
        let of_onset = WRITTEN.iter().find(|&&parts| nearest(note.onset, parts) == note.onset);
        let allowed = |parts: &&i64| usual(**parts) || of_onset == Some(*parts);
        let end = WRITTEN.iter().filter(allowed).find(near).map(|&parts| nearest(note.end, parts));
        if let Some(end) = end.filter(|end| *end > note.onset) {
            return end;
        }
    }
    if let Some((struck, placed)) = next {
        let between = struck - note.struck;
        let (gap, overlap) = (struck - note.end, note.end - struck);
        if (0..=(between * 3 / 10).max(Q / 8)).contains(&gap)
            || (0..=(between / 4).max(Q / 8)).contains(&overlap)
        {
            return placed;
        }
    }
    // Before a rest: people end notes early, at beats rather than between them.
    let length = note.end - note.struck;
    let near = |parts: &i64| {
        let end = nearest(note.end, *parts);
        end > note.onset && (end - note.end).abs() <= (length * 12 / 100).max(Q / 10)
    };
    let parts = [1, 2, 4].into_iter().find(near).unwrap_or(4);
    nearest(note.end, parts)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// (onset, end) in thousandths of a quarter.
    fn check(played: &[(i64, i64)], pulse: i64, expected: &[(i64, i64)]) {
        let ticks = |thousandths: i64| thousandths * Q / 1000;
        let note = |&(onset, end): &(i64, i64)| {
            let (onset, end) = (ticks(onset), ticks(end));
            Played { onset, end, key: 60, struck: onset }
        };
        let mut notes: Vec<Played> = played.iter().map(note).collect();
        quantise(&mut notes, pulse);
        let told: Vec<(i64, i64)> =
            notes.iter().map(|note| (note.onset * 1000 / Q, note.end * 1000 / Q)).collect();
        assert_eq!(told, expected, "{played:?}");
    }

    #[test]
    fn what_is_on_a_grid_stays_there() {
        check(
            &[(0, 500), (500, 750), (750, 1000), (1000, 2000)],
            21,
            &[(0, 500), (500, 750), (750, 1000), (1000, 2000)],
        );
        check(
            &[(0, 333), (333, 667), (667, 1000), (1000, 1200), (1200, 1400)],
            21,
            &[(0, 333), (333, 666), (666, 1000), (1000, 1200), (1200, 1400)],
        );
    }

    #[test]
    fn notes_that_a_program_cuts_short_last_to_the_next_one() {
        check(
            &[(0, 950), (1000, 1475), (1500, 1950), (2000, 3800)],
            21,
            &[(0, 1000), (1000, 1500), (1500, 2000), (2000, 4000)],
        );
    }

    #[test]
    fn what_a_hand_plays_goes_to_sixteenths_or_triplets() {
        check(
            &[(13, 980), (1031, 1460), (1489, 1960), (2022, 3700), (4013, 5400)],
            21,
            &[(0, 1000), (1000, 1500), (1500, 2000), (2000, 4000), (4000, 5500)],
        );
        check(
            &[(11, 320), (340, 650), (655, 990), (1020, 1240), (1262, 1530), (1490, 1760), (1771, 2000)],
            21,
            &[(0, 333), (333, 666), (666, 1000), (1000, 1250), (1250, 1500), (1500, 1750), (1750, 2000)],
        );
    }
}
