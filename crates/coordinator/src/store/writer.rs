//! The one writer: requests queue up, and a batch of them shares a transaction and its fsync. Answers go out after the
//! commit, and so do its effects on the living.
//!
//! In a batch, what workers say of their attempts comes first, then what asks for work, then all else: none of them has
//! its answer yet, so any order is as good. The first two share statements as far as they are ordinary (see
//! [`Together`]); every other request has a savepoint of its own, so that a bad one fails alone.

#[cfg(test)]
mod tests;

use std::collections::{HashMap, VecDeque};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use kapell_dispatch::{Held, Order};
use kapell_search::StudySpec;
use sqlx::{AssertSqlSafe, SqliteConnection};
use tokio::sync::mpsc::error::SendTimeoutError;
use tokio::sync::{mpsc, oneshot};

use super::events::{self, Pending};
use super::lease::{Ask, Leased};
use super::together::{Heard, Word};
use super::{Specs, StoreError, now_ms};
use crate::live::Live;

/// Requests that wait for the writer, and how long others wait to get into the queue before they are told to come back.
const QUEUE_MAX: usize = 4096;
const QUEUE_WAIT_MAX: Duration = Duration::from_secs(5);
/// Requests that share a commit at most, and how long the last of them to begin may have waited for those before it.
const BATCH_MAX: usize = 256;
const BATCH_TIME_MAX: Duration = Duration::from_millis(10);
/// How long a batch waits for more of them where the last one had more than one: those who were answered with it are about
/// to come back. It costs them next to nothing, and a commit, whose price hardly depends on what is in it, serves
/// twice as many.
const GATHER: Duration = Duration::from_micros(200);
/// Measurements of a batch, from which on it takes no more words.
const BATCH_ROWS_MAX: usize = 4096;

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
    /// There is a savepoint.
    marked: bool,
    /// Statements without arguments that go to SQLite with the next message (see [`Tx::sql`]).
    front: String,
    /// Events that are written with the commit.
    pub(crate) events: Vec<Pending>,
    /// The largest number of an event, if it is known.
    pub(crate) newest_event: Option<i64>,
    /// Answers remembered for a worker since old ones were last removed.
    pub(crate) remembered: HashMap<String, u32>,
    pub(crate) specs: Specs,
    pub(crate) live: Arc<Live>,
}

impl Tx {
    /// A statement behind those that were put off until now. Every message costs two switches of threads, so a
    /// transaction and its savepoints are begun with the first statement in them.
    pub(crate) fn sql(&mut self, sql: &str) -> AssertSqlSafe<String> {
        let mut all = std::mem::take(&mut self.front);
        all.push_str(sql);
        AssertSqlSafe(all)
    }

    /// Runs what was put off: for who does not use [`Tx::sql`].
    pub(crate) async fn catch_up(&mut self) -> Result<(), StoreError> {
        if self.front.is_empty() {
            return Ok(());
        }
        execute(self, "").await
    }

    /// The study file of a study.
    pub(crate) async fn spec(&mut self, study: i64) -> Result<Arc<StudySpec>, StoreError> {
        self.specs.get(&mut self.conn, study).await
    }
}

/// Sends an answer, now that the commit's fate is known.
type Settle = Box<dyn FnOnce(Result<(), StoreError>) + Send>;
/// Runs a request. The first part says whether its savepoint stands, or that the batch is spoilt.
type Other = Box<dyn for<'c> FnOnce(&'c mut Tx) -> Boxed<'c, (Result<bool, StoreError>, Settle)> + Send>;
/// Where an answer goes.
type Reply<T> = oneshot::Sender<Result<T, StoreError>>;

enum Job {
    Word(Word, Reply<Heard>),
    Ask(Ask, Reply<Option<Vec<Leased>>>),
    Other(Other),
}

