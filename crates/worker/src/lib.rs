//! Leases work, trains, streams measurements and checkpoints.
//!
//! ```text
//!  run ── Worker ──┬── lease loop ── asks for work while slots are free
//!                  ├── heartbeat ─── says what is held, on a connection of its own; receives orders
//!                  └── attempts, each:
//!                        training thread ──measurements──> outbox (on disk) ──> reporter ──> coordinator
//!                                        ──checkpoints───> latest (on disk) ──> uploader ──> coordinator
//! ```
//! The training thread waits for nobody: while the coordinator is away it goes on, and what it measured waits in
//! order in the outbox. An order (cancel, pause, prune, forget, drain) is a level in the attempt's [`Control`]
//! that the thread looks at after every update.
//!
//! [`Control`]: control::Control

mod attempt;
mod control;
pub mod cores;
pub mod corpora;
mod heartbeat;
pub mod machine;
pub mod plan;
mod session;
pub mod training;
mod trouble;

use std::path::PathBuf;
use std::time::Duration;

use kapell_rpc::{ClientError, Kind};
use tokio::sync::watch;

use training::{Start, model_trainer};

/// What a worker is told on its command line.
#[derive(Debug, Clone)]
pub struct WorkerConfig {
    /// "http://host:7070"
    pub coordinator: String,
    pub token: Option<String>,
    /// Unique among the workers of a coordinator.
    pub name: String,
    /// Cores that its trials share, at least one.
    pub cores: usize,
    /// Trials at a time, and no more than cores; none: as [`plan::choose`] finds best.
    pub slots: Option<usize>,
    /// Corpora, checkpoints on their way up and down, measurements not yet sent.
    pub cache_dir: PathBuf,
    /// Serve only this study, by id or name.
    pub study: Option<String>,
    /// Leave after so long without work.
    pub exit_when_idle: Option<Duration>,
    /// Drain and leave after so long.
    pub max_runtime: Option<Duration>,
    /// How long a drain may take.
    pub drain_timeout: Duration,
    /// End at once when the process that started this one has ended.
    pub die_with_parent: bool,
}

/// Why a worker left in good order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// It was told to by the shutdown channel: SIGTERM, Ctrl-C.
    Shutdown,
    /// The coordinator drained it.
    Drained,
    /// It had no work for as long as `exit_when_idle`.
    Idle,
    /// `max_runtime` was over.
    MaxRuntime,
    /// The process that started it has ended.
    ParentGone,
}

/// Why a worker could not go on.
#[derive(Debug, thiserror::Error)]
pub enum WorkerError {
    /// The coordinator refused, or could not be reached by a worker that does not wait for one.
    #[error(transparent)]
    Coordinator(#[from] ClientError),
    /// Another process has registered under the same name.
    #[error("another process has registered as worker \"{0}\"; give each worker its own --name")]
    Replaced(String),
    /// The cache folder cannot be used.
    #[error("the cache folder {path} cannot be used: {source}")]
    Cache { path: PathBuf, source: std::io::Error },
}

impl WorkerError {
    /// The exit code of the command-line contract.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Coordinator(error) if error.kind == Kind::NotFound => 2,
            Self::Coordinator(error) => error.exit_code(),
            Self::Replaced(_) => 5,
            Self::Cache { path, source } => match ClientError::local("use", path, source).exit_code() {
                75 => 75,
                _ => 2,
            },
        }
    }
}

/// Works until told to stop: serves the coordinator's trials with the LSTM trainer. `shutdown` turning true begins
/// a drain: every trial writes a checkpoint, is released, and the worker leaves within `drain_timeout`.
///
/// A coordinator that is away is waited for; only a refusal ends the worker.
///
/// # Errors
/// A refusal of the coordinator (version, token, name), or a cache folder that cannot be written.
pub async fn run(config: WorkerConfig, shutdown: watch::Receiver<bool>) -> Result<Exit, WorkerError> {
    run_with(config, shutdown, model_trainer()).await
}

/// The same with another way to train, for tests.
///
/// # Errors
/// As [`run`].
pub async fn run_with(
    config: WorkerConfig,
    shutdown: watch::Receiver<bool>,
    start: Start,
) -> Result<Exit, WorkerError> {
    session::Worker::new(config, start)?.run(shutdown).await
}
