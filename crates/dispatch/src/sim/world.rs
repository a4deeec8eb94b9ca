//! The loop: events in order of virtual time, faults and people among them.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

use super::coordinator::Coordinator;
use super::network::{From, Reply, Request};
use super::oracle::Oracle;
use super::plan::{Fault, Mixture, Plan, SECOND};
use super::random::Random;
use super::rows::Counts;
use super::store::{Reference, WorkerState};
use super::worker::{Timer, Worker};
use super::{Bug, Failure};
use crate::Held;
use crate::study::{StudyEvent, StudyState};
use crate::trial::TrialState;

/// Ten years: how far a wall clock jumps.
const JUMP_US: i64 = 10 * 365 * 86_400_000_000;
/// How often somebody looks whether everything gets on, when the faults are over.
const CARE_US: u64 = 3 * SECOND;
/// More events than any history needs.
const EVENTS_MAX: u64 = 1_000_000;

/// What happens.
#[derive(Debug, Clone)]
pub(super) enum Event {
    ToCoordinator(From, Request),
    ToWorker(From, Reply),
    /// Void for another process of the coordinator than this one.
    Commit(u32),
    Sweep(u32),
    Lose(u32, Held),
    CoordinatorCrash(u32),
    CoordinatorUp,
    WorkerUp(usize),
    /// Void for another process of the worker than this one.
    Timer(usize, u32, Timer),
    Fault,
    Person,
    /// The faults are over.
    Quiet,
    Care,
}

/// An event and when it happens; of those at one time the first that was planned.
struct Planned {
    at_us: u64,
    seq: u64,
    event: Event,
}

impl PartialEq for Planned {
    fn eq(&self, other: &Self) -> bool {
        self.seq == other.seq
    }
}

impl Eq for Planned {}

impl PartialOrd for Planned {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Planned {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at_us, self.seq).cmp(&(other.at_us, other.seq))
    }
}

pub(super) struct World {
    seed: u64,
    pub(super) plan: Plan,
    pub(super) rng: Random,
    pub(super) now: u64,
    seq: u64,
    events: BinaryHeap<Reverse<Planned>>,
    pub(super) coordinator: Coordinator,
    pub(super) workers: Vec<Worker>,
    pub(super) oracle: Oracle,
    pub(super) counts: Counts,
    trace: Option<Vec<String>>,
    pub(super) quiet: bool,
    done: bool,
    pub(super) failed: Option<String>,
}

impl World {
    pub(super) fn new(seed: u64, mixture: &Mixture, bug: Option<Bug>, trace: bool) -> Self {
        let mut rng = Random::new(seed);
        let plan = Plan::draw(&mut rng, mixture);
        let lease = Duration::from_micros(plan.lease_us);
        let coordinator = Coordinator::new(bug, lease, rng.below(200));
        let workers = (0..plan.workers).map(|n| Worker::new(usize::try_from(n).unwrap_or(0), rng.below(200)));
        let workers = workers.collect();
        Self {
            seed,
            plan,
            rng,
            now: 0,
            seq: 0,
            events: BinaryHeap::new(),
            coordinator,
            workers,
            oracle: Oracle::default(),
            counts: Counts::default(),
            trace: trace.then(Vec::new),
            quiet: false,
            done: false,
            failed: None,
        }
    }

    /// Writes a line of the history, if it is wanted.
    pub(super) fn note(&mut self, line: impl FnOnce() -> String) {
        let now = self.now;
        if let Some(trace) = &mut self.trace {
            trace.push(format!("{:>12.6} s  {}", Duration::from_micros(now).as_secs_f64(), line()));
        }
    }

    pub(super) fn schedule(&mut self, at_us: u64, event: Event) {
        self.seq += 1;
        self.events.push(Reverse(Planned { at_us, seq: self.seq, event }));
    }

    pub(super) fn run(mut self) -> Result<Counts, Box<Failure>> {
        self.begin();
        while !self.done && self.failed.is_none() {
            let Some(Reverse(planned)) = self.events.pop() else {
                self.failed = Some("nothing happens any more".to_owned());
                break;
            };
            self.now = planned.at_us;
            self.counts.events += 1;
            if self.counts.events > EVENTS_MAX {
                self.failed = Some("it does not come to an end".to_owned());
            }
            self.happen(planned.event);
        }
        self.counts.seeds = 1;
        match self.failed {
            None => Ok(self.counts),
            Some(what) => Err(Box::new(Failure {
                seed: self.seed,
                mixture: self.plan.mixture.name,
                at_us: self.now,
                events: self.counts.events,
                what,
                trace: self.trace.unwrap_or_default(),
            })),
        }
    }

