//! A note of MusicXML as it is written, and its place on the time line.

use crate::score::{
    Grace, Lyric, Markup, Measure, NOTE_VALUES, Notation, Note, NoteValue, Pitch, Rest, TICKS_PER_QUARTER,
    Tuplet,
};

use super::ReadError;
use super::lyric::lyric;
use super::musicxml::Document;
use super::pitch::WrittenPitch;
use super::time::Quarters;
use super::xml::Element;

/// Verses of a note, at most.
const LYRICS_MAX: usize = 64;
/// Marks of a note, at most.
const MARKS_MAX: usize = 64;
/// What of `notations` is kept. Ties have fields of their own.
const KEPT: [&str; 12] = [
    "fermata",
    "tuplet",
    "slur",
    "articulations",
    "ornaments",
    "technical",
    "dynamics",
    "arpeggiate",
    "non-arpeggiate",
    "glissando",
    "slide",
    "accidental-mark",
];

/// A `note` element, as written.
#[derive(Default)]
pub(super) struct WrittenNote {
    pub(super) grace: bool,
    pub(super) slash: bool,
    pub(super) cue: bool,
    pub(super) chord: bool,
    pub(super) hidden: bool,
    pub(super) rest: bool,
    /// A rest for the whole measure.
    pub(super) whole_measure: bool,
    pub(super) unpitched: bool,
    /// None for rests and unpitched notes.
    pub(super) pitch: Option<WrittenPitch>,
    /// In divisions.
    pub(super) duration: Option<Quarters>,
    pub(super) voice: String,
    /// From 1, where it is named.
    pub(super) staff: Option<u8>,
    pub(super) tie_start: bool,
    pub(super) tie_stop: bool,
    pub(super) fermata: bool,
    pub(super) lyrics: Vec<Lyric>,
    pub(super) marks: Vec<Markup>,
    value: NoteValue,
}

impl WrittenNote {
    /// Reads the open `note` element to its end.
    pub(super) fn read(document: &mut Document<'_>, element: &Element<'_>) -> Result<Self, ReadError> {
        let hidden = document.xml.attribute(element, "print-object")?.as_deref() == Some("no");
        let mut note = Self { hidden, ..Self::default() };
        let mut tied = (false, false);
        let mut has_ties = false;
        while let Some(child) = document.xml.child()? {
            match child.name() {
                "pitch" => note.pitch = Some(WrittenPitch::read(document)?),
                "duration" => note.duration = Some(document.number("duration")?),
                "voice" => note.voice = document.xml.content()?,
                "staff" => note.staff = Some(staff(document)?),
                "type" => note.value.name = document.xml.content()?,
                "time-modification" => note.value.tuplet = tuplet(document)?,
                "notations" => note.notations(document, &mut tied)?,
                "accidental" | "notehead" => note.mark(document, &child)?,
                "lyric" if note.lyrics.len() < LYRICS_MAX => note.lyrics.extend(lyric(document, &child)?),
                "tie" => {
                    has_ties = true;
                    let kind = document.xml.attribute(&child, "type")?;
                    note.tie_start |= kind.as_deref() == Some("start");
                    note.tie_stop |= kind.as_deref() == Some("stop");
                    document.xml.skip()?;
                }
                name => {
                    note.grace |= name == "grace";
                    note.cue |= name == "cue";
                    note.chord |= name == "chord";
                    note.rest |= name == "rest";
                    note.unpitched |= name == "unpitched";
                    note.value.dots = note.value.dots.saturating_add(u8::from(name == "dot"));
                    let yes = |key: &str| Ok(document.xml.attribute(&child, key)?.as_deref() == Some("yes"));
                    note.slash |= name == "grace" && yes("slash")?;
                    note.whole_measure |= name == "rest" && yes("measure")?;
                    document.xml.skip()?;
                }
            }
        }
        // `tie` is what sounds, `tied` what is drawn; some programs write only the latter.
        if !has_ties {
            (note.tie_start, note.tie_stop) = tied;
        }
        Ok(note)
    }

    fn notations(&mut self, document: &mut Document<'_>, tied: &mut (bool, bool)) -> Result<(), ReadError> {
        while let Some(child) = document.xml.child()? {
            match child.name() {
                "tied" => {
                    let kind = document.xml.attribute(&child, "type")?;
                    tied.0 |= kind.as_deref() == Some("start");
                    tied.1 |= kind.as_deref() == Some("stop");
                    document.xml.skip()?;
                }
                name if KEPT.contains(&name) => {
                    self.fermata |= name == "fermata";
                    self.mark(document, &child)?;
                }
                _ => document.xml.skip()?,
            }
        }
        Ok(())
    }

    fn mark(&mut self, document: &mut Document<'_>, element: &Element<'_>) -> Result<(), ReadError> {
        if self.marks.len() >= MARKS_MAX {
            return document.xml.skip();
        }
        self.marks.push(document.xml.markup(element)?);
        Ok(())
    }

