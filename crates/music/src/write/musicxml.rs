//! MusicXML 4.0, partwise, as `music21`, MuseScore and our own reader take it.

use super::layout::{self, Event, Sung};
use super::spelling;
use crate::score::{KeySignature, Measure, Mode, Note, Part, Score, TICKS_PER_QUARTER};

/// The score as an uncompressed MusicXML document. Parts keep their names; notes are split at bar lines and
/// into writable values, with ties; gaps become rests; pickups, repeats, fermatas, words, keys, metres and the
/// tempo are kept. Pitches are written as they are spelled.
#[must_use]
pub fn write_musicxml(score: &Score) -> String {
    let measures = layout::measures(score);
    let mut xml = Xml { out: String::new(), depth: 0 };
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
    xml.open("encoding", "");
    xml.leaf("software", concat!("kapell ", env!("CARGO_PKG_VERSION")));
    xml.close("encoding");
    xml.close("identification");
    xml.open("part-list", "");
    for (i, part) in score.parts.iter().enumerate() {
        xml.open("score-part", &format!(" id=\"P{}\"", i + 1));
        xml.leaf("part-name", &part.name);
        xml.close("score-part");
    }
    xml.close("part-list");
}

fn write_part(xml: &mut Xml, score: &Score, part: &Part, measures: &[Measure], is_first_part: bool) {
    let lines = layout::lines(part);
    let divisions = divisions(&lines, measures);
    for (i, measure) in measures.iter().enumerate() {
        let implicit = if measure.implicit { " implicit=\"yes\"" } else { "" };
        xml.open("measure", &format!(" number=\"{}\"{implicit}", escape(&measure.number)));
        let before = i.checked_sub(1).map(|b| &measures[b]);
        attributes(xml, part, measure, before, divisions);
        if let (0, true, Some(tempo)) = (i, is_first_part, score.tempo) {
            write_tempo(xml, tempo);
        }
        if measure.repeat_start {
            write_barline(xml, "left", "heavy-light", Some("forward"));
        }
        write_lines(xml, &lines, measure, divisions);
        if measure.repeat_end {
            write_barline(xml, "right", "light-heavy", Some("backward"));
        } else if i + 1 == measures.len() {
            write_barline(xml, "right", "light-heavy", None);
        }
        xml.close("measure");
    }
}

/// The fewest divisions of a quarter that make everything that is written a whole number of them.
fn divisions(lines: &[Vec<Vec<&Note>>], measures: &[Measure]) -> i64 {
    let pieces = lines.iter().flat_map(|line| {
        measures.iter().flat_map(|measure| layout::events(line, measure)).map(|event| event.duration)
    });
    let common = measures.iter().map(|measure| measure.duration).chain(pieces).fold(TICKS_PER_QUARTER, gcd);
    TICKS_PER_QUARTER / common.max(1)
}

fn gcd(a: i64, b: i64) -> i64 {
    if b == 0 { a.abs() } else { gcd(b, a % b) }
}

fn attributes(xml: &mut Xml, part: &Part, measure: &Measure, before: Option<&Measure>, divisions: i64) {
    let new_key = before.is_none_or(|b| b.key != measure.key);
    let new_time = before.is_none_or(|b| b.time != measure.time);
    if !new_key && !new_time {
        return;
    }
    xml.open("attributes", "");
    if before.is_none() {
        xml.leaf("divisions", &divisions.to_string());
    }
    if new_key {
        write_key(xml, measure.key);
    }
    if new_time {
        xml.open("time", "");
        xml.leaf("beats", &measure.time.0.to_string());
        xml.leaf("beat-type", &measure.time.1.to_string());
        xml.close("time");
    }
    if before.is_none() {
        write_clef(xml, part);
    }
    xml.close("attributes");
}

fn write_key(xml: &mut Xml, key: KeySignature) {
    xml.open("key", "");
    xml.leaf("fifths", &key.fifths.to_string());
    match key.mode {
        Some(Mode::Major) => xml.leaf("mode", "major"),
        Some(Mode::Minor) => xml.leaf("mode", "minor"),
        None => {}
    }
    xml.close("key");
}

