//! Notes, chords and rests of one voice, as MusicXML.

use super::layout::Event;
use super::spelling;
use super::xml::{Xml, escape};
use crate::score::{Grace, Lyric, Markup, Note, NoteValue, Pitch};

/// Marks that have a place of their own before the notations.
const BEFORE_NOTATIONS: [&str; 2] = ["accidental", "notehead"];

/// Writes an event; `units` is its duration in divisions.
pub(super) fn write_event(xml: &mut Xml, event: &Event<'_>, voice: usize, units: &str) {
    let notation = match (event.notes.first(), event.rest) {
        (Some(note), _) => Some(&note.notation),
        (None, rest) => rest.map(|rest| &rest.notation),
    };
    let graces = |xml: &mut Xml, graces: &[Grace]| graces.iter().for_each(|g| write_grace(xml, g, voice));
    if let Some(notation) = notation.filter(|_| event.first) {
        graces(xml, &notation.graces);
    }
    if event.notes.is_empty() {
        write_rest(xml, event, voice, units, false);
    }
    for (index, note) in event.notes.iter().enumerate() {
        write_note(xml, event, (index, note), voice, units);
    }
    if let Some(notation) = notation.filter(|_| event.last) {
        graces(xml, &notation.graces_after);
    }
}

pub(super) fn write_rest(xml: &mut Xml, event: &Event<'_>, voice: usize, units: &str, whole_measure: bool) {
    let cue = event.rest.map_or(&[][..], |rest| &rest.cue);
    xml.open("note", printed(event.rest.is_some_and(|rest| rest.notation.hidden)));
    match cue.first() {
        Some(pitch) => write_cue(xml, *pitch, false),
        None => xml.line(if whole_measure { "<rest measure=\"yes\"/>" } else { "<rest/>" }),
    }
    xml.leaf("duration", units);
    xml.leaf("voice", &voice.to_string());
    let marks = event.rest.map_or(&[][..], |rest| &rest.notation.marks);
    if !whole_measure {
        write_type(xml, event.value.as_ref());
        write_modification(xml, event.value.as_ref());
    }
    let marks: Vec<&Markup> = marks.iter().filter(|mark| event.keeps(mark)).collect();
    write_notations(xml, event, (false, false), &marks, true);
    let lyrics = event.rest.filter(|_| event.first).map_or(&[][..], |rest| &rest.notation.lyrics);
    lyrics.iter().for_each(|lyric| write_lyric(xml, lyric));
    xml.close("note");
    for pitch in cue.iter().skip(1) {
        xml.open("note", "");
        write_cue(xml, *pitch, true);
        xml.leaf("duration", units);
        xml.leaf("voice", &voice.to_string());
        write_type(xml, event.value.as_ref());
        write_modification(xml, event.value.as_ref());
        xml.close("note");
    }
}

/// The attribute of what is not printed.
fn printed(hidden: bool) -> &'static str {
    if hidden { " print-object=\"no\"" } else { "" }
}

fn write_cue(xml: &mut Xml, pitch: Pitch, chord: bool) {
    xml.line("<cue/>");
    if chord {
        xml.line("<chord/>");
    }
    write_pitch(xml, pitch);
}

fn write_note(xml: &mut Xml, event: &Event<'_>, (index, note): (usize, &Note), voice: usize, units: &str) {
    xml.open("note", printed(note.notation.hidden));
    if index > 0 {
        xml.line("<chord/>");
    }
    write_pitch(xml, note.pitch);
    xml.leaf("duration", units);
    let ties = (!event.first || note.tie_from, !event.last || note.tie_to);
    write_ties(xml, ties);
    xml.leaf("voice", &voice.to_string());
    write_type(xml, event.value.as_ref());
    let marks: Vec<&Markup> = note.notation.marks.iter().filter(|mark| event.keeps(mark)).collect();
    write_marks_before(xml, &marks, "accidental");
    write_modification(xml, event.value.as_ref());
    write_marks_before(xml, &marks, "notehead");
    // Of a chord, the first note says it for all.
    let upright = Markup::new("fermata").with("type", "upright");
    let mut marks: Vec<&Markup> = marks.into_iter().filter(|mark| !is_before(mark)).collect();
    let has_shape = event.notes.iter().any(|note| note.notation.marks.iter().any(|m| m.name == "fermata"));
    if index == 0 && event.last && event.notes.iter().any(|note| note.fermata) && !has_shape {
        marks.push(&upright);
    }
    write_notations(xml, event, ties, &marks, index == 0);
    if event.first {
        note.notation.lyrics.iter().for_each(|lyric| write_lyric(xml, lyric));
    }
    xml.close("note");
}

impl Event<'_> {
    /// Whether a mark of the item belongs to this piece of it.
    fn keeps(&self, mark: &Markup) -> bool {
        match (mark.name.as_str(), mark.attribute("type")) {
            ("tuplet", _) => self.as_written,
            ("fermata", _) | ("slur" | "glissando" | "slide", Some("stop")) => self.last,
            _ => self.first,
        }
    }
}

