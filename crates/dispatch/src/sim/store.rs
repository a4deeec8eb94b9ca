//! A reference model of the coordinator's store: plain maps and the pure functions of this crate, meant to be obviously
//! right rather than fast. The simulation runs over it, and a conformance test of the coordinator drives it and the
//! real store with the same operations.

mod attempts;
mod dump;
mod queue;
mod studies;

pub use attempts::{Ended, Finish, NewCheckpoint, Reported};
pub use queue::{Ask, Env, Leased};
pub use studies::{NewStudy, NewTrial, Rules};

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;

use super::Bug;
use crate::Held;
use crate::report::{Measurement, Summary};
use crate::study::StudyState;
use crate::trial::{Order, Outcome, Trial};

/// A name that is copied often.
pub type Name = Arc<str>;

/// Why an operation is refused. The names are those of the coordinator's documented reasons.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Error)]
pub enum Refusal {
    #[error("not-found")]
    NotFound,
    #[error("unknown-worker")]
    UnknownWorker,
    #[error("stale-incarnation")]
    StaleIncarnation,
    #[error("stale-attempt")]
    StaleAttempt,
    #[error("epoch-differs")]
    EpochDiffers,
    #[error("epoch-gap")]
    EpochGap,
    #[error("incomplete")]
    Incomplete,
    #[error("study-differs")]
    StudyDiffers,
    #[error("bad-request")]
    BadRequest,
    #[error("request-id-reused")]
    RequestIdReused,
    #[error("illegal-event")]
    IllegalEvent,
}

/// What a commit wants done to what lives only in memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum After {
    Granted { held: Held, worker: Name, study: i64 },
    Ended { held: Held },
    Order { held: Held, worker: Name, order: Order },
    Unwish { held: Held },
    Returned { trial: i64 },
    Wake,
    Drain { worker: Name },
}

/// A study on record.
#[derive(Debug, Clone, PartialEq)]
pub struct StudyRow {
    pub name: Name,
    pub state: StudyState,
    pub rules: Rules,
    /// Whatever else makes it this study and no other.
    pub content: String,
    /// Its trials, in order of number.
    pub trials: Vec<i64>,
}

/// A trial on record.
#[derive(Debug, Clone, PartialEq)]
pub struct TrialRow {
    pub study: i64,
    /// From 1.
    pub number: u32,
    /// What makes it this configuration and replicate and no other.
    pub identity: Name,
    pub shape: Name,
    pub epochs_wanted: u32,
    pub machine: Trial,
    /// The worker on which its newest attempt failed or was lost.
    pub avoid: Option<Name>,
    /// A pause of its study has paused it.
    pub study_paused: bool,
    pub summary: Summary,
    pub best: Option<CheckpointRow>,
    pub last: Option<CheckpointRow>,
    /// Attempt 1 first.
    pub attempts: Vec<AttemptRow>,
}

/// A checkpoint on record.
#[derive(Debug, Clone, PartialEq)]
pub struct CheckpointRow {
    pub digest: Name,
    pub epoch: u32,
    pub attempt: u32,
}

/// An attempt on record.
#[derive(Debug, Clone, PartialEq)]
pub struct AttemptRow {
    pub worker: Name,
    pub incarnation: Name,
    pub start_epoch: u32,
    pub start_checkpoint: Option<Name>,
    pub outcome: Option<Outcome>,
    /// Given after restarts, since a beat was heard.
    pub grace: Duration,
    pub rows: Vec<Row>,
}

/// A measurement on record.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    pub measurement: Measurement,
    pub superseded: bool,
}

/// What people have said about a worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WorkerState {
    Ready,
    Cordoned,
    Draining,
}

/// A worker on record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkerRow {
    pub incarnation: Name,
    pub state: WorkerState,
    /// Processes of this name that have been replaced, oldest first.
    pub past: VecDeque<Name>,
}

/// Replaced processes of a worker that are remembered.
pub const PAST_KEPT: usize = 8;
/// Answers to requests for work that are remembered for a worker.
const ANSWERS_KEPT: usize = 64;

/// An answer that is given again to a repeated request.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Answer {
    Lease { worker: Name, held: Vec<Held> },
    Create { name: Name, study: i64 },
}

/// The store. A clone is a snapshot, and cheap: what is not written to is shared.
#[derive(Debug, Clone, Default)]
pub struct Reference {
    pub studies: BTreeMap<i64, Arc<StudyRow>>,
    pub trials: BTreeMap<i64, Arc<TrialRow>>,
    pub workers: Arc<BTreeMap<Name, WorkerRow>>,
    /// By request id.
    answers: Arc<BTreeMap<Name, Answer>>,
    /// Each worker's answered requests for work, oldest first.
    answered: Arc<BTreeMap<Name, VecDeque<Name>>>,
    studies_ever: i64,
    trials_ever: i64,
    /// What the next commit wants done.
    pub after: Vec<After>,
    /// A rule that is broken, to see whether anybody notices.
    pub bug: Option<Bug>,
}

impl Reference {
    fn has(&self, bug: Bug) -> bool {
        self.bug == Some(bug)
    }

    /// The trial that an attempt holds, or the refusal of the attempt as stale.
    fn held(&self, held: Held) -> Result<&TrialRow, Refusal> {
        let trial = self.trials.get(&held.trial).ok_or(Refusal::StaleAttempt)?;
        let holds = trial.machine.state.attempt() == Some(held.attempt);
        let known = held.attempt >= 1 && held.attempt <= trial.machine.attempts;
        if holds || self.has(Bug::NoFence) && known { Ok(trial) } else { Err(Refusal::StaleAttempt) }
    }

    fn trial_mut(&mut self, id: i64) -> Result<&mut TrialRow, Refusal> {
        self.trials.get_mut(&id).map(Arc::make_mut).ok_or(Refusal::NotFound)
    }

    fn attempt_mut(&mut self, held: Held) -> Result<&mut AttemptRow, Refusal> {
        self.trial_mut(held.trial)?.attempt_mut(held.attempt).ok_or(Refusal::StaleAttempt)
    }

    fn rules(&self, study: i64) -> Result<Rules, Refusal> {
        self.studies.get(&study).map(|s| s.rules).ok_or(Refusal::NotFound)
    }

    /// Gives up on a request in the middle of a batch: nothing of it has happened.
    pub fn roll_back(&mut self, before: &Self) {
        if self.has(Bug::NoSavepoint) {
            self.after.truncate(before.after.len());
        } else {
            self.clone_from(before);
        }
    }
}

impl TrialRow {
    /// The row of an attempt.
    #[must_use]
    pub fn attempt(&self, attempt: u32) -> Option<&AttemptRow> {
        self.attempts.get(usize::try_from(attempt.checked_sub(1)?).ok()?)
    }

    fn attempt_mut(&mut self, attempt: u32) -> Option<&mut AttemptRow> {
        self.attempts.get_mut(usize::try_from(attempt.checked_sub(1)?).ok()?)
    }

    /// The curve: what is measured and not superseded, by epoch.
    #[must_use]
    pub fn curve(&self) -> Vec<&Measurement> {
        let mut curve: Vec<&Measurement> = self
            .attempts
            .iter()
            .flat_map(|a| &a.rows)
            .filter(|r| !r.superseded)
            .map(|r| &r.measurement)
            .collect();
        curve.sort_by_key(|m| m.epoch);
        curve
    }
}
