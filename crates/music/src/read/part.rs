//! One part of a MusicXML document: its state from measure to measure, and what a measure says.

use crate::score::{KeySignature, Measure, Mode, Part};

use super::ReadError;
use super::musicxml::{Document, FIRST_KEY, FIRST_TIME, Signatures};
use super::note::{NoteDraft, Transposition, WrittenNote};
use super::time::Quarters;
use super::xml::Element;

/// A part that is being read.
pub(super) struct PartReader {
    /// Without notes until `finish`.
    pub(super) part: Part,
    /// Partwise: its `part` element was seen.
    pub(super) begun: bool,
    time: (u32, u32),
    /// As it sounds.
    key: KeySignature,
    /// In a quarter note.
    divisions: Quarters,
    transposition: Transposition,
    notes: Vec<NoteDraft>,
    /// The last measure with a note or rest, and how far into it they reach.
    written_until: (usize, Quarters),
    /// Names of voices that are no numbers from 1 to 255, in order of appearance.
    voices: Vec<String>,
}

/// Where in a measure the part is.
struct Cursor {
    index: usize,
    at: Quarters,
    /// How far notes, rests and jumps forward reach, and how far notes and rests alone.
    filled: Quarters,
    sounded: Quarters,
    /// Whether there was more than rests.
    notes: bool,
    /// Where the last note that was no chord's second began: chords go there.
    chord_onset: Quarters,
}

impl PartReader {
    pub(super) fn new(id: &str) -> Self {
        Self {
            part: Part { id: id.to_owned(), ..Part::default() },
            begun: false,
            time: FIRST_TIME,
            key: FIRST_KEY,
            divisions: Quarters::ONE,
            transposition: Transposition::default(),
            notes: Vec::new(),
            written_until: (0, Quarters::ZERO),
            voices: Vec::new(),
        }
    }

    pub(super) fn signatures(&self) -> Signatures {
        (self.time, self.key)
    }

    /// Reads this part's share of a measure.
    pub(super) fn measure(&mut self, document: &mut Document<'_>, index: usize) -> Result<(), ReadError> {
        let zero = Quarters::ZERO;
        let mut cursor =
            Cursor { index, at: zero, filled: zero, sounded: zero, chord_onset: zero, notes: false };
        while let Some(child) = document.xml.child()? {
            match child.name() {
                "note" => self.note(document, &mut cursor)?,
                "backup" | "forward" => self.shift(document, &mut cursor, child.name() == "forward")?,
                "attributes" => self.attributes(document, &cursor)?,
                "barline" => barline(document, index)?,
                "direction" => direction(document)?,
                "sound" => sound(document, &child)?,
                _ => document.xml.skip()?,
            }
        }
        if !cursor.sounded.is_zero() {
            self.written_until = (index, cursor.sounded);
        }
        document.measures[index].reach(cursor.filled, cursor.sounded, cursor.notes);
        Ok(())
    }

    fn note(&mut self, document: &mut Document<'_>, cursor: &mut Cursor) -> Result<(), ReadError> {
        let written = WrittenNote::read(document)?;
        if written.grace {
            return Ok(());
        }
        let duration = match written.duration {
            Some(duration) => duration.over(self.divisions).ok_or_else(|| too_fine(document))?,
            None => Quarters::ZERO,
        };
        let onset = if written.chord { cursor.chord_onset } else { cursor.at };
        let end = onset.plus(duration).ok_or_else(|| too_fine(document))?;
        if !written.chord {
            cursor.chord_onset = onset;
            cursor.at = end;
        }
        cursor.filled = cursor.filled.max(end);
        cursor.sounded = cursor.sounded.max(end);
        cursor.notes |= !written.rest;
        let Some(sounding) = written.pitch.filter(|_| !written.cue && !duration.is_zero()) else {
            return Ok(());
        };
        let voice = self.voice_number(&written.voice);
        let pitch = self.transposition.sounding(sounding).map_err(|what| document.fail(what))?;
        self.notes.push(NoteDraft {
            measure: cursor.index,
            onset,
            end,
            pitch,
            voice,
            tie_from: written.tie_stop,
            tie_to: written.tie_start,
            fermata: written.fermata,
            lyric: written.lyric,
        });
        Ok(())
    }

    /// As the file numbers it, where it is a number.
    fn voice_number(&mut self, voice: &str) -> u8 {
        if voice.is_empty() {
            return 1;
        }
        if let Some(number) = voice.parse::<u8>().ok().filter(|number| *number > 0) {
            return number;
        }
        let known = self.voices.iter().position(|name| name == voice);
        let index = known.unwrap_or_else(|| {
            // More names than numbers share the last one.
            if self.voices.len() < 255 {
                self.voices.push(voice.to_owned());
            }
            self.voices.len() - 1
        });
        u8::try_from(index + 1).unwrap_or(u8::MAX)
    }

    fn shift(
        &mut self,
        document: &mut Document<'_>,
        cursor: &mut Cursor,
        forward: bool,
    ) -> Result<(), ReadError> {
        let mut duration = Quarters::ZERO;
        while let Some(child) = document.xml.child()? {
            match child.name() {
                "duration" => duration = document.number("duration")?,
                _ => document.xml.skip()?,
            }
        }
        let duration = duration.over(self.divisions).ok_or_else(|| too_fine(document))?;
        let at = if forward { cursor.at.plus(duration) } else { cursor.at.minus(duration) };
        cursor.at = at.ok_or_else(|| too_fine(document))?;
        cursor.chord_onset = cursor.at;
        cursor.filled = cursor.filled.max(cursor.at);
        Ok(())
    }

