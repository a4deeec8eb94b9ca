//! What lives only in memory: leases, who is connected, who waits for work or for news. A restart loses nothing
//! of weight: leases are adopted from the store, the rest comes back by itself.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use kapell_dispatch::lease::BeatAnswer;
use kapell_dispatch::{Held, Order, Reactor};
use tokio::sync::futures::Notified;
use tokio::sync::{Notify, mpsc, watch};

use crate::store::now_ms;
use crate::store::writer::After;

/// Orders that wait for a worker's stream; the rest is repeated with the next beat.
const ORDERS_MAX: usize = 256;

/// Waiting workers that all look at the queue when something has come into it; of more than these only some do.
const WOKEN_MAX: usize = 64;
const WOKEN_SOME: usize = 16;
/// How often a waiting worker looks without a wake: a trial that is kept for another worker is offered to it later.
const LOOK_AGAIN: Duration = Duration::from_secs(2);

/// What is pushed to a worker.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Push {
    /// The answer to a beat, with what came up.
    Answer(Vec<(Held, Order)>, bool),
    Order(Held, Order, String),
    Drain,
}

#[derive(Default)]
struct Inner {
    reactor: Reactor,
    workers: HashMap<String, LiveWorker>,
    /// What people call the attempts that run: study and trial.
    names: HashMap<Held, (String, u32)>,
}

struct LiveWorker {
    heard_ms: i64,
    orders: Option<mpsc::Sender<Push>>,
    /// The process that has this name and whether it is to leave, as the store said when it was last asked.
    known: Option<(String, bool)>,
    /// How often that has changed.
    changes: u64,
}

pub(crate) struct Live {
    epoch: Instant,
    inner: Mutex<Inner>,
    queue: Notify,
    /// Requests for work that wait.
    waiting: AtomicUsize,
    told: watch::Sender<i64>,
    closing: watch::Sender<bool>,
    space_low: AtomicBool,
    /// When the disk's space was last asked for, in milliseconds of this clock.
    space_asked_ms: AtomicU64,
}

impl Live {
    pub(crate) fn new(lease: Duration) -> Self {
        let inner = Inner { reactor: Reactor::new(lease), ..Inner::default() };
        Self {
            epoch: Instant::now(),
            inner: Mutex::new(inner),
            queue: Notify::new(),
            waiting: AtomicUsize::new(0),
            told: watch::Sender::new(0),
            closing: watch::Sender::new(false),
            space_low: AtomicBool::new(false),
            space_asked_ms: AtomicU64::new(u64::MAX),
        }
    }

    /// The coordinator's monotonic clock.
    pub(crate) fn now(&self) -> Duration {
        self.epoch.elapsed()
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does what a commit wants done, in order.
    pub(crate) fn apply(&self, after: Vec<After>) {
        if after.is_empty() {
            return;
        }
        let now = self.now();
        let mut wake = false;
        let mut newest = None;
        let mut inner = self.inner();
        for effect in after {
            match effect {
                After::Granted { held, worker, study, name } => {
                    inner.names.insert(held, name);
                    inner.reactor.granted(now, held, &worker, study);
                }
                After::Ended { held } => {
                    inner.names.remove(&held);
                    inner.reactor.ended(held);
                }
                After::Order { held, worker, order, reason } => inner.order(held, &worker, order, reason),
                After::Stepped { study, trial, attempt, from, to, reason } => {
                    tracing::info!(study, trial, attempt, from, to, reason, "trial");
                }
                After::Unwish { held } => inner.reactor.wish(held, None),
                After::Returned { trial } => inner.reactor.returned(now, trial),
                After::Quarantined { worker, reason } => {
                    tracing::warn!(worker, reason, "worker quarantined");
                }
                After::Drain { worker } => inner.push(&worker, Push::Drain),
                After::WorkerChanged { worker } => {
                    if let Some(entry) = inner.workers.get_mut(&worker) {
                        (entry.known, entry.changes) = (None, entry.changes + 1);
                    }
                }
                After::Wake => wake = true,
                After::Told { seq } => newest = Some(seq),
            }
        }
        drop(inner);
        if wake {
            self.wake();
        }
        if let Some(seq) = newest {
            self.told.send_replace(seq);
        }
    }

    /// Has waiting workers look at the queue: all of them where they are few, and otherwise some, each of which has
    /// another one look where it found something (see [`Live::pass_on`]). Whom that misses looks by himself soon.
    fn wake(&self) {
        if self.waiting.load(Ordering::Relaxed) <= WOKEN_MAX {
            self.queue.notify_waiters();
        } else {
            (0..WOKEN_SOME).for_each(|_| self.queue.notify_one());
        }
    }

    /// Somebody found something in the queue: there may be more.
    pub(crate) fn pass_on(&self) {
        if self.waiting.load(Ordering::Relaxed) > WOKEN_MAX {
            self.queue.notify_one();
        }
    }

    /// Counts a request for work that waits, as long as it lives.
    pub(crate) fn wait(&self) -> Waiting<'_> {
        self.waiting.fetch_add(1, Ordering::Relaxed);
        Waiting(self)
    }

