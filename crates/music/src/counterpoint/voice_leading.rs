//! How voices stand in a chord, and how they get from one to the next.

use super::cadence::degree;
use super::chord::Harmony;
use super::{Chord, Counts, Rules, VOICES};
use crate::key::Key;
use crate::score::Mode;

const BASS: usize = VOICES - 1;

/// Faults of a chord by itself: crossings, ranges, spacing.
pub(super) fn standing(chord: &Chord, rules: &Rules, counts: &mut Counts) {
    for voice in 0..VOICES {
        let (low, high) = rules.ranges[voice];
        let outside = chord.pitch(voice).is_some_and(|pitch| pitch < low || pitch > high);
        counts.range_faults += u64::from(outside && chord.strikes(voice));
    }
    for upper in 0..BASS {
        let lower = upper + 1;
        let (Some(above), Some(below)) = (chord.pitch(upper), chord.pitch(lower)) else { continue };
        if !chord.strikes(upper) && !chord.strikes(lower) {
            continue;
        }
        counts.crossings += u64::from(below > above);
        // The bass may be as far below the tenor as it likes.
        counts.spacing_faults += u64::from(lower != BASS && above.saturating_sub(below) > rules.spacing_max);
    }
}

/// Parallel fifths, octaves and unisons of all pairs of voices.
pub(super) fn parallels(before: &Chord, after: &Chord, counts: &mut Counts) {
    for lower in 1..VOICES {
        for upper in 0..lower {
            let moves = |voice: usize| Some((before.pitch(voice)?, after.pitch(voice)?));
            let (Some((u0, u1)), Some((l0, l1))) = (moves(upper), moves(lower)) else { continue };
            let same_way = (u1 > u0 && l1 > l0) || (u1 < u0 && l1 < l0);
            let stay_in_order = u0.cmp(&l0) == u1.cmp(&l1);
            let (from, to) = (u0.abs_diff(l0), u1.abs_diff(l1));
            if !same_way || !stay_in_order || from % 12 != to % 12 {
                continue;
            }
            match from % 12 {
                7 => counts.parallel_fifths += 1,
                0 if from == 0 => counts.parallel_unisons += 1,
                0 => counts.parallel_octaves += 1,
                _ => {}
            }
        }
    }
}

/// Leading notes that do not rise to the tonic, within one phrase.
pub(super) fn unresolved_leading_notes(phrase: &[Chord], key: Key) -> u64 {
    let named: Vec<(usize, Harmony)> =
        phrase.iter().enumerate().filter_map(|(at, chord)| Some((at, chord.harmony?))).collect();
    let leading = degree(key, 11);
    let mut unresolved = 0;
    for pair in named.windows(2) {
        let ((at, dominant), (next, goal)) = (pair[0], pair[1]);
        if !dominant.leads_to(key.tonic) || !is_goal(goal, key) {
            continue;
        }
        let is_cadence = ends_on(&named, next, goal.root);
        for voice in 0..VOICES {
            let Some(pitch) = phrase[at].pitch(voice).filter(|pitch| pitch % 12 == leading) else { continue };
            let matters = voice == 0 || voice == BASS || is_cadence;
            unresolved += u64::from(matters && !rises(&phrase[at + 1..], voice, pitch));
        }
    }
    unresolved
}

/// Whether all named chords from `from` on stand on `root`.
fn ends_on(named: &[(usize, Harmony)], from: usize, root: u8) -> bool {
    named.iter().filter(|(at, _)| *at >= from).all(|(_, harmony)| harmony.root == root)
}

/// The tonic or the submediant: where a dominant goes.
fn is_goal(harmony: Harmony, key: Key) -> bool {
    let submediant = degree(key, if key.mode == Mode::Major { 9 } else { 8 });
    harmony.is_at_rest() && (harmony.root == key.tonic || harmony.root == submediant)
}

/// Whether the voice's next other note is a semitone higher. A voice that falls silent owes nothing.
fn rises(after: &[Chord], voice: usize, leading: u8) -> bool {
    let pitches = after.iter().map(|chord| chord.pitch(voice));
    for pitch in pitches {
        match pitch {
            None => return true,
            Some(pitch) if pitch != leading => return pitch == leading + 1,
            Some(_) => {}
        }
    }
    false
}
