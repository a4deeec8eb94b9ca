//! MusicXML 4.0, partwise, as `music21`, MuseScore and our own reader take it.

use super::cut;
use super::layout::{self, Event, Item};
use super::note::{write_event, write_rest};
use super::xml::{Xml, escape};
use crate::score::{Clef, Direction, KeySignature, Markup, Measure, Mode, Part, Score, TICKS_PER_QUARTER};

/// General MIDI's "Choir Aahs", from 1.
const CHOIR: u8 = 53;

/// The score as an uncompressed MusicXML document. Parts keep their names; notes are split at bar lines and where
/// they have no written value, with ties; gaps become rests; pickups, repeats, fermatas, words, marks, keys, metres
/// and tempi are kept. Pitches are written as they are spelled, and as they sound.
#[must_use]
pub fn write_musicxml(score: &Score) -> String {
    let measures = layout::measures(score);
    let mut xml = Xml::new();
    xml.line("<?xml version=\"1.0\" encoding=\"UTF-8\"?>");
    xml.line(
        "<!DOCTYPE score-partwise PUBLIC \"-//Recordare//DTD MusicXML 4.0 Partwise//EN\" \
         \"http://www.musicxml.org/dtds/partwise.dtd\">",
    );
    xml.open("score-partwise", " version=\"4.0\"");
    header(&mut xml, score);
    for (i, part) in score.parts.iter().enumerate() {
        xml.open("part", &format!(" id=\"P{}\"", i + 1));
        write_part(&mut xml, score, part, &measures, i == 0);
        xml.close("part");
    }
    xml.close("score-partwise");
    xml.out
}

fn header(xml: &mut Xml, score: &Score) {
    if let Some(title) = &score.title {
        xml.open("work", "");
        xml.leaf("work-title", title);
        xml.close("work");
        xml.leaf("movement-title", title);
    }
    xml.open("identification", "");
    if let Some(composer) = &score.composer {
        xml.line(&format!("<creator type=\"composer\">{}</creator>", escape(composer)));
    }
    let (rights, creators): (Vec<_>, Vec<_>) =
        score.credits.iter().partition(|credit| credit.kind == "rights");
    for credit in creators {
        let (kind, name) = (escape(&credit.kind), escape(&credit.name));
        xml.line(&format!("<creator type=\"{kind}\">{name}</creator>"));
    }
    rights.iter().for_each(|credit| xml.leaf("rights", &credit.name));
    xml.open("encoding", "");
    xml.leaf("software", concat!("kapell ", env!("CARGO_PKG_VERSION")));
    xml.close("encoding");
    xml.close("identification");
    part_list(xml, score);
}

fn part_list(xml: &mut Xml, score: &Score) {
    let is_choir = score.parts.iter().map(|part| part.name.as_str()).eq(["Soprano", "Alto", "Tenor", "Bass"]);
    xml.open("part-list", "");
    if is_choir {
        xml.line("<part-group type=\"start\" number=\"1\"><group-symbol>bracket</group-symbol></part-group>");
    }
    for (i, part) in score.parts.iter().enumerate() {
        xml.open("score-part", &format!(" id=\"P{}\"", i + 1));
        xml.leaf("part-name", &part.name);
        if is_choir {
            xml.leaf("part-abbreviation", &format!("{}.", &part.name[..1]));
            let instrument = format!("P{}-I1", i + 1);
            xml.open("score-instrument", &format!(" id=\"{instrument}\""));
            xml.leaf("instrument-name", &part.name);
            xml.close("score-instrument");
            xml.open("midi-instrument", &format!(" id=\"{instrument}\""));
            xml.leaf("midi-channel", &(i + 1).to_string());
            xml.leaf("midi-program", &CHOIR.to_string());
            xml.close("midi-instrument");
        }
        xml.close("score-part");
    }
    if is_choir {
        xml.line("<part-group type=\"stop\" number=\"1\"/>");
    }
    xml.close("part-list");
}

/// A part on its way through the measures.
struct PartWriter<'a> {
    part: &'a Part,
    lines: Vec<Vec<Item<'a>>>,
    divisions: i64,
    is_first: bool,
    /// Directions and clefs of the part that are still to come.
    directions: std::slice::Iter<'a, Direction>,
    clefs: std::slice::Iter<'a, Clef>,
    /// Whether a tempo was written: later ones without a sign are only heard.
    has_tempo: bool,
}