/// A handle to the writer. The writer ends when the last handle is dropped.
#[derive(Clone)]
pub(crate) struct Writer {
    jobs: mpsc::Sender<Job>,
    /// How long a request waits to get into the queue.
    wait_max: Duration,
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
        let (newest_event, remembered) = (None, HashMap::new());
        let (marked, front, at_ms) = (false, String::new(), now_ms());
        let tx = Tx { conn, at_ms, after, marked, front, events, newest_event, remembered, specs, live };
        let task = tokio::spawn(async move {
            if let Err(error) = run(tx, queue).await {
                tracing::error!(%error, "the store has failed");
                // The receiver is gone only where nobody waits for the coordinator.
                drop(fatal.send(error.to_string()));
            }
        });
        (Self { jobs, wait_max: QUEUE_WAIT_MAX }, task)
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
        let job: Other = Box::new(move |tx| {
            Box::pin(async move {
                let result = f(tx).await;
                let stands = stands(&result);
                (stands, settle(reply, result))
            })
        });
        self.queue(Job::Other(job), answer).await
    }

    /// Writes down what a worker says of an attempt; answers once it is on disk.
    ///
    /// # Errors
    /// Why it is refused, or why the commit failed: nothing of it is on disk.
    pub(crate) async fn word(&self, word: Word) -> Result<Heard, StoreError> {
        let (reply, answer) = oneshot::channel();
        self.queue(Job::Word(word, reply), answer).await
    }

    /// Leases what there is for a worker (see [`lease::lease`]); answers once it is on disk.
    ///
    /// # Errors
    /// Why it is refused, or why the commit failed: nothing is leased.
    pub(crate) async fn ask(&self, ask: Ask) -> Result<Option<Vec<Leased>>, StoreError> {
        let (reply, answer) = oneshot::channel();
        self.queue(Job::Ask(ask, reply), answer).await
    }

    async fn queue<T>(
        &self,
        job: Job,
        answer: oneshot::Receiver<Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        self.jobs.send_timeout(job, self.wait_max).await.map_err(|error| match error {
            SendTimeoutError::Timeout(_) => StoreError::Overloaded,
            SendTimeoutError::Closed(_) => StoreError::Closed,
        })?;
        answer.await.map_err(|_| StoreError::Closed)?
    }
}

/// Does what a request has written stay in the batch? `Err`: the batch is spoilt.
fn stands<T>(result: &Result<T, StoreError>) -> Result<bool, StoreError> {
    match result {
        Ok(_) => Ok(true),
        Err(error) if error.spoils_the_batch() => Err(error.share()),
        Err(_) => Ok(false),
    }
}

fn settle<T: Send + 'static>(reply: Reply<T>, result: Result<T, StoreError>) -> Settle {
    Box::new(move |commit| {
        // Who asked may have gone; what is on disk stays so.
        drop(reply.send(match commit {
            Err(error) => Err(error),
            Ok(()) => result,
        }));
    })
}

async fn run(mut tx: Tx, mut queue: mpsc::Receiver<Job>) -> Result<(), StoreError> {
    let mut jobs = Vec::with_capacity(BATCH_MAX);
    let mut late = VecDeque::new();
    let mut several = false;
    loop {
        jobs.extend(late.drain(..));
        if jobs.is_empty() && queue.recv_many(&mut jobs, BATCH_MAX).await == 0 {
            return Ok(());
        }
        if several {
            tokio::time::sleep(GATHER).await;
        }
        while jobs.len() < BATCH_MAX
            && let Ok(job) = queue.try_recv()
        {
            jobs.push(job);
        }
        several = jobs.len() > 1;
        let mut batch = Batch::sort(jobs.drain(..));
        let outcome = batch.commit(&mut tx).await;
        late = batch.others;
        late.extend(batch.later);
        let after = std::mem::take(&mut tx.after);
        tx.events.clear();
        match outcome {
            Ok(()) => {
                tx.live.apply(after);
                batch.settles.into_iter().for_each(|settle| settle(Ok(())));
            }
            Err(error) => {
                batch.settles.into_iter().for_each(|settle| settle(Err(error.share())));
                if !matches!(error, StoreError::DiskFull) {
                    return Err(error);
                }
                // SQLite has rolled back by itself in some cases and not in others; both are fine.
                tx.front.clear();
                drop(sqlx::query("ROLLBACK").execute(&mut tx.conn).await);
                tx.specs.forget_all();
                tx.newest_event = None;
                tracing::warn!("no space left on the disk of the database; nothing of this batch is written");
            }
        }
    }
}

/// A kind of requests that can share statements.
pub(crate) trait Together: Sized + Send + Sync + 'static {
    type Answer: Send + 'static;

    /// Serves the first of them together, up to one that is not ordinary: their answers. Where it fails, nothing of it
    /// stands. Its first statement is of [`Tx::sql`].
    fn together<'c>(tx: &'c mut Tx, some: &'c [Self]) -> Boxed<'c, Result<Vec<Self::Answer>, StoreError>>;

    /// Serves one of them, whatever it is.
    fn alone<'c>(tx: &'c mut Tx, one: &'c Self) -> Boxed<'c, Result<Self::Answer, StoreError>>;
}

/// Requests that share a transaction.
struct Batch {
    words: Vec<(Word, Reply<Heard>)>,
    asks: Vec<(Ask, Reply<Option<Vec<Leased>>>)>,
    others: VecDeque<Job>,
    /// What goes into the next one.
    later: Vec<Job>,
    settles: Vec<Settle>,
    begun: Instant,
}