fn is_before(mark: &Markup) -> bool {
    BEFORE_NOTATIONS.contains(&mark.name.as_str())
}

fn write_marks_before(xml: &mut Xml, marks: &[&Markup], name: &str) {
    marks.iter().filter(|mark| mark.name == name).for_each(|mark| xml.markup(mark));
}

fn write_grace(xml: &mut Xml, grace: &Grace, voice: usize) {
    xml.open("note", "");
    xml.line(if grace.slash { "<grace slash=\"yes\"/>" } else { "<grace/>" });
    if grace.chord {
        xml.line("<chord/>");
    }
    write_pitch(xml, grace.pitch);
    let ties = (grace.tie_from, grace.tie_to);
    write_ties(xml, ties);
    xml.leaf("voice", &voice.to_string());
    let eighth = NoteValue { name: "eighth".to_owned(), ..NoteValue::default() };
    let value = grace.value.as_ref().unwrap_or(&eighth);
    let marks: Vec<&Markup> = grace.marks.iter().collect();
    write_type(xml, Some(value));
    write_marks_before(xml, &marks, "accidental");
    write_modification(xml, Some(value));
    write_marks_before(xml, &marks, "notehead");
    let notations: Vec<&Markup> = marks.into_iter().filter(|mark| !is_before(mark)).collect();
    write_tied_and(xml, ties, &notations);
    xml.close("note");
}

fn write_pitch(xml: &mut Xml, pitch: Pitch) {
    const LETTERS: [&str; 7] = ["C", "D", "E", "F", "G", "A", "B"];
    xml.open("pitch", "");
    xml.leaf("step", LETTERS[usize::from(pitch.step % 7)]);
    if pitch.alter != 0 {
        xml.leaf("alter", &pitch.alter.to_string());
    }
    xml.leaf("octave", &spelling::octave(pitch).to_string());
    xml.close("pitch");
}

fn write_ties(xml: &mut Xml, (stop, start): (bool, bool)) {
    if stop {
        xml.line("<tie type=\"stop\"/>");
    }
    if start {
        xml.line("<tie type=\"start\"/>");
    }
}

fn write_type(xml: &mut Xml, value: Option<&NoteValue>) {
    let Some(value) = value else { return };
    xml.leaf("type", &value.name);
    for _ in 0..value.dots {
        xml.line("<dot/>");
    }
}

fn write_modification(xml: &mut Xml, value: Option<&NoteValue>) {
    let Some(tuplet) = value.and_then(|value| value.tuplet.as_ref()) else { return };
    xml.open("time-modification", "");
    xml.leaf("actual-notes", &tuplet.actual.to_string());
    xml.leaf("normal-notes", &tuplet.normal.to_string());
    if let Some(kind) = &tuplet.normal_type {
        xml.leaf("normal-type", kind);
    }
    xml.close("time-modification");
}

/// Ties and marks, and where the event has one a bracket of our own.
fn write_notations(xml: &mut Xml, event: &Event<'_>, ties: (bool, bool), marks: &[&Markup], brackets: bool) {
    let shown = if event.as_written { "no" } else { "yes" };
    let begin = Markup::new("tuplet").with("type", "start").with("bracket", shown);
    let end = Markup::new("tuplet").with("type", "stop");
    let mut marks = marks.to_vec();
    if brackets && event.bracket.0 {
        marks.push(&begin);
    }
    if brackets && event.bracket.1 {
        marks.push(&end);
    }
    write_tied_and(xml, ties, &marks);
}

fn write_tied_and(xml: &mut Xml, (stop, start): (bool, bool), marks: &[&Markup]) {
    if !stop && !start && marks.is_empty() {
        return;
    }
    xml.open("notations", "");
    if stop {
        xml.line("<tied type=\"stop\"/>");
    }
    if start {
        xml.line("<tied type=\"start\"/>");
    }
    marks.iter().for_each(|mark| xml.markup(mark));
    xml.close("notations");
}

fn write_lyric(xml: &mut Xml, lyric: &Lyric) {
    let name = lyric.name.as_ref().map_or(String::new(), |name| format!(" name=\"{}\"", escape(name)));
    xml.open("lyric", &format!(" number=\"{}\"{name}", escape(&lyric.verse)));
    for (index, syllable) in lyric.syllables.iter().enumerate() {
        if let (Some(sign), true) = (&syllable.elision, index > 0) {
            xml.leaf("elision", sign);
        }
        // Behind another syllable a place in the word is allowed after a sign only.
        if let Some(syllabic) = syllable.syllabic.filter(|_| index == 0 || syllable.elision.is_some()) {
            xml.leaf("syllabic", syllabic.name());
        }
        xml.leaf("text", &syllable.text);
    }
    match lyric.extend.as_deref() {
        Some("") => xml.line("<extend/>"),
        Some(kind) => xml.line(&format!("<extend type=\"{}\"/>", escape(kind))),
        None => {}
    }
    xml.close("lyric");
}
