//! Live bars: one for the study, one for each running trial.

use std::collections::BTreeMap;
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use super::tally::{Row, Tally};
use crate::output;

/// Running trials shown at once; the study's own bar counts all of them.
const SHOWN_MAX: usize = 16;

/// The bars on the terminal.
pub(crate) struct Live {
    bars: MultiProgress,
    total: ProgressBar,
    trials: BTreeMap<u32, ProgressBar>,
}

fn style(template: &str) -> ProgressStyle {
    // The templates are ours; the default bar stands in should one ever be wrong.
    let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    style.progress_chars("━━╌")
}

impl Live {
    pub(crate) fn new(tally: &Tally) -> Self {
        let bars = MultiProgress::new();
        let total = bars.add(ProgressBar::new(tally.trials.len() as u64));
        total.set_style(style("{prefix:.bold} {bar:30} {pos}/{len} trials, {elapsed} {msg}"));
        total.set_prefix(tally.name.clone());
        total.enable_steady_tick(Duration::from_millis(500));
        let mut live = Self { bars, total, trials: BTreeMap::new() };
        live.show(tally);
        live
    }

    pub(crate) fn show(&mut self, tally: &Tally) {
        let (done, _) = tally.done();
        self.total.set_position(done as u64);
        let eta = tally.eta_s().map_or_else(String::new, |s| format!("about {} to go", output::seconds(s)));
        let best =
            tally.best.map_or_else(String::new, |(n, loss)| format!("  lowest val {loss:.4} (trial {n})"));
        self.total.set_message(format!("{eta}{best}"));
        let shown = |number: &u32| tally.trials.get(number).is_some_and(|row| row.running);
        for (_, bar) in self.trials.extract_if(.., |number, _| !shown(number)) {
            bar.finish_and_clear();
            self.bars.remove(&bar);
        }
        for (number, row) in tally.trials.iter().filter(|(_, row)| row.running).take(SHOWN_MAX) {
            let bar = self.trials.entry(*number).or_insert_with(|| {
                let bar = self.bars.add(ProgressBar::new(u64::from(row.epochs)));
                bar.set_style(style("  {prefix:>4} {bar:20} {pos}/{len} epochs  {msg}"));
                bar.set_prefix(number.to_string());
                bar
            });
            bar.set_position(u64::from(row.epoch));
            bar.set_message(message(row));
        }
    }

    pub(crate) fn clear(self) {
        self.trials.values().for_each(ProgressBar::finish_and_clear);
        self.total.finish_and_clear();
    }
}

fn message(row: &Row) -> String {
    let (train, val) = (output::loss(row.train_loss), output::loss(row.val_loss));
    format!("train {train}  val {val}  {}  on {}", row.label, row.worker)
}
