//! JSON of trials: `trial list`, `trial show`.

use serde::Serialize;
use serde_json::Value;

use super::{config_json, finite, finite_of, instant, nonempty, why_null};
use crate::convert::{outcome_name, trial_state_name};
use crate::v1;

/// A line of `trial list`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TrialView {
    /// "STUDY/NUMBER": what every command takes.
    pub id: String,
    pub study: String,
    pub number: u32,
    /// Nested as in a study file.
    pub config: Value,
    pub replicate: u32,
    pub seed: Option<i64>,
    pub state: &'static str,
    /// Why it failed, was canceled, waits, or why a number is null.
    pub reason: Option<String>,
    pub attempts: u32,
    pub epochs: u32,
    /// What ranks the trial.
    pub objective: Option<f64>,
    /// Of the last epoch, nats per token.
    pub train_loss: Option<f64>,
    pub val_loss: Option<f64>,
    pub best_val_loss: Option<f64>,
    pub best_epoch: Option<u32>,
    pub worker: Option<String>,
    pub device: Option<String>,
    pub dtype: Option<String>,
    /// "cpu-avx2", "cuda-sm90": equal kinds promise equal bytes.
    pub numerics: Option<String>,
    pub seconds: Option<f64>,
    pub created_at: Option<String>,
    pub started_at: Option<String>,
    pub ended_at: Option<String>,
    pub checkpoints: CheckpointsView,
    pub weights_digest: Option<String>,
    pub corpus_digest: Option<String>,
    pub program_version: Option<String>,
}

/// Digests of a trial's checkpoints.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct CheckpointsView {
    pub best: Option<String>,
    pub last: Option<String>,
}

/// `trial show`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TrialDetailView {
    #[serde(flatten)]
    pub trial: TrialView,
    pub measurements: Vec<MeasurementView>,
    pub attempts_log: Vec<AttemptView>,
    /// Replayed epochs that came out with other bytes on the same numerics; empty if all is well.
    pub divergences: Vec<DivergenceView>,
}

/// One epoch that two attempts measured with other bytes, though their numerics are the same.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DivergenceView {
    pub epoch: u32,
    pub attempt: u32,
    /// The older one.
    pub other_attempt: u32,
    pub weights_digest: Option<String>,
    /// Equal digests: it is the losses that differ.
    pub other_weights_digest: Option<String>,
}

/// One epoch of the current lineage.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct MeasurementView {
    pub epoch: u32,
    pub attempt: u32,
    pub train_loss: Option<f64>,
    pub val_loss: Option<f64>,
    pub seconds: Option<f64>,
    pub tokens_per_s: Option<f64>,
    pub weights_digest: Option<String>,
    /// Only where a number is null: which, and what it was.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// One lease of a trial by a worker.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct AttemptView {
    pub attempt: u32,
    pub worker: String,
    pub started_at: Option<String>,
    pub ended_at: Option<String>,
    /// Null while it runs.
    pub outcome: Option<&'static str>,
    pub reason: Option<String>,
    pub numerics: Option<String>,
    pub start_epoch: u32,
    pub start_checkpoint: Option<String>,
}

impl From<&v1::Trial> for TrialView {
    fn from(trial: &v1::Trial) -> Self {
        let config = config_json(trial.config.as_ref());
        let not_finite = || {
            why_null(&[
                ("objective", trial.objective),
                ("train_loss", trial.train_loss),
                ("val_loss", trial.val_loss),
                ("best_val_loss", trial.best_val_loss),
            ])
        };
        let numerics = trial.numerics.as_ref();
        let of_numerics = |part: fn(&v1::Numerics) -> &str| numerics.and_then(|n| nonempty(part(n)));
        let digest = |c: &Option<v1::Checkpoint>| c.as_ref().and_then(|c| nonempty(&c.digest));
        Self {
            id: format!("{}/{}", trial.study, trial.number),
            study: trial.study.clone(),
            number: trial.number,
            replicate: trial.replicate,
            seed: config.get("seed").and_then(Value::as_i64),
            state: trial_state_name(trial.state()),
            reason: nonempty(&trial.reason).or_else(not_finite),
            attempts: trial.attempts,
            epochs: trial.epochs,
            objective: finite_of(trial.objective),
            train_loss: finite_of(trial.train_loss),
            val_loss: finite_of(trial.val_loss),
            best_val_loss: finite_of(trial.best_val_loss),
            best_epoch: trial.best_epoch,
            worker: nonempty(&trial.worker),
            device: nonempty(&trial.device),
            dtype: of_numerics(|n| &n.dtype),
            numerics: of_numerics(|n| &n.kind),
            seconds: finite(trial.seconds),
            created_at: instant(trial.created_at_ms),
            started_at: trial.started_at_ms.and_then(instant),
            ended_at: trial.ended_at_ms.and_then(instant),
            checkpoints: CheckpointsView { best: digest(&trial.best), last: digest(&trial.last) },
            weights_digest: nonempty(&trial.weights_digest),
            corpus_digest: nonempty(&trial.corpus_digest),
            program_version: of_numerics(|n| &n.program_version),
            config,
        }
    }
}