impl Batch {
    fn sort(jobs: impl Iterator<Item = Job>) -> Self {
        let (words, asks, others, later) = (Vec::new(), Vec::new(), VecDeque::new(), Vec::new());
        let mut batch = Self { words, asks, others, later, settles: Vec::new(), begun: Instant::now() };
        let mut rows = 0;
        for job in jobs {
            match job {
                Job::Word(word, reply) if rows < BATCH_ROWS_MAX => {
                    rows += word.rows().len();
                    batch.words.push((word, reply));
                }
                Job::Word(..) => batch.later.push(job),
                Job::Ask(ask, reply) => batch.asks.push((ask, reply)),
                other => batch.others.push_back(other),
            }
        }
        batch
    }

    /// One transaction. `Err`: nothing of it is on disk, or (other than a full disk) nobody knows. Others that have not
    /// begun when the time is over are left for the next one.
    async fn commit(&mut self, tx: &mut Tx) -> Result<(), StoreError> {
        tx.marked = false;
        tx.front = "BEGIN IMMEDIATE; ".to_owned();
        let words = std::mem::take(&mut self.words);
        let stands = self.serve(tx, words, Ok(())).await;
        let asks = std::mem::take(&mut self.asks);
        self.serve(tx, asks, stands).await?;
        while let Some(job) = self.others.pop_front() {
            if let Job::Other(job) = job {
                self.request(tx, job).await?;
            }
            if self.begun.elapsed() >= BATCH_TIME_MAX {
                break;
            }
        }
        events::flush_and(tx, "COMMIT").await
    }

    /// Serves all of a kind, in their order: together what is ordinary, each of the rest alone. Where the batch is
    /// spoilt none of them took effect, and all hear of it.
    async fn serve<R: Together>(
        &mut self,
        tx: &mut Tx,
        requests: Vec<(R, Reply<R::Answer>)>,
        mut batch: Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let (requests, replies): (Vec<R>, Vec<_>) = requests.into_iter().unzip();
        let mut answers = Vec::with_capacity(requests.len());
        if batch.is_ok() {
            batch = serve(tx, &requests, &mut answers).await;
        }
        answers.resize_with(requests.len(), || Err(StoreError::Closed));
        self.settles.extend(answers.into_iter().zip(replies).map(|(answer, reply)| settle(reply, answer)));
        batch
    }

    async fn request(&mut self, tx: &mut Tx, job: Other) -> Result<(), StoreError> {
        tx.at_ms = now_ms();
        // A request may write its events itself: those of others must not fall with it.
        events::flush(tx).await?;
        let mark = Mark::set(tx);
        tx.catch_up().await?;
        let (stands, settle) = job(tx).await;
        self.settles.push(settle);
        mark.end(tx, stands?).await
    }
}

async fn serve<R: Together>(
    tx: &mut Tx,
    requests: &[R],
    answers: &mut Vec<Result<R::Answer, StoreError>>,
) -> Result<(), StoreError> {
    // Behind one that is not ordinary there may be more: of these, ever more are served before the next look.
    let mut alone = 1;
    while answers.len() < requests.len() {
        tx.at_ms = now_ms();
        let mark = Mark::set(tx);
        let done = R::together(tx, &requests[answers.len()..]).await;
        mark.end(tx, stands(&done)?).await?;
        match done {
            Ok(done) if !done.is_empty() => {
                answers.extend(done.into_iter().map(Ok));
                alone = 1;
            }
            Ok(_) => alone *= 2,
            Err(error) => {
                tracing::debug!(%error, "requests are served one by one");
                alone *= 2;
            }
        }
        let next = answers.len();
        for request in requests.iter().skip(next).take(alone) {
            tx.at_ms = now_ms();
            let mark = Mark::set(tx);
            tx.catch_up().await?;
            let answer = R::alone(tx, request).await;
            mark.end(tx, stands(&answer)?).await?;
            answers.push(answer);
        }
    }
    Ok(())
}

/// A savepoint, and how much was to follow the commit then.
struct Mark {
    after: usize,
    events: usize,
}

impl Mark {
    fn set(tx: &mut Tx) -> Self {
        // One that stands is let go of with the next one, or with the transaction.
        if std::mem::replace(&mut tx.marked, true) {
            tx.front.push_str("RELEASE request; ");
        }
        tx.front.push_str("SAVEPOINT request; ");
        Self { after: tx.after.len(), events: tx.events.len() }
    }

    /// Keeps what was written since, or takes it back.
    async fn end(self, tx: &mut Tx, stands: bool) -> Result<(), StoreError> {
        if !stands {
            tx.after.truncate(self.after);
            tx.events.truncate(self.events);
            execute(tx, "ROLLBACK TO request").await?;
        }
        Ok(())
    }
}

async fn execute(tx: &mut Tx, sql: &'static str) -> Result<(), StoreError> {
    let sql = tx.sql(sql);
    sqlx::query(sql).execute(&mut tx.conn).await?;
    Ok(())
}