    /// The newest event's number; changes with every commit that tells something.
    pub(crate) fn told(&self) -> watch::Receiver<i64> {
        self.told.subscribe()
    }

    /// Becomes true when the coordinator ends.
    pub(crate) fn closing(&self) -> watch::Receiver<bool> {
        self.closing.subscribe()
    }

    pub(crate) fn close(&self) {
        self.closing.send_replace(true);
    }

    /// Notes that a worker has been heard of.
    pub(crate) fn heard(&self, worker: &str) {
        let now = self.now();
        let mut inner = self.inner();
        inner.reactor.heard(now, worker);
        inner.seen(worker);
    }

    /// A process has registered as `worker`.
    pub(crate) fn registered(&self, worker: &str) {
        self.heard(worker);
    }

    /// Whether this process of a worker is to leave, if that is known without asking the store; else the number of
    /// changes that [`Live::remember`] wants to know.
    pub(crate) fn known(&self, worker: &str, incarnation: &str) -> Result<bool, u64> {
        let inner = self.inner();
        let Some(entry) = inner.workers.get(worker) else { return Err(0) };
        match &entry.known {
            Some((known, draining)) if known == incarnation => Ok(*draining),
            _ => Err(entry.changes),
        }
    }

    /// Remembers what the store says of a worker, unless it has changed since it was asked.
    pub(crate) fn remember(&self, worker: &str, incarnation: &str, draining: bool, changes: u64) {
        if let Some(entry) = self.inner().workers.get_mut(worker).filter(|w| w.changes == changes) {
            entry.known = Some((incarnation.to_owned(), draining));
        }
    }

    /// Opens the channel on which `worker` is pushed its orders. The newest stream gets them.
    pub(crate) fn attach(&self, worker: &str) -> mpsc::Receiver<Push> {
        self.heard(worker);
        let (orders, pushed) = mpsc::channel(ORDERS_MAX);
        if let Some(entry) = self.inner().workers.get_mut(worker) {
            entry.orders = Some(orders);
        }
        pushed
    }

    /// Renews leases, and says what the worker should know.
    pub(crate) fn beat(&self, worker: &str, held: &[Held]) -> BeatAnswer {
        let now = self.now();
        let mut inner = self.inner();
        inner.seen(worker);
        inner.reactor.beat(now, worker, held)
    }

    /// Takes an attempt over from an earlier process.
    pub(crate) fn adopt(&self, held: Held, worker: &str, study: i64, grace: Duration, wish: Option<Order>) {
        let now = self.now();
        self.inner().reactor.adopt(now, held, worker, study, grace, wish);
    }

    /// Notes what people call an attempt.
    pub(crate) fn named(&self, held: Held, name: (String, u32)) {
        self.inner().names.insert(held, name);
    }

    /// Has the lines of the log say which attempt they are about.
    pub(crate) fn span(&self, held: Held) -> tracing::Span {
        let Held { trial: trial_id, attempt } = held;
        match self.inner().names.get(&held) {
            Some((study, trial)) => tracing::info_span!("attempt", study, trial, attempt),
            None => tracing::info_span!("attempt", trial_id, attempt),
        }
    }

