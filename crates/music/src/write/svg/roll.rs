//! The grid of one system and the notes on it.

use super::{LEFT, ROW, line, text};
use crate::score::{KeySignature, Measure, Note, Part, Pitch, Score, TICKS_PER_QUARTER};
use crate::write::spelling::spell;
use crate::write::xml::escape;

/// Rows beyond the highest and lowest note.
const AIR: u8 = 1;
const LETTERS: [&str; 4] = ["S", "A", "T", "B"];
/// What two notes of one pitch are inset by, one within the other.
const INSET: f64 = 1.7;

/// All notes of a score, and the rows that they need.
pub(super) struct Roll {
    notes: Vec<Bar>,
    /// Onset and syllable.
    pub(super) words: Vec<(i64, String)>,
    /// Onset and end of notes under a fermata; each end once.
    fermatas: Vec<(i64, i64)>,
    low: u8,
    high: u8,
    parts: usize,
}

/// A note as one bar, ties joined.
struct Bar {
    part: usize,
    onset: i64,
    end: i64,
    pitch: Pitch,
    /// Parts above that hold the same pitch meanwhile.
    shared: usize,
}

/// Some bars and where they are drawn.
#[derive(Clone, Copy)]
pub(super) struct System<'a> {
    pub(super) measures: &'a [Measure],
    /// Of the grid.
    pub(super) top: f64,
    /// Width of a tick.
    pub(super) unit: f64,
    pub(super) is_last: bool,
}

impl System<'_> {
    fn start(&self) -> i64 {
        self.measures.first().map_or(0, |measure| measure.start)
    }

    fn end(&self) -> i64 {
        self.measures.last().map_or(0, |measure| measure.start + measure.duration)
    }

    fn x(&self, tick: i64) -> f64 {
        LEFT + (tick - self.start()) as f64 * self.unit
    }
}

impl Roll {
    pub(super) fn new(score: &Score) -> Self {
        let mut notes: Vec<Bar> = Vec::new();
        for (part, joined) in score.parts.iter().map(joined).enumerate() {
            for (onset, end, pitch) in joined {
                let meets = |bar: &&Bar| {
                    bar.part < part && bar.pitch.midi == pitch.midi && bar.onset < end && onset < bar.end
                };
                let shared =
                    notes.iter().filter(meets).map(|bar| bar.part).collect::<std::collections::BTreeSet<_>>();
                notes.push(Bar { part, onset, end, pitch, shared: shared.len() });
            }
        }
        let all = || score.parts.iter().flat_map(|part| &part.notes).filter(|note| is_placed(note));
        let mut fermatas: Vec<(i64, i64)> =
            all().filter(|note| note.fermata).map(|note| (note.onset, note.end())).collect();
        fermatas.sort_unstable_by_key(|&(onset, end)| (end, onset));
        fermatas.dedup_by_key(|(_, end)| *end);
        let singing = score.parts.iter().find(|part| part.notes.iter().any(|note| note.lyric().is_some()));
        let syllable = |note: &Note| Some((note.onset, note.lyric()?));
        let pitches = || notes.iter().map(|bar| bar.pitch.midi);
        Self {
            words: singing.map(|part| part.notes.iter().filter_map(syllable).collect()).unwrap_or_default(),
            fermatas,
            low: pitches().min().unwrap_or(60).saturating_sub(AIR),
            high: pitches().max().unwrap_or(72).saturating_add(AIR).min(128),
            parts: score.parts.len(),
            notes,
        }
    }

    pub(super) fn rows(&self) -> f64 {
        f64::from(self.high - self.low + 1)
    }

    fn y(&self, system: System<'_>, midi: u8) -> f64 {
        system.top + f64::from(self.high.saturating_sub(midi)) * ROW
    }

    pub(super) fn draw(&self, out: &mut String, system: System<'_>) {
        self.rows_and_names(out, system);
        self.bars(out, system);
        for part in 0..self.parts {
            self.voice(out, system, part);
        }
        self.signs(out, system);
    }

