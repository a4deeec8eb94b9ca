//! What goes over the wire, and what happens to it there.

use std::sync::Arc;

use super::plan::SECOND;
use super::store::{Finish, Leased, Name, NewCheckpoint, Refusal};
use super::world::{Event, World};
use crate::Held;
use crate::report::Measurement;
use crate::trial::Order;

/// What a worker asks for.
#[derive(Debug, Clone)]
pub(super) enum Request {
    Register,
    Lease { request: Name, slots: u32 },
    Beat { held: Vec<Held> },
    Report { held: Held, rows: Arc<Vec<Measurement>> },
    Checkpoint { held: Held, new: Arc<Vec<NewCheckpoint>> },
    Finish { held: Held, finish: Arc<Finish> },
}

/// What it is told.
#[derive(Debug, Clone)]
pub(super) enum Reply {
    Registered,
    Refused(Refusal),
    Work(Vec<Leased>),
    Taken(u32),
    NotFinite,
    Recorded,
    Finished,
    Orders { orders: Vec<(Held, Order)>, drain: bool },
}

/// Whose message: a worker, one process of it, and one call of that process (0: nobody waits for an answer).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct From {
    pub(super) worker: usize,
    pub(super) process: u32,
    pub(super) call: u64,
}

impl World {
    pub(super) fn send_request(&mut self, from: From, request: &Request) {
        let blocked = self.workers.get(from.worker).is_none_or(|w| self.now < w.blocked_up_us);
        self.transmit(blocked, |at, world| {
            world.schedule(at, Event::ToCoordinator(from, request.clone()));
        });
    }

    pub(super) fn send_reply(&mut self, to: From, reply: &Reply) {
        let blocked = self.workers.get(to.worker).is_none_or(|w| self.now < w.blocked_down_us);
        self.transmit(blocked, |at, world| world.schedule(at, Event::ToWorker(to, reply.clone())));
    }

    fn transmit(&mut self, blocked: bool, deliver: impl Fn(u64, &mut Self)) {
        if blocked {
            self.counts.blocked += 1;
            return;
        }
        if self.rng.chance(self.plan.drop) && !self.quiet {
            self.counts.dropped += 1;
            return;
        }
        let at = self.arrival();
        deliver(at, self);
        if self.rng.chance(self.plan.duplicate) && !self.quiet {
            self.counts.duplicated += 1;
            let at = self.arrival();
            deliver(at, self);
        }
    }

    /// A few milliseconds, or so late that much has changed meanwhile.
    fn arrival(&mut self) -> u64 {
        let mut delay = self.rng.range(200, 5000);
        if self.rng.chance(self.plan.late) && !self.quiet {
            self.counts.late += 1;
            let most = *self.rng.pick(&[SECOND, 10 * SECOND, 2 * self.plan.lease_us]).unwrap_or(&SECOND);
            delay += self.rng.below(most);
        }
        self.now + delay
    }
}
