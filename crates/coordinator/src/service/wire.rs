//! From the domain to the wire.

use kapell_dispatch::lease::first_checkpoint;
use kapell_dispatch::report::Measurement;
use kapell_rpc::convert;
use kapell_rpc::v1;
use kapell_search::Config;

use super::lease_id;
use crate::store::StoreError;
use crate::store::divergence::DivergenceRow;
use crate::store::events::EventRow;
use crate::store::lease::Leased;
use crate::store::rows::{AttemptRow, CheckpointRow, MeasurementRow, StudyView, TrialRow};
use crate::store::workers::{Device, Numerics, WorkerRow};

fn unsigned(n: i64) -> u64 {
    u64::try_from(n).unwrap_or(0)
}

/// A configuration as the database has it.
pub(crate) fn config(json: &str) -> Result<v1::Config, StoreError> {
    let corrupt = |e: String| StoreError::Corrupt(format!("a configuration: {e}"));
    let value = serde_json::from_str(json).map_err(|e| corrupt(e.to_string()))?;
    Ok(convert::config_to_wire(&Config::from_json(&value).map_err(corrupt)?))
}

pub(crate) fn checkpoint(row: &CheckpointRow) -> v1::Checkpoint {
    v1::Checkpoint {
        digest: row.digest.clone(),
        epoch: row.epoch,
        val_loss: row.val_loss.unwrap_or(f64::NAN),
        bytes: unsigned(row.bytes),
    }
}

fn trial_checkpoint(
    digest: Option<&String>,
    epoch: Option<u32>,
    val_loss: Option<f64>,
    bytes: Option<i64>,
) -> Option<v1::Checkpoint> {
    Some(v1::Checkpoint {
        digest: digest?.clone(),
        epoch: epoch?,
        val_loss: val_loss.unwrap_or(f64::NAN),
        bytes: unsigned(bytes?),
    })
}

pub(crate) fn numerics(n: Numerics) -> v1::Numerics {
    v1::Numerics { program_version: n.program_version, kind: n.kind, dtype: n.dtype }
}

pub(crate) fn trial(row: TrialRow) -> Result<v1::Trial, StoreError> {
    let state = convert::trial_state_from_name(&row.state)
        .ok_or_else(|| StoreError::Corrupt(format!("trial {} is {}", row.id, row.state)))?;
    let numerics = match (row.program_version, row.kind, row.dtype) {
        (Some(program_version), Some(kind), Some(dtype)) => {
            Some(v1::Numerics { program_version, kind, dtype })
        }
        _ => None,
    };
    Ok(v1::Trial {
        id: row.id,
        study: row.study_name,
        number: row.number,
        config: Some(config(&row.config)?),
        replicate: row.replicate,
        state: state.into(),
        reason: row.reason,
        attempts: row.attempts,
        epochs: row.epochs,
        objective: row.objective,
        train_loss: row.train_loss,
        val_loss: row.val_loss,
        best_val_loss: row.best_val_loss,
        best_epoch: row.best_epoch,
        worker: row.worker.unwrap_or_default(),
        device: row.device.unwrap_or_default(),
        numerics,
        seconds: row.seconds,
        created_at_ms: row.created_at_ms,
        started_at_ms: row.started_at_ms,
        ended_at_ms: row.ended_at_ms,
        best: trial_checkpoint(row.best_digest.as_ref(), row.best_at, row.best_loss, row.best_bytes),
        last: trial_checkpoint(row.last_digest.as_ref(), row.last_at, row.last_loss, row.last_bytes),
        weights_digest: row.weights_digest.unwrap_or_default(),
        corpus_digest: row.corpus_digest,
        study_id: row.study_uuid,
        shape_key: row.shape_key,
        config_hash: row.config_hash,
    })
}

pub(crate) fn measurement(row: MeasurementRow) -> v1::Measurement {
    v1::Measurement {
        epoch: row.epoch,
        train_loss: row.train_loss,
        val_loss: row.val_loss,
        seconds: row.seconds,
        tokens_per_s: row.tokens_per_s,
        weights_digest: row.weights_digest,
        attempt: row.attempt,
    }
}

pub(crate) fn measurement_from_wire(m: v1::Measurement) -> Measurement {
    Measurement {
        epoch: m.epoch,
        train_loss: m.train_loss,
        val_loss: m.val_loss,
        seconds: m.seconds,
        tokens_per_s: m.tokens_per_s,
        weights_digest: m.weights_digest,
    }
}

pub(crate) fn attempt(row: AttemptRow) -> v1::Attempt {
    let outcome = row.outcome.as_deref().and_then(convert::outcome_from_name).unwrap_or_default();
    v1::Attempt {
        attempt: row.attempt,
        worker: row.worker,
        started_at_ms: row.started_at_ms,
        ended_at_ms: row.ended_at_ms,
        outcome: outcome.into(),
        reason: row.reason,
        numerics: Some(numerics(row.numerics)),
        start_epoch: row.start_epoch,
        start_checkpoint: row.start_checkpoint.unwrap_or_default(),
    }
}

pub(crate) fn divergence(row: DivergenceRow) -> v1::Divergence {
    v1::Divergence {
        epoch: row.epoch,
        attempt: row.attempt,
        other_attempt: row.other_attempt,
        weights_digest: row.weights_digest,
        other_weights_digest: row.other_weights_digest,
    }
}

