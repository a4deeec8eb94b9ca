//! A part as one line of notes, and that line on the grid of sixteenths.

use kapell_music::score::{Note, TICKS_PER_FRAME};

use super::melody::MelodyError;

/// A note of the line, in ticks.
#[derive(Debug, Clone)]
pub(super) struct LineNote {
    pub(super) onset: i64,
    pub(super) end: i64,
    pub(super) midi: u8,
    tie_from: bool,
    fermata: bool,
    /// Whether its words end a clause.
    clause_end: bool,
    /// Notes of the part that it stands for.
    pub(super) notes: usize,
}

/// The highest notes of a part as one line: of notes struck together the highest; a held note yields to a higher one
/// and hides lower ones.
pub(super) fn top_line(notes: &[Note]) -> Result<Vec<LineNote>, MelodyError> {
    let mut sorted = Vec::with_capacity(notes.len());
    for note in notes {
        let end = note.onset.checked_add(note.duration);
        let bad = MelodyError::BadNote { onset: note.onset, duration: note.duration };
        let (Some(end), true, true) = (end, note.onset >= 0, note.duration > 0) else { return Err(bad) };
        sorted.push(LineNote {
            onset: note.onset,
            end,
            midi: note.pitch.midi,
            tie_from: note.tie_from,
            fermata: note.fermata,
            clause_end: note.lyric().is_some_and(|words| ends_clause(&words)),
            notes: 1,
        });
    }
    sorted.sort_by_key(|note| (note.onset, std::cmp::Reverse(note.midi)));
    let mut line: Vec<LineNote> = Vec::with_capacity(sorted.len());
    for note in sorted {
        match line.last_mut() {
            Some(held) if held.end > note.onset => {
                if note.midi > held.midi && note.onset > held.onset {
                    held.end = note.onset;
                    held.notes = 0;
                    line.push(note);
                }
            }
            _ => line.push(note),
        }
    }
    Ok(line)
}

/// A note of the line on the grid of sixteenths.
#[derive(Debug, Clone, Copy)]
pub(super) struct GridNote {
    pub(super) start: i64,
    /// Above `start`.
    pub(super) end: i64,
    pub(super) midi: u8,
    pub(super) tie_from: bool,
    pub(super) fermata: bool,
    /// Whether its words end a clause.
    pub(super) clause_end: bool,
}

/// Rounds onsets and ends to the grid, each to the nearest sixteenth. A note that would vanish gets one, if no other
/// note is nearer to it.
pub(super) fn on_grid(line: &[LineNote], remarks: &mut Vec<String>) -> Result<Vec<GridNote>, MelodyError> {
    let nearest = |tick: i64| tick.saturating_add(TICKS_PER_FRAME / 2).div_euclid(TICKS_PER_FRAME);
    let off = |tick: i64| tick.rem_euclid(TICKS_PER_FRAME) != 0;
    let mut grid: Vec<GridNote> = Vec::with_capacity(line.len());
    let (mut rounded, mut unseen, mut slip_before) = (0, 0, 0);
    for note in line {
        rounded += usize::from(off(note.onset) || off(note.end));
        let start = nearest(note.onset);
        let slip = (note.onset - start * TICKS_PER_FRAME).abs();
        let new = GridNote {
            start,
            end: nearest(note.end).max(start + 1),
            midi: note.midi,
            tie_from: note.tie_from,
            fermata: note.fermata,
            clause_end: note.clause_end,
        };
        match grid.last_mut() {
            Some(before) if before.start == start => {
                unseen += 1;
                if slip < slip_before {
                    *before = new;
                } else {
                    continue;
                }
            }
            Some(before) => {
                before.end = before.end.min(start);
                grid.push(new);
            }
            None => grid.push(new),
        }
        slip_before = slip;
    }
    if rounded > 0 {
        let unseen =
            if unseen > 0 { format!(", and {unseen} too short for it are not seen") } else { String::new() };
        remarks.push(format!("{rounded} notes are not on sixteenths: the model sees them rounded{unseen}"));
    }
    let (first, last) = (grid.first(), grid.last());
    match (first, last) {
        (Some(first), Some(last)) if last.end - first.start > i64::from(u32::MAX) => {
            Err(MelodyError::TooLong)
        }
        _ => Ok(grid),
    }
}

/// Whether a syllable ends with a mark that singers breathe at.
fn ends_clause(text: &str) -> bool {
    text.trim_end_matches(['"', '\'', '”', '’', ')']).ends_with(['.', ',', ';', ':', '!', '?'])
}
