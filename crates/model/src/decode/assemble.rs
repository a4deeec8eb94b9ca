//! Four voices on the grid, back to a score in the given voices' own key, metre and measures.

use kapell_music::score::{KeySignature, Measure, Notation, Note, Part, Score, TICKS_PER_FRAME};
use kapell_music::write::spelling::spell;

use super::task::VOICES;
use super::voices::Sung;

/// Of the four parts, S A T B.
pub const PART_NAMES: [&str; VOICES] = ["Soprano", "Alto", "Tenor", "Bass"];

/// Frames a measure of a composition: 4/4.
const MEASURE_FRAMES: usize = 16;

/// Where decoded frames stand in a score.
#[derive(Debug, Clone, Copy)]
pub(super) struct Setting<'a> {
    pub(super) voices: &'a [[Option<Sung>; VOICES]],
    /// Whether a frame lies under a fermata that is to be written.
    pub(super) fermatas: &'a [bool],
    /// The sixteenth, from the score's start, of the first frame.
    pub(super) first_frame: i64,
    /// Semitones from the model's key to the sounding one.
    pub(super) shift: i16,
    /// The signature to spell by.
    pub(super) fifths: i8,
}

/// The given parts as they are, with the sung ones between them. `given` is by voice the part's index.
/// The measures have the signatures of the first given part.
pub(super) fn harmonized(score: &Score, given: &[Option<usize>; VOICES], setting: Setting<'_>) -> Score {
    let mut score = score.clone();
    if let Some(lead) = given.iter().flatten().next() {
        score.sign_by(*lead);
    }
    let part = |(voice, index): (usize, &Option<usize>)| Part {
        id: format!("P{}", voice + 1),
        name: PART_NAMES[voice].into(),
        written_until: 0,
        ..index.map_or_else(Part::default, |index| score.parts[index].clone())
    };
    let parts = given.iter().enumerate().map(part).collect();
    let mut piece = Score { parts, ..score };
    // Of the given notes and the measures: other parts of the score, and rests after its end, may reach further.
    let end = piece.duration();
    for voice in (0..VOICES).filter(|&voice| given[voice].is_none()) {
        let mut notes = sung_notes(voice, setting, end);
        respell(&mut notes, &piece.measures);
        piece.parts[voice].notes = notes;
        piece.parts[voice].written_until = end;
    }
    piece
}

/// Behind a change of key, notes are spelt in the new one.
fn respell(notes: &mut [Note], measures: &[Measure]) {
    let Some(first) = measures.first() else { return };
    for note in notes {
        let at = measures.partition_point(|measure| measure.start <= note.onset);
        let key = measures[..at].last().unwrap_or(first).key;
        if key.fifths != first.key.fifths {
            note.pitch = spell(note.pitch.midi, key.fifths);
        }
    }
}

/// A score of decoded voices alone, in 4/4.
pub(super) fn composed(setting: Setting<'_>, title: String) -> Score {
    let count = setting.voices.len().div_ceil(MEASURE_FRAMES).max(1);
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
    let part = |voice: usize| Part {
        id: format!("P{}", voice + 1),
        name: PART_NAMES[voice].into(),
        notes: sung_notes(voice, setting, end),
        written_until: end,
        ..Part::default()
    };
    Score { title: Some(title), parts: (0..VOICES).map(part).collect(), measures, ..Score::default() }
}

fn ticks(frames: usize) -> i64 {
    i64::try_from(frames).unwrap_or(i64::MAX).saturating_mul(TICKS_PER_FRAME)
}

/// One voice's notes, ties joined; none goes beyond `end`.
fn sung_notes(voice: usize, setting: Setting<'_>, end: i64) -> Vec<Note> {
    let mut notes: Vec<Note> = Vec::new();
    let mut sounding = false;
    for (at, voices) in setting.voices.iter().enumerate() {
        let onset = (setting.first_frame.saturating_mul(TICKS_PER_FRAME)).saturating_add(ticks(at));
        let duration = TICKS_PER_FRAME.min(end - onset);
        let (Some(sung), true) = (voices[voice], duration > 0) else {
            sounding = false;
            continue;
        };
        let under = |at: usize| setting.fermatas.get(at).copied().unwrap_or(false);
        let fermata = under(at) && !under(at + 1);
        match notes.last_mut() {
            Some(note) if sung.tied && sounding => {
                note.duration += duration;
                note.fermata |= fermata;
            }
            _ => notes.push(struck(sung.midi, onset, duration, fermata, setting)),
        }
        sounding = true;
    }
    notes
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