    /// Rows: those outside the key's scale are shaded, the tonic's more; the scale's notes are named.
    fn rows_and_names(&self, out: &mut String, system: System<'_>) {
        let key = system.measures.first().map_or_else(KeySignature::default, |measure| measure.key);
        let tonic = text::tonic(key);
        let scale = |midi: u8| is_in_signature(midi, key.fifths);
        let width = system.x(system.end()) - LEFT;
        for midi in self.low..=self.high.min(127) {
            let y = self.y(system, midi);
            let home = midi % 12 == tonic;
            if home || !scale(midi) {
                let class = if home { "home" } else { "dark" };
                line(
                    out,
                    format_args!(
                        "<rect class=\"ink {class}\" x=\"{LEFT}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{ROW}\"/>"
                    ),
                );
            }
            if scale(midi) {
                let class = if home { "pitch tonic" } else { "pitch" };
                let name = text::pitch(spell(midi, key.fifths));
                let (x, baseline) = (LEFT - 15.0, y + ROW - 1.2);
                line(
                    out,
                    format_args!("<text class=\"ink {class}\" x=\"{x}\" y=\"{baseline:.1}\">{name}</text>"),
                );
            }
        }
    }

    /// Beats, bar lines with their numbers, changes of metre, repeats.
    fn bars(&self, out: &mut String, system: System<'_>) {
        let (top, bottom) = (system.top, system.top + self.rows() * ROW);
        let vertical = |out: &mut String, class: &str, x: f64| {
            line(
                out,
                format_args!(
                    "<line class=\"{class}\" x1=\"{x:.1}\" y1=\"{top:.1}\" x2=\"{x:.1}\" y2=\"{bottom:.1}\"/>"
                ),
            );
        };
        let mut time = None;
        for measure in system.measures {
            let x = system.x(measure.start);
            // In a pickup the beats are counted from its end.
            let beat = (4 * TICKS_PER_QUARTER / i64::from(measure.time.1.clamp(1, 64))).max(1);
            let mut at = measure.start + measure.duration - beat;
            while at > measure.start {
                vertical(out, "grid", system.x(at));
                at -= beat;
            }
            vertical(out, "line", x);
            let unnumbered = measure.implicit || measure.number == "0";
            let mut label = if unnumbered { String::new() } else { measure.number.clone() };
            if time.is_some_and(|before| before != measure.time) {
                label = format!("{label}  {}/{}", measure.time.0, measure.time.1);
            }
            time = Some(measure.time);
            line(
                out,
                format_args!(
                    "<text class=\"ink bar\" x=\"{:.1}\" y=\"{:.1}\">{}</text>",
                    x + 2.0,
                    top - 4.0,
                    escape(label.trim())
                ),
            );
            let middle = f64::midpoint(top, bottom);
            if measure.repeat_start {
                vertical(out, "thick", x + 1.0);
                dots(out, x + 6.0, middle);
            }
            if measure.repeat_end {
                let end = system.x(measure.start + measure.duration);
                vertical(out, "thick", end - 1.0);
                dots(out, end - 6.0, middle);
            }
        }
        let end = system.x(system.end());
        vertical(out, if system.is_last { "thick" } else { "line" }, end);
        for y in [top, bottom] {
            line(
                out,
                format_args!(
                    "<line class=\"line\" x1=\"{LEFT}\" y1=\"{y:.1}\" x2=\"{end:.1}\" y2=\"{y:.1}\"/>"
                ),
            );
        }
    }

