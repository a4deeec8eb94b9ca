//! Who holds what, until when: the table of leases, with the coordinator's monotonic time as an argument.
//!
//! The store is the truth about which attempt holds a trial; this table only knows when to give up on it. A lease
//! is granted after the commit that started its attempt, renewed by beats that name it, and dropped after the
//! commit that ended it. A lease that has expired is not renewed any more: it waits for the commit that says LOST.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use crate::trial::Order;

/// An attempt of a trial: what every write of a worker carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Held {
    pub trial: i64,
    pub attempt: u32,
}

/// A lease: one attempt held by one process of a worker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    pub worker: String,
    pub study: i64,
    /// On the clock of the table's owner.
    pub expires: Duration,
    /// Repeated in the answer to every beat until the worker has heeded it.
    pub wish: Option<Order>,
    /// Has a beat named it since this coordinator started?
    pub heard: bool,
    /// It ran out; the commit that says so is on its way.
    expired: bool,
}

/// What a beat is answered with.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BeatAnswer {
    pub orders: Vec<(Held, Order)>,
    /// Adopted leases that are heard of for the first time.
    pub heard: Vec<Held>,
}

/// All leases of a coordinator.
#[derive(Debug, Default)]
pub struct LeaseTable {
    lease: Duration,
    leases: HashMap<Held, Lease>,
    by_expiry: BTreeMap<(Duration, Held), ()>,
}

impl LeaseTable {
    /// An empty table whose leases live for `lease` without a beat.
    #[must_use]
    pub fn new(lease: Duration) -> Self {
        Self { lease, ..Self::default() }
    }

    /// Notes that `worker` holds an attempt from now on.
    pub fn grant(&mut self, now: Duration, held: Held, worker: &str, study: i64) {
        self.insert(held, worker, study, now.saturating_add(self.lease), true);
    }

    /// Takes over an attempt that ran when an earlier process of the coordinator ended. It has `grace` on top of a
    /// lease's length to be heard of.
    pub fn adopt(&mut self, now: Duration, held: Held, worker: &str, study: i64, grace: Duration) {
        self.insert(held, worker, study, now.saturating_add(self.lease).saturating_add(grace), false);
    }

    fn insert(&mut self, held: Held, worker: &str, study: i64, expires: Duration, heard: bool) {
        self.drop_lease(held);
        let worker = worker.to_owned();
        self.leases.insert(held, Lease { worker, study, expires, wish: None, heard, expired: false });
        self.by_expiry.insert((expires, held), ());
    }

    /// Renews what the worker says it holds, and answers with an order for each that it should not go on with.
    pub fn beat(&mut self, now: Duration, worker: &str, held: &[Held]) -> BeatAnswer {
        let mut answer = BeatAnswer::default();
        for &held in held {
            match self.leases.get_mut(&held) {
                Some(lease) if lease.worker == worker && !lease.expired => {
                    if !std::mem::replace(&mut lease.heard, true) {
                        answer.heard.push(held);
                    }
                    answer.orders.extend(lease.wish.map(|order| (held, order)));
                    let old = std::mem::replace(&mut lease.expires, now.saturating_add(self.lease));
                    let new = lease.expires;
                    self.by_expiry.remove(&(old, held));
                    self.by_expiry.insert((new, held), ());
                }
                _ => answer.orders.push((held, Order::Forget)),
            }
        }
        answer
    }

    /// The leases that have run out. They stay, no longer renewed, until [`LeaseTable::drop_lease`].
    pub fn expired(&mut self, now: Duration) -> Vec<Held> {
        let out: Vec<Held> = self.by_expiry.keys().take_while(|k| k.0 <= now).map(|k| k.1).collect();
        for held in &out {
            if let Some(lease) = self.leases.get_mut(held) {
                lease.expired = true;
            }
        }
        out
    }

    /// How long a lease lives without a beat.
    #[must_use]
    pub fn length(&self) -> Duration {
        self.lease
    }

    /// When the next lease runs out, if nothing is heard.
    #[must_use]
    pub fn next_expiry(&self) -> Option<Duration> {
        self.by_expiry.keys().next().map(|k| k.0)
    }

    /// Forgets a lease whose attempt has ended.
    pub fn drop_lease(&mut self, held: Held) -> Option<Lease> {
        let lease = self.leases.remove(&held)?;
        self.by_expiry.remove(&(lease.expires, held));
        Some(lease)
    }

    /// Has `order` repeated to the holder with every beat from now on; `None` takes a wish back.
    pub fn wish(&mut self, held: Held, order: Option<Order>) {
        if let Some(lease) = self.leases.get_mut(&held) {
            lease.wish = order;
        }
    }

    /// The lease of an attempt.
    #[must_use]
    pub fn get(&self, held: Held) -> Option<&Lease> {
        self.leases.get(&held)
    }