    fn attributes(&mut self, document: &mut Document<'_>, cursor: &Cursor) -> Result<(), ReadError> {
        let mut written_key = None;
        while let Some(child) = document.xml.child()? {
            match child.name() {
                "divisions" => {
                    self.divisions = document.number("divisions")?;
                    if self.divisions.is_zero() {
                        return Err(document.fail("divisions must be above 0; export the score again"));
                    }
                }
                "key" => written_key = written_key.or(key(document)?),
                "time" => self.time = time(document)?.unwrap_or(self.time),
                "transpose" => self.transposition = Transposition::read(document)?,
                _ => document.xml.skip()?,
            }
        }
        if let Some(key) = written_key {
            self.key = KeySignature { fifths: self.transposition.sounding_fifths(key.fifths), ..key };
        }
        // The first part's signatures are the score's; a change inside a measure counts from the next one.
        let draft = &mut document.measures[cursor.index];
        if cursor.at.is_zero() && draft.defined_by(&self.part.id) {
            draft.measure.time = self.time;
            draft.measure.key = self.key;
        }
        Ok(())
    }

    /// Puts the notes on the score's time line.
    pub(super) fn finish(self, measures: &[Measure]) -> Part {
        let (last, reach) = self.written_until;
        let end =
            measures.get(last).zip(reach.ticks()).and_then(|(last, reach)| last.start.checked_add(reach));
        let placed = self.notes.into_iter().filter_map(|note| note.placed(measures));
        let mut part = Part { notes: placed.collect(), written_until: end.unwrap_or(0), ..self.part };
        part.notes.sort_by_key(|note| (note.onset, note.voice, note.pitch.midi));
        part
    }
}

pub(super) fn too_fine(document: &Document<'_>) -> ReadError {
    document.fail(
        "durations and divisions that do not fit together (too long or too fine); export the score again",
    )
}

fn barline(document: &mut Document<'_>, index: usize) -> Result<(), ReadError> {
    while let Some(child) = document.xml.child()? {
        if child.name() == "repeat" {
            let direction = document.xml.attribute(&child, "direction")?;
            let measure = &mut document.measures[index].measure;
            match direction.as_deref() {
                Some("forward") => measure.repeat_start = true,
                Some("backward") => measure.repeat_end = true,
                _ => {}
            }
        }
        document.xml.skip()?;
    }
    Ok(())
}

fn direction(document: &mut Document<'_>) -> Result<(), ReadError> {
    while let Some(child) = document.xml.child()? {
        match child.name() {
            "sound" => sound(document, &child)?,
            _ => document.xml.skip()?,
        }
    }
    Ok(())
}

/// The first tempo that the file gives is the score's.
fn sound(document: &mut Document<'_>, element: &Element<'_>) -> Result<(), ReadError> {
    let tempo = document.xml.attribute(element, "tempo")?;
    let tempo = tempo.and_then(|text| text.trim().parse::<f64>().ok());
    document.tempo = document.tempo.or(tempo.filter(|tempo| *tempo > 0.0 && *tempo < 10_000.0));
    document.xml.skip()
}

fn key(document: &mut Document<'_>) -> Result<Option<KeySignature>, ReadError> {
    let mut fifths = None;
    let mut mode = None;
    while let Some(child) = document.xml.child()? {
        match child.name() {
            "fifths" => {
                let text = document.xml.content()?;
                let number = text.parse::<i32>().ok().filter(|fifths| (-24..=24).contains(fifths));
                let number = number.ok_or_else(|| document.fail(format!("a key of {text:.20} fifths")))?;
                // Eight sharps and more have flats for a simpler name.
                let simple = if number.abs() > 7 { (number + 5).rem_euclid(12) - 5 } else { number };
                fifths = i8::try_from(simple).ok();
            }
            "mode" => {
                mode = match document.xml.content()?.as_str() {
                    "major" | "ionian" => Some(Mode::Major),
                    "minor" | "aeolian" => Some(Mode::Minor),
                    _ => None,
                };
            }
            _ => document.xml.skip()?,
        }
    }
    Ok(fifths.map(|fifths| KeySignature { fifths, mode }))
}

/// None where the music is said to have no metre.
fn time(document: &mut Document<'_>) -> Result<Option<(u32, u32)>, ReadError> {
    let mut beats = 0_u32;
    let mut beat_type = None;
    while let Some(child) = document.xml.child()? {
        let is_beats = child.name() == "beats";
        if !is_beats && child.name() != "beat-type" {
            document.xml.skip()?;
            continue;
        }
        let text = document.xml.content()?;
        let numbers = text.split('+').map(|number| number.trim().parse::<u32>().ok());
        let sum = numbers.sum::<Option<u32>>().filter(|sum| (1..=1024).contains(sum));
        let Some(sum) = sum else {
            return Err(document
                .fail(format!("a time signature with {text:.20}; whole numbers up to 1024 are known")));
        };
        if is_beats {
            beats = beats.saturating_add(sum).min(1024);
        } else {
            beat_type = beat_type.or(Some(sum));
        }
    }
    Ok(beat_type.filter(|_| beats > 0).map(|beat_type| (beats, beat_type)))
}
