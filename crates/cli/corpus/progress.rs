//! How far a fetch or an encoding is: a bar where somebody watches, plain lines elsewhere.

use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use crate::output;

/// Between two plain lines.
const LINE_EVERY: Duration = Duration::from_secs(5);

/// What is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unit {
    Bytes,
    Files,
}

/// One step under way.
pub(crate) struct Progress {
    what: String,
    total: u64,
    unit: Unit,
    bar: Option<ProgressBar>,
    begun: Instant,
    told: Instant,
}

impl Progress {
    /// Announces a step: "fetching music21-10.5.1-py3-none-any.whl".
    pub(crate) fn start(what: &str, total: u64, unit: Unit) -> Self {
        let bar = output::interactive().then(|| {
            let counts = match unit {
                Unit::Bytes => "{bytes}/{total_bytes}",
                Unit::Files => "{pos}/{len}",
            };
            let template = format!("{{msg}} [{{bar:30}}] {counts} {{eta}}");
            let style =
                ProgressStyle::with_template(&template).unwrap_or_else(|_| ProgressStyle::default_bar());
            ProgressBar::new(total).with_style(style.progress_chars("=> ")).with_message(what.to_owned())
        });
        if bar.is_none() {
            output::remark(format!("{what} ({})", amount(total, unit)));
        }
        let now = Instant::now();
        Self { what: what.to_owned(), total, unit, bar, begun: now, told: now }
    }

    /// So much is done.
    pub(crate) fn at(&mut self, done: u64) {
        if let Some(bar) = &self.bar {
            bar.set_position(done.min(self.total));
        } else if self.told.elapsed() >= LINE_EVERY {
            self.told = Instant::now();
            output::remark(format!(
                "{}: {} of {}",
                self.what,
                amount(done, self.unit),
                amount(self.total, self.unit)
            ));
        }
    }

    /// The step is done.
    pub(crate) fn finish(self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
        let took = output::seconds(self.begun.elapsed().as_secs_f64());
        output::remark(format!("{}: {} in {took}", self.what, amount(self.total, self.unit)));
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = self.bar.take().filter(|bar| !bar.is_finished()) {
            bar.abandon();
        }
    }
}

fn amount(count: u64, unit: Unit) -> String {
    match unit {
        Unit::Bytes => output::bytes(count),
        Unit::Files => format!("{count} files"),
    }
}
