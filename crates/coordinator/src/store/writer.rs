//! The one writer: requests queue up, a batch of them shares a transaction and its fsync, each with a savepoint of
//! its own so that a bad one fails alone. Answers go out after the commit, and so do its effects on the living.

use std::collections::HashMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use kapell_dispatch::{Held, Order};
use kapell_search::StudySpec;
use sqlx::SqliteConnection;
use tokio::sync::mpsc::error::SendTimeoutError;
use tokio::sync::{mpsc, oneshot};

use super::events::{self, Pending};
use super::{Specs, StoreError, now_ms};
use crate::live::Live;

/// Requests that wait for the writer, and how long others wait to get into the queue before they are told to come back.
const QUEUE_MAX: usize = 4096;
const QUEUE_WAIT_MAX: Duration = Duration::from_secs(5);
/// Requests that share a commit at most, and how long a batch may collect.
const BATCH_MAX: usize = 256;
const BATCH_TIME_MAX: Duration = Duration::from_millis(10);

/// A future in a box, as a closure over a transaction gives it.
pub(crate) type Boxed<'c, T> = Pin<Box<dyn Future<Output = T> + Send + 'c>>;

/// What is done after a commit, to what lives only in memory.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum After {
    Granted {
        held: Held,
        worker: String,
        study: i64,
        /// The study's name and the trial's number, for the log.
        name: (String, u32),
    },
    Ended {
        held: Held,
    },
    Order {
        held: Held,
        worker: String,
        order: Order,
        reason: String,
    },
    /// A trial has changed its state: a line for the log, once it is so.
    Stepped {
        study: String,
        trial: u32,
        attempt: u32,
        from: &'static str,
        to: &'static str,
        reason: String,
    },
    /// Take back what an attempt was asked to do.
    Unwish {
        held: Held,
    },
    /// There is something to lease.
    Wake,
    /// A trial came back to the queue from a worker that should rather not have it again.
    Returned {
        trial: i64,
    },
    /// The newest event.
    Told {
        seq: i64,
    },
    /// What is on record of a worker has changed.
    WorkerChanged {
        worker: String,
    },
    /// A worker gets no more work, since it spoils trials.
    Quarantined {
        worker: String,
        reason: String,
    },
    /// A worker is to be told to leave.
    Drain {
        worker: String,
    },
}

/// A request's view of the transaction that it shares.
pub(crate) struct Tx {
    pub(crate) conn: SqliteConnection,
    /// Wall-clock time of the request, for the record.
    pub(crate) at_ms: i64,
    pub(crate) after: Vec<After>,
    /// Events that are written with the commit.
    pub(crate) events: Vec<Pending>,
    /// Answers remembered for a worker since old ones were last removed.
    pub(crate) remembered: HashMap<String, u32>,
    pub(crate) specs: Specs,
    pub(crate) live: Arc<Live>,
}

impl Tx {
    /// The study file of a study.
    pub(crate) async fn spec(&mut self, study: i64) -> Result<Arc<StudySpec>, StoreError> {
        self.specs.get(&mut self.conn, study).await
    }
}

/// Sends an answer, now that the commit's fate is known.
type Settle = Box<dyn FnOnce(Result<(), StoreError>) + Send>;
/// Runs a request. The first part says whether its savepoint stands, or that the batch is spoilt.
type Job = Box<dyn for<'c> FnOnce(&'c mut Tx) -> Boxed<'c, (Result<bool, StoreError>, Settle)> + Send>;

/// A handle to the writer. The writer ends when the last handle is dropped.
#[derive(Clone)]
pub(crate) struct Writer {
    jobs: mpsc::Sender<Job>,
}

impl Writer {
    /// Starts the writer on its connection. It reports on `fatal` the error after which it cannot go on.
    pub(crate) fn spawn(
        conn: SqliteConnection,
        specs: Specs,
        live: Arc<Live>,
        fatal: oneshot::Sender<String>,
    ) -> (Self, tokio::task::JoinHandle<()>) {
        let (jobs, queue) = mpsc::channel(QUEUE_MAX);
        let (after, events) = (Vec::new(), Vec::new());
        let tx = Tx { conn, at_ms: now_ms(), after, events, remembered: HashMap::new(), specs, live };
        let task = tokio::spawn(async move {
            if let Err(error) = run(tx, queue).await {
                tracing::error!(%error, "the store has failed");
                // The receiver is gone only where nobody waits for the coordinator.
                drop(fatal.send(error.to_string()));
            }
        });
        (Self { jobs }, task)
    }

