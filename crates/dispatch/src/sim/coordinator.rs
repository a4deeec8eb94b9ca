//! The coordinator of the simulation: requests share a commit, answers and effects come after it.

use std::sync::Arc;
use std::time::Duration;

use super::Bug;
use super::network::{From, Reply, Request};
use super::oracle::Fact;
use super::store::{After, Ask, Ended, Env, NewStudy, Reference, Refusal, Reported, WorkerState};
use super::world::{Event, World};
use crate::trial::Order;
use crate::{Held, Reactor};

/// How long a trial that came back is kept for another worker, and a call for work waits.
const PATIENCE: Duration = Duration::from_secs(10);
const WAIT_US: u64 = 5_000_000;

/// What a coordinator is made of: what is on disk, what is being written, and what it only remembers.
pub(super) struct Coordinator {
    pub(super) committed: Reference,
    pub(super) working: Reference,
    pub(super) reactor: Reactor,
    pub(super) up: bool,
    /// Processes so far: what was planned by an earlier one is void.
    pub(super) generation: u32,
    pub(super) started_us: u64,
    /// Its monotonic clock runs this much fast, in parts per million.
    pub(super) ppm: u64,
    /// Its wall clock is off by this much.
    pub(super) wall_us: i64,
    committing: bool,
    /// It ends while it writes the next batch.
    pub(super) doomed: bool,
    replies: Vec<(From, Reply, Option<Fact>)>,
    waiting: Vec<Waiting>,
    heard: Vec<Held>,
}

struct Waiting {
    from: From,
    ask: Ask,
    until_us: u64,
}

impl Coordinator {
    pub(super) fn new(bug: Option<Bug>, lease: Duration, ppm: u64) -> Self {
        let mut empty = Reference::default();
        empty.bug = bug;
        Self {
            committed: empty.clone(),
            working: empty,
            reactor: Reactor::new(lease),
            up: false,
            generation: 0,
            started_us: 0,
            ppm,
            wall_us: 0,
            committing: false,
            doomed: false,
            replies: Vec::new(),
            waiting: Vec::new(),
            heard: Vec::new(),
        }
    }

    /// True microseconds after which a duration has passed on its monotonic clock.
    pub(super) fn true_us(&self, us: u64) -> u64 {
        us.saturating_mul(1_000_000) / (1_000_000 + self.ppm)
    }
}

impl World {
    fn has(&self, bug: Bug) -> bool {
        self.coordinator.working.bug == Some(bug)
    }

    /// The coordinator's monotonic clock, from the start of its process.
    fn clock(&self) -> Duration {
        let c = &self.coordinator;
        if self.has(Bug::WallClockLeases) {
            const YEARS_50_US: u64 = 50 * 365 * 86_400_000_000;
            return Duration::from_micros((YEARS_50_US + self.now).saturating_add_signed(c.wall_us));
        }
        let since = self.now - c.started_us;
        Duration::from_micros(since + since * c.ppm / 1_000_000)
    }

    /// Starts a process of the coordinator: what ran is adopted, with the grace that it still gets.
    pub(super) fn coordinator_up(&mut self) {
        let c = &mut self.coordinator;
        c.up = true;
        c.generation += 1;
        c.started_us = self.now;
        c.working = c.committed.clone();
        c.reactor = Reactor::new(Duration::from_micros(self.plan.lease_us));
        self.schedule(self.now + self.plan.sweep_us, Event::Sweep(self.coordinator.generation));
        let adopted = self.coordinator.working.adopt(Duration::from_micros(self.plan.grace_us));
        let now = self.clock();
        let open = super::oracle::open_attempts(&self.coordinator.committed);
        self.oracle.adopt(&open, self.now, &self.plan, &self.coordinator);
        if !self.has(Bug::NothingAdopted) {
            for (held, worker, study, given, wish) in adopted {
                self.note(|| format!("adopt {held:?} of {worker}, grace {given:?}, {wish:?}"));
                self.coordinator.reactor.adopt(now, held, &worker, study, given, wish);
            }
        }
        self.commit();
    }

