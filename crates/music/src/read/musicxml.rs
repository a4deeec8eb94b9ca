//! A MusicXML document: its head, its parts, measure by measure in either order, and the shared time line.

use std::collections::HashMap;

use crate::score::{Credit, Measure, Part, Score, Signatures, TICKS_PER_FRAME, TICKS_PER_QUARTER};

use super::direction::DirectionDraft;
use super::part::PartReader;
use super::time::Quarters;
use super::xml::{Element, Xml};
use super::{Place, ReadError};

const PARTS_MAX: usize = 1_000;
const CREDITS_MAX: usize = 100;
const MEASURES_MAX: usize = 100_000;
/// A day of music.
const TICKS_MAX: i64 = 100_000 * TICKS_PER_QUARTER;

/// What a part may be too long by mistake, in ticks: less than a sixteenth.
const SLIP_MAX: i64 = TICKS_PER_FRAME;

/// A measure while its parts are still being read.
pub(super) struct MeasureDraft {
    pub(super) measure: Measure,
    pub(super) directions: Vec<DirectionDraft>,
    /// How far the parts with notes fill it.
    notes: Reach,
    /// How far the parts that only rest do.
    rests: Reach,
    /// A part ends with the bar, and none begins a note behind it.
    full: bool,
    beyond: bool,
    /// The id of the part whose signatures are the measure's: the first to have it.
    defining_part: Option<String>,
}

/// How far parts fill a measure.
#[derive(Clone, Copy)]
struct Reach {
    /// With notes, rests and jumps forward.
    filled: Quarters,
    /// With notes and rests.
    sounded: Quarters,
}

const NO_REACH: Reach = Reach { filled: Quarters::ZERO, sounded: Quarters::ZERO };

impl MeasureDraft {
    /// One part's share of the measure: how far it fills it, without a jump forward at the end, and whether it has
    /// notes there.
    pub(super) fn reach(&mut self, filled: Quarters, sounded: Quarters, notes: bool) {
        let reach = if notes { &mut self.notes } else { &mut self.rests };
        *reach = Reach { filled: reach.filled.max(filled), sounded: reach.sounded.max(sounded) };
        self.full |= sounded.ticks() == Some(bar_ticks(self.measure.time));
    }

    /// Where in the measure a part's last note begins.
    pub(super) fn begins(&mut self, onset: Quarters) {
        self.beyond |= onset.ticks().is_none_or(|onset| onset >= bar_ticks(self.measure.time));
    }

    /// What the measure lasts, in ticks; none where that is beyond all measure.
    ///
    /// The longest part counts, unless it is a slip beyond a bar that another one fills: thirds that were rounded up, a
    /// hidden trill. But old Finale files fill up incomplete measures by a jump forward, which is no
    /// music; and a rest for a whole measure can be written longer than the measure is.
    fn ticks(&self, incomplete: bool) -> Option<i64> {
        let bar = bar_ticks(self.measure.time);
        let length = |reach: &Reach| match incomplete && !reach.sounded.is_zero() {
            true => reach.sounded.ticks(),
            false => reach.filled.ticks(),
        };
        let (mut notes, rests) = (length(&self.notes)?, length(&self.rests)?.min(bar));
        if self.full && !self.beyond && (bar..bar.saturating_add(SLIP_MAX)).contains(&notes) {
            notes = bar;
        }
        match (notes, rests) {
            (0, 0) => Some(bar),
            (0, rests) => Some(rests),
            (notes, _) if incomplete => Some(notes),
            (notes, rests) => Some(notes.max(rests)),
        }
    }

    fn finish(self) -> Measure {
        let mut measure = self.measure;
        let start = measure.start;
        let mut directions: Vec<_> =
            self.directions.into_iter().filter_map(|draft| draft.placed(start)).collect();
        directions.sort_by_key(|direction| direction.onset);
        measure.notation.directions = directions;
        measure
    }

    /// Whether that part's signatures are the measure's.
    pub(super) fn defined_by(&mut self, part: &str) -> bool {
        self.defining_part.get_or_insert_with(|| part.to_owned()) == part
    }
}

/// What is read so far.
pub(super) struct Document<'a> {
    pub(super) xml: Xml<'a>,
    pub(super) measures: Vec<MeasureDraft>,
    pub(super) tempo: Option<f64>,
    /// Whether there are notes without a pitch.
    pub(super) unpitched: bool,
    pub(super) place: Place,
    parts: Vec<PartReader>,
    part_indices: HashMap<String, usize>,
    score: Score,
}

