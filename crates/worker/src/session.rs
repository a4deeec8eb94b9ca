//! A worker's life: register, lease while there are free slots, leave in good order.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use kapell_rpc::{Client, ClientError, Kind, PROTOCOL_VERSION, reason, v1};
use tokio::sync::{Notify, watch};
use tokio::task::{JoinHandle, JoinSet};
use tracing::Instrument;

use crate::attempt::{self, Context, pauses};
use crate::control::{Control, Stop};
use crate::corpora::Corpora;
use crate::plan::{self, Plan, Reason};
use crate::training::Start;
use crate::trouble::Trouble;
use crate::{Exit, WorkerConfig, WorkerError, heartbeat, machine};

/// How long the coordinator holds a request for work before it says: none.
const LEASE_WAIT_MS: u64 = 20_000;
/// How long calls are tried again before the caller decides.
const PATIENCE: Duration = Duration::from_secs(3);
/// How often the worker looks at its clock and its parent.
const GLANCE: Duration = Duration::from_millis(250);
/// How long a worker that leaves tries to give back what it could not end.
const FAREWELL: Duration = Duration::from_secs(1);
/// How long a child of `kapell run` waits for its coordinator.
const CHILD_PATIENCE: Duration = Duration::from_secs(30);
const HEARTBEAT_MS: u64 = 5_000;
/// A folder of another process is left alone for so long, in case that process is about to lock it.
const LOCK_GRACE: Duration = Duration::from_secs(60);

/// A trial and its attempt.
pub(crate) type Held = (i64, u32);

/// Why the worker is to leave.
#[derive(Debug, Clone)]
pub(crate) enum Leave {
    Drained,
    Shutdown,
    Idle,
    MaxRuntime,
    ParentGone,
    Replaced,
    Refused(ClientError),
}

/// One process's worker.
pub(crate) struct Worker {
    config: WorkerConfig,
    pub(crate) client: Client,
    context: Context,
    incarnation: String,
    /// How the cores are used.
    plan: Mutex<Plan>,
    numerics: v1::Numerics,
    heartbeat_ms: AtomicU64,
    held: Mutex<BTreeMap<Held, Arc<Control>>>,
    held_changed: Notify,
    leaving: watch::Sender<Option<Leave>>,
    /// The request for work that has no answer yet.
    asked: Mutex<Option<v1::LeaseRequest>>,
    /// Locked as long as this process uses its folder.
    _lock: File,
}

impl Worker {
    pub(crate) fn new(config: WorkerConfig, start: Start) -> Result<Arc<Self>, WorkerError> {
        let client = Client::connect(&config.coordinator, config.token.clone())?.with_patience(PATIENCE);
        let incarnation = uuid::Uuid::now_v7().to_string();
        let attempts = config.cache_dir.join("attempts");
        let (dir, lock) = private_dir(&attempts, &incarnation)
            .map_err(|source| WorkerError::Cache { path: attempts.clone(), source })?;
        let plan = Plan::with_slots(config.slots.unwrap_or(config.cores), config.cores);
        let corpora = Arc::new(Corpora::new(config.cache_dir.join("corpora"), client.clone()));
        Ok(Arc::new(Self {
            context: Context {
                client: client.clone(),
                corpora,
                start,
                threads: plan.threads,
                dir,
                trouble: Arc::new(Trouble::new()),
            },
            client,
            incarnation,
            plan: Mutex::new(plan),
            numerics: machine::numerics(),
            heartbeat_ms: AtomicU64::new(HEARTBEAT_MS),
            held: Mutex::default(),
            held_changed: Notify::new(),
            leaving: watch::Sender::new(None),
            asked: Mutex::default(),
            config,
            _lock: lock,
        }))
    }

    /// Until there is a reason to leave; then drains.
    pub(crate) async fn run(self: Arc<Self>, shutdown: watch::Receiver<bool>) -> Result<Exit, WorkerError> {
        let watcher = AbortOnDrop(tokio::spawn(watch_for_reasons(self.clone(), shutdown)));
        let mut leaving = self.leaving.subscribe();
        let mut attempts = JoinSet::new();
        let mut heart = None;
        let work = async {
            self.introduce().await;
            heart = Some(AbortOnDrop(tokio::spawn(heartbeat::beat_forever(self.clone()))));
            self.settle().await;
            self.lease_forever(&mut attempts).await;
        };
        tokio::select! {
            () = work => {}
            _ = leaving.wait_for(Option::is_some) => {}
        }
        let reason = leaving.borrow().clone();
        self.drain(&reason, &mut attempts).await;
        drop((watcher, heart));
        match reason {
            Some(Leave::Replaced) => Err(WorkerError::Replaced(self.config.name.clone())),
            Some(Leave::Refused(error)) => Err(error.into()),
            Some(Leave::Drained) => Ok(Exit::Drained),
            Some(Leave::Idle) => Ok(Exit::Idle),
            Some(Leave::MaxRuntime) => Ok(Exit::MaxRuntime),
            Some(Leave::ParentGone) => Ok(Exit::ParentGone),
            Some(Leave::Shutdown) | None => Ok(Exit::Shutdown),
        }
    }