    /// Ends it without a warning. Now and then what it was writing has got to the disk, and nobody was told.
    pub(super) fn coordinator_crash(&mut self) {
        self.counts.crashes += 1;
        let written = self.coordinator.committing && self.rng.chance(300);
        if written {
            self.settle_commit();
        } else if self.coordinator.committing {
            self.counts.batches_lost += 1;
        }
        let c = &mut self.coordinator;
        c.up = false;
        c.generation += 1;
        (c.committing, c.doomed) = (false, false);
        c.replies.clear();
        c.waiting.clear();
        c.heard.clear();
        c.working = c.committed.clone();
        let down = self.rng.below(self.plan.grace_us / 2);
        self.schedule(self.now + down, Event::CoordinatorUp);
    }

    pub(super) fn request(&mut self, from: From, request: Request) {
        if !self.coordinator.up {
            self.counts.blocked += 1;
            return;
        }
        let Some(worker) = self.workers.get(from.worker) else { return };
        let name = Arc::clone(&worker.name);
        let incarnation = worker.incarnation(from.process);
        match request {
            Request::Beat { held } => self.beat(from, &name, &incarnation, &held),
            Request::Lease { request, slots } => {
                let (clock, now) = (self.clock(), self.now);
                self.coordinator.reactor.heard(clock, &name);
                let ask = Ask { worker: name, incarnation, request, max_works: slots, max_mates: 1 };
                self.coordinator.waiting.retain(|w| w.from != from);
                self.coordinator.waiting.push(Waiting { from, ask, until_us: now + WAIT_US });
                self.serve_last();
            }
            Request::Register => {
                let current = self.coordinator.working.known(&name, &incarnation).is_ok();
                self.oracle.registering(&self.coordinator.working, &name, current);
                let done = self.write(None, |s| s.register(&name, &incarnation));
                if done.is_ok() {
                    self.oracle.registered(from.worker, from.process, &mut self.failed);
                    let clock = self.clock();
                    self.coordinator.reactor.heard(clock, &name);
                }
                let fact = Fact::Registered { worker: from.worker, process: from.process };
                let fact = done.is_ok().then_some(fact);
                self.answer(from, done.map(|()| Reply::Registered), fact);
            }
            Request::Report { held, rows } => {
                let done = self.write(Some(held), |s| s.report(held, &rows));
                let epochs: Vec<u32> = rows.iter().map(|m| m.epoch).collect();
                let (reply, fact) = match done {
                    Ok(Reported::Taken(epoch)) => (Ok(Reply::Taken(epoch)), Some(Fact::Rows(held, epochs))),
                    Ok(Reported::NotFinite) => (Ok(Reply::NotFinite), None),
                    Err(refusal) => (Err(refusal), None),
                };
                self.answer(from, reply, fact);
            }
            Request::Checkpoint { held, new } => {
                let done = self.write(Some(held), |s| s.checkpoint(held, &new));
                let last = new.iter().filter(|c| !c.best).map(|c| c.epoch).max().unwrap_or(0);
                let fact = done.is_ok().then_some(Fact::Checkpoint(held, last));
                self.answer(from, done.map(|()| Reply::Recorded), fact);
            }
            Request::Finish { held, finish } => {
                let done = self.write(Some(held), |s| s.finish(held, &finish));
                let (reply, fact) = match done {
                    Ok(Ended::As(_)) => (Ok(Reply::Finished), Some(Fact::Finished(held, finish.outcome))),
                    Ok(Ended::NotFinite) => (Ok(Reply::NotFinite), None),
                    Err(refusal) => (Err(refusal), None),
                };
                self.answer(from, reply, fact);
            }
        }
    }

    fn beat(&mut self, from: From, name: &str, incarnation: &str, held: &[Held]) {
        let drain = match self.coordinator.committed.known(name, incarnation) {
            Ok(row) => row.state == WorkerState::Draining,
            Err(refusal) => return self.send_reply(from, &Reply::Refused(refusal)),
        };
        let clock = self.clock();
        if self.has(Bug::RenewAfterExpiry) {
            for &held in held {
                if self.coordinator.reactor.expired(clock).iter().any(|e| e.0 == held) {
                    self.coordinator.reactor.granted(clock, held, name, 1);
                }
            }
        }
        let answer = self.coordinator.reactor.beat(clock, name, held);
        for &held in held {
            let renewed = !answer.orders.contains(&(held, Order::Forget));
            self.oracle.beat(
                held,
                renewed,
                self.now,
                (name, incarnation),
                &self.coordinator,
                &mut self.failed,
            );
        }
        let reply = Reply::Orders { orders: answer.orders, drain };
        if answer.heard.is_empty() {
            self.send_reply(from, &reply);
            return;
        }
        let heard = answer.heard;
        self.coordinator.heard.extend(&heard);
        let done = self.write(None, |s| {
            s.heard(&heard);
            Ok(())
        });
        self.answer(from, done.map(|()| reply), None);
    }