pub(crate) fn study(view: StudyView) -> Result<v1::Study, StoreError> {
    let state = convert::study_state_from_name(&view.row.state)
        .ok_or_else(|| StoreError::Corrupt(format!("study {} is {}", view.row.name, view.row.state)))?;
    let (trials, coverage) = (counts(&view), coverage(&view));
    let name = view.row.name.clone();
    let failures = view.failures.into_iter().map(|f| v1::FailureGroup {
        reason: f.reason,
        count: unsigned(f.count),
        workers: f
            .workers
            .unwrap_or_default()
            .split(',')
            .filter(|w| !w.is_empty())
            .map(str::to_owned)
            .collect(),
        example: format!("{name}/{}", f.example),
    });
    Ok(v1::Study {
        id: view.row.uuid,
        name: view.row.name,
        state: state.into(),
        sampler: view.spec.sampler.name().to_owned(),
        pruner: view.spec.pruner.name().to_owned(),
        tags: view.spec.tags.clone().into_iter().collect(),
        created_at_ms: view.row.created_at_ms,
        trials: Some(trials),
        best: view.best.map(trial).transpose()?,
        coverage: Some(coverage),
        failures: failures.collect(),
        spec_toml: view.row.spec_toml,
        corpus: view.row.corpus,
        corpus_digest: view.row.corpus_digest,
        split_digest: view.row.split_digest,
        reason: view.row.reason,
        last_seq: unsigned(view.last_seq),
    })
}

fn counts(view: &StudyView) -> v1::TrialCounts {
    v1::TrialCounts {
        total: view.counts.iter().map(|c| unsigned(c.1)).sum(),
        queued: view.count("QUEUED"),
        running: view.count("RUNNING"),
        paused: view.count("PAUSED"),
        complete: view.count("COMPLETE"),
        pruned: view.count("PRUNED"),
        failed: view.count("FAILED"),
        canceled: view.count("CANCELED"),
    }
}

fn coverage(view: &StudyView) -> v1::Coverage {
    let configurations = unsigned(view.row.configurations);
    let ended = ["COMPLETE", "PRUNED", "FAILED", "CANCELED"].map(|s| view.count(s));
    let [complete, pruned, failed, canceled] = ended;
    v1::Coverage {
        configurations,
        complete,
        pruned,
        failed,
        canceled,
        missing: configurations.saturating_sub(ended.iter().sum()),
        duplicates: unsigned(view.duplicates),
        lost: unsigned(view.lost),
    }
}

pub(crate) fn event(study: &str, row: EventRow) -> v1::Event {
    v1::Event {
        seq: unsigned(row.seq),
        r#type: row.kind,
        at_ms: row.at_ms,
        study: study.to_owned(),
        trial: row.trial,
        attempt: row.attempt,
        json: row.json,
    }
}

pub(crate) fn device(d: Device) -> v1::Device {
    v1::Device { kind: d.kind, name: d.name, index: d.index, memory_bytes: d.memory_bytes }
}

pub(crate) fn device_from_wire(d: v1::Device) -> Device {
    Device { kind: d.kind, name: d.name, index: d.index, memory_bytes: d.memory_bytes }
}

/// A worker, with what it holds and when it was last heard of if this process knows.
pub(crate) fn worker(row: WorkerRow, trials: Vec<String>, seen: Option<(i64, bool)>) -> v1::Worker {
    let (last_seen_ms, gone) = seen.unwrap_or((row.last_seen_ms, true));
    let devices = row.devices().into_iter().map(device).collect();
    v1::Worker {
        name: row.name,
        host: row.host,
        // What a person has to see to is said of one that is gone as well.
        state: if gone && row.state != "quarantined" { "gone".to_owned() } else { row.state },
        reason: row.reason,
        devices,
        slots: row.slots,
        busy: u32::try_from(trials.len()).unwrap_or(u32::MAX),
        last_seen_ms,
        numerics: Some(numerics(row.numerics)),
        trials,
    }
}

fn millis(duration: std::time::Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Work for a worker.
pub(crate) fn work(life: u32, leased: Leased) -> Result<v1::Work, StoreError> {
    use kapell_search::study::Direction;
    let spec = &leased.spec;
    let train = v1::TrainWork {
        study: leased.row.core.study_name,
        number: leased.row.core.number,
        config: Some(config(&leased.row.config)?),
        replicate: leased.row.replicate,
        corpus_digest: leased.row.corpus_digest,
        shape_key: leased.row.shape_key,
        resume: leased.resume.as_ref().map(checkpoint),
        best: leased.best.as_ref().map(checkpoint),
        checkpoint_every_ms: millis(spec.checkpoint.every),
        checkpoint_first_ms: millis(first_checkpoint(spec.checkpoint.every, leased.row.core.losses)),
        keep_best: spec.checkpoint.keep.best(),
        keep_last: spec.checkpoint.keep.last(),
        maximize: spec.objective.direction == Direction::Maximize,
    };
    Ok(v1::Work {
        trial_id: lease_id::to_wire(life, leased.held.trial),
        attempt: leased.held.attempt,
        kind: Some(v1::work::Kind::Train(train)),
    })
}