/// Reads a document whose text is already decoded.
pub(super) fn read(text: &str, name: &str) -> Result<Score, ReadError> {
    let mut document = Document {
        xml: Xml::new(text, name),
        measures: Vec::new(),
        tempo: None,
        unpitched: false,
        place: Place::default(),
        parts: Vec::new(),
        part_indices: HashMap::new(),
        score: Score::default(),
    };
    let foreign = |kind, hint| Err(ReadError::NotMusicXml { name: name.to_owned(), kind, hint });
    let Some(root) = document.xml.root()? else {
        return foreign("XML without an element", "export the score as MusicXML");
    };
    match root.name() {
        "score-partwise" => document.body(Order::Partwise)?,
        "score-timewise" => document.body(Order::Timewise)?,
        "museScore" => return foreign("a MuseScore file", "in MuseScore: File > Export > MusicXML"),
        "opus" => return foreign("a MusicXML opus, a list of scores", "hand over its scores one by one"),
        "mei" => return foreign("an MEI file", "convert it to MusicXML, for example with Verovio"),
        _ => return foreign("XML, but not MusicXML", "export the score as MusicXML"),
    }
    document.finish()
}

#[derive(Clone, Copy, PartialEq)]
enum Order {
    /// Parts of measures.
    Partwise,
    /// Measures of parts.
    Timewise,
}

