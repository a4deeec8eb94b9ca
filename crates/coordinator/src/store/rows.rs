//! Rows as they are read: the domain's side of what the services send.

use kapell_dispatch::report::Measurement;
use sqlx::FromRow;

use super::workers::Numerics;

#[derive(Debug, Clone, FromRow)]
pub(crate) struct CheckpointRow {
    pub(crate) digest: String,
    pub(crate) epoch: u32,
    pub(crate) attempt: u32,
    pub(crate) val_loss: Option<f64>,
    pub(crate) bytes: i64,
}

#[derive(Debug, Clone, FromRow)]
pub(crate) struct MeasurementRow {
    pub(crate) epoch: u32,
    pub(crate) attempt: u32,
    pub(crate) train_loss: f64,
    pub(crate) val_loss: f64,
    pub(crate) seconds: f64,
    pub(crate) tokens_per_s: f64,
    pub(crate) weights_digest: String,
}

impl From<MeasurementRow> for Measurement {
    fn from(row: MeasurementRow) -> Self {
        Self {
            epoch: row.epoch,
            train_loss: row.train_loss,
            val_loss: row.val_loss,
            seconds: row.seconds,
            tokens_per_s: row.tokens_per_s,
            weights_digest: row.weights_digest,
        }
    }
}

#[derive(Debug, Clone, FromRow)]
pub(crate) struct AttemptRow {
    pub(crate) attempt: u32,
    pub(crate) worker: String,
    pub(crate) started_at_ms: i64,
    pub(crate) ended_at_ms: Option<i64>,
    pub(crate) outcome: Option<String>,
    pub(crate) reason: String,
    #[sqlx(flatten)]
    pub(crate) numerics: Numerics,
    pub(crate) start_epoch: u32,
    pub(crate) start_checkpoint: Option<String>,
}

/// A trial with its study's name, its newest attempt's worker and its checkpoints.
#[derive(Debug, Clone, FromRow)]
pub(crate) struct TrialRow {
    pub(crate) id: i64,
    pub(crate) study_name: String,
    pub(crate) study_uuid: String,
    pub(crate) corpus_digest: String,
    pub(crate) number: u32,
    pub(crate) config: String,
    pub(crate) config_hash: String,
    pub(crate) shape_key: String,
    pub(crate) replicate: u32,
    pub(crate) state: String,
    pub(crate) reason: String,
    pub(crate) attempts: u32,
    pub(crate) epochs: u32,
    pub(crate) objective: Option<f64>,
    pub(crate) train_loss: Option<f64>,
    pub(crate) val_loss: Option<f64>,
    pub(crate) best_val_loss: Option<f64>,
    pub(crate) best_epoch: Option<u32>,
    pub(crate) weights_digest: Option<String>,
    pub(crate) seconds: f64,
    pub(crate) created_at_ms: i64,
    pub(crate) started_at_ms: Option<i64>,
    pub(crate) ended_at_ms: Option<i64>,
    pub(crate) worker: Option<String>,
    pub(crate) device: Option<String>,
    pub(crate) program_version: Option<String>,
    pub(crate) kind: Option<String>,
    pub(crate) dtype: Option<String>,
    pub(crate) best_digest: Option<String>,
    pub(crate) best_at: Option<u32>,
    pub(crate) best_loss: Option<f64>,
    pub(crate) best_bytes: Option<i64>,
    pub(crate) last_digest: Option<String>,
    pub(crate) last_at: Option<u32>,
    pub(crate) last_loss: Option<f64>,
    pub(crate) last_bytes: Option<i64>,
}

#[derive(Debug, Clone, FromRow)]
pub(crate) struct StudyRow {
    pub(crate) uuid: String,
    pub(crate) name: String,
    pub(crate) state: String,
    pub(crate) reason: String,
    pub(crate) spec_toml: String,
    pub(crate) corpus: String,
    pub(crate) corpus_digest: String,
    pub(crate) split_digest: String,
    pub(crate) configurations: i64,
    pub(crate) created_at_ms: i64,
}

/// Failed trials with the same reason.
#[derive(Debug, Clone, FromRow)]
pub(crate) struct FailureRow {
    pub(crate) reason: String,
    pub(crate) count: i64,
    /// The names of the workers, with commas between.
    pub(crate) workers: Option<String>,
    /// A trial's number.
    pub(crate) example: u32,
}

/// A study with all that is told of it.
#[derive(Debug, Clone)]
pub(crate) struct StudyView {
    pub(crate) row: StudyRow,
    pub(crate) spec: std::sync::Arc<kapell_search::StudySpec>,
    /// Trials by state.
    pub(crate) counts: Vec<(String, i64)>,
    pub(crate) best: Option<TrialRow>,
    /// (study, hash, replicate) that are there more than once: the schema refuses it, and this looks.
    pub(crate) duplicates: i64,
    /// COMPLETE trials without their measurements or checkpoints.
    pub(crate) lost: i64,
    pub(crate) failures: Vec<FailureRow>,
    pub(crate) last_seq: i64,
}

impl StudyView {
    /// Trials in this state.
    pub(crate) fn count(&self, state: &str) -> u64 {
        self.counts.iter().find(|c| c.0 == state).map_or(0, |c| u64::try_from(c.1).unwrap_or(0))
    }
}
