//! A score's notes as numbers, for who draws or plays them: onsets and lengths in quarter notes.

use kapell_music::score::{Part, Score, TICKS_PER_QUARTER};
use kapell_music::write::wav::seconds_at;
use serde_json::{Value, json};

/// `{"title","clock","bars":[[start, number]],"parts":[{"name","notes":[[onset, length, midi]]}]}`; tied notes are one.
/// The clock says when each quarter sounds in the WAV file, in seconds.
pub(crate) fn of(score: &Score) -> Value {
    let bars = score.measures.iter().map(|measure| json!([quarters(measure.start), measure.number]));
    let part = |part: &Part| json!({"name": part.name, "notes": sounding(part)});
    let last = score.duration() / TICKS_PER_QUARTER + 1;
    json!({
        "title": score.title,
        "clock": seconds_at(score, (0..=last).map(|quarter| quarter * TICKS_PER_QUARTER)),
        "bars": bars.collect::<Vec<_>>(),
        "parts": score.parts.iter().map(part).collect::<Vec<_>>(),
    })
}

#[expect(clippy::cast_precision_loss, reason = "no score has 2^53 ticks")]
fn quarters(ticks: i64) -> f64 {
    ticks as f64 / TICKS_PER_QUARTER as f64
}

fn sounding(part: &Part) -> Vec<(f64, f64, u8)> {
    let mut joined: Vec<(i64, i64, u8)> = Vec::with_capacity(part.notes.len());
    for note in &part.notes {
        let midi = note.pitch.midi;
        let held =
            joined.iter_mut().rev().take(8).find(|(onset, length, before)| {
                note.tie_from && *before == midi && onset + length == note.onset
            });
        match held {
            Some((_, length, _)) => *length += note.duration,
            None => joined.push((note.onset, note.duration, midi)),
        }
    }
    joined.into_iter().map(|(onset, length, midi)| (quarters(onset), quarters(length), midi)).collect()
}

#[cfg(test)]
mod tests {
    use kapell_music::read::read_score;

    use super::*;

    #[test]
    fn notes_are_counted_in_quarters_and_tied_ones_are_one() {
        let note = |tie: &str| {
            format!("<note><pitch><step>C</step><octave>4</octave></pitch><duration>4</duration>{tie}</note>")
        };
        let (start, stop) = ("<tie type=\"start\"/>", "<tie type=\"stop\"/>");
        let text = format!(
            "<score-partwise><part-list><score-part id=\"a\"><part-name>Air</part-name></score-part></part-list>\
             <part id=\"a\"><measure number=\"1\"><attributes><divisions>1</divisions><time><beats>4</beats>\
             <beat-type>4</beat-type></time></attributes>{}</measure><measure number=\"2\">{}</measure>\
             <measure number=\"3\">{}</measure></part></score-partwise>",
            note(start),
            note(stop),
            note("")
        );
        let score = read_score(text.as_bytes(), "air").expect("a score");
        let seen = of(&score);
        assert_eq!(seen["parts"][0]["notes"], json!([[0.0, 8.0, 60], [8.0, 4.0, 60]]));
        assert_eq!(seen["bars"], json!([[0.0, "1"], [4.0, "2"], [8.0, "3"]]));
    }
}