    /// One part's notes, and its letter beside the first of them.
    fn voice(&self, out: &mut String, system: System<'_>, part: usize) {
        let class = part % 4;
        let (start, end) = (system.start(), system.end());
        let here =
            || self.notes.iter().filter(move |bar| bar.part == part && bar.onset < end && bar.end > start);
        let Some(first) = here().next() else { return };
        line(out, format_args!("<g class=\"v{class} n\">"));
        for bar in here() {
            let (x, until) = (system.x(bar.onset.max(start)), system.x(bar.end.min(end)));
            let inset = (INSET * bar.shared as f64).min(ROW / 2.0 - 1.0);
            let (y, height) = (self.y(system, bar.pitch.midi) + 0.4 + inset, ROW - 0.8 - 2.0 * inset);
            // A gap shows where a repeated note is struck again.
            let width = (until - x - 0.8).max(1.0);
            line(
                out,
                format_args!(
                    "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{height:.1}\" rx=\"2.2\"><title>{}</title></rect>",
                    text::pitch(bar.pitch)
                ),
            );
        }
        line(out, format_args!("</g>"));
        if part < LETTERS.len() && self.parts <= LETTERS.len() {
            let y = self.y(system, first.pitch.midi) + ROW - 1.0 - self.nudge(first, part);
            line(
                out,
                format_args!(
                    "<text class=\"letter v{class}\" x=\"{:.1}\" y=\"{y:.1}\">{}</text>",
                    LEFT - 4.0,
                    LETTERS[class]
                ),
            );
        }
    }

    /// Voices that begin on one pitch have their letters above each other.
    fn nudge(&self, first: &Bar, part: usize) -> f64 {
        if part > 0 && first.shared > 0 { -ROW * first.shared as f64 } else { 0.0 }
    }

    /// Fermatas above the grid, words under it.
    fn signs(&self, out: &mut String, system: System<'_>) {
        let (start, end) = (system.start(), system.end());
        for &(onset, until) in self.fermatas.iter().filter(|(_, until)| *until > start && *until <= end) {
            let x = f64::midpoint(system.x(onset.max(start)), system.x(until));
            let y = system.top - 14.0;
            line(
                out,
                format_args!(
                    "<g><title>fermata</title><path class=\"sign\" d=\"M{:.1} {y:.1}a6 6 0 0 1 12 0\"/>\
                     <circle class=\"ink\" cx=\"{x:.1}\" cy=\"{:.1}\" r=\"1.3\"/></g>",
                    x - 6.0,
                    y - 1.2
                ),
            );
        }
        let baseline = system.top + self.rows() * ROW + 15.0;
        for (onset, word) in self.words.iter().filter(|(onset, _)| (start..end).contains(onset)) {
            line(
                out,
                format_args!(
                    "<text class=\"ink words\" x=\"{:.1}\" y=\"{baseline:.1}\">{}</text>",
                    system.x(*onset),
                    escape(word)
                ),
            );
        }
    }
}

fn dots(out: &mut String, x: f64, middle: f64) {
    for y in [middle - ROW, middle + ROW] {
        line(out, format_args!("<circle class=\"ink\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"2\"/>"));
    }
}

/// Whether a pitch needs no accidental under a signature.
fn is_in_signature(midi: u8, fifths: i8) -> bool {
    let degree = (i32::from(midi) - i32::from(fifths) * 7).rem_euclid(12);
    [0, 2, 4, 5, 7, 9, 11].contains(&degree)
}

fn is_placed(note: &Note) -> bool {
    note.onset >= 0 && note.duration > 0 && note.onset.checked_add(note.duration).is_some()
}

/// Onset, end and pitch of a part's notes, tied ones as one.
fn joined(part: &Part) -> Vec<(i64, i64, Pitch)> {
    let mut joined: Vec<(i64, i64, Pitch)> = Vec::new();
    for note in part.notes.iter().filter(|note| is_placed(note)) {
        let goes_on = |before: &&mut (i64, i64, Pitch)| {
            note.tie_from && before.2.midi == note.pitch.midi && before.1 == note.onset
        };
        match joined.iter_mut().rev().take(64).find(goes_on) {
            Some(before) => before.1 = note.end(),
            None => joined.push((note.onset, note.end(), note.pitch)),
        }
    }
    joined
}