    /// What the note lasts exactly, if it says so: divisions that have no thirds round them, and so do programs.
    pub(super) fn unrounded(&self, counted: Quarters, divisions: Quarters) -> Quarters {
        let exact = || {
            let (actual, normal) = self.value.tuplet.as_ref().map_or((1, 1), |t| (t.actual, t.normal));
            let (_, plain) = NOTE_VALUES.iter().find(|(name, _)| *name == self.value.name)?;
            let dots = self.value.dots.min(8);
            let numerator = i128::from(*plain) * i128::from(normal) * ((2 << dots) - 1);
            Quarters::new(numerator, i128::from(TICKS_PER_QUARTER) * i128::from(actual) * (1 << dots))
        };
        let off = |exact: &Quarters| exact.minus(counted).max(counted.minus(*exact));
        let is_rounding = |exact: &Quarters| {
            let within = |share: Quarters| off(exact) <= exact.over(share);
            let less_than_a_division = off(exact) < Quarters::ONE.over(divisions);
            counted > Quarters::ZERO
                && (within(Quarters::SIXTY_FOUR) || less_than_a_division && within(Quarters::SIXTEEN))
        };
        exact().filter(is_rounding).unwrap_or(counted)
    }

    fn value(&self) -> Option<NoteValue> {
        Some(self.value.clone()).filter(|value| !value.name.is_empty())
    }

    /// How it is written, with the grace notes before it.
    pub(super) fn notation(&mut self, graces: Vec<Grace>) -> Notation {
        let value = self.value();
        let (lyrics, marks) = (std::mem::take(&mut self.lyrics), std::mem::take(&mut self.marks));
        Notation { value, lyrics, graces, graces_after: Vec::new(), marks, hidden: self.hidden }
    }

    /// As a grace note of that pitch.
    pub(super) fn into_grace(self, pitch: Pitch) -> Grace {
        let value = self.value();
        Grace {
            pitch,
            chord: self.chord,
            slash: self.slash,
            tie_from: self.tie_stop,
            tie_to: self.tie_start,
            value,
            marks: self.marks,
        }
    }
}

/// The open element's number of a staff; 1 where it has none.
pub(super) fn staff(document: &mut Document<'_>) -> Result<u8, ReadError> {
    Ok(document.xml.content()?.parse::<u8>().ok().filter(|staff| *staff > 0).unwrap_or(1))
}

fn tuplet(document: &mut Document<'_>) -> Result<Option<Tuplet>, ReadError> {
    let (mut actual, mut normal, mut normal_type) = (0, 0, None);
    let count = |text: String| text.parse::<u32>().ok().filter(|count| *count <= 1024).unwrap_or(0);
    while let Some(child) = document.xml.child()? {
        match child.name() {
            "actual-notes" => actual = count(document.xml.content()?),
            "normal-notes" => normal = count(document.xml.content()?),
            "normal-type" => normal_type = Some(document.xml.content()?),
            _ => document.xml.skip()?,
        }
    }
    Ok((actual > 0 && normal > 0).then_some(Tuplet { actual, normal, normal_type }))
}

/// A note or rest with its place in its measure.
pub(super) struct NoteDraft {
    pub(super) measure: usize,
    pub(super) onset: Quarters,
    pub(super) end: Quarters,
    /// None: a rest.
    pub(super) pitch: Option<Pitch>,
    /// Not for this part to play: a rest to it.
    pub(super) cue: bool,
    pub(super) voice: u8,
    pub(super) staff: u8,
    pub(super) tie_from: bool,
    pub(super) tie_to: bool,
    pub(super) fermata: bool,
    pub(super) whole_measure: bool,
    pub(super) notation: Notation,
}

/// What a draft comes to.
pub(super) enum Placed {
    Note(Note),
    Rest(Rest),
}

impl NoteDraft {
    /// On the time line; none where it is shorter than a tick. What is longer than its measure ends with it.
    pub(super) fn placed(self, measures: &[Measure]) -> Option<Placed> {
        let measure = measures.get(self.measure)?;
        let (onset, mut end) = (self.onset.ticks()?, self.end.ticks()?);
        let mut notation = self.notation;
        let Some(pitch) = self.pitch.filter(|_| !self.cue) else {
            if end > measure.duration {
                end = measure.duration;
                notation.value = None;
            }
            let duration = end.checked_sub(onset).filter(|duration| *duration > 0)?;
            let onset = measure.start.checked_add(onset)?;
            let (voice, measure) = (self.voice, self.whole_measure);
            let cue = self.pitch.into_iter().collect();
            return Some(Placed::Rest(Rest { onset, duration, voice, measure, cue, notation }));
        };
        Some(Placed::Note(Note {
            onset: measure.start.checked_add(onset)?,
            duration: end.min(measure.duration).checked_sub(onset).filter(|duration| *duration > 0)?,
            pitch,
            tie_from: self.tie_from,
            tie_to: self.tie_to,
            fermata: self.fermata,
            voice: self.voice,
            notation,
        }))
    }
}