    /// Registers, waiting for a coordinator that is not there yet.
    async fn introduce(&self) {
        let mut pauses = pauses();
        let mut told = false;
        let begun = Instant::now();
        while let Err(error) = self.register().await {
            let given_up = self.config.die_with_parent && begun.elapsed() > CHILD_PATIENCE;
            if !error.is_temporary() || given_up {
                self.leave(Leave::Refused(error));
                return std::future::pending().await;
            }
            if !std::mem::replace(&mut told, true) {
                tracing::warn!(%error, "waiting for the coordinator");
            }
            tokio::time::sleep(pauses.delay()).await;
        }
        tracing::info!(
            worker = self.config.name,
            slots = self.plan().slots,
            coordinator = self.client.url(),
            numerics = self.numerics.kind,
            "registered"
        );
    }

    /// Chooses how to use the cores, while the heart beats. Trials come only afterwards.
    async fn settle(&self) {
        let (cores, slots) = (self.config.cores, self.config.slots);
        let choice = plan::choose(cores, slots, self.config.cache_dir.clone()).await;
        match choice.reason {
            Reason::Clamped { .. } | Reason::Failed(_) => tracing::warn!(cores, "{choice}"),
            _ => tracing::info!(cores, "{choice}"),
        }
        let before = std::mem::replace(&mut *self.plan(), choice.plan);
        if before.slots != choice.plan.slots {
            self.introduce().await;
        }
    }

    /// Introduces this process, or introduces it again to a coordinator that does not know it any more.
    pub(crate) async fn register(&self) -> Result<(), ClientError> {
        let request = v1::RegisterRequest {
            protocol_version: PROTOCOL_VERSION,
            name: self.config.name.clone(),
            incarnation: self.incarnation.clone(),
            host: machine::host(),
            devices: machine::devices(),
            slots: u32::try_from(self.plan().slots).unwrap_or(u32::MAX),
            numerics: Some(self.numerics.clone()),
            study: self.config.study.clone().unwrap_or_default(),
        };
        let answer = self.client.register(request).await?;
        self.heartbeat_ms.store(answer.heartbeat_ms.clamp(10, 600_000), Ordering::Relaxed);
        Ok(())
    }

    /// Fills free slots for ever.
    async fn lease_forever(self: &Arc<Self>, attempts: &mut JoinSet<()>) {
        let mut pauses = pauses();
        let mut request_id = fresh_id();
        loop {
            let free = self.plan().slots.saturating_sub(attempts.len());
            if free == 0 {
                attempts.join_next().await;
                continue;
            }
            self.context.trouble.pause().await;
            let works = match self.lease(&request_id, free).await {
                Ok(works) => works,
                Err(error) => {
                    self.lease_refused(error).await;
                    // With the same request id: the answer may have been lost on its way.
                    tokio::time::sleep(pauses.delay()).await;
                    continue;
                }
            };
            (pauses, request_id) = (attempt::pauses(), fresh_id());
            for work in works {
                self.begin(work, attempts);
            }
            while attempts.try_join_next().is_some() {}
        }
    }

    async fn lease(&self, request_id: &str, free: usize) -> Result<Vec<v1::Work>, ClientError> {
        let request = v1::LeaseRequest {
            worker: self.config.name.clone(),
            incarnation: self.incarnation.clone(),
            request_id: request_id.to_owned(),
            max_works: u32::try_from(free).unwrap_or(u32::MAX),
            max_mates: 1,
            wait_ms: LEASE_WAIT_MS,
        };
        *self.asked() = Some(request.clone());
        let answer = self.client.lease(request).await?;
        *self.asked() = None;
        Ok(answer.works)
    }

