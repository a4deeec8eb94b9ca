//! Pitches of MusicXML, and how they sound in a transposing part.

use crate::score::Pitch;

use super::ReadError;
use super::musicxml::Document;

/// Semitones of C D E F G A B above C.
const STEP_SEMITONES: [i32; 7] = [0, 2, 4, 5, 7, 9, 11];

#[derive(Clone, Copy)]
pub(super) struct WrittenPitch {
    /// 0..=6 from C.
    step: i32,
    alter: i32,
    octave: i32,
}

impl WrittenPitch {
    pub(super) fn read(document: &mut Document<'_>) -> Result<Self, ReadError> {
        let (mut step, mut alter, mut octave) = (None, 0, None);
        while let Some(child) = document.xml.child()? {
            match child.name() {
                "step" => step = "CDEFGAB".find(document.xml.content()?.as_str().get(..1).unwrap_or("?")),
                "alter" => {
                    let text = document.xml.content()?;
                    alter = whole_semitones(&text)
                        .ok_or_else(|| document.fail(format!("a pitch altered by {text:.20} semitones")))?;
                }
                "octave" => octave = document.xml.content()?.parse::<i32>().ok(),
                _ => document.xml.skip()?,
            }
        }
        match (
            step.and_then(|step| i32::try_from(step).ok()),
            octave.filter(|octave| (-1..=9).contains(octave)),
        ) {
            (Some(step), Some(octave)) => Ok(Self { step, alter, octave }),
            _ => Err(document.fail("a pitch without a step from A to G and an octave from 0 to 9")),
        }
    }
}

/// Microtones go to the nearest semitone.
fn whole_semitones(text: &str) -> Option<i32> {
    let value = text.parse::<f64>().ok().filter(|value| value.abs() <= 4.0)?;
    #[expect(clippy::cast_possible_truncation, reason = "between -4 and 4")]
    Some(value.round() as i32)
}

/// From a part's written to its sounding pitches.
#[derive(Default)]
pub(super) struct Transposition {
    diatonic: Option<i32>,
    chromatic: i32,
    octaves: i32,
}

impl Transposition {
    /// Reads the open `transpose` element to its end.
    pub(super) fn read(document: &mut Document<'_>) -> Result<Self, ReadError> {
        let mut read = Self::default();
        while let Some(child) = document.xml.child()? {
            let name = child.name().to_owned();
            if !matches!(name.as_str(), "diatonic" | "chromatic" | "octave-change") {
                document.xml.skip()?;
                continue;
            }
            let text = document.xml.content()?;
            let number = whole_number(&text, 60);
            let number = number.ok_or_else(|| document.fail(format!("a transposition by {text:.20}")))?;
            match name.as_str() {
                "diatonic" => read.diatonic = Some(number),
                "chromatic" => read.chromatic = number,
                _ => read.octaves = number,
            }
        }
        Ok(read)
    }

    /// Whether what sounds is what is written.
    pub(super) fn is_none(&self) -> bool {
        self.chromatic == 0 && self.octaves == 0
    }

    /// Whether letters and accidentals stay as they are written.
    pub(super) fn keeps_spelling(&self) -> bool {
        self.chromatic % 12 == 0
    }

    /// Whole octaves from written to sounding.
    pub(super) fn octaves(&self) -> i32 {
        self.octaves + self.chromatic / 12
    }

    pub(super) fn sounding(&self, written: WrittenPitch) -> Result<Pitch, String> {
        let semitones = STEP_SEMITONES[usize::try_from(written.step).unwrap_or(0)] + written.alter;
        let midi = 12 * (written.octave + 1 + self.octaves) + semitones + self.chromatic;
        let Some(sounding) = u8::try_from(midi).ok().filter(|midi| *midi <= 127) else {
            return Err(format!("a note outside the MIDI range 0 to 127: {midi}"));
        };
        // Without a diatonic count, the usual one: seven steps in twelve semitones.
        let steps = self.diatonic.unwrap_or_else(|| (self.chromatic * 7 + 6).div_euclid(12));
        let step = (written.step + steps).rem_euclid(7);
        let natural = STEP_SEMITONES[usize::try_from(step).unwrap_or(0)];
        let alter = (midi - natural + 6).rem_euclid(12) - 6;
        match (u8::try_from(step), i8::try_from(alter)) {
            (Ok(step), Ok(alter)) if alter.abs() <= 2 => Ok(Pitch { midi: sounding, step, alter }),
            _ => Ok(simply_spelt(sounding)),
        }
    }

    /// The sounding key of a written one, in fifths.
    pub(super) fn sounding_fifths(&self, written: i8) -> i8 {
        if self.chromatic % 12 == 0 {
            return written;
        }
        let fifths = (i32::from(written) + self.chromatic * 7 + 5).rem_euclid(12) - 5;
        i8::try_from(fifths).unwrap_or(0)
    }
}

fn whole_number(text: &str, limit: i32) -> Option<i32> {
    text.parse::<i32>().ok().filter(|number| number.abs() <= limit)
}

/// A spelling of at most one sharp, for what has no spelling of its own.
fn simply_spelt(midi: u8) -> Pitch {
    let pitch_class = i32::from(midi % 12);
    let step = STEP_SEMITONES.iter().rposition(|semitones| *semitones <= pitch_class).unwrap_or(0);
    let alter = i8::from(!STEP_SEMITONES.contains(&pitch_class));
    Pitch { midi, step: u8::try_from(step).unwrap_or(0), alter }
}