fn write_part(xml: &mut Xml, score: &Score, part: &Part, measures: &[Measure], is_first: bool) {
    let lines = layout::lines(part);
    let divisions = divisions(&lines, score, measures);
    let (directions, clefs) = (part.directions.iter(), part.clefs.iter());
    let mut writer = PartWriter { part, lines, divisions, is_first, directions, clefs, has_tempo: false };
    let said = measures.iter().any(|m| m.notation.directions.iter().any(|d| d.tempo.is_some()));
    for (i, measure) in measures.iter().enumerate() {
        let implicit = if measure.implicit { " implicit=\"yes\"" } else { "" };
        xml.open("measure", &format!(" number=\"{}\"{implicit}", escape(&measure.number)));
        let before = i.checked_sub(1).map(|before| &measures[before]);
        writer.attributes(xml, measure, before);
        if let (0, true, false, Some(tempo)) = (i, is_first, said, score.tempo) {
            write_tempo(xml, tempo);
        }
        barline_left(xml, measure);
        writer.measure(xml, measure, i + 1 == measures.len());
        barline_right(xml, measure, i + 1 == measures.len());
        xml.close("measure");
    }
}

/// The fewest divisions of a quarter that make everything that is written a whole number of them.
fn divisions(lines: &[Vec<Item<'_>>], score: &Score, measures: &[Measure]) -> i64 {
    let pieces = lines.iter().flat_map(|line| {
        let sounding = measures.iter().filter(|measure| !layout::is_empty(line, measure));
        sounding.flat_map(|measure| layout::events(line, measure)).map(|event| event.duration)
    });
    let of_measures = measures.iter().flat_map(|measure| {
        let directions = measure.notation.directions.iter();
        directions.map(|direction| direction.onset - measure.start).chain([measure.duration])
    });
    let of_parts = score.parts.iter().flat_map(|part| part.directions.iter().map(|d| d.onset));
    let common = of_measures.chain(of_parts).chain(pieces).fold(TICKS_PER_QUARTER, gcd);
    TICKS_PER_QUARTER / common.max(1)
}

fn gcd(a: i64, b: i64) -> i64 {
    if b == 0 { a.saturating_abs() } else { gcd(b, a % b) }
}

impl<'a> PartWriter<'a> {
    fn units(&self, ticks: i64) -> String {
        (i128::from(ticks) * i128::from(self.divisions) / i128::from(TICKS_PER_QUARTER)).to_string()
    }

    fn attributes(&mut self, xml: &mut Xml, measure: &Measure, before: Option<&Measure>) {
        let here = self.part.signatures_in(measure);
        let key = key_markup(here.key, here.mode.as_deref());
        let known = before.map(|before| (before, self.part.signatures_in(before)));
        let new_key = known.as_ref().is_none_or(|(before, known)| {
            // A change inside the measure before may have said it already.
            let inside = before.notation.directions.iter().rev().filter_map(|d| d.markup.as_ref());
            match { inside }.find_map(|markup| markup.child("key")) {
                Some(said) => *said != key,
                None => (known.key, &known.mode) != (here.key, &here.mode),
            }
        });
        let new_time =
            known.is_none_or(|(_, known)| (known.time, &known.time_markup) != (here.time, &here.time_markup));
        let mut clef = None;
        while let Some(next) = self.clefs.as_slice().first().filter(|clef| clef.onset <= measure.start) {
            (clef, _) = (Some(next), self.clefs.next());
        }
        if !new_key && !new_time && clef.is_none() {
            return;
        }
        xml.open("attributes", "");
        if before.is_none() {
            xml.leaf("divisions", &self.divisions.to_string());
        }
        if new_key {
            xml.markup(&key);
        }
        match &here.time_markup {
            _ if !new_time => {}
            Some(time) => xml.markup(time),
            None => {
                xml.open("time", "");
                xml.leaf("beats", &here.time.0.to_string());
                xml.leaf("beat-type", &here.time.1.to_string());
                xml.close("time");
            }
        }
        match clef {
            Some(clef) => write_clef(xml, clef),
            None if before.is_none() => write_clef(xml, &usual_clef(self.part)),
            None => {}
        }
        xml.close("attributes");
    }

    /// What of the measure is between its bar lines.
    fn measure(&mut self, xml: &mut Xml, measure: &Measure, is_last: bool) {
        let nothing = Vec::new();
        let lines = std::mem::take(&mut self.lines);
        let first = lines.first().unwrap_or(&nothing);
        let mut signs = self.signs(measure, is_last);
        self.line(xml, (1, first), measure, &mut signs);
        for (line, number) in lines.iter().skip(1).zip(2..) {
            self.line(xml, (number, line), measure, &mut Vec::new());
        }
        self.lines = lines;
    }

    /// What stands beside the measure's notes, in order, the first one last.
    fn signs(&mut self, measure: &Measure, is_last: bool) -> Vec<Sign> {
        let end = measure.start + measure.duration;
        let here = |onset: i64| onset < end || is_last;
        let mut signs: Vec<Sign> = Vec::new();
        for direction in &measure.notation.directions {
            let for_all = direction.markup.as_ref().is_some_and(|markup| markup.contains("key"))
                || direction.markup.as_ref().is_some_and(|markup| markup.name == "barline");
            if self.is_first || for_all {
                signs.push(Sign::Direction(direction.clone()));
            }
        }
        while let Some(direction) = self.directions.as_slice().first().filter(|d| here(d.onset)) {
            signs.push(Sign::Direction(direction.clone()));
            self.directions.next();
        }
        while let Some(clef) = self.clefs.as_slice().first().filter(|clef| here(clef.onset)) {
            signs.push(Sign::Clef(clef.clone()));
            self.clefs.next();
        }
        signs.sort_by_key(|sign| std::cmp::Reverse(sign.onset()));
        // Of one instant, the order was the wrong way round.
        signs.chunk_by_mut(|a, b| a.onset() == b.onset()).for_each(<[Sign]>::reverse);
        signs
    }

    fn line(
        &mut self,
        xml: &mut Xml,
        (number, line): (usize, &[Item<'_>]),
        measure: &Measure,
        signs: &mut Vec<Sign>,
    ) {
        if number > 1 && layout::is_empty(line, measure) {
            return;
        }
        let events = layout::events(line, measure);
        let silent = events.iter().all(|event| event.notes.is_empty());
        let marked =
            events.iter().any(|event| event.rest.is_some_and(|rest| !rest.notation.marks.is_empty()));
        if silent && number > 1 && !marked {
            return;
        }
        if number > 1 {
            let back = self.units(measure.duration);
            xml.line(&format!("<backup><duration>{back}</duration></backup>"));
        }
        // Readers stretch a measure's rest to what the time signature says: a shorter measure gets plain rests.
        let gap = events.iter().all(|event| event.notes.is_empty() && event.rest.is_none());
        let written = events.iter().any(|event| event.rest.is_some_and(|rest| rest.measure));
        let whole = silent && (gap || (written && events.len() == 1));
        if whole && measure.duration == cut::full(measure.time) {
            let whole = Event { duration: measure.duration, ..events[0].clone() };
            self.signs_until(xml, signs, i64::MAX, measure.start);
            write_rest(xml, &whole, number, &self.units(measure.duration), true);
            return;
        }
        for event in &events {
            let units = self.units(event.duration);
            self.signs_until(xml, signs, event.onset + event.duration, event.onset);
            if event.notes.is_empty() && event.rest.is_none() && number > 1 {
                xml.line(&format!("<forward><duration>{units}</duration></forward>"));
            } else {
                write_event(xml, event, number, &units);
            }
        }
        self.signs_until(xml, signs, i64::MAX, measure.start + measure.duration);
    }

    /// Writes the signs before `end`; `now` is where the notes have come to.
    fn signs_until(&mut self, xml: &mut Xml, signs: &mut Vec<Sign>, end: i64, now: i64) {
        while let Some(sign) = signs.pop_if(|sign| sign.onset() < end) {
            match sign {
                Sign::Clef(clef) => {
                    xml.open("attributes", "");
                    write_clef(xml, &clef);
                    xml.close("attributes");
                }
                Sign::Direction(direction) => self.direction(xml, &direction, now),
            }
        }
    }

    fn direction(&mut self, xml: &mut Xml, direction: &Direction, now: i64) {
        match (&direction.markup, direction.tempo) {
            (Some(markup), _) => {
                let offset = direction.onset - now;
                xml.markup(&if offset == 0 { markup.clone() } else { self.moved(markup, offset) });
            }
            (None, Some(tempo)) if !self.has_tempo => write_tempo(xml, tempo),
            (None, Some(tempo)) => xml.line(&format!("<sound tempo=\"{tempo}\"/>")),
            (None, None) => {}
        }
        self.has_tempo |= direction.tempo.is_some();
    }

    /// A direction that stands inside a note: with its distance from where that begins.
    fn moved(&self, markup: &Markup, offset: i64) -> Markup {
        let mut markup = markup.clone();
        if markup.name == "direction" {
            let at = markup.children.iter().rposition(|child| child.name == "direction-type");
            let text = self.units(offset);
            markup.children.insert(at.map_or(0, |at| at + 1), Markup { text, ..Markup::new("offset") });
        }
        markup
    }
}

/// Something beside the notes.
enum Sign {
    Direction(Direction),
    Clef(Clef),
}

impl Sign {
    fn onset(&self) -> i64 {
        match self {
            Self::Direction(direction) => direction.onset,
            Self::Clef(clef) => clef.onset,
        }
    }
}

/// A key signature; `mode` is its mode's name where that is neither major nor minor.
pub(crate) fn key_markup(key: KeySignature, mode: Option<&str>) -> Markup {
    let leaf = |name: &str, text: &str| Markup { text: text.to_owned(), ..Markup::new(name) };
    let mut children = vec![leaf("fifths", &key.fifths.to_string())];
    let mode = mode.or(match key.mode {
        Some(Mode::Major) => Some("major"),
        Some(Mode::Minor) => Some("minor"),
        None => None,
    });
    children.extend(mode.map(|mode| leaf("mode", mode)));
    Markup { children, ..Markup::new("key") }
}

/// Treble for high parts, bass for low ones, treble an octave down for a tenor.
fn usual_clef(part: &Part) -> Clef {
    let count = i64::try_from(part.notes.len()).unwrap_or(1).max(1);
    let mean = part.notes.iter().map(|n| i64::from(n.pitch.midi)).sum::<i64>() / count;
    let is_called = |name: &str| part.name.to_lowercase().starts_with(name);
    let is_high = (mean >= 58 || part.notes.is_empty() || is_called("alto")) && !is_called("bass");
    let (sign, line) = if is_called("tenor") || is_high { ("G", 2) } else { ("F", 4) };
    let octaves = if is_called("tenor") { -1 } else { 0 };
    Clef { onset: 0, sign: sign.to_owned(), line: Some(line), octaves }
}

fn write_clef(xml: &mut Xml, clef: &Clef) {
    xml.open("clef", "");
    xml.leaf("sign", &clef.sign);
    if let Some(line) = clef.line {
        xml.leaf("line", &line.to_string());
    }
    if clef.octaves != 0 {
        xml.leaf("clef-octave-change", &clef.octaves.to_string());
    }
    xml.close("clef");
}

fn write_tempo(xml: &mut Xml, tempo: f64) {
    if !tempo.is_finite() || tempo <= 0.0 {
        return;
    }
    xml.open("direction", " placement=\"above\"");
    xml.line(&format!(
        "<direction-type><metronome><beat-unit>quarter</beat-unit><per-minute>{tempo}</per-minute></metronome>\
         </direction-type>"
    ));
    xml.line(&format!("<sound tempo=\"{tempo}\"/>"));
    xml.close("direction");
}

fn barline_left(xml: &mut Xml, measure: &Measure) {
    match &measure.notation.left {
        Some(line) => xml.markup(line),
        None if measure.repeat_start => write_barline(xml, "left", "heavy-light", Some("forward")),
        None => {}
    }
}

/// An ending's stop has an element of its own: LilyPond's musicxml2ly takes a repeat beside it for a part of the ending.
fn barline_right(xml: &mut Xml, measure: &Measure, is_last: bool) {
    match &measure.notation.right {
        Some(line) if line.child("ending").is_some() && line.child("repeat").is_some() => {
            for other in ["repeat", "ending"] {
                let mut line = line.clone();
                line.children.retain(|child| child.name != other);
                xml.markup(&line);
            }
        }
        Some(line) => xml.markup(line),
        None if measure.repeat_end => write_barline(xml, "right", "light-heavy", Some("backward")),
        None if is_last => write_barline(xml, "right", "light-heavy", None),
        None => {}
    }
}

fn write_barline(xml: &mut Xml, location: &str, style: &str, repeat: Option<&str>) {
    xml.open("barline", &format!(" location=\"{location}\""));
    xml.leaf("bar-style", style);
    if let Some(direction) = repeat {
        xml.line(&format!("<repeat direction=\"{direction}\"/>"));
    }
    xml.close("barline");
}
