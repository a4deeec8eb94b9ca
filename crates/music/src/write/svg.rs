//! A picture: a score as a piano roll in SVG, four colours for four voices, bars wrapped into systems.
//!
//! It is drawn for paper and for screens, light and dark: text and lines have the current colour, and the voices two sets
//! of colours. Every system names its voices in letters, so that colour is not all that tells them apart.

mod roll;
mod text;

use std::fmt::Write as _;

use super::layout;
use super::xml::escape;
use crate::score::{Measure, Score, TICKS_PER_QUARTER};
use roll::{Roll, System};

/// Units of the picture's width; the left of a system is for the names of notes.
const WIDTH: f64 = 1260.0;
const LEFT: f64 = 52.0;
const RIGHT: f64 = 16.0;
const MARGIN: f64 = 24.0;
/// A semitone's height.
const ROW: f64 = 8.0;
/// Quarters in a system, at most: 16 bars of 4/4, or half as many where there are words to read.
const QUARTERS_MAX: i64 = 64;
const QUARTERS_MAX_WITH_WORDS: i64 = 32;
/// Above a system's grid (numbers of bars, fermatas) and under it (words, and air).
const ABOVE: f64 = 30.0;
const WORDS: f64 = 20.0;
const BELOW: f64 = 18.0;

/// Colours stand by class, once for light and print, once for dark: not every viewer knows variables.
const STYLE: &str = "\
svg{color:#1b1b1f}.v0{fill:#c8501a}.v1{fill:#0b6fb8}.v2{fill:#0a8a62}.v3{fill:#8a4fa8}.n{stroke:#fff;stroke-width:.6}\
@media screen and (prefers-color-scheme:dark){svg{color:#e9e9ee}.v0{fill:#ff9d66}.v1{fill:#6fbcf5}.v2{fill:#52d3a8}\
.v3{fill:#d6a4ee}.n{stroke:#15151a}}\
text{font-family:system-ui,'Helvetica Neue',Arial,'DejaVu Sans',sans-serif}.ink{fill:currentColor}\
.title{font-size:24px;font-weight:600}.sub{font-size:13px;opacity:.8}.name{font-size:13px}\
.pitch{font-size:7.5px;text-anchor:end;opacity:.85}.tonic{font-weight:700;opacity:1}\
.bar{font-size:9.5px;opacity:.75}.words{font-size:11.5px}.letter{font-size:8px;font-weight:700;text-anchor:end}\
.dark{opacity:.055}.home{opacity:.13}.line,.grid,.thick,.sign{stroke:currentColor}\
.grid{stroke-width:.5;opacity:.2}.line{stroke-width:1;opacity:.55}.thick{stroke-width:3;opacity:.8}\
.sign{fill:none;stroke-width:1.4}";

/// The score as an SVG document: title, key, metre and tempo; a legend; and systems of bars with bar lines and beats,
/// names of notes, notes (ties joined, unisons inside each other), fermatas, repeats, and the words of the first part that has
/// any. Voices are the first four parts; further parts take their colours again.
#[must_use]
pub fn write_svg(score: &Score) -> String {
    let measures = layout::measures(score);
    let roll = Roll::new(score);
    let systems =
        systems(&measures, if roll.words.is_empty() { QUARTERS_MAX } else { QUARTERS_MAX_WITH_WORDS });
    let head = 78.0;
    let words = if roll.words.is_empty() { 0.0 } else { WORDS };
    let grid = roll.rows() * ROW;
    let pitch = ABOVE + grid + words + BELOW;
    let height = head + pitch * systems.len() as f64 + MARGIN;
    let mut out = String::new();
    document(&mut out, score, &measures, height, |out| {
        header(out, score, &measures);
        for (index, measures) in systems.iter().enumerate() {
            let top = head + pitch * index as f64 + ABOVE;
            let unit = unit(&systems);
            roll.draw(out, System { measures, top, unit, is_last: index + 1 == systems.len() });
        }
    });
    out
}

/// Units a tick: the widest system fills the page.
fn unit(systems: &[&[Measure]]) -> f64 {
    let longest =
        systems.iter().map(|measures| ticks(measures)).max().unwrap_or(1).max(8 * TICKS_PER_QUARTER);
    (WIDTH - LEFT - RIGHT) / longest as f64
}

fn ticks(measures: &[Measure]) -> i64 {
    measures.iter().map(|measure| measure.duration).sum()
}

