//! Directions and bar lines of MusicXML: what is kept of them, and whom they concern.

use crate::score::{Direction, Markup};

use super::ReadError;
use super::musicxml::Document;
use super::note::staff;
use super::time::Quarters;
use super::xml::Element;

/// Directions of a measure, at most: more is no music.
const DIRECTIONS_MAX: usize = 1_000;
/// What of `direction-type` is kept.
const KEPT: [&str; 10] = [
    "rehearsal",
    "segno",
    "coda",
    "words",
    "wedge",
    "dynamics",
    "dashes",
    "bracket",
    "metronome",
    "octave-shift",
];
/// What concerns all parts, in `direction-type` and as attributes of `sound`.
const FOR_ALL: [&str; 4] = ["rehearsal", "segno", "coda", "metronome"];
const JUMPS: [&str; 7] = ["tempo", "dacapo", "segno", "dalsegno", "coda", "tocoda", "fine"];
/// The same in words.
const JUMP_WORDS: [&str; 9] =
    ["d.c", "d.s", "d. c", "d. s", "da capo", "dal segno", "fine", "to coda", "al coda"];
/// Of a `sound`, beside the jumps.
const SOUND: [&str; 2] = ["forward-repeat", "dynamics"];

/// What a bar line says, in the order that MusicXML has it.
const BAR_LINE: [&str; 7] = ["bar-style", "wavy-line", "segno", "coda", "fermata", "ending", "repeat"];

/// A direction and its place in its measure.
pub(super) struct DirectionDraft {
    pub(super) at: Quarters,
    pub(super) staff: u8,
    pub(super) for_all: bool,
    pub(super) direction: Direction,
}

impl DirectionDraft {
    /// With its onset on the time line; none where that cannot be said.
    pub(super) fn placed(self, measure_start: i64) -> Option<Direction> {
        let onset = measure_start.checked_add(self.at.ticks()?)?;
        Some(Direction { onset, ..self.direction })
    }
}

/// Reads the open `direction` or `sound` element, which stands at `at`, to its end; none where nothing of it is kept.
pub(super) fn direction(
    document: &mut Document<'_>,
    element: &Element<'_>,
    at: Quarters,
    divisions: Quarters,
) -> Result<Option<DirectionDraft>, ReadError> {
    let mut draft = DirectionDraft { at, staff: 1, for_all: false, direction: Direction::default() };
    if element.name() == "sound" {
        let sound = document.xml.markup(element)?;
        let kept = draft.sound(sound);
        draft.direction.markup = kept;
        return Ok(draft.direction.markup.is_some().then_some(draft));
    }
    let mut markup = Markup::new("direction");
    for key in ["placement", "directive"] {
        if let Some(value) = document.xml.attribute(element, key)? {
            markup = markup.with(key, &value);
        }
    }
    let mut sounds = None;
    while let Some(child) = document.xml.child()? {
        match child.name() {
            "direction-type" => {
                let mut kind = document.xml.markup(&child)?;
                kind.children.retain(|child| KEPT.contains(&child.name.as_str()));
                if !kind.children.is_empty() {
                    markup.children.push(kind);
                }
            }
            "offset" => draft.at = shifted(at, &document.xml.content()?, divisions),
            "staff" => draft.staff = staff(document)?,
            "sound" => sounds = Some(document.xml.markup(&child)?),
            _ => document.xml.skip()?,
        }
    }
    draft.for_all = markup.children.iter().flat_map(|kind| &kind.children).any(is_for_all);
    draft.direction.tempo = markup.children.iter().find_map(metronome);
    let has_words = !markup.children.is_empty();
    let sounds = sounds.and_then(|sound| draft.sound(sound));
    draft.direction.markup = if has_words {
        markup.children.extend(sounds);
        Some(markup)
    } else {
        sounds
    };
    Ok(draft.direction.markup.is_some().then_some(draft))
}

impl DirectionDraft {
    /// What is kept of a `sound`.
    fn sound(&mut self, mut sound: Markup) -> Option<Markup> {
        sound.children.clear();
        sound.attributes.retain(|(key, _)| JUMPS.contains(&key.as_str()) || SOUND.contains(&key.as_str()));
        let is_loudness = |text: &str| text.trim().parse::<f64>().is_ok_and(|loudness| loudness >= 0.0);
        sound.attributes.retain(|(key, value)| key != "dynamics" || is_loudness(value));
        let tempo = sound.attribute("tempo").and_then(|text| text.trim().parse::<f64>().ok());
        let tempo = tempo.filter(|tempo| *tempo > 0.0 && *tempo < 10_000.0);
        if tempo.is_none() {
            sound.attributes.retain(|(key, _)| key != "tempo");
        }
        self.direction.tempo = tempo.or(self.direction.tempo);
        self.for_all |= sound.attributes.iter().any(|(key, _)| JUMPS.contains(&key.as_str()));
        (!sound.attributes.is_empty()).then_some(sound)
    }
}

