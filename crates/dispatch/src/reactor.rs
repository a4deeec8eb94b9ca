//! What a coordinator knows only in memory: leases, who was heard of, what came back to the queue. It follows the
//! commits of the store, and a restart rebuilds what matters of it by adoption.

use std::collections::HashMap;
use std::time::Duration;

use crate::lease::{BeatAnswer, Held, LeaseTable};
use crate::trial::Order;

/// A worker that was heard of this long ago is forgotten, and so is what came back to the queue.
const FORGET_AFTER: Duration = Duration::from_secs(24 * 3600);

/// The memory of a coordinator. Times are its monotonic clock's.
#[derive(Debug, Default)]
pub struct Reactor {
    lease: Duration,
    table: LeaseTable,
    heard: HashMap<String, Duration>,
    /// Trials that came back to the queue, and when.
    returned: HashMap<i64, Duration>,
}

impl Reactor {
    /// Nobody holds anything; leases will live for `lease` without a beat.
    #[must_use]
    pub fn new(lease: Duration) -> Self {
        Self { lease, table: LeaseTable::new(lease), ..Self::default() }
    }

    /// A commit has started an attempt.
    pub fn granted(&mut self, now: Duration, held: Held, worker: &str, study: i64) {
        self.returned.remove(&held.trial);
        self.table.grant(now, held, worker, study);
    }

    /// A commit has ended an attempt.
    pub fn ended(&mut self, held: Held) {
        self.table.drop_lease(held);
    }

    /// Has `order` repeated with every beat, where there is a lease; a canceled attempt has none any more, and a
    /// worker that misses its order is told to forget the attempt with the next beat. `None` takes a wish back.
    pub fn wish(&mut self, held: Held, order: Option<Order>) {
        self.table.wish(held, order);
    }

    /// A commit has queued a trial that its last worker should rather not have again.
    pub fn returned(&mut self, now: Duration, trial: i64) {
        self.returned.insert(trial, now);
    }

    /// Takes an attempt over from an earlier process; see [`LeaseTable::adopt`].
    pub fn adopt(
        &mut self,
        now: Duration,
        held: Held,
        worker: &str,
        study: i64,
        grace: Duration,
        wish: Option<Order>,
    ) {
        self.table.adopt(now, held, worker, study, grace);
        self.table.wish(held, wish);
    }

    /// A worker was heard of.
    pub fn heard(&mut self, now: Duration, worker: &str) {
        match self.heard.get_mut(worker) {
            Some(at) => *at = now,
            None => drop(self.heard.insert(worker.to_owned(), now)),
        }
    }

    /// Renews leases, and says what the worker should know.
    pub fn beat(&mut self, now: Duration, worker: &str, held: &[Held]) -> BeatAnswer {
        self.heard(now, worker);
        self.table.beat(now, worker, held)
    }

    /// The leases that have run out, with their workers: told again until a commit has ended the attempts.
    pub fn expired(&mut self, now: Duration) -> Vec<(Held, String)> {
        let out = self.table.expired(now);
        out.into_iter()
            .map(|held| (held, self.table.get(held).map(|l| l.worker.clone()).unwrap_or_default()))
            .collect()
    }

    /// How long a trial has waited since it came back to the queue; for ever, if it is not known to have.
    #[must_use]
    pub fn waited(&self, now: Duration, trial: i64) -> Duration {
        self.returned.get(&trial).map_or(Duration::MAX, |at| now.saturating_sub(*at))
    }

    /// Is a worker other than this one there?
    #[must_use]
    pub fn others(&self, now: Duration, worker: &str) -> bool {
        self.heard.iter().any(|(name, at)| name != worker && now.saturating_sub(*at) < self.lease)
    }

    /// Was a worker heard of so long ago that it counts as gone? Nothing, if it was not heard of at all.
    #[must_use]
    pub fn gone(&self, now: Duration, worker: &str) -> Option<bool> {
        Some(now.saturating_sub(*self.heard.get(worker)?) >= self.lease)
    }

    /// Forgets what is a day old, so that nothing grows for ever.
    pub fn prune(&mut self, now: Duration) {
        self.heard.retain(|_, at| now.saturating_sub(*at) < FORGET_AFTER);
        self.returned.retain(|_, at| now.saturating_sub(*at) < FORGET_AFTER);
    }

    /// The leases.
    #[must_use]
    pub fn table(&self) -> &LeaseTable {
        &self.table
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn a_worker_counts_as_there_for_the_length_of_a_lease() {
        let mut reactor = Reactor::new(s(30));
        reactor.heard(s(0), "a");
        assert!(!reactor.others(s(1), "a"), "it is not another than itself");
        assert!(reactor.others(s(29), "b"));
        assert!(!reactor.others(s(30), "b"));
        assert_eq!((reactor.gone(s(29), "a"), reactor.gone(s(30), "a")), (Some(false), Some(true)));
        assert_eq!(reactor.gone(s(0), "b"), None);
        reactor.prune(s(24 * 3600));
        assert_eq!(reactor.gone(s(0), "a"), None);
    }

    #[test]
    fn a_trial_waits_from_its_return_to_its_next_lease() {
        let mut reactor = Reactor::new(s(30));
        assert_eq!(reactor.waited(s(5), 1), Duration::MAX);
        reactor.returned(s(5), 1);
        assert_eq!(reactor.waited(s(7), 1), s(2));
        reactor.granted(s(8), Held { trial: 1, attempt: 2 }, "w", 1);
        assert_eq!(reactor.waited(s(9), 1), Duration::MAX);
        assert_eq!(reactor.expired(s(38)), [(Held { trial: 1, attempt: 2 }, "w".to_owned())]);
    }
}
