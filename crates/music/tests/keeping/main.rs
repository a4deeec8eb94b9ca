//! Melodies as people have them: whatever they say is there when the score is written and read again.

mod bars;
mod notes;

use kapell_music::read::read_score;
use kapell_music::score::{
    KeySignature, Lyric, Measure, Mode, NoteValue, Part, Score, Syllabic, TICKS_PER_QUARTER, Tuplet,
};
use kapell_music::write::write_musicxml;

const Q: i64 = TICKS_PER_QUARTER;

/// A score of one part, 12 divisions a quarter; the first measure has the attributes.
fn tune(attributes: &str, measures: &[&str]) -> String {
    let mut number = 0;
    let numbered = measures.iter().map(|measure| {
        number += 1;
        let first = if number == 1 {
            format!("<attributes><divisions>12</divisions>{attributes}</attributes>")
        } else {
            String::new()
        };
        match measure.strip_prefix('<') {
            // One that begins with a tag of its own.
            Some(rest) if rest.starts_with("measure") => measure.replacen('>', &format!(">{first}"), 1),
            _ => format!("<measure number='{number}'>{first}{measure}</measure>"),
        }
    });
    let measures: String = numbered.collect();
    format!(
        "<score-partwise><part-list><score-part id='P1'><part-name>Melody</part-name></score-part></part-list>\
         <part id='P1'>{measures}</part></score-partwise>"
    )
}

/// A note such as `C5 quarter 12` with more elements behind its type.
fn note(pitch: &str, kind: &str, duration: u32, more: &str) -> String {
    let (step, octave) = pitch.split_at(1);
    format!(
        "<note><pitch><step>{step}</step><octave>{octave}</octave></pitch><duration>{duration}</duration>\
         <voice>1</voice><type>{kind}</type>{more}</note>"
    )
}

fn quarter(pitch: &str, more: &str) -> String {
    note(pitch, "quarter", 12, more)
}

fn whole(pitch: &str) -> String {
    note(pitch, "whole", 48, "")
}

fn read(text: &str) -> Score {
    read_score(text.as_bytes(), "tune.musicxml").unwrap_or_else(|error| panic!("{error}\n{text}"))
}

/// Reads, writes and reads again: nothing may be lost.
fn kept(text: &str) -> Score {
    let score = read(text);
    let again = read(&write_musicxml(&score));
    for (got, wanted) in again.parts.iter().zip(&score.parts) {
        // The writer numbers parts, and finds a clef where there is none.
        let clefs = if wanted.clefs.is_empty() { Vec::new() } else { got.clefs.clone() };
        let got = Part { id: wanted.id.clone(), clefs, ..got.clone() };
        assert_eq!(got, *wanted);
    }
    let last = score.measures.len() - 1;
    for (index, (got, wanted)) in again.measures.iter().zip(&score.measures).enumerate() {
        // The writer ends a score by a double line where it has none.
        let mut got = got.clone();
        if index == last && wanted.notation.right.is_none() {
            got.notation.right = None;
        }
        assert_eq!(&got, wanted);
    }
    assert_eq!(again.measures.len(), score.measures.len());
    assert_eq!((&again.credits, again.tempo), (&score.credits, score.tempo));
    score
}

const FOUR_FOUR: &str = "<time><beats>4</beats><beat-type>4</beat-type></time>";
