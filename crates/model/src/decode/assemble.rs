//! Four voices on the grid, back to a score in the melody's own key, metre and measures.

use kapell_music::score::{KeySignature, Measure, Notation, Note, Part, Score, TICKS_PER_FRAME};
use kapell_music::write::spelling::spell;

use super::voices::{Frame, Sung, VOICES};

/// Of the four parts, S A T B.
pub const PART_NAMES: [&str; VOICES] = ["Soprano", "Alto", "Tenor", "Bass"];

/// Frames a measure of a composition: 4/4.
const MEASURE_FRAMES: usize = 16;

/// Where decoded frames stand in a score.
#[derive(Debug, Clone, Copy)]
pub(super) struct Setting<'a> {
    pub(super) frames: &'a [Frame],
    pub(super) voices: &'a [[Option<Sung>; VOICES]],
    /// The sixteenth, from the score's start, of the first frame.
    pub(super) first_frame: i64,
    /// Semitones from the model's key to the sounding one.
    pub(super) shift: i16,
    /// The signature to spell by.
    pub(super) fifths: i8,
}

/// The melody's score with its part as it is and three voices under it.
pub(super) fn harmonized(score: &Score, part: usize, setting: Setting<'_>) -> Score {
    let melody = score.parts[part].clone();
    let melody = Part { id: "P1".into(), name: PART_NAMES[0].into(), written_until: 0, ..melody };
    let mut piece = Score { parts: vec![melody], ..score.clone() };
    // Of the melody's notes and the measures: other parts of its score, and rests after its end, may reach further.
    let end = piece.duration();
    piece.parts.extend((1..VOICES).map(|voice| sung_part(voice, setting, end)));
    piece
}

/// A score of decoded voices alone, in 4/4.
pub(super) fn composed(setting: Setting<'_>, title: String) -> Score {
    let count = setting.frames.len().div_ceil(MEASURE_FRAMES).max(1);
    let length = ticks(MEASURE_FRAMES);
    let measure = |start: i64, number: usize| Measure {
        number: number.to_string(),
        start,
        duration: length,
        time: (4, 4),
        key: KeySignature { fifths: setting.fifths, mode: None },
        ..Measure::default()
    };
    let measures: Vec<Measure> = (0..count).map(|at| measure(ticks(at * MEASURE_FRAMES), at + 1)).collect();
    let end = ticks(count * MEASURE_FRAMES);
    let parts = (0..VOICES).map(|voice| sung_part(voice, setting, end)).collect();
    Score { title: Some(title), parts, measures, ..Score::default() }
}

fn ticks(frames: usize) -> i64 {
    i64::try_from(frames).unwrap_or(i64::MAX).saturating_mul(TICKS_PER_FRAME)
}

/// One voice's notes, ties joined; none goes beyond `end`.
fn sung_part(voice: usize, setting: Setting<'_>, end: i64) -> Part {
    let mut notes: Vec<Note> = Vec::new();
    let mut sounding = false;
    for (at, (frame, voices)) in setting.frames.iter().zip(setting.voices).enumerate() {
        let onset = (setting.first_frame.saturating_mul(TICKS_PER_FRAME)).saturating_add(ticks(at));
        let duration = TICKS_PER_FRAME.min(end - onset);
        let (Some(sung), true) = (voices[voice], duration > 0) else {
            sounding = false;
            continue;
        };
        let goes_on = setting.frames.get(at + 1).is_some_and(|next| next.fermata);
        let fermata = frame.fermata && !goes_on;
        match notes.last_mut() {
            Some(note) if sung.tied && sounding => {
                note.duration += duration;
                note.fermata |= fermata;
            }
            _ => notes.push(struck(sung.midi, onset, duration, fermata, setting)),
        }
        sounding = true;
    }
    Part {
        id: format!("P{}", voice + 1),
        name: PART_NAMES[voice].into(),
        notes,
        written_until: end,
        ..Part::default()
    }
}

fn struck(midi: u8, onset: i64, duration: i64, fermata: bool, setting: Setting<'_>) -> Note {
    let sounding = u8::try_from((i16::from(midi) + setting.shift).clamp(0, 127)).unwrap_or(midi);
    Note {
        onset,
        duration,
        pitch: spell(sounding, setting.fifths),
        tie_from: false,
        tie_to: false,
        fermata,
        voice: 1,
        notation: Notation::default(),
    }
}
