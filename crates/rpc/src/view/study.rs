//! JSON of studies, their events, and workers: `study list`, `study show`, `study watch`, `workers list`.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::{Map, Value};

use super::{config_json, finite_of, instant, nonempty};
use crate::convert::study_state_name;
use crate::v1;

/// A line of `study list`, and `study show`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct StudyView {
    pub id: String,
    pub name: String,
    pub state: &'static str,
    pub sampler: String,
    pub pruner: String,
    pub tags: BTreeMap<String, String>,
    pub created_at: Option<String>,
    pub trials: CountsView,
    pub best: Option<BestView>,
    pub coverage: CoverageView,
    pub failures: Vec<FailureView>,
    /// Why it was canceled or paused, if not by a person.
    pub reason: Option<String>,
    pub corpus: String,
    pub corpus_digest: String,
    pub split_digest: String,
}

/// How many trials are in which state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct CountsView {
    pub total: u64,
    pub queued: u64,
    pub running: u64,
    pub paused: u64,
    pub complete: u64,
    pub pruned: u64,
    pub failed: u64,
    pub canceled: u64,
}

/// The best trial of a study.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct BestView {
    /// Its number.
    pub trial: u32,
    pub config: Value,
    pub objective: Option<f64>,
    /// The best epoch's, nats per token.
    pub val_loss: Option<f64>,
    pub epoch: Option<u32>,
}

/// What the study asked for against what the store holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct CoverageView {
    pub configurations: u64,
    pub complete: u64,
    pub pruned: u64,
    pub failed: u64,
    pub canceled: u64,
    pub missing: u64,
    pub duplicates: u64,
    pub lost: u64,
}

/// Trials that failed for the same reason.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FailureView {
    pub reason: String,
    pub count: u64,
    pub workers: Vec<String>,
    /// "STUDY/NUMBER"
    pub example: String,
}

/// A line of `study watch`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct EventView {
    pub seq: u64,
    #[serde(rename = "type")]
    pub kind: String,
    pub at: Option<String>,
    pub study: String,
    /// Number; null where the event is the study's.
    pub trial: Option<u32>,
    pub attempt: Option<u32>,
    /// The fields that belong to the type.
    #[serde(flatten)]
    pub fields: Map<String, Value>,
}

/// A line of `workers list`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct WorkerView {
    pub name: String,
    pub host: String,
    /// "ready", "cordoned", "draining", "quarantined" or "gone".
    pub state: String,
    /// Why it is quarantined.
    pub reason: Option<String>,
    pub devices: Vec<DeviceView>,
    pub slots: u32,
    pub busy: u32,
    pub last_seen: Option<String>,
    pub version: Option<String>,
    pub numerics: Option<String>,
    /// "STUDY/NUMBER"
    pub trials: Vec<String>,
}

/// A device that a worker trains on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DeviceView {
    pub kind: String,
    pub name: String,
    pub index: u32,
    pub memory_bytes: u64,
}

impl From<&v1::Study> for StudyView {
    fn from(study: &v1::Study) -> Self {
        Self {
            id: study.id.clone(),
            name: study.name.clone(),
            state: study_state_name(study.state()),
            sampler: study.sampler.clone(),
            pruner: study.pruner.clone(),
            tags: study.tags.iter().map(|(k, v)| (k.clone(), v.clone())).collect(),
            created_at: instant(study.created_at_ms),
            trials: study.trials.as_ref().map(Into::into).unwrap_or_default(),
            best: study.best.as_ref().map(Into::into),
            coverage: study.coverage.as_ref().map(Into::into).unwrap_or_default(),
            failures: study.failures.iter().map(Into::into).collect(),
            reason: nonempty(&study.reason),
            corpus: study.corpus.clone(),
            corpus_digest: study.corpus_digest.clone(),
            split_digest: study.split_digest.clone(),
        }
    }
}

impl From<&v1::TrialCounts> for CountsView {
    fn from(c: &v1::TrialCounts) -> Self {
        Self {
            total: c.total,
            queued: c.queued,
            running: c.running,
            paused: c.paused,
            complete: c.complete,
            pruned: c.pruned,
            failed: c.failed,
            canceled: c.canceled,
        }
    }
}