    async fn lease_refused(&self, error: ClientError) {
        if error.has_reason(reason::UNKNOWN_WORKER) {
            match self.register().await {
                Err(error) if !error.is_temporary() => self.leave(Leave::Refused(error)),
                _ => {}
            }
        } else if error.has_reason(reason::STALE_INCARNATION) {
            self.leave(Leave::Replaced);
        } else if matches!(error.kind, Kind::NotAuthorised | Kind::Usage | Kind::NotFound) {
            self.leave(Leave::Refused(error));
        } else if !error.is_temporary() {
            tracing::error!(%error, "no work: the coordinator has a problem");
        }
    }

    fn begin(self: &Arc<Self>, work: v1::Work, attempts: &mut JoinSet<()>) {
        let held = (work.trial_id, work.attempt);
        let control = Arc::new(Control::new());
        match self.held().entry(held) {
            Entry::Vacant(place) => drop(place.insert(control.clone())),
            // An answer that came twice.
            Entry::Occupied(_) => return,
        }
        self.held_changed.notify_one();
        if self.leaving.borrow().is_some() {
            control.raise(Stop::Release, "the worker leaves");
        }
        let span = match &work.kind {
            Some(v1::work::Kind::Train(train)) => {
                tracing::info_span!("attempt", study = train.study, trial = train.number, attempt = held.1)
            }
            _ => tracing::info_span!("attempt", trial_id = held.0, attempt = held.1),
        };
        let worker = self.clone();
        let context = Context { threads: self.plan().threads, ..self.context.clone() };
        let served = async move {
            attempt::serve(context, work, control.clone()).await;
            worker.ended(held, &control);
        };
        attempts.spawn(served.instrument(span));
    }

    fn ended(&self, held: Held, control: &Arc<Control>) {
        let mut all = self.held();
        if all.get(&held).is_some_and(|now| Arc::ptr_eq(now, control)) {
            all.remove(&held);
        }
        drop(all);
        self.held_changed.notify_one();
    }

    /// Stops what runs, as the reason to leave asks for, and waits for it for at most the drain's time.
    async fn drain(&self, reason: &Option<Leave>, attempts: &mut JoinSet<()>) {
        let (stop, why) = match reason {
            Some(Leave::ParentGone | Leave::Replaced | Leave::Refused(_)) => {
                (Stop::Forget, "the worker ends")
            }
            _ => (Stop::Release, "the worker drains"),
        };
        let count = self.held().len();
        tracing::info!(attempts = count, because = ?reason.as_ref().unwrap_or(&Leave::Shutdown), "leaving");
        self.held().values().for_each(|control| control.raise(stop, why));
        self.held_changed.notify_one();
        let all = async { while attempts.join_next().await.is_some() {} };
        let late = async {
            if stop == Stop::Release {
                self.give_late_work_back().await;
            }
        };
        let (ended, ()) = tokio::join!(tokio::time::timeout(self.config.drain_timeout, all), late);
        if ended.is_err() {
            let held: Vec<Held> = self.held().keys().copied().collect();
            tracing::warn!(attempts = held.len(), "the drain took too long: no checkpoint of the rest");
            attempts.abort_all();
            self.held().values().for_each(|control| control.raise(Stop::Forget, "the worker ends"));
            if stop == Stop::Release {
                self.give_back(held, "the worker left before there was a checkpoint").await;
            }
        }
    }

    /// Takes the answer to a request for work that the drain cut short, and gives the work back.
    async fn give_late_work_back(&self) {
        let Some(request) = self.asked().take() else { return };
        let again = self.client.lease(v1::LeaseRequest { wait_ms: 0, ..request });
        if let Ok(Ok(answer)) = tokio::time::timeout(FAREWELL, again).await {
            let held = answer.works.iter().map(|work| (work.trial_id, work.attempt)).collect();
            self.give_back(held, "the worker was leaving when the trial came").await;
        }
    }

    /// Releases attempts without new checkpoints, so that they do not count as lost. What cannot be told in time is
    /// left to its lease.
    async fn give_back(&self, held: Vec<Held>, reason: &str) {
        let mut calls = JoinSet::new();
        for (trial_id, attempt) in held {
            let (client, mut request) = (self.client.clone(), v1::FinishRequest::default());
            (request.trial_id, request.attempt, request.reason) = (trial_id, attempt, reason.to_owned());
            request.set_outcome(v1::Outcome::Released);
            calls.spawn(async move { client.finish(request).await });
        }
        // Dropping the set at the limit ends what is still under way.
        let _ = tokio::time::timeout(FAREWELL, calls.join_all()).await;
    }

    fn plan(&self) -> MutexGuard<'_, Plan> {
        self.plan.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn asked(&self) -> MutexGuard<'_, Option<v1::LeaseRequest>> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has the worker leave; the first reason counts.
    pub(crate) fn leave(&self, reason: Leave) {
        self.leaving.send_if_modified(|leaving| {
            let first = leaving.is_none();
            if first {
                *leaving = Some(reason);
            }
            first
        });
    }

