//! Counts what a study's events say: trials done, who runs, how fast, how long it will take.

use std::collections::BTreeMap;
use std::time::Instant;

use kapell_rpc::convert::options_from_wire;
use kapell_rpc::v1;
use kapell_search::Config;
use serde_json::Value;

use crate::output;

/// What is known of one trial.
#[derive(Debug, Clone)]
pub(crate) struct Row {
    /// `layers=2 hidden=128`: the options in which the study's trials differ.
    pub label: String,
    pub running: bool,
    pub ended: bool,
    pub worker: String,
    pub epoch: u32,
    pub epochs: u32,
    pub train_loss: Option<f64>,
    pub val_loss: Option<f64>,
    /// Work of one epoch, in arbitrary units that are the same for all trials of the study.
    epoch_cost: f64,
}

/// What an event changed, as a line for a log.
pub(crate) enum Change {
    Nothing,
    Line(String),
}

/// A study's trials and the speed at which they go.
pub(crate) struct Tally {
    pub name: String,
    pub seen: u64,
    pub trials: BTreeMap<u32, Row>,
    /// The lowest validation loss seen, and whose.
    pub best: Option<(u32, f64)>,
    started: Instant,
    cost_done: f64,
}

impl Tally {
    pub(crate) fn new(study: &v1::Study, trials: &[v1::Trial]) -> Self {
        let configs: Vec<Config> = trials
            .iter()
            .map(|t| t.config.as_ref().and_then(|c| options_from_wire(c).ok()).unwrap_or_default())
            .collect();
        let differing: Vec<&str> = kapell_search::options::OPTIONS
            .iter()
            .map(|o| o.name)
            .filter(|name| configs.windows(2).any(|pair| pair[0].get(name) != pair[1].get(name)))
            .collect();
        let rows = trials.iter().zip(&configs).map(|(t, config)| (t.number, Row::new(t, config, &differing)));
        let lowest = |t: &v1::Trial| t.best_val_loss.map(|loss| (t.number, loss));
        let best = trials.iter().filter_map(lowest).min_by(|a, b| a.1.total_cmp(&b.1));
        Self {
            name: study.name.clone(),
            seen: study.last_seq,
            trials: rows.collect(),
            best,
            started: Instant::now(),
            cost_done: 0.0,
        }
    }

    /// Trials that ended, and all.
    pub(crate) fn done(&self) -> (usize, usize) {
        (self.trials.values().filter(|t| t.ended).count(), self.trials.len())
    }

    /// Seconds to go at the speed measured since the following began; none before the first epoch.
    pub(crate) fn eta_s(&self) -> Option<f64> {
        let left: f64 = self
            .trials
            .values()
            .filter(|t| !t.ended)
            .map(|t| f64::from(t.epochs.saturating_sub(t.epoch)) * t.epoch_cost)
            .sum();
        (self.cost_done > 0.0 && left > 0.0)
            .then(|| left * self.started.elapsed().as_secs_f64() / self.cost_done)
    }