    fn begin(&mut self) {
        let plan = self.plan.clone();
        self.note(|| format!("{plan:?}"));
        self.schedule(0, Event::CoordinatorUp);
        for worker in 0..self.workers.len() {
            let at = self.rng.below(5 * SECOND);
            self.schedule(at, Event::WorkerUp(worker));
        }
        self.schedule(SECOND / 10, Event::Person);
        if !self.plan.faults.is_empty() {
            let first = self.rng.below(self.plan.fault_gap_us);
            self.schedule(first, Event::Fault);
        }
        self.schedule(self.plan.quiet_us, Event::Quiet);
    }

    fn happen(&mut self, event: Event) {
        let stalled = match &event {
            Event::ToWorker(to, _) => self.workers.get(to.worker),
            Event::Timer(worker, ..) => self.workers.get(*worker),
            _ => None,
        };
        if let Some(until) = stalled.map(|w| w.stalled_us).filter(|until| *until > self.now) {
            self.schedule(until, event);
            return;
        }
        if self.trace.is_some() && !matches!(event, Event::Sweep(_)) {
            self.note(|| format!("{event:?}"));
        }
        match event {
            Event::ToCoordinator(from, request) => self.request(from, request),
            Event::ToWorker(to, reply) => {
                if self.workers.get(to.worker).is_some_and(|w| w.up && w.process == to.process) {
                    self.reply(to, reply);
                }
            }
            Event::Commit(generation) => {
                if self.coordinator.generation == generation {
                    self.commit();
                }
            }
            Event::Sweep(generation) => {
                if self.coordinator.generation == generation {
                    self.sweep();
                }
            }
            Event::CoordinatorCrash(generation) => {
                if self.coordinator.generation == generation && !self.quiet {
                    self.coordinator_crash();
                }
            }
            Event::Lose(generation, held) => {
                if self.coordinator.generation == generation {
                    self.write(None, |s| s.lose(held)).ok();
                }
            }
            Event::CoordinatorUp => {
                if !self.coordinator.up {
                    self.coordinator_up();
                }
            }
            Event::WorkerUp(worker) => self.worker_up(worker),
            Event::Timer(worker, process, timer) => {
                if self.workers.get(worker).is_some_and(|w| w.up && w.process == process) {
                    self.timed(worker, timer);
                }
            }
            Event::Fault => self.fault(),
            Event::Person => self.person(),
            Event::Quiet => self.calm(),
            Event::Care => self.care(),
        }
    }

    fn any_worker(&mut self) -> usize {
        usize::try_from(self.rng.below(self.plan.workers)).unwrap_or(0)
    }

    fn fault(&mut self) {
        if self.quiet {
            return;
        }
        let gap = self.plan.fault_gap_us / 2 + self.rng.below(self.plan.fault_gap_us);
        self.schedule(self.now + gap, Event::Fault);
        let Some(&fault) = self.rng.pick(&self.plan.faults) else { return };
        let worker = self.any_worker();
        let until = self.now + self.rng.range(SECOND, 5 * self.plan.lease_us / 2);
        self.note(|| format!("{fault:?} strikes worker {worker} or another, until {until}"));
        let Some(w) = self.workers.get_mut(worker) else { return };
        match fault {
            Fault::Death => {
                let again = self.rng.range(SECOND / 10, 2 * self.plan.lease_us);
                self.counts.deaths += u64::from(w.up);
                self.counts.deaths_holding += u64::from(w.up && !w.works.is_empty());
                self.worker_down(worker, again);
            }
            Fault::Stall => {
                self.counts.stalls += 1;
                w.stalled_us = until;
            }
            Fault::Crash => {
                if self.rng.chance(700) {
                    self.coordinator.doomed = true;
                } else if self.coordinator.up {
                    self.coordinator_crash();
                }
            }
            Fault::Cut => {
                self.counts.cuts += 1;
                (w.blocked_up_us, w.blocked_down_us) = (until, until);
            }
            Fault::HalfOpen => {
                self.counts.half_open += 1;
                if until.is_multiple_of(2) {
                    w.blocked_up_us = until;
                } else {
                    w.blocked_down_us = until;
                }
            }
            Fault::Jump => {
                self.counts.jumps += 1;
                let forwards = self.rng.chance(500);
                self.coordinator.wall_us = if forwards { JUMP_US } else { -JUMP_US };
            }
        }
    }

