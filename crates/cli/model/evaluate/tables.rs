//! An evaluation as tables: for a terminal, as Markdown, as CSV.

use std::fmt::Write as _;

use kapell_model::measure::likelihood::CLASSES;
use kapell_music::counterpoint::{FAULTS, KINDS};
use serde_json::{Map, Value};

use super::report::{CounterpointView, ErrorView, Report};
use crate::output;

/// Headers and rows.
pub(super) struct Table {
    pub(super) title: &'static str,
    pub(super) headers: Vec<String>,
    pub(super) rows: Vec<Vec<String>>,
}

/// Likelihood by voice; error rates; counterpoint, a row a measure and a column a setting.
pub(super) fn tables(report: &Report) -> [Table; 3] {
    [likelihood(report), error_rates(report), counterpoint(report)]
}

fn likelihood(report: &Report) -> Table {
    let row = |name: &&str| {
        let value = &report.by_voice[*name];
        let number = |key: &str| value[key].as_f64().unwrap_or_default();
        vec![
            name.replace('_', " "),
            value["tokens"].to_string(),
            format!("{:.4}", number("nats_per_token")),
            format!("{:.4}", number("nats_per_frame")),
        ]
    };
    let mut rows: Vec<Vec<String>> = CLASSES.iter().map(row).collect();
    rows.push(vec![
        "all".to_owned(),
        report.tokens.to_string(),
        format!("{:.4}", report.nats_per_token),
        format!("{:.4}", report.nats_per_frame),
    ]);
    Table {
        title: "Nats by voice",
        headers: strings(&["", "tokens", "nats per token", "nats per frame"]),
        rows,
    }
}

fn error_rates(report: &Report) -> Table {
    let row = |view: &ErrorView| {
        vec![
            view.asked.clone(),
            if view.given.is_empty() { "-".to_owned() } else { view.given.clone() },
            format!("{:.3}", view.token_error_rate),
            format!("{:.3}", view.pitch_error_rate),
            format!("{:.3}", view.frame_error_rate),
        ]
    };
    Table {
        title: "Wrong notes",
        headers: strings(&["found", "given", "token error rate", "by pitch alone", "frame error rate"]),
        rows: report.error_rates.iter().map(row).collect(),
    }
}

fn counterpoint(report: &Report) -> Table {
    let settings = &report.counterpoint;
    let mut headers = vec!["per 100 chords".to_owned()];
    headers.extend(settings.iter().map(|view| view.setting.clone()));
    let mut rows = Vec::new();
    let mut named = |of: fn(&CounterpointView) -> &Map<String, Value>, names: &[&str], prefix: &str| {
        for name in names {
            let mut row = vec![format!("{prefix}{}", name.replace('_', " "))];
            row.extend(
                settings.iter().map(|view| format!("{:.2}", of(view)[*name].as_f64().unwrap_or_default())),
            );
            rows.push(row);
        }
    };
    named(|view| &view.per_100_chords, &FAULTS, "");
    named(|view| &view.cadences_per_100_chords, &KINDS, "cadences: ");
    let mut others = |name: &str, of: &dyn Fn(&CounterpointView) -> String| {
        rows.push(std::iter::once(name.to_owned()).chain(settings.iter().map(of)).collect());
    };
    others("(chords)", &|view| view.chords.to_string());
    others("(phrases)", &|view| view.phrases.to_string());
    others("(nats per token)", &|view| format!("{:.4}", view.nats_per_token));
    others("(nats per frame)", &|view| format!("{:.4}", view.nats_per_frame));
    Table { title: "Counterpoint", headers, rows }
}

fn strings(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

/// For people.
pub(super) fn print(report: &Report) {
    output::line(format!(
        "{} on {} pieces of {} ({}): {:.4} nats per token, {:.4} per frame",
        report.model,
        report.pieces,
        report.corpus.name,
        report.on,
        report.nats_per_token,
        report.nats_per_frame
    ));
    for table in tables(report) {
        output::line(String::new());
        output::line(format!("{}{}", table.title, way(report, table.title)));
        let headers: Vec<&str> = table.headers.iter().map(String::as_str).collect();
        output::table(&headers, table.rows);
    }
    for remark in &report.remarks {
        output::line(format!("note: {remark}"));
    }
}

/// How the voices of the error rates were found; the other tables say it themselves.
fn way(report: &Report, title: &str) -> String {
    if title == "Wrong notes" { format!(" ({})", report.way.name()) } else { String::new() }
}

/// The tables as one Markdown document.
pub(super) fn markdown(report: &Report) -> String {
    let mut text = format!(
        "# {} on {} ({})\n\n{} pieces, {} frames, {} tokens: {:.4} nats per token, {:.4} per frame.\n",
        report.model,
        report.corpus.name,
        report.on,
        report.pieces,
        report.frames,
        report.tokens,
        report.nats_per_token,
        report.nats_per_frame
    );
    for table in tables(report) {
        let _ = write!(text, "\n## {}{}\n\n", table.title, way(report, table.title));
        let cells = |row: &[String]| format!("| {} |\n", row.join(" | "));
        text.push_str(&cells(&table.headers));
        let rule: Vec<String> = table
            .headers
            .iter()
            .enumerate()
            .map(|(at, _)| if at == 0 { "---" } else { "---:" }.to_owned())
            .collect();
        text.push_str(&cells(&rule));
        table.rows.iter().for_each(|row| text.push_str(&cells(row)));
    }
    let _ = write!(
        text,
        "\nCorpus {}, version {}, {}. Model {}. {}, {}. {:.0} s.\n",
        report.corpus.name,
        report.corpus.version,
        report.corpus.digest,
        report.model_digest,
        report.program_version,
        report.numerics,
        report.seconds
    );
    for remark in &report.remarks {
        let _ = writeln!(text, "\nNote: {remark}.");
    }
    text
}

/// A table as CSV: names may have commas in them.
pub(super) fn csv(table: &Table) -> String {
    let field = |text: &String| {
        if text.contains([',', '"', '\n']) {
            format!("\"{}\"", text.replace('"', "\"\""))
        } else {
            text.clone()
        }
    };
    let line = |row: &Vec<String>| row.iter().map(field).collect::<Vec<_>>().join(",") + "\n";
    std::iter::once(&table.headers).chain(&table.rows).map(line).collect()
}
