//! Whether a score that was made of a melody still has it, note for note, as a reader will find it.

use crate::read::read_score;
use crate::score::{Direction, Grace, Lyric, Markup, Measure, Note, Part, Pitch, Rest, Score};
use crate::write::write_musicxml;

/// Whether the given parts, the melody score's index by voice, stand in the piece as they were.
#[must_use]
pub fn are_parts_kept(melody: &Score, given: &[Option<usize>], piece: &Score) -> bool {
    given.iter().enumerate().filter_map(|(voice, part)| Some((voice, (*part)?))).all(|(voice, part)| {
        let mut alone = piece.clone();
        alone.parts.swap(0, voice);
        is_melody_kept(melody, part, &alone)
    })
}

/// Whether the first part of the score, written and read back, is the melody: pitches, spelling, onsets, durations,
/// ties, words, grace notes and marks, measures with their bar lines, and what concerns the whole score.
fn is_melody_kept(melody: &Score, part: usize, piece: &Score) -> bool {
    let Ok(read) = read_score(write_musicxml(piece).as_bytes(), "") else { return false };
    let Some(soprano) = read.parts.first() else { return false };
    let measures = melody.measures.len() == read.measures.len()
        && melody.measures.iter().zip(&read.measures).all(|(bar, read)| {
            is_bar_kept(bar, read) && melody.parts[part].signatures_in(bar) == read.signatures()
        });
    let cues =
        |part: &Part| -> Vec<Rest> { part.rests.iter().filter(|r| !r.cue.is_empty()).cloned().collect() };
    measures && sung(&melody.parts[part]) == sung(soprano) && cues(&melody.parts[part]) == cues(soprano)
}

/// A reader finds bar lines and signs that the writer adds; what there was must be the same.
fn is_bar_kept(bar: &Measure, read: &Measure) -> bool {
    let head = |measure: &Measure| {
        let repeats = (measure.repeat_start, measure.repeat_end);
        (measure.start, measure.duration, measure.implicit, repeats)
    };
    let kept = |was: &Option<Markup>, is: &Option<Markup>| was.is_none() || was == is;
    let (was, is) = (&bar.notation, &read.notation);
    bar.number == read.number
        && head(bar) == head(read)
        && (kept(&was.left, &is.left) && kept(&was.right, &is.right))
        && was.directions.iter().all(|direction| {
            let same = |read: &&Direction| {
                (read.onset, read.tempo) == (direction.onset, direction.tempo)
                    && kept(&direction.markup, &read.markup)
            };
            is.directions.iter().find(same).is_some()
        })
}

/// A note with those tied to it.
#[derive(Debug, Clone, PartialEq)]
struct SungNote {
    onset: i64,
    midi: u8,
    duration: i64,
    spelling: (u8, i8),
    fermata: bool,
    lyrics: Vec<Lyric>,
    graces: Vec<Grace>,
    /// But for brackets and the shapes of fermatas, of which the writer has its own.
    marks: Vec<Markup>,
}

/// A part's notes, ties joined: how many noteheads a held note is written with is the notation's affair.
fn sung(part: &Part) -> Vec<SungNote> {
    let mut joined: Vec<(SungNote, bool)> = Vec::new();
    for note in &part.notes {
        let Note { onset, duration, pitch: Pitch { midi, step, alter }, fermata, .. } = *note;
        let goes_on = |(before, open): &&mut (SungNote, bool)| {
            *open && note.tie_from && before.midi == midi && before.onset + before.duration == onset
        };
        let notation = &note.notation;
        let (lyrics, graces) =
            (notation.lyrics.clone(), [&notation.graces[..], &notation.graces_after].concat());
        let marks = notation.marks.iter().filter(|mark| !["tuplet", "fermata"].contains(&mark.name.as_str()));
        let marks = marks.cloned().collect();
        if let Some((before, open)) = joined.iter_mut().rev().find(goes_on) {
            before.duration += duration;
            before.fermata |= fermata;
            before.lyrics.extend(lyrics);
            before.graces.extend(graces);
            before.marks.extend(marks);
            *open = note.tie_to;
        } else {
            let spelling = (step, alter);
            let new = SungNote { onset, midi, duration, spelling, fermata, lyrics, graces, marks };
            joined.push((new, note.tie_to));
        }
    }
    let mut notes: Vec<SungNote> = joined.into_iter().map(|(note, _)| note).collect();
    notes.sort_by_key(|note| (note.onset, note.midi, note.duration));
    notes
}