impl Document<'_> {
    /// An error here and now.
    pub(super) fn fail(&self, what: impl Into<String>) -> ReadError {
        let place = Place { line: self.xml.line(), ..self.place.clone() };
        ReadError::Music { name: self.xml.name().to_owned(), place, what: what.into() }
    }

    /// The number that the open element holds, reading to its end.
    pub(super) fn number(&mut self, what: &str) -> Result<Quarters, ReadError> {
        let text = self.xml.content()?;
        Quarters::parse(&text)
            .ok_or_else(|| self.fail(format!("{text:?} is no {what}; export the score again")))
    }

    fn body(&mut self, order: Order) -> Result<(), ReadError> {
        while let Some(child) = self.xml.child()? {
            match (child.name(), order) {
                ("work" | "identification" | "movement-title", _) => self.head(&child)?,
                ("part-list", _) => self.part_list()?,
                ("part", Order::Partwise) => self.part_of_measures(&child)?,
                ("measure", Order::Timewise) => self.measure_of_parts(&child)?,
                _ => self.xml.skip()?,
            }
        }
        Ok(())
    }

    fn head(&mut self, element: &Element<'_>) -> Result<(), ReadError> {
        if element.name() == "movement-title" {
            let title = self.xml.content()?;
            if !title.is_empty() && self.score.title.is_none() {
                self.score.title = Some(title);
            }
            return Ok(());
        }
        while let Some(child) = self.xml.child()? {
            match child.name() {
                "work-title" => {
                    self.score.title = Some(self.xml.content()?).filter(|title| !title.is_empty())
                }
                "creator" | "rights" => {
                    let kind = self.xml.attribute(&child, "type")?.unwrap_or_default();
                    let kind = if child.name() == "rights" { "rights".to_owned() } else { kind };
                    let name = self.xml.content()?;
                    self.credit(kind, name);
                }
                _ => self.xml.skip()?,
            }
        }
        Ok(())
    }

    fn credit(&mut self, kind: String, name: String) {
        if name.is_empty() {
            return;
        }
        if kind == "composer" {
            self.score.composer = Some(name);
        } else if self.score.credits.len() < CREDITS_MAX {
            self.score.credits.push(Credit { kind, name });
        }
    }

    fn part_list(&mut self) -> Result<(), ReadError> {
        while let Some(child) = self.xml.child()? {
            if child.name() != "score-part" {
                self.xml.skip()?;
                continue;
            }
            let id = self.xml.attribute(&child, "id")?.unwrap_or_default();
            let index = self.part_index(&id)?;
            while let Some(child) = self.xml.child()? {
                match child.name() {
                    "part-name" => self.parts[index].part.name = self.xml.content()?,
                    _ => self.xml.skip()?,
                }
            }
        }
        Ok(())
    }

    /// The part of that id, which is new if the list of parts did not have it.
    fn part_index(&mut self, id: &str) -> Result<usize, ReadError> {
        if let Some(index) = self.part_indices.get(id) {
            return Ok(*index);
        }
        if self.parts.len() >= PARTS_MAX {
            return Err(self.fail(format!("more than {PARTS_MAX} parts, which no score has")));
        }
        self.part_indices.insert(id.to_owned(), self.parts.len());
        self.parts.push(PartReader::new(id));
        Ok(self.parts.len() - 1)
    }

    fn part_of_measures(&mut self, element: &Element<'_>) -> Result<(), ReadError> {
        let index = self.enter_part(element)?;
        if self.parts[index].begun {
            return Err(self.fail("this part comes a second time; give each part an id of its own"));
        }
        let mut part = std::mem::replace(&mut self.parts[index], PartReader::new(""));
        part.begun = true;
        let mut measure = 0;
        while let Some(child) = self.xml.child()? {
            if child.name() == "measure" {
                self.enter_measure(&child, measure, part.signatures())?;
                part.measure(self, measure)?;
                measure += 1;
            } else {
                self.xml.skip()?;
            }
        }
        self.parts[index] = part;
        self.place = Place::default();
        Ok(())
    }

    fn measure_of_parts(&mut self, element: &Element<'_>) -> Result<(), ReadError> {
        let measure = self.measures.len();
        let signatures = self.parts.first().map(PartReader::signatures).unwrap_or_default();
        self.enter_measure(element, measure, signatures)?;
        while let Some(child) = self.xml.child()? {
            if child.name() == "part" {
                let index = self.enter_part(&child)?;
                self.measures[measure].defined_by(&self.parts[index].part.id);
                let mut part = std::mem::replace(&mut self.parts[index], PartReader::new(""));
                part.measure(self, measure)?;
                self.parts[index] = part;
            } else {
                self.xml.skip()?;
            }
        }
        self.place = Place::default();
        Ok(())
    }

    fn enter_part(&mut self, element: &Element<'_>) -> Result<usize, ReadError> {
        let id = self.xml.attribute(element, "id")?.unwrap_or_default();
        self.place.part = Some(id.clone());
        self.part_index(&id)
    }

    /// Begins a measure, which is new to the time line if no other part has as many.
    fn enter_measure(
        &mut self,
        element: &Element<'_>,
        index: usize,
        signatures: Signatures,
    ) -> Result<(), ReadError> {
        let number = self.xml.attribute(element, "number")?.unwrap_or_default();
        self.place.measure = Some(number.clone());
        if index < self.measures.len() {
            return Ok(());
        }
        if index >= MEASURES_MAX {
            return Err(self.fail(format!("more than {MEASURES_MAX} measures; cut the score into movements")));
        }
        let implicit = self.xml.attribute(element, "implicit")?.as_deref() == Some("yes");
        let mut draft = MeasureDraft {
            measure: Measure { number, duration: 0, implicit, ..Measure::default() },
            directions: Vec::new(),
            notes: NO_REACH,
            rests: NO_REACH,
            full: false,
            beyond: false,
            defining_part: self.place.part.clone(),
        };
        draft.measure.sign(signatures);
        self.measures.push(draft);
        Ok(())
    }

    /// Lays the measures out on one time line and moves every note to its place on it.
    fn finish(mut self) -> Result<Score, ReadError> {
        let last = self.measures.len().saturating_sub(1);
        let mut start = 0_i64;
        for (index, draft) in self.measures.iter_mut().enumerate() {
            draft.measure.start = start;
            let duration = draft.ticks(index == last || draft.measure.implicit).unwrap_or(i64::MAX);
            draft.measure.duration = duration;
            start = start.saturating_add(duration);
            if start > TICKS_MAX {
                let place = Place { measure: Some(draft.measure.number.clone()), ..Place::default() };
                let what =
                    "the score is more than 100000 quarter notes long; cut it into movements".to_owned();
                return Err(ReadError::Music { name: self.xml.name().to_owned(), place, what });
            }
        }
        let measures: Vec<Measure> = self.measures.into_iter().map(MeasureDraft::finish).collect();
        let parts: Vec<Part> = self.parts.into_iter().flat_map(|part| part.finish(&measures)).collect();
        if parts.iter().all(|part| part.notes.is_empty()) {
            if self.unpitched {
                return Err(ReadError::Percussion { name: self.xml.name().to_owned() });
            }
            return Err(ReadError::NoNotes { name: self.xml.name().to_owned() });
        }
        Ok(Score { parts, measures, tempo: self.tempo, ..self.score })
    }
}

/// What a full bar lasts; a whole note where that is not to be said.
fn bar_ticks((beats, beat_type): (u32, u32)) -> i64 {
    let ticks = i64::from(beats) * 4 * TICKS_PER_QUARTER;
    ticks.checked_div(i64::from(beat_type)).filter(|ticks| *ticks > 0).unwrap_or(4 * TICKS_PER_QUARTER)
}
