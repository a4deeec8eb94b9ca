//! Printing: tables for people, JSON lines for scripts, and whether a terminal is there.

use std::io::{self, IsTerminal as _, Write as _};

use comfy_table::{Cell, CellAlignment, ContentArrangement, Table, presets};
use serde::Serialize;

/// Writes a line to standard output. A closed pipe (`| head`) ends the program quietly, as it does elsewhere.
pub(crate) fn line(text: impl AsRef<str>) {
    let mut out = io::stdout().lock();
    if writeln!(out, "{}", text.as_ref()).and_then(|()| out.flush()).is_err() {
        std::process::exit(0);
    }
}

/// Writes a line to standard error: progress and remarks, never results.
pub(crate) fn remark(text: impl AsRef<str>) {
    // Nobody is left to tell where standard error is closed.
    let _ = writeln!(io::stderr().lock(), "{}", text.as_ref());
}

/// One JSON object on a line.
pub(crate) fn json(value: &impl Serialize) {
    match serde_json::to_string(value) {
        Ok(text) => line(text),
        Err(e) => remark(format!("this result cannot be written as JSON: {e}")),
    }
}

/// Is a person watching standard error?
pub(crate) fn interactive() -> bool {
    io::stderr().is_terminal()
}

/// Prints a table made for reading: headers, right-aligned numbers, no frame.
pub(crate) fn table(headers: &[&str], rows: Vec<Vec<String>>) {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(headers.iter().map(|h| Cell::new(h.to_uppercase())));
    for row in rows {
        table.add_row(row.into_iter().map(|text| {
            let number = text.trim_start_matches(['-', '+']).starts_with(|c: char| c.is_ascii_digit());
            let alignment = if number { CellAlignment::Right } else { CellAlignment::Left };
            Cell::new(text).set_alignment(alignment)
        }));
    }
    for text in table.lines() {
        line(text.trim_end());
    }
}

/// A loss for a table: four places, or a dash.
pub(crate) fn loss(value: Option<f64>) -> String {
    value.filter(|v| v.is_finite()).map_or_else(|| "-".to_owned(), |v| format!("{v:.4}"))
}

/// Seconds as people say them: `8.2s`, `3m 05s`, `2h 10m`, `4d 3h`.
pub(crate) fn seconds(value: f64) -> String {
    if !value.is_finite() || value < 0.0 {
        return "-".to_owned();
    }
    if value < 60.0 {
        return format!("{value:.1}s");
    }
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "not negative, and a float saturates"
    )]
    let whole = value.round() as u64;
    let (days, hours, minutes) = (whole / 86_400, whole / 3600 % 24, whole / 60 % 60);
    if days > 0 {
        format!("{days}d {hours}h")
    } else if hours > 0 {
        format!("{hours}h {minutes:02}m")
    } else {
        format!("{minutes}m {:02}s", whole % 60)
    }
}

/// Bytes as people say them: `3.1 MiB`.
pub(crate) fn bytes(value: u64) -> String {
    let units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
    #[expect(clippy::cast_precision_loss, reason = "three figures are shown")]
    let mut size = value as f64;
    let mut unit = 0;
    while size >= 1024.0 && unit + 1 < units.len() {
        size /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{value} B") } else { format!("{size:.1} {}", units[unit]) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_and_bytes_are_said_in_the_unit_that_fits() {
        assert_eq!(seconds(8.21), "8.2s");
        assert_eq!(seconds(185.0), "3m 05s");
        assert_eq!(seconds(7800.0), "2h 10m");
        assert_eq!(seconds(f64::NAN), "-");
        assert_eq!(bytes(512), "512 B");
        assert_eq!(bytes(3 * 1024 * 1024 + 100_000), "3.1 MiB");
    }
}