    /// What a worker holds, in order.
    #[must_use]
    pub fn of_worker(&self, worker: &str) -> Vec<Held> {
        let mut held: Vec<Held> =
            self.leases.iter().filter(|(_, l)| l.worker == worker).map(|(h, _)| *h).collect();
        held.sort_unstable();
        held
    }

    #[must_use]
    pub fn len(&self) -> usize {
        self.leases.len()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.leases.is_empty()
    }
}

/// The grace that an attempt still gets after a restart of the coordinator, when earlier restarts without a word
/// from its worker have given it `used`: never more than three times `grace` in all.
#[must_use]
pub fn restart_grace(used: Duration, grace: Duration) -> Duration {
    grace.min(grace.saturating_mul(3).saturating_sub(used))
}

/// When an attempt's first checkpoint is due, where `every` is the study's interval and `losses` the trial's. Behind a
/// loss it comes early, and its worker doubles each pause after it up to the interval: a worker that is killed again
/// and again, long before an interval is over, leaves about half of what it has trained each time.
#[must_use]
pub fn first_checkpoint(every: Duration, losses: u32) -> Duration {
    const EARLY_MAX: Duration = Duration::from_secs(2);
    if losses == 0 { every } else { (every / 64).min(EARLY_MAX) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEASE: Duration = Duration::from_secs(30);
    const A: Held = Held { trial: 1, attempt: 1 };
    const B: Held = Held { trial: 2, attempt: 4 };

    fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn a_lease_lives_as_long_as_beats_name_it() {
        let mut table = LeaseTable::new(LEASE);
        table.grant(s(0), A, "w", 7);
        table.grant(s(0), B, "w", 7);
        assert_eq!(table.beat(s(20), "w", &[A]), BeatAnswer::default());
        assert_eq!(table.expired(s(29)), []);
        assert_eq!(table.expired(s(30)), [B]);
        assert_eq!(table.expired(s(49)), [B], "told again until it is dropped");
        assert!(table.drop_lease(B).is_some());
        assert_eq!(table.next_expiry(), Some(s(50)));
        assert_eq!(table.expired(s(50)), [A]);
    }

    #[test]
    fn a_beat_too_late_does_not_bring_a_lease_back() {
        let mut table = LeaseTable::new(LEASE);
        table.grant(s(0), A, "w", 7);
        assert_eq!(table.expired(s(31)), [A]);
        assert_eq!(table.beat(s(31), "w", &[A]).orders, [(A, Order::Forget)]);
        assert_eq!(table.expired(s(32)), [A]);
    }

    #[test]
    fn what_a_worker_does_not_hold_it_is_told_to_forget() {
        let mut table = LeaseTable::new(LEASE);
        table.grant(s(0), A, "w", 7);
        let answer = table.beat(s(1), "other", &[A, B]);
        assert_eq!(answer.orders, [(A, Order::Forget), (B, Order::Forget)]);
        assert_eq!(table.next_expiry(), Some(s(30)), "a stranger's beat renews nothing");
    }

    #[test]
    fn a_wish_is_repeated_until_it_is_heeded() {
        let mut table = LeaseTable::new(LEASE);
        table.grant(s(0), A, "w", 7);
        table.wish(A, Some(Order::Pause));
        for now in 1..4 {
            assert_eq!(table.beat(s(now), "w", &[A]).orders, [(A, Order::Pause)]);
        }
        table.wish(A, None);
        assert_eq!(table.beat(s(5), "w", &[A]).orders, []);
    }

    #[test]
    fn an_adopted_lease_has_the_grace_and_is_heard_of_once() {
        let mut table = LeaseTable::new(LEASE);
        table.adopt(s(0), A, "w", 7, s(120));
        table.adopt(s(0), B, "w", 7, s(120));
        assert_eq!(table.beat(s(10), "w", &[A]).heard, [A]);
        assert_eq!(table.beat(s(11), "w", &[A]).heard, []);
        assert_eq!(table.expired(s(41)), [A], "once heard of, an ordinary lease");
        assert_eq!(table.expired(s(150)), [A, B]);
    }

    #[test]
    fn the_first_checkpoint_behind_a_loss_is_early() {
        assert_eq!(first_checkpoint(s(60), 0), s(60));
        for losses in 1..30 {
            assert_eq!(
                first_checkpoint(s(64), losses),
                s(1),
                "no earlier however often: a trial that kills must end"
            );
        }
        assert_eq!(first_checkpoint(s(3600), 1), s(2));
    }

    #[test]
    fn the_grace_of_many_restarts_is_bounded_in_total() {
        let grace = s(120);
        let mut used = Duration::ZERO;
        for _ in 0..100 {
            used += restart_grace(used, grace);
        }
        assert_eq!(used, s(360));
    }
}