impl From<&v1::Trial> for BestView {
    fn from(trial: &v1::Trial) -> Self {
        Self {
            trial: trial.number,
            config: config_json(trial.config.as_ref()),
            objective: finite_of(trial.objective),
            val_loss: finite_of(trial.best_val_loss),
            epoch: trial.best_epoch,
        }
    }
}

impl From<&v1::Coverage> for CoverageView {
    fn from(c: &v1::Coverage) -> Self {
        Self {
            configurations: c.configurations,
            complete: c.complete,
            pruned: c.pruned,
            failed: c.failed,
            canceled: c.canceled,
            missing: c.missing,
            duplicates: c.duplicates,
            lost: c.lost,
        }
    }
}

impl From<&v1::FailureGroup> for FailureView {
    fn from(group: &v1::FailureGroup) -> Self {
        Self {
            reason: group.reason.clone(),
            count: group.count,
            workers: group.workers.clone(),
            example: group.example.clone(),
        }
    }
}

impl From<&v1::Event> for EventView {
    fn from(event: &v1::Event) -> Self {
        let mut fields: Map<String, Value> = serde_json::from_str(&event.json).unwrap_or_default();
        for taken in ["seq", "type", "at", "study", "trial", "attempt"] {
            fields.remove(taken);
        }
        Self {
            seq: event.seq,
            kind: event.r#type.clone(),
            at: instant(event.at_ms),
            study: event.study.clone(),
            trial: (event.trial > 0).then_some(event.trial),
            attempt: (event.attempt > 0).then_some(event.attempt),
            fields,
        }
    }
}

impl From<&v1::Worker> for WorkerView {
    fn from(worker: &v1::Worker) -> Self {
        let numerics = worker.numerics.as_ref();
        Self {
            name: worker.name.clone(),
            host: worker.host.clone(),
            state: worker.state.clone(),
            reason: nonempty(&worker.reason),
            devices: worker.devices.iter().map(Into::into).collect(),
            slots: worker.slots,
            busy: worker.busy,
            last_seen: instant(worker.last_seen_ms),
            version: numerics.and_then(|n| nonempty(&n.program_version)),
            numerics: numerics.and_then(|n| nonempty(&n.kind)),
            trials: worker.trials.clone(),
        }
    }
}

impl From<&v1::Device> for DeviceView {
    fn from(device: &v1::Device) -> Self {
        Self {
            kind: device.kind.clone(),
            name: device.name.clone(),
            index: device.index,
            memory_bytes: device.memory_bytes,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_study_has_the_contracts_fields() {
        let study = v1::Study {
            id: "018c".into(),
            name: "grid".into(),
            state: v1::StudyState::Active.into(),
            tags: [("git_sha".to_owned(), "abc".to_owned())].into(),
            best: Some(v1::Trial {
                number: 4,
                best_val_loss: Some(0.5),
                best_epoch: Some(2),
                ..Default::default()
            }),
            ..Default::default()
        };
        let json = serde_json::to_value(StudyView::from(&study)).unwrap();
        for field in ["id", "name", "state", "sampler", "pruner", "tags", "created_at", "trials", "failures"]
        {
            assert!(json.get(field).is_some(), "{field} is missing");
        }
        assert_eq!(json["state"], "ACTIVE");
        assert_eq!(json["trials"]["queued"], 0);
        assert_eq!(json["coverage"]["lost"], 0);
        assert_eq!(json["best"], json!({"trial":4,"config":null,"objective":null,"val_loss":0.5,"epoch":2}));
    }

    #[test]
    fn an_events_own_fields_stand_beside_the_common_ones_and_do_not_replace_them() {
        let event = v1::Event {
            seq: 9,
            r#type: "trial.measured".into(),
            at_ms: 0,
            study: "grid".into(),
            trial: 3,
            attempt: 1,
            json: r#"{"epoch":2,"val_loss":0.5,"seq":1}"#.into(),
        };
        let json = serde_json::to_value(EventView::from(&event)).unwrap();
        let expected = json!({"seq":9,"type":"trial.measured","at":"1970-01-01T00:00:00Z","study":"grid",
            "trial":3,"attempt":1,"epoch":2,"val_loss":0.5});
        assert_eq!(json, expected);
    }

    #[test]
    fn an_event_of_the_study_has_no_trial() {
        let event = v1::Event { r#type: "study.paused".into(), ..Default::default() };
        let json = serde_json::to_value(EventView::from(&event)).unwrap();
        assert_eq!(json["trial"], Value::Null);
    }
}