    /// Runs a request in a savepoint of the batch that will be committed together.
    pub(super) fn write<T>(
        &mut self,
        held: Option<Held>,
        f: impl FnOnce(&mut Reference) -> Result<T, Refusal>,
    ) -> Result<T, Refusal> {
        let before = self.coordinator.working.clone();
        let done = f(&mut self.coordinator.working);
        if done.is_err() {
            self.coordinator.working.roll_back(&before);
        }
        let refused = done.as_ref().err().copied();
        if let Some(refusal) = refused {
            self.note(|| format!("refused: {refusal}"));
            self.counts.refused += 1;
        }
        if let Some(held) = held {
            self.counts.stale_writes +=
                self.oracle.wrote(held, refused, &before, &self.coordinator.working, &mut self.failed);
        }
        if !self.coordinator.committing {
            self.coordinator.committing = true;
            let at = self.now + self.rng.range(100, self.plan.commit_us_max);
            let generation = self.coordinator.generation;
            if std::mem::take(&mut self.coordinator.doomed) {
                let moment = self.now + self.rng.below(at - self.now);
                self.schedule(moment, Event::CoordinatorCrash(generation));
            }
            self.schedule(at, Event::Commit(generation));
        }
        done
    }

    fn answer(&mut self, to: From, reply: Result<Reply, Refusal>, fact: Option<Fact>) {
        let reply = reply.unwrap_or_else(Reply::Refused);
        if self.has(Bug::AckBeforeCommit) {
            self.tell(to, &reply, fact);
        } else {
            self.coordinator.replies.push((to, reply, fact));
        }
    }

    fn tell(&mut self, to: From, reply: &Reply, fact: Option<Fact>) {
        if let Some(fact) = fact {
            self.counts.acknowledged += 1;
            self.oracle.acknowledged(fact, &self.coordinator.committed, &self.plan, &mut self.failed);
        }
        self.send_reply(to, reply);
    }

    /// Puts the batch on the disk.
    fn settle_commit(&mut self) {
        let c = &mut self.coordinator;
        let after = std::mem::take(&mut c.working.after);
        let change = (&c.committed, &c.working);
        self.oracle.committed(self.now, change, &self.plan, &mut self.counts, &mut self.failed);
        c.committed = c.working.clone();
        self.oracle.heard(&c.heard);
        c.heard.clear();
        c.working.after = after;
    }

    /// The commit: on disk, then effects on the living, then answers.
    pub(super) fn commit(&mut self) {
        self.coordinator.committing = false;
        self.settle_commit();
        self.counts.commits += 1;
        let now = self.clock();
        let mut wake = false;
        for effect in std::mem::take(&mut self.coordinator.working.after) {
            self.note(|| format!("after the commit: {effect:?}"));
            let reactor = &mut self.coordinator.reactor;
            match effect {
                After::Granted { held, worker, study } => {
                    reactor.granted(now, held, &worker, study);
                    self.oracle.granted(held, self.now, &self.plan, &self.coordinator);
                }
                After::Ended { held } => reactor.ended(held),
                After::Order { held, worker, order } => {
                    reactor.wish(held, Some(order));
                    self.push(&worker, &Reply::Orders { orders: vec![(held, order)], drain: false });
                }
                After::Unwish { held } => reactor.wish(held, None),
                After::Returned { trial } => reactor.returned(now, trial),
                After::Wake => wake = true,
                After::Drain { worker } => {
                    self.push(&worker, &Reply::Orders { orders: Vec::new(), drain: true });
                }
            }
        }
        for (to, reply, fact) in std::mem::take(&mut self.coordinator.replies) {
            self.tell(to, &reply, fact);
        }
        if wake && !self.has(Bug::NobodyWoken) {
            self.serve_all();
        }
    }