    /// The leases that have run out, with their workers.
    pub(crate) fn expired(&self) -> Vec<(Held, String)> {
        let now = self.now();
        self.inner().reactor.expired(now)
    }

    /// How long a trial has waited since it came back to the queue; for ever, if it is not known to have.
    pub(crate) fn waited(&self, trial: i64) -> Duration {
        let now = self.now();
        self.inner().reactor.waited(now, trial)
    }

    /// Is a worker other than this one connected?
    pub(crate) fn others(&self, worker: &str) -> bool {
        let now = self.now();
        self.inner().reactor.others(now, worker)
    }

    /// When a worker was last heard of (wall clock), and whether that is so long ago that it counts as gone.
    pub(crate) fn seen(&self, worker: &str) -> Option<(i64, bool)> {
        let now = self.now();
        let inner = self.inner();
        let gone = inner.reactor.gone(now, worker)?;
        Some((inner.workers.get(worker)?.heard_ms, gone))
    }

    /// What was found of the disk's space, unless that is more than a second ago.
    pub(crate) fn space_known_low(&self) -> Option<bool> {
        let now = u64::try_from(self.now().as_millis()).unwrap_or(u64::MAX);
        let asked = self.space_asked_ms.load(Ordering::Relaxed);
        if asked != u64::MAX && now.saturating_sub(asked) < 1000 {
            return Some(self.space_low.load(Ordering::Relaxed));
        }
        self.space_asked_ms.store(now, Ordering::Relaxed);
        None
    }

    /// Notes whether disk space is low, and says whether it was: a change is worth a line in the log.
    pub(crate) fn space_was_low(&self, low: bool) -> bool {
        self.space_low.swap(low, Ordering::Relaxed)
    }

    /// Everybody who was heard of, and when (wall clock).
    pub(crate) fn all_seen(&self) -> Vec<(String, i64)> {
        self.inner().workers.iter().map(|(name, w)| (name.clone(), w.heard_ms)).collect()
    }

    /// Forgets who has not been heard of for a day, so that the map does not grow for ever.
    pub(crate) fn prune(&self) {
        let now = self.now();
        let mut inner = self.inner();
        let Inner { reactor, workers, .. } = &mut *inner;
        reactor.prune(now);
        workers.retain(|name, _| reactor.gone(now, name).is_some());
    }
}

/// A request for work that waits.
pub(crate) struct Waiting<'a>(&'a Live);

impl Waiting<'_> {
    /// Ends when there may be something to lease. Takes notice from its first poll or `enable` on.
    pub(crate) fn woken(&self) -> Notified<'_> {
        self.0.queue.notified()
    }

    /// How long to wait for a wake before looking at the queue all the same: the more wait, the longer.
    pub(crate) fn pause(&self) -> Duration {
        let waiting = u64::try_from(self.0.waiting.load(Ordering::Relaxed)).unwrap_or(u64::MAX);
        Duration::from_millis(waiting.saturating_mul(2)).max(LOOK_AGAIN)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Inner {
    /// Notes when a worker was heard of, for people to read.
    fn seen(&mut self, worker: &str) {
        let heard_ms = now_ms();
        match self.workers.get_mut(worker) {
            Some(known) => known.heard_ms = heard_ms,
            None => {
                let new = LiveWorker { heard_ms, orders: None, known: None, changes: 0 };
                self.workers.insert(worker.to_owned(), new);
            }
        }
    }

    /// Repeated with every beat where there is a lease; a canceled attempt has none any more, and a worker that
    /// misses its order is told to forget the attempt with the next beat.
    fn order(&mut self, held: Held, worker: &str, order: Order, reason: String) {
        self.reactor.wish(held, Some(order));
        self.push(worker, Push::Order(held, order, reason));
    }

    /// A full or broken channel is no loss: the next beat is answered with the same.
    fn push(&mut self, worker: &str, push: Push) {
        if let Some(orders) = self.workers.get(worker).and_then(|w| w.orders.as_ref()) {
            drop(orders.try_send(push));
        }
    }
}