    /// Runs `f` in a savepoint, and gives its result once it is on disk.
    ///
    /// # Errors
    /// What `f` gave (then nothing of it is on disk), or why the commit failed (likewise).
    pub(crate) async fn write<T, F>(&self, f: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: for<'c> FnOnce(&'c mut Tx) -> Boxed<'c, Result<T, StoreError>> + Send + 'static,
    {
        let (reply, answer) = oneshot::channel();
        let job: Job = Box::new(move |tx| {
            Box::pin(async move {
                let result = f(tx).await;
                let stands = match &result {
                    Ok(_) => Ok(true),
                    Err(error) if error.spoils_the_batch() => Err(error.share()),
                    Err(_) => Ok(false),
                };
                let settle: Settle = Box::new(move |commit| {
                    // Who asked may have gone; what is on disk stays so.
                    drop(reply.send(match commit {
                        Err(error) => Err(error),
                        Ok(()) => result,
                    }));
                });
                (stands, settle)
            })
        });
        self.jobs.send_timeout(job, QUEUE_WAIT_MAX).await.map_err(|error| match error {
            SendTimeoutError::Timeout(_) => StoreError::Overloaded,
            SendTimeoutError::Closed(_) => StoreError::Closed,
        })?;
        answer.await.map_err(|_| StoreError::Closed)?
    }
}

async fn run(mut tx: Tx, mut queue: mpsc::Receiver<Job>) -> Result<(), StoreError> {
    while let Some(first) = queue.recv().await {
        let mut settles = Vec::new();
        let outcome = batch(&mut tx, first, &mut queue, &mut settles).await;
        let after = std::mem::take(&mut tx.after);
        tx.events.clear();
        match outcome {
            Ok(()) => {
                tx.live.apply(after);
                settles.into_iter().for_each(|settle| settle(Ok(())));
            }
            Err(error) => {
                settles.into_iter().for_each(|settle| settle(Err(error.share())));
                if !matches!(error, StoreError::DiskFull) {
                    return Err(error);
                }
                // SQLite has rolled back by itself in some cases and not in others; both are fine.
                drop(sqlx::query("ROLLBACK").execute(&mut tx.conn).await);
                tx.specs.forget_all();
                tracing::warn!("no space left on the disk of the database; nothing of this batch is written");
            }
        }
    }
    Ok(())
}

/// One transaction. `Err`: nothing of it is on disk, or (other than a full disk) nobody knows.
async fn batch(
    tx: &mut Tx,
    first: Job,
    queue: &mut mpsc::Receiver<Job>,
    settles: &mut Vec<Settle>,
) -> Result<(), StoreError> {
    let begun = Instant::now();
    let mut next = Some(first);
    let mut spoilt = execute(tx, "BEGIN IMMEDIATE").await;
    while let Some(job) = next.take() {
        let (stands, settle) = request(tx, job, &mut spoilt).await;
        if let Some(settle) = settle {
            settles.push(settle);
        }
        if spoilt.is_err() || !stands {
            break;
        }
        if settles.len() < BATCH_MAX && begun.elapsed() < BATCH_TIME_MAX {
            next = queue.try_recv().ok();
        }
    }
    spoilt?;
    events::flush(tx).await?;
    execute(tx, "COMMIT").await
}

async fn execute(tx: &mut Tx, sql: &'static str) -> Result<(), StoreError> {
    sqlx::query(sql).execute(&mut tx.conn).await?;
    Ok(())
}

/// One request in its savepoint. Gives false where the transaction can take no more.
async fn request(tx: &mut Tx, job: Job, spoilt: &mut Result<(), StoreError>) -> (bool, Option<Settle>) {
    tx.at_ms = now_ms();
    let (mark, told) = (tx.after.len(), tx.events.len());
    if spoilt.is_ok() {
        *spoilt = execute(tx, "SAVEPOINT request").await;
    }
    if spoilt.is_err() {
        // Dropping the job closes its answer channel: the request is told that the store is closed.
        return (false, None);
    }
    let (stands, settle) = job(tx).await;
    let back = match stands {
        Ok(true) => Ok(()),
        Ok(false) => {
            tx.after.truncate(mark);
            tx.events.truncate(told);
            execute(tx, "ROLLBACK TO request").await
        }
        Err(error) => {
            *spoilt = Err(error);
            return (false, Some(settle));
        }
    };
    let ended = match back {
        Ok(()) => execute(tx, "RELEASE request").await,
        failed => failed,
    };
    if ended.is_err() {
        *spoilt = ended;
    }
    (spoilt.is_ok(), Some(settle))
}