    fn push(&mut self, worker: &str, reply: &Reply) {
        let found = self.workers.iter().position(|w| &*w.name == worker);
        if let Some((worker, process)) = found.and_then(|i| Some((i, self.workers.get(i)?.process))) {
            self.send_reply(From { worker, process, call: 0 }, reply);
        }
    }

    fn serve_all(&mut self) {
        let waiting = std::mem::take(&mut self.coordinator.waiting);
        for one in waiting {
            self.coordinator.waiting.push(one);
            self.serve_last();
        }
    }

    /// Tries the queue for the last of those who wait.
    fn serve_last(&mut self) {
        let Some(Waiting { from, ask, until_us }) = self.coordinator.waiting.pop() else { return };
        let clock = self.clock();
        let others = self.coordinator.reactor.others(clock, &ask.worker);
        // The queue is looked at before anything is written, so an empty one costs no commit.
        let before = self.coordinator.working.clone();
        let reactor = &self.coordinator.reactor;
        let waited = |trial| reactor.waited(clock, trial);
        let env = Env { others, waited: &waited, patience: PATIENCE };
        let done = self.coordinator.working.lease(&ask, &env);
        match done {
            Ok(works) if works.is_empty() => {
                self.coordinator.working = before;
                if self.now >= until_us || self.coordinator.working.answered(&ask.request) {
                    self.send_reply(from, &Reply::Work(Vec::new()));
                } else {
                    self.coordinator.waiting.push(Waiting { from, ask, until_us });
                }
            }
            Ok(works) => {
                self.counts.leases += 1;
                let held = works.iter().map(|w| w.held).collect();
                let fact = Fact::Leased(Arc::clone(&ask.request), held);
                self.write(None, |_| Ok(())).ok();
                self.answer(from, Ok(Reply::Work(works)), Some(fact));
            }
            Err(refusal) => {
                self.coordinator.working = before;
                self.send_reply(from, &Reply::Refused(refusal));
            }
        }
    }

    /// Leases that have run out; those who have waited long enough; and whether anything is stuck.
    pub(super) fn sweep(&mut self) {
        let clock = self.clock();
        for (held, _) in self.coordinator.reactor.expired(clock) {
            self.note(|| format!("expired: {held:?}"));
            self.oracle.sweeping(held, self.now, &self.coordinator.working, &mut self.failed);
            // It waits for the writer like everybody else.
            let at = self.now + self.rng.below(self.plan.commit_us_max);
            self.schedule(at, Event::Lose(self.coordinator.generation, held));
        }
        let idle = self.trial_waits_though_asked_for();
        self.oracle.swept(idle, self.now, &self.plan, &self.coordinator, &mut self.failed);
        if !self.has(Bug::NobodyWoken) {
            self.serve_all();
        }
        let due: Vec<From> =
            self.coordinator.waiting.iter().filter(|w| w.until_us <= self.now).map(|w| w.from).collect();
        self.coordinator.waiting.retain(|w| w.until_us > self.now);
        for from in due {
            self.send_reply(from, &Reply::Work(Vec::new()));
        }
        self.schedule(self.now + self.plan.sweep_us, Event::Sweep(self.coordinator.generation));
    }

    /// A trial in the queue, and a worker that asks and could have had it.
    fn trial_waits_though_asked_for(&self) -> bool {
        let (clock, c) = (self.clock(), &self.coordinator);
        c.waiting.iter().any(|w| {
            let ready = c
                .committed
                .known(&w.ask.worker, &w.ask.incarnation)
                .is_ok_and(|r| r.state == WorkerState::Ready);
            let waited = |trial| c.reactor.waited(clock, trial);
            let others = c.reactor.others(clock, &w.ask.worker);
            let env = Env { others, waited: &waited, patience: PATIENCE };
            ready && c.committed.next(&w.ask.worker, &env).is_some()
        })
    }

    /// What a person does, where the coordinator is there to be asked.
    pub(super) fn by_hand(&mut self, f: impl FnOnce(&mut Reference) -> Result<(), Refusal>) {
        if self.coordinator.up {
            self.write(None, f).ok();
        }
    }

    pub(super) fn create(&mut self) {
        let new: NewStudy = self.plan.study.clone();
        self.by_hand(|s| s.create(&new, "the creation").map(drop));
    }
}