fn is_for_all(kind: &Markup) -> bool {
    let words = kind.text.to_lowercase();
    FOR_ALL.contains(&kind.name.as_str())
        || (kind.name == "words" && JUMP_WORDS.iter().any(|jump| words.contains(jump)))
}

/// Quarter notes a minute by a metronome's mark.
fn metronome(kind: &Markup) -> Option<f64> {
    let metronome = kind.child("metronome")?;
    let per_minute = metronome.child("per-minute")?.text.parse::<f64>().ok()?;
    let quarters = match metronome.child("beat-unit")?.text.as_str() {
        "whole" => 4.0,
        "half" => 2.0,
        "quarter" => 1.0,
        "eighth" => 0.5,
        "16th" => 0.25,
        _ => return None,
    };
    let dotted = if metronome.child("beat-unit-dot").is_some() { 1.5 } else { 1.0 };
    Some(per_minute * quarters * dotted).filter(|tempo| *tempo > 0.0 && *tempo < 10_000.0)
}

/// A place moved by a number of divisions, forward or back.
fn shifted(at: Quarters, offset: &str, divisions: Quarters) -> Quarters {
    let (back, digits) = match offset.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, offset),
    };
    let by = Quarters::parse(digits).and_then(|by| by.over(divisions));
    let moved = by.and_then(|by| if back { at.minus(by) } else { at.plus(by) });
    moved.unwrap_or(at)
}

/// Notes something for the whole score, once.
pub(super) fn note_for_all(document: &mut Document<'_>, index: usize, draft: DirectionDraft) {
    let known = &mut document.measures[index].directions;
    let same = |other: &DirectionDraft| other.at == draft.at && other.direction == draft.direction;
    if known.len() < DIRECTIONS_MAX && !known.iter().any(same) {
        known.push(draft);
    }
}

/// Reads the open `barline` element, which stands at `at`, to its end.
pub(super) fn barline(
    document: &mut Document<'_>,
    element: &Element<'_>,
    index: usize,
    at: Quarters,
) -> Result<(), ReadError> {
    let line = styled(document.xml.markup(element)?);
    let repeat = line.child("repeat").and_then(|repeat| repeat.attribute("direction"));
    let measure = &mut document.measures[index].measure;
    // A repeat on the far side of a measure, as some programs write it, is the other measure's: it stays where it is.
    match (repeat, line.attribute("location")) {
        (Some("forward"), Some("left")) => measure.repeat_start = true,
        (Some("backward"), Some("right") | None) => measure.repeat_end = true,
        _ => {}
    }
    let side = match line.attribute("location") {
        Some("left") => &mut measure.notation.left,
        Some("middle") => {
            let direction = Direction { markup: Some(line), ..Direction::default() };
            note_for_all(document, index, DirectionDraft { at, staff: 1, for_all: true, direction });
            return Ok(());
        }
        _ => &mut measure.notation.right,
    };
    // Of several lines here the one that says most has it right: often only the first part has the endings.
    *side = Some(match side.take() {
        None => line,
        Some(known) if known.children.len() < line.children.len() => merged(line, known),
        Some(known) => merged(known, line),
    });
    Ok(())
}

/// A bar line with a style: what says none is taken for what its repeat needs, else for a plain one.
fn styled(mut line: Markup) -> Markup {
    if line.child("bar-style").is_none() {
        let style = match line.child("repeat").and_then(|repeat| repeat.attribute("direction")) {
            Some("forward") => "heavy-light",
            Some(_) => "light-heavy",
            None => "regular",
        };
        line.children.insert(0, Markup { text: style.to_owned(), ..Markup::new("bar-style") });
    }
    line
}

/// A bar line with what another one in the same place says beside it.
fn merged(mut line: Markup, other: Markup) -> Markup {
    let new: Vec<Markup> =
        other.children.into_iter().filter(|child| line.child(&child.name).is_none()).collect();
    line.children.extend(new);
    line.children.sort_by_key(|child| BAR_LINE.iter().position(|name| *name == child.name));
    line
}