/// Bars in systems, as even as they come: so many systems as it takes, and bars dealt out over them.
fn systems(measures: &[Measure], quarters_max: i64) -> Vec<&[Measure]> {
    let limit = quarters_max * TICKS_PER_QUARTER;
    let count = ((ticks(measures) + limit - 1) / limit).max(1);
    let even = (ticks(measures) + count - 1) / count;
    let mut systems = Vec::new();
    let (mut first, mut length) = (0, 0);
    for (at, measure) in measures.iter().enumerate() {
        let full = length + measure.duration > limit || length >= even;
        if full && at > first {
            systems.push(&measures[first..at]);
            (first, length) = (at, 0);
        }
        length += measure.duration;
    }
    systems.push(&measures[first..]);
    systems
}

fn document(
    out: &mut String,
    score: &Score,
    measures: &[Measure],
    height: f64,
    content: impl FnOnce(&mut String),
) {
    let title = escape(title(score));
    let description = escape(&description(score, measures));
    line(
        out,
        format_args!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height:.1}\" width=\"{WIDTH}\" \
             height=\"{height:.1}\" role=\"img\" aria-labelledby=\"roll-title roll-description\">"
        ),
    );
    line(out, format_args!("<title id=\"roll-title\">{title}</title>"));
    line(out, format_args!("<desc id=\"roll-description\">{description}</desc>"));
    line(out, format_args!("<style>{STYLE}</style>"));
    content(out);
    line(out, format_args!("</svg>"));
}

fn title(score: &Score) -> &str {
    score.title.as_deref().map(str::trim).filter(|title| !title.is_empty()).unwrap_or("Untitled")
}

/// For who cannot see it: what it shows, and how far each voice goes.
fn description(score: &Score, measures: &[Measure]) -> String {
    let mut text = format!("A piano roll of {} bars", measures.len());
    if let Some(first) = measures.first() {
        let _ = write!(text, " in {}, {}/{}.", text::key(first.key), first.time.0, first.time.1);
    }
    for part in &score.parts {
        let lowest = part.notes.iter().map(|note| note.pitch).min_by_key(|pitch| pitch.midi);
        let highest = part.notes.iter().map(|note| note.pitch).max_by_key(|pitch| pitch.midi);
        if let (Some(low), Some(high)) = (lowest, highest) {
            let (low, high) = (text::pitch(low), text::pitch(high));
            let _ = write!(text, " {}: {} notes from {low} to {high}.", part.name.trim(), part.notes.len());
        }
    }
    text
}

fn header(out: &mut String, score: &Score, measures: &[Measure]) {
    line(
        out,
        format_args!("<text class=\"ink title\" x=\"{LEFT}\" y=\"36\">{}</text>", escape(title(score))),
    );
    let mut about = Vec::new();
    if let Some(composer) = score.composer.as_deref().map(str::trim).filter(|name| !name.is_empty()) {
        about.push(composer.to_owned());
    }
    if let Some(first) = measures.first() {
        about.push(text::key(first.key));
        about.push(format!("{}/{}", first.time.0, first.time.1));
    }
    if let Some(tempo) = score.tempo.filter(|tempo| tempo.is_finite()) {
        about.push(format!("{tempo:.0} quarters a minute"));
    }
    line(
        out,
        format_args!("<text class=\"ink sub\" x=\"{LEFT}\" y=\"58\">{}</text>", escape(&about.join(" · "))),
    );
    // The legend ends at the right edge; names are not measured, but given room.
    let room = 104.0;
    for (index, part) in score.parts.iter().enumerate().take(8) {
        let from_right = score.parts.len().min(8) - index;
        let x = WIDTH - RIGHT - room * from_right as f64;
        line(
            out,
            format_args!(
                "<rect class=\"v{}\" x=\"{x:.1}\" y=\"47\" width=\"20\" height=\"10\" rx=\"3\"/>",
                index % 4
            ),
        );
        let name: String = part.name.trim().chars().take(12).collect();
        line(
            out,
            format_args!("<text class=\"ink name\" x=\"{:.1}\" y=\"57\">{}</text>", x + 27.0, escape(&name)),
        );
    }
}

/// Writes a line. Writing to a `String` does not fail.
fn line(out: &mut String, text: std::fmt::Arguments<'_>) {
    let _ = out.write_fmt(text);
    out.push('\n');
}

#[cfg(test)]
mod tests;
