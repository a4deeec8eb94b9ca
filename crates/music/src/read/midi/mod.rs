//! Standard MIDI files, formats 0 and 1: tracks and channels become parts, pulses become notes on a grid.

mod events;
mod grid;
mod key;
mod measures;
mod words;

use crate::score::{Credit, Direction, Part, Score, TICKS_PER_QUARTER};

use super::ReadError;
use events::{Line, Song};

/// A day of music.
const TICKS_MAX: i64 = 100_000 * TICKS_PER_QUARTER;
const NOTES_MAX: usize = 200_000;
/// Bytes of a MIDI file, at most: a symphony has a tenth.
const MIDI_BYTES_MAX: usize = 8 << 20;
/// Tempo changes that are kept.
const TEMPI_MAX: usize = 2_000;

/// Whether bytes begin as a MIDI file does, bare or wrapped in RIFF.
pub(super) fn is_midi(bytes: &[u8]) -> bool {
    bytes.starts_with(b"MThd") || (bytes.starts_with(b"RIFF") && bytes.get(8..12) == Some(b"RMID"))
}

/// Reads a MIDI file. Notes of one channel of one track are a part; drums (channel 10) are left out. What was played
/// goes to sixteenths or triplets, beat by beat; what lies on a grid stays there.
pub(super) fn read(bytes: &[u8], name: &str) -> Result<Score, ReadError> {
    if bytes.len() > MIDI_BYTES_MAX {
        let (bytes, bytes_max) = (bytes.len(), MIDI_BYTES_MAX);
        return Err(ReadError::TooLarge { name: name.to_owned(), bytes, bytes_max });
    }
    let mut song = Song::read(bytes, name)?;
    if song.lines.is_empty() {
        let name = name.to_owned();
        return Err(if song.drums { ReadError::Percussion { name } } else { ReadError::NoNotes { name } });
    }
    let pulse = song.clock.pulse_ticks();
    let (mut moved, mut notes) = (0, 0);
    for line in &mut song.lines {
        moved += grid::quantise(&mut line.notes, pulse);
        notes += line.notes.len();
    }
    let mut remarks = std::mem::take(&mut song.remarks);
    if moved > 0 {
        remarks.push(format!(
            "{moved} of the {notes} notes of the MIDI file were played off the beat's grid: they are written \
             in sixteenths or triplets"
        ));
    }
    let words = words::place(&song);
    let mut parts: Vec<Part> = song.lines.iter().zip(1..).map(|(line, at)| part(line, at)).collect();
    words::attach(words, &song.lines, &mut parts);
    let end = parts.iter().map(Part::duration).max().unwrap_or(0);
    let measures = measures::measures(&song, end).map_err(|what| song.fail(name, "the file", &what))?;
    let rights = song.rights.take().map(|name| Credit { kind: "rights".to_owned(), name });
    let mut score = Score {
        title: song.title.take(),
        credits: rights.into_iter().collect(),
        parts,
        measures,
        tempo: song.tempi.first().map(|&(_, tempo)| tempo),
        remarks,
        ..Score::default()
    };
    key::spell_in_key(&mut score, &song.keys);
    tempi(&mut score, &song.tempi);
    Ok(score)
}

fn part(line: &Line, at: usize) -> Part {
    let notes = line.notes.iter().map(|played| played.note()).collect();
    let mut part = Part { id: format!("P{at}"), name: line.name.clone(), notes, ..Part::default() };
    part.notes.sort_by_key(|note| (note.onset, note.voice, note.pitch.midi));
    part
}

/// Tempi go to the measures, to the nearest thirty-second.
fn tempi(score: &mut Score, tempi: &[(i64, f64)]) {
    let grid = TICKS_PER_QUARTER / 8;
    let mut last = None;
    for &(tick, tempo) in tempi.iter().take(TEMPI_MAX) {
        let onset = (tick + grid / 2) / grid * grid;
        let measure = score.measures.iter_mut().rfind(|measure| measure.start <= onset);
        let Some(measure) = measure.filter(|m| onset < m.start + m.duration && last != Some(tempo)) else {
            continue;
        };
        last = Some(tempo);
        let directions = &mut measure.notation.directions;
        // Of two at one place, the later one holds.
        directions.retain(|direction| direction.onset != onset);
        directions.push(Direction { onset, tempo: last, markup: None });
    }
}