    /// Passes an order on to the attempt, if it is here.
    pub(crate) fn order(&self, held: Held, stop: Stop, reason: &str) {
        if let Some(control) = self.held().get(&held) {
            control.raise(stop, reason);
        }
    }

    /// What the next heartbeat says.
    pub(crate) fn beat(&self) -> v1::Beat {
        let held = self.held().keys().map(|&(trial_id, attempt)| v1::Held { trial_id, attempt }).collect();
        v1::Beat {
            worker: self.config.name.clone(),
            incarnation: self.incarnation.clone(),
            held,
            draining: self.leaving.borrow().is_some(),
        }
    }

    pub(crate) fn heartbeat(&self) -> Duration {
        Duration::from_millis(self.heartbeat_ms.load(Ordering::Relaxed))
    }

    pub(crate) async fn held_changed(&self) {
        self.held_changed.notified().await;
    }

    fn held(&self) -> MutexGuard<'_, BTreeMap<Held, Arc<Control>>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // What cannot be removed now is removed by the next process that uses this cache folder.
        let _ = std::fs::remove_dir_all(&self.context.dir);
        let _ = std::fs::remove_file(self.context.dir.with_extension("lock"));
    }
}

/// Ends a task with the scope that started it.
struct AbortOnDrop(JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Watches for every reason to leave that this process can see by itself.
async fn watch_for_reasons(worker: Arc<Worker>, shutdown: watch::Receiver<bool>) {
    let begun = Instant::now();
    let parent = machine::parent();
    let mut busy = Instant::now();
    let over = |since: Instant, limit: Option<Duration>| limit.is_some_and(|limit| since.elapsed() >= limit);
    loop {
        if !worker.held().is_empty() {
            busy = Instant::now();
        }
        if worker.config.die_with_parent && machine::parent() != parent {
            worker.leave(Leave::ParentGone);
        } else if *shutdown.borrow() {
            worker.leave(Leave::Shutdown);
        } else if over(begun, worker.config.max_runtime) {
            worker.leave(Leave::MaxRuntime);
        } else if over(busy, worker.config.exit_when_idle) {
            worker.leave(Leave::Idle);
        }
        tokio::time::sleep(GLANCE).await;
    }
}

fn fresh_id() -> String {
    uuid::Uuid::now_v7().to_string()
}

/// Makes a folder for this process alone, with a lock beside it, and removes those of processes that are gone.
fn private_dir(attempts: &Path, incarnation: &str) -> std::io::Result<(PathBuf, File)> {
    std::fs::create_dir_all(attempts)?;
    for entry in std::fs::read_dir(attempts)?.filter_map(Result::ok) {
        let path = entry.path();
        if path.extension().is_some_and(|e| e == "lock") && is_abandoned(&path) {
            // Whatever stays is tried again by the next process.
            let _ = std::fs::remove_dir_all(path.with_extension(""));
            let _ = std::fs::remove_file(&path);
        }
    }
    let dir = attempts.join(incarnation);
    let lock = File::create(dir.with_extension("lock"))?;
    lock.try_lock()?;
    std::fs::create_dir(&dir)?;
    Ok((dir, lock))
}

fn is_abandoned(lock: &Path) -> bool {
    let Ok(file) = File::open(lock) else { return false };
    let age = file.metadata().and_then(|m| m.modified()).ok().and_then(|at| at.elapsed().ok());
    age.is_some_and(|age| age > LOCK_GRACE) && file.try_lock().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_of_processes_that_are_gone_are_removed_and_others_stay() {
        let root = tempfile::tempdir().unwrap();
        let (gone, _) = private_dir(root.path(), "gone").unwrap();
        let (used, lock) = private_dir(root.path(), "used").unwrap();
        let long_ago = std::time::SystemTime::now() - 2 * LOCK_GRACE;
        for dir in [&gone, &used] {
            let lock = File::options().write(true).open(dir.with_extension("lock")).unwrap();
            lock.set_modified(long_ago).unwrap();
        }
        let (young, _) = private_dir(root.path(), "young").unwrap();
        private_dir(root.path(), "newest").unwrap();
        assert!(!gone.exists() && !gone.with_extension("lock").exists());
        assert!(used.exists() && young.exists());
        drop(lock);
        private_dir(root.path(), "last").unwrap();
        assert!(!used.exists());
    }
}