    /// Creates the study (more than once, as one who got no answer), and later does what people do.
    fn person(&mut self) {
        if self.quiet {
            return;
        }
        let created = self.coordinator.committed.studies.contains_key(&1);
        let pause = if created { self.rng.range(5, 60) } else { 1 };
        self.schedule(self.now + pause * SECOND, Event::Person);
        if !created || self.rng.chance(100) {
            self.create();
        }
        if !created || !self.plan.mixture.people {
            return;
        }
        let number = u32::try_from(self.rng.range(1, 5)).unwrap_or(1);
        let worker = self.any_worker();
        let Some(name) = self.workers.get(worker).map(|w| w.name.clone()) else { return };
        let action = self.rng.below(8);
        self.note(|| format!("a person does {action}"));
        self.counts.by_hand += 1;
        self.by_hand(|s| match action {
            0 | 1 => s.step_study(1, StudyEvent::Pause).map(drop),
            2 | 3 => s.step_study(1, StudyEvent::Resume).map(drop),
            4 => s.step_study(1, StudyEvent::Cancel).map(drop),
            5 => s.retry(1, number),
            6 => s.control(&name, WorkerState::Cordoned),
            _ => s.control(&name, WorkerState::Draining),
        });
    }

    /// The faults are over: whatever stands still goes on.
    fn calm(&mut self) {
        self.quiet = true;
        for w in &mut self.workers {
            (w.stalled_us, w.blocked_up_us, w.blocked_down_us) = (0, 0, 0);
        }
        self.schedule(self.now, Event::CoordinatorUp);
        for worker in 0..self.workers.len() {
            self.schedule(self.now, Event::WorkerUp(worker));
        }
        self.schedule(self.now, Event::Care);
    }

    /// Does by hand what only people do, and looks whether the study has come to its end in time.
    fn care(&mut self) {
        let committed = self.coordinator.committed.clone();
        if self.is_over(&committed) {
            self.done = true;
            return;
        }
        if self.now > self.plan.quiet_us + self.bound_us() {
            let trials: Vec<_> = committed.trials.values().map(|t| t.machine).collect();
            let states: Vec<_> = committed.studies.values().map(|s| s.state).collect();
            self.failed = Some(format!("stuck: study {states:?}, trials {trials:?}"));
            return;
        }
        self.schedule(self.now + CARE_US, Event::Care);
        if !committed.studies.contains_key(&1) {
            self.create();
        }
        if committed.studies.get(&1).is_some_and(|s| s.state == StudyState::Paused) {
            self.by_hand(|s| s.step_study(1, StudyEvent::Resume).map(drop));
        }
        for (name, _) in committed.workers.iter().filter(|(_, w)| w.state == WorkerState::Cordoned) {
            self.by_hand(|s| s.control(name, WorkerState::Ready));
        }
        for (id, trial) in &committed.trials {
            if !self.is_as_it_must_be(*id, trial.machine.state) && trial.machine.state.ended() {
                self.by_hand(|s| s.retry(1, trial.number));
            }
        }
    }

    fn is_as_it_must_be(&self, trial: i64, state: TrialState) -> bool {
        let end = if self.plan.poison_of(trial) == 0 { TrialState::Complete } else { TrialState::Failed };
        state == end
    }

    fn is_over(&self, store: &Reference) -> bool {
        store.studies.get(&1).is_some_and(|s| s.state == StudyState::Complete)
            && store.trials.iter().all(|(id, t)| self.is_as_it_must_be(*id, t.machine.state))
    }

    /// How long it may take from the last fault: everything lost and trained again from its beginning, one by one.
    fn bound_us(&self) -> u64 {
        let p = &self.plan;
        let epochs: u64 = p.study.trials.iter().map(|t| u64::from(t.epochs)).sum();
        let trials = u64::try_from(p.study.trials.len()).unwrap_or(u64::MAX);
        2 * (p.lease_us + p.grace_us) + 2 * epochs * p.epoch_us + (trials + 3) * 20 * SECOND
    }
}