impl From<&v1::Measurement> for MeasurementView {
    fn from(m: &v1::Measurement) -> Self {
        Self {
            epoch: m.epoch,
            attempt: m.attempt,
            train_loss: finite(m.train_loss),
            val_loss: finite(m.val_loss),
            seconds: finite(m.seconds),
            tokens_per_s: finite(m.tokens_per_s),
            weights_digest: nonempty(&m.weights_digest),
            reason: why_null(&[("train_loss", Some(m.train_loss)), ("val_loss", Some(m.val_loss))]),
        }
    }
}

impl From<&v1::Attempt> for AttemptView {
    fn from(a: &v1::Attempt) -> Self {
        let ended = a.outcome() != v1::Outcome::Unspecified;
        Self {
            attempt: a.attempt,
            worker: a.worker.clone(),
            started_at: instant(a.started_at_ms),
            ended_at: a.ended_at_ms.and_then(instant),
            outcome: ended.then(|| outcome_name(a.outcome())),
            reason: nonempty(&a.reason),
            numerics: a.numerics.as_ref().and_then(|n| nonempty(&n.kind)),
            start_epoch: a.start_epoch,
            start_checkpoint: nonempty(&a.start_checkpoint),
        }
    }
}

impl From<&v1::Divergence> for DivergenceView {
    fn from(d: &v1::Divergence) -> Self {
        Self {
            epoch: d.epoch,
            attempt: d.attempt,
            other_attempt: d.other_attempt,
            weights_digest: nonempty(&d.weights_digest),
            other_weights_digest: nonempty(&d.other_weights_digest),
        }
    }
}

impl From<&v1::TrialDetail> for TrialDetailView {
    fn from(detail: &v1::TrialDetail) -> Self {
        Self {
            trial: detail.trial.as_ref().unwrap_or(&v1::Trial::default()).into(),
            measurements: detail.measurements.iter().map(Into::into).collect(),
            attempts_log: detail.attempts.iter().map(Into::into).collect(),
            divergences: detail.divergences.iter().map(Into::into).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::convert::config_to_wire;
    use kapell_search::Config;
    use serde_json::json;

    fn trial() -> v1::Trial {
        v1::Trial {
            id: 7,
            study: "grid".into(),
            number: 3,
            config: Some(config_to_wire(&Config::defaults())),
            state: v1::TrialState::Complete.into(),
            val_loss: Some(0.5),
            train_loss: Some(f64::NAN),
            created_at_ms: 1_700_000_000_000,
            numerics: Some(v1::Numerics {
                program_version: "kapell 0.1.0".into(),
                kind: "cpu-avx2".into(),
                dtype: "f32".into(),
            }),
            ..Default::default()
        }
    }

    #[test]
    fn a_trial_has_the_contracts_fields() {
        let json = serde_json::to_value(TrialView::from(&trial())).unwrap();
        let expected = [
            "id",
            "study",
            "config",
            "replicate",
            "seed",
            "state",
            "reason",
            "attempts",
            "epochs",
            "objective",
            "train_loss",
            "val_loss",
            "best_val_loss",
            "best_epoch",
            "worker",
            "device",
            "dtype",
            "numerics",
            "seconds",
            "created_at",
            "started_at",
            "ended_at",
            "checkpoints",
            "weights_digest",
            "corpus_digest",
            "program_version",
        ];
        for field in expected {
            assert!(json.get(field).is_some(), "{field} is missing");
        }
        assert_eq!(json["id"], "grid/3");
        assert_eq!(json["config"]["lr_decay"]["every"], 5);
        assert_eq!(json["seed"], 1);
        assert_eq!(json["state"], "COMPLETE");
        assert_eq!(json["created_at"], "2023-11-14T22:13:20Z");
        assert_eq!(json["checkpoints"], json!({"best": null, "last": null}));
    }

    #[test]
    fn what_is_not_finite_is_null_with_a_reason() {
        let json = serde_json::to_value(TrialView::from(&trial())).unwrap();
        assert_eq!(json["train_loss"], Value::Null);
        assert_eq!(json["reason"], "train_loss is NaN");
        let measured = v1::Measurement { val_loss: f64::INFINITY, ..Default::default() };
        let json = serde_json::to_value(MeasurementView::from(&measured)).unwrap();
        assert_eq!(json["val_loss"], Value::Null);
        assert_eq!(json["reason"], "val_loss is inf");
    }

    #[test]
    fn a_running_attempt_has_no_outcome() {
        let running = v1::Attempt { attempt: 1, started_at_ms: 1, ..Default::default() };
        assert_eq!(AttemptView::from(&running).outcome, None);
        let lost = v1::Attempt { outcome: v1::Outcome::Lost.into(), ..running };
        assert_eq!(AttemptView::from(&lost).outcome, Some("LOST"));
    }

    #[test]
    fn a_trial_shown_is_the_listed_one_with_its_measurements() {
        let detail = v1::TrialDetail {
            trial: Some(trial()),
            measurements: vec![v1::Measurement { epoch: 1, ..Default::default() }],
            attempts: vec![],
            divergences: vec![v1::Divergence {
                epoch: 1,
                attempt: 2,
                other_attempt: 1,
                ..Default::default()
            }],
        };
        let json = serde_json::to_value(TrialDetailView::from(&detail)).unwrap();
        assert_eq!(json["id"], "grid/3");
        assert_eq!(json["measurements"][0]["epoch"], 1);
        assert_eq!(json["attempts_log"], json!([]));
        assert_eq!(json["divergences"][0]["other_attempt"], 1);
    }
}
