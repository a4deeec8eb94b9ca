//! The evaluation as a picture: wrong notes by voice, and faults beside the composer's.

use std::fmt::Write as _;

use kapell_music::counterpoint::FAULTS;

use super::report::Report;

const WIDTH: f64 = 980.0;
const LEFT: f64 = 190.0;
const RIGHT: f64 = 70.0;
const BAR: f64 = 11.0;
const GAP: f64 = 12.0;
const STYLE: &str = "\
svg{color:#1b1b1f;background:#fff}.c0{fill:#5c5c66}.c1{fill:#c8501a}.c2{fill:#0b6fb8}.c3{fill:#0a8a62}.c4{fill:#8a4fa8}\
.c5{fill:#b58900}.c6{fill:#a3324b}\
@media screen and (prefers-color-scheme:dark){svg{color:#e9e9ee;background:#15151a}.c0{fill:#a8a8b4}.c1{fill:#ff9d66}\
.c2{fill:#6fbcf5}.c3{fill:#52d3a8}.c4{fill:#d6a4ee}.c5{fill:#e6c35c}.c6{fill:#f08aa0}}\
text{font-family:system-ui,'Helvetica Neue',Arial,'DejaVu Sans',sans-serif;font-size:12px;fill:currentColor}\
.head{font-size:17px;font-weight:600}.name{text-anchor:end}.value{font-size:9.5px}\
.axis{stroke:currentColor;stroke-width:1;opacity:.5}";
const COLOURS: usize = 7;

/// Bars of one name, one for each series.
struct Group {
    name: String,
    values: Vec<f64>,
}

pub(super) fn plot(report: &Report) -> String {
    let mut body = String::new();
    let series = ["token error rate", "by pitch alone", "frame error rate"].map(str::to_owned);
    let errors = report.error_rates.iter().map(|view| Group {
        name: if view.given.is_empty() {
            view.asked.clone()
        } else {
            format!("{} under {}", view.asked, view.given)
        },
        values: vec![view.token_error_rate, view.pitch_error_rate, view.frame_error_rate],
    });
    let title = format!("Wrong notes, {}", report.way.name());
    let top = panel(&mut body, 24.0, &title, &series, &errors.collect::<Vec<_>>(), 3);
    let settings: Vec<String> = report.counterpoint.iter().map(|view| view.setting.clone()).collect();
    let faults = FAULTS.iter().map(|name| Group {
        name: name.replace('_', " "),
        values: report
            .counterpoint
            .iter()
            .map(|view| view.per_100_chords[*name].as_f64().unwrap_or(0.0))
            .collect(),
    });
    let height = panel(
        &mut body,
        top,
        "Faults per 100 chords, soprano given",
        &settings,
        &faults.collect::<Vec<_>>(),
        2,
    );
    let subject = escape(&format!("{} on {} ({})", report.model, report.corpus.name, report.on));
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height:.0}\" width=\"{WIDTH}\" \
         height=\"{height:.0}\" role=\"img\" aria-labelledby=\"plot-title plot-description\">\n\
         <title id=\"plot-title\">{subject}</title>\n\
         <desc id=\"plot-description\">Bars: shares of wrong notes by voices asked for, and faults of counterpoint in \
         every hundred chords, of the corpus and of harmonisations. The same figures stand in the tables beside.</desc>\n\
         <style>{STYLE}</style>\n{body}</svg>\n"
    )
}

/// Draws a panel from `top` on, and says where the next one may begin.
fn panel(out: &mut String, top: f64, title: &str, series: &[String], groups: &[Group], places: usize) -> f64 {
    let mut y = top + 14.0;
    text(out, "head", 20.0, y, title);
    y += 14.0;
    let mut x = 20.0;
    for (index, name) in series.iter().enumerate() {
        let room = 34.0 + 7.0 * name.chars().count() as f64;
        if x + room > WIDTH - 10.0 {
            (x, y) = (20.0, y + 18.0);
        }
        let colour = index % COLOURS;
        let _ = writeln!(
            out,
            "<rect class=\"c{colour}\" x=\"{x:.0}\" y=\"{y:.0}\" width=\"14\" height=\"10\" rx=\"2\"/>"
        );
        text(out, "", x + 19.0, y + 9.5, name);
        x += room;
    }
    y += 30.0;
    let first = y - 6.0;
    let most = groups.iter().flat_map(|group| &group.values).copied().fold(0.0, f64::max).max(1e-9);
    for group in groups {
        let height = BAR * group.values.len() as f64;
        text(out, "name", LEFT - 10.0, y + height / 2.0 + 4.0, &group.name);
        for (index, value) in group.values.iter().enumerate() {
            let (length, colour) = (value / most * (WIDTH - LEFT - RIGHT), index % COLOURS);
            let _ = writeln!(
                out,
                "<rect class=\"c{colour}\" x=\"{LEFT}\" y=\"{y:.1}\" width=\"{length:.1}\" height=\"{:.1}\"/>",
                BAR - 1.5
            );
            text(out, "value", LEFT + length + 4.0, y + 8.5, &format!("{value:.places$}"));
            y += BAR;
        }
        y += GAP;
    }
    let _ = writeln!(
        out,
        "<line class=\"axis\" x1=\"{LEFT}\" y1=\"{first:.1}\" x2=\"{LEFT}\" y2=\"{:.1}\"/>",
        y - GAP / 2.0
    );
    y + 16.0
}

fn text(out: &mut String, class: &str, x: f64, y: f64, content: &str) {
    let class = if class.is_empty() { String::new() } else { format!(" class=\"{class}\"") };
    let _ = writeln!(out, "<text{class} x=\"{x:.1}\" y=\"{y:.1}\">{}</text>", escape(content));
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