    pub(crate) fn event(&mut self, event: &v1::Event) -> Change {
        self.seen = self.seen.max(event.seq);
        let fields: Value = serde_json::from_str(&event.json).unwrap_or(Value::Null);
        let text = |key: &str| fields.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
        let number = |key: &str| fields.get(key).and_then(Value::as_f64);
        let Some(row) = self.trials.get_mut(&event.trial) else {
            let shown = event.r#type != "study.created" && event.trial == 0;
            return if shown {
                Change::Line(format!("{}: {}", self.name, event.r#type))
            } else {
                Change::Nothing
            };
        };
        let head = format!("{}/{} [{}]", self.name, event.trial, row.label);
        match event.r#type.as_str() {
            "trial.started" => {
                (row.running, row.ended, row.worker) = (true, false, text("worker"));
                Change::Line(format!("{head} started on {} (attempt {})", row.worker, event.attempt))
            }
            "trial.measured" => {
                let epoch = number("epoch").map_or(row.epoch, whole);
                if epoch > row.epoch {
                    self.cost_done += row.epoch_cost * f64::from(epoch - row.epoch);
                }
                (row.epoch, row.train_loss, row.val_loss) = (epoch, number("train_loss"), number("val_loss"));
                let line = format!(
                    "{head} epoch {}/{}: train {} val {}",
                    row.epoch,
                    row.epochs,
                    output::loss(row.train_loss),
                    output::loss(row.val_loss)
                );
                if let Some(val) = row.val_loss
                    && self.best.is_none_or(|(_, best)| val < best)
                {
                    self.best = Some((event.trial, val));
                }
                Change::Line(self.with_totals(line))
            }
            "trial.ended" => {
                let state = text("state");
                row.running = false;
                row.ended = matches!(state.as_str(), "COMPLETE" | "PRUNED" | "FAILED" | "CANCELED");
                let reason = Some(text("reason"))
                    .filter(|r| !r.is_empty())
                    .map_or_else(String::new, |r| format!(": {r}"));
                Change::Line(self.with_totals(format!("{head} {state}{reason}")))
            }
            "trial.queued" | "trial.retried" => {
                (row.running, row.ended) = (false, false);
                Change::Line(format!("{head} queued again: {}", text("reason")))
            }
            "trial.diverged" => {
                let epoch = number("epoch").map_or(0, whole);
                let other = number("other_attempt").map_or(0, whole);
                Change::Line(format!(
                    "{head} warning: epoch {epoch} of attempt {} has other bytes than attempt {other} on the same \
                     numerics",
                    event.attempt
                ))
            }
            _ => Change::Nothing,
        }
    }

    fn with_totals(&self, line: String) -> String {
        let (done, all) = self.done();
        let eta = self.eta_s().map_or_else(String::new, |s| format!(", about {} to go", output::seconds(s)));
        format!("{line}  ({done}/{all} done{eta})")
    }
}

impl Row {
    fn new(trial: &v1::Trial, config: &Config, differing: &[&str]) -> Self {
        let label: Vec<String> = differing
            .iter()
            .filter_map(|name| config.get(name).map(|value| format!("{name}={value}")))
            .collect();
        let state = trial.state();
        let ended = [
            v1::TrialState::Complete,
            v1::TrialState::Pruned,
            v1::TrialState::Failed,
            v1::TrialState::Canceled,
        ];
        Self {
            label: label.join(" "),
            running: state == v1::TrialState::Running,
            ended: ended.contains(&state),
            worker: trial.worker.clone(),
            epoch: trial.epochs,
            epochs: config.int("epochs").and_then(|e| u32::try_from(e).ok()).unwrap_or(1),
            train_loss: trial.train_loss,
            val_loss: trial.val_loss,
            epoch_cost: crate::estimate::trial_flop(config, 100, 1).max(1.0),
        }
    }
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "an epoch number; a float saturates"
)]
fn whole(value: f64) -> u32 {
    value as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(seq: u64, kind: &str, json: &str) -> v1::Event {
        v1::Event {
            seq,
            r#type: kind.into(),
            at_ms: 0,
            study: "s".into(),
            trial: 1,
            attempt: 1,
            json: json.into(),
        }
    }

    fn tally() -> Tally {
        let mut config = Config::defaults();
        config.options.insert("epochs".into(), kapell_search::OptionValue::Int(4));
        let trial = v1::Trial {
            number: 1,
            config: Some(kapell_rpc::convert::config_to_wire(&config)),
            state: 1,
            ..Default::default()
        };
        Tally::new(&v1::Study { name: "s".into(), last_seq: 3, ..Default::default() }, &[trial])
    }

    #[test]
    fn events_move_a_trial_from_queued_to_done_and_keep_the_best() {
        let mut t = tally();
        assert!(t.eta_s().is_none());
        t.event(&event(4, "trial.started", r#"{"worker":"w"}"#));
        assert!(t.trials[&1].running);
        let measured =
            t.event(&event(5, "trial.measured", r#"{"epoch":2,"train_loss":1.5,"val_loss":1.25}"#));
        assert!(matches!(measured, Change::Line(l) if l.contains("epoch 2/4: train 1.5000 val 1.2500")));
        assert_eq!(t.best, Some((1, 1.25)));
        assert!(t.eta_s().is_some());
        t.event(&event(6, "trial.ended", r#"{"state":"COMPLETE"}"#));
        assert_eq!((t.done(), t.seen), ((1, 1), 6));
    }

    #[test]
    fn an_event_of_an_unknown_kind_or_with_broken_fields_is_no_harm() {
        let mut t = tally();
        assert!(matches!(t.event(&event(4, "trial.danced", "{")), Change::Nothing));
        t.event(&event(5, "trial.measured", "null"));
        assert_eq!(t.trials[&1].epoch, 0);
    }
}