/// Treble for high parts, bass for low ones, treble an octave down for a tenor.
fn write_clef(xml: &mut Xml, part: &Part) {
    let count = i64::try_from(part.notes.len()).unwrap_or(1).max(1);
    let mean = part.notes.iter().map(|n| i64::from(n.pitch.midi)).sum::<i64>() / count;
    let is_tenor = part.name.to_lowercase().starts_with("tenor");
    let (sign, line) = if is_tenor || mean >= 58 || part.notes.is_empty() { ("G", "2") } else { ("F", "4") };
    xml.open("clef", "");
    xml.leaf("sign", sign);
    xml.leaf("line", line);
    if is_tenor {
        xml.leaf("clef-octave-change", "-1");
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

fn write_barline(xml: &mut Xml, location: &str, style: &str, repeat: Option<&str>) {
    xml.open("barline", &format!(" location=\"{location}\""));
    xml.leaf("bar-style", style);
    if let Some(direction) = repeat {
        xml.line(&format!("<repeat direction=\"{direction}\"/>"));
    }
    xml.close("barline");
}

fn write_lines(xml: &mut Xml, lines: &[Vec<Vec<&Note>>], measure: &Measure, divisions: i64) {
    let units = |ticks: i64| (ticks * divisions / TICKS_PER_QUARTER).to_string();
    let nothing = Vec::new();
    let first = lines.first().unwrap_or(&nothing);
    let others = lines.iter().skip(1).enumerate().map(|(i, line)| (i + 2, line));
    for (number, line) in std::iter::once((1, first)).chain(others) {
        let events = layout::events(line, measure);
        let silent = events.iter().all(|event| event.notes.is_empty());
        if silent && number > 1 {
            continue;
        }
        if number > 1 {
            xml.line(&format!("<backup><duration>{}</duration></backup>", units(measure.duration)));
        }
        // Readers stretch a measure's rest to what the time signature says: a shorter measure gets plain rests.
        if silent && measure.duration == layout::full(measure.time) {
            xml.open("note", "");
            xml.line("<rest measure=\"yes\"/>");
            xml.leaf("duration", &units(measure.duration));
            xml.leaf("voice", &number.to_string());
            xml.close("note");
            continue;
        }
        for event in &events {
            write_event(xml, event, number, &units(event.duration));
        }
    }
}

fn write_event(xml: &mut Xml, event: &Event<'_>, voice: usize, units: &str) {
    if event.notes.is_empty() {
        xml.open("note", "");
        xml.line("<rest/>");
        xml.leaf("duration", units);
        xml.leaf("voice", &voice.to_string());
        write_value(xml, event.duration);
        xml.close("note");
        return;
    }
    for (i, sung) in event.notes.iter().enumerate() {
        xml.open("note", "");
        if i > 0 {
            xml.line("<chord/>");
        }
        write_pitch(xml, sung.note);
        xml.leaf("duration", units);
        if sung.tie_stop {
            xml.line("<tie type=\"stop\"/>");
        }
        if sung.tie_start {
            xml.line("<tie type=\"start\"/>");
        }
        xml.leaf("voice", &voice.to_string());
        write_value(xml, event.duration);
        write_notations(xml, sung);
        if let (true, Some(lyric)) = (sung.first, &sung.note.lyric) {
            xml.line(&format!("<lyric><syllabic>single</syllabic><text>{}</text></lyric>", escape(lyric)));
        }
        xml.close("note");
    }
}

fn write_pitch(xml: &mut Xml, note: &Note) {
    const LETTERS: [&str; 7] = ["C", "D", "E", "F", "G", "A", "B"];
    xml.open("pitch", "");
    xml.leaf("step", LETTERS[usize::from(note.pitch.step % 7)]);
    if note.pitch.alter != 0 {
        xml.leaf("alter", &note.pitch.alter.to_string());
    }
    xml.leaf("octave", &spelling::octave(note.pitch).to_string());
    xml.close("pitch");
}

fn write_value(xml: &mut Xml, ticks: i64) {
    let Some(value) = layout::value(ticks) else {
        return;
    };
    xml.leaf("type", value.name);
    for _ in 0..value.dots {
        xml.line("<dot/>");
    }
    if let Some((actual, normal)) = value.tuplet {
        xml.open("time-modification", "");
        xml.leaf("actual-notes", &actual.to_string());
        xml.leaf("normal-notes", &normal.to_string());
        xml.close("time-modification");
    }
}

fn write_notations(xml: &mut Xml, sung: &Sung<'_>) {
    let fermata = sung.note.fermata && sung.last;
    if !sung.tie_stop && !sung.tie_start && !fermata {
        return;
    }
    xml.open("notations", "");
    if sung.tie_stop {
        xml.line("<tied type=\"stop\"/>");
    }
    if sung.tie_start {
        xml.line("<tied type=\"start\"/>");
    }
    if fermata {
        xml.line("<fermata type=\"upright\"/>");
    }
    xml.close("notations");
}

/// Text as XML content or attribute; characters that XML cannot hold are dropped.
fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            c if c.is_whitespace() => out.push(' '),
            '\u{fffe}' | '\u{ffff}' => {}
            c if c.is_control() => {}
            c => out.push(c),
        }
    }
    out
}

/// Indented output, one element a line.
struct Xml {
    out: String,
    depth: usize,
}

impl Xml {
    fn line(&mut self, text: &str) {
        self.out.push_str(&"  ".repeat(self.depth));
        self.out.push_str(text);
        self.out.push('\n');
    }

    fn open(&mut self, name: &str, attributes: &str) {
        self.line(&format!("<{name}{attributes}>"));
        self.depth += 1;
    }

    fn close(&mut self, name: &str) {
        self.depth = self.depth.saturating_sub(1);
        self.line(&format!("</{name}>"));
    }

    fn leaf(&mut self, name: &str, text: &str) {
        self.line(&format!("<{name}>{}</{name}>", escape(text)));
    }
}
