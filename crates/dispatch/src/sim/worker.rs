//! The workers of the simulation: they register, ask, train, measure, save and finish, and repeat what is not answered.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::network::{From, Reply, Request};
use super::oracle::checkpoint_digest;
use super::plan::SECOND;
use super::store::{Finish, Leased, Name, NewCheckpoint, Refusal};
use super::world::{Event, World};
use crate::Held;
use crate::trial::{Order, Outcome};

/// How long an answer is waited for; a call for work waits longer at the coordinator.
const ANSWER_US: u64 = 3 * SECOND;

/// A worker: one name, many processes one after the other.
#[derive(Debug)]
pub(super) struct Worker {
    pub(super) name: Name,
    /// The number of its process; the earlier ones are dead.
    pub(super) process: u32,
    pub(super) up: bool,
    /// It stands still until then.
    pub(super) stalled_us: u64,
    /// Nothing gets from it to the coordinator until then, or back.
    pub(super) blocked_up_us: u64,
    pub(super) blocked_down_us: u64,
    /// Its monotonic clock runs this much fast, in parts per million. (Its wall clock nobody asks.)
    pub(super) ppm: u64,
    registered: bool,
    draining: bool,
    asking: bool,
    pub(super) works: Vec<Work>,
    calls: BTreeMap<u64, Request>,
    calls_ever: u64,
}

/// An attempt, as its worker sees it.
#[derive(Debug)]
pub(super) struct Work {
    pub(super) held: Held,
    wanted: u32,
    trained: u32,
    acknowledged: u32,
    /// Epochs up to here have been sent.
    sent: u32,
    reporting: bool,
    saved: u32,
    recorded: u32,
    recording: bool,
    ending: Option<Outcome>,
    finishing: bool,
}

/// What a worker does by itself, later.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Timer {
    Beat,
    Ask,
    Epoch(Held),
    /// Send again what has not been answered.
    Again(u64),
    /// Send again what could not be taken yet.
    Pump(Held),
}

impl Worker {
    pub(super) fn new(number: usize, ppm: u64) -> Self {
        Self {
            name: format!("w{number}").into(),
            process: 0,
            up: false,
            stalled_us: 0,
            blocked_up_us: 0,
            blocked_down_us: 0,
            ppm,
            registered: false,
            draining: false,
            asking: false,
            works: Vec::new(),
            calls: BTreeMap::new(),
            calls_ever: 0,
        }
    }

    /// What one of its processes calls itself.
    pub(super) fn incarnation(&self, process: u32) -> Name {
        format!("{}.{process}", self.name).into()
    }

    fn work(&mut self, held: Held) -> Option<&mut Work> {
        self.works.iter_mut().find(|w| w.held == held)
    }

    fn drop_work(&mut self, held: Held) {
        self.works.retain(|w| w.held != held);
        self.calls.retain(|_, r| of(r) != Some(held));
    }
}

/// The attempt that a request is about.
fn of(request: &Request) -> Option<Held> {
    match request {
        Request::Report { held, .. } | Request::Checkpoint { held, .. } | Request::Finish { held, .. } => {
            Some(*held)
        }
        Request::Register | Request::Lease { .. } | Request::Beat { .. } => None,
    }
}

impl World {
    fn timer(&mut self, worker: usize, after_us: u64, timer: Timer) {
        let Some(w) = self.workers.get(worker) else { return };
        let at = self.now + after_us * 1_000_000 / (1_000_000 + w.ppm);
        self.schedule(at, Event::Timer(worker, w.process, timer));
    }

    pub(super) fn worker_up(&mut self, worker: usize) {
        let Some(w) = self.workers.get_mut(worker).filter(|w| !w.up) else { return };
        let (number, ppm) = (worker, w.ppm);
        let fresh = Worker {
            process: w.process + 1,
            up: true,
            blocked_up_us: w.blocked_up_us,
            blocked_down_us: w.blocked_down_us,
            ..Worker::new(number, ppm)
        };
        *w = fresh;
        self.call(worker, Request::Register);
    }

    /// The process ends, however; another one starts later.
    pub(super) fn worker_down(&mut self, worker: usize, again_us: u64) {
        let Some(w) = self.workers.get_mut(worker).filter(|w| w.up) else { return };
        w.up = false;
        w.works.clear();
        w.calls.clear();
        self.schedule(self.now + again_us, Event::WorkerUp(worker));
    }

    /// Asks until there is an answer.
    fn call(&mut self, worker: usize, request: Request) {
        let Some(w) = self.workers.get_mut(worker) else { return };
        w.calls_ever += 1;
        let call = w.calls_ever;
        let from = From { worker, process: w.process, call };
        w.calls.insert(call, request.clone());
        self.send_request(from, &request);
        let jitter = self.rng.below(SECOND);
        let patience = if matches!(request, Request::Lease { .. }) { 3 * ANSWER_US } else { ANSWER_US };
        self.timer(worker, patience + jitter, Timer::Again(call));
    }

    pub(super) fn timed(&mut self, worker: usize, timer: Timer) {
        match timer {
            Timer::Beat => self.beats(worker),
            Timer::Ask => self.ask(worker),
            Timer::Epoch(held) => self.epoch(worker, held),
            Timer::Pump(held) => self.pump(worker, held),
            Timer::Again(call) => {
                let Some(w) = self.workers.get(worker) else { return };
                if let Some(request) = w.calls.get(&call).cloned() {
                    let from = From { worker, process: w.process, call };
                    self.counts.retries += 1;
                    self.send_request(from, &request);
                    let waits = matches!(request, Request::Lease { .. });
                    let pause = if waits { 3 * ANSWER_US } else { ANSWER_US } + self.rng.below(2 * SECOND);
                    self.timer(worker, pause, Timer::Again(call));
                }
            }
        }
    }

    fn beats(&mut self, worker: usize) {
        let Some(w) = self.workers.get(worker) else { return };
        let held = w.works.iter().map(|w| w.held).collect();
        let from = From { worker, process: w.process, call: 0 };
        self.send_request(from, &Request::Beat { held });
        self.timer(worker, self.plan.beat_us, Timer::Beat);
    }

    fn ask(&mut self, worker: usize) {
        let slots = self.plan.slots;
        let Some(w) = self.workers.get_mut(worker) else { return };
        let free = slots.saturating_sub(w.works.len());
        if free == 0 || w.asking || w.draining || !w.registered {
            return;
        }
        w.asking = true;
        let request = format!("{}.{}.{}", w.name, w.process, w.calls_ever).into();
        self.call(worker, Request::Lease { request, slots: u32::try_from(free).unwrap_or(1) });
    }

    pub(super) fn reply(&mut self, to: From, reply: Reply) {
        let worker = to.worker;
        let Some(w) = self.workers.get_mut(worker) else { return };
        let asked = w.calls.remove(&to.call);
        if asked.is_none() && to.call != 0 {
            return;
        }
        let about = asked.as_ref().and_then(of);
        match (reply, asked) {
            (Reply::Orders { orders, drain }, _) => self.ordered(worker, &orders, drain),
            (Reply::Refused(refusal), asked) => self.refused(worker, refusal, about, asked),
            (Reply::Registered, _) => {
                w.registered = true;
                self.timer(worker, 0, Timer::Beat);
                self.ask(worker);
            }
            (Reply::Work(works), _) => self.take(worker, &works),
            (Reply::Taken(epoch), Some(Request::Report { held, .. })) => {
                if let Some(work) = w.work(held) {
                    work.acknowledged = work.acknowledged.max(epoch);
                    work.reporting = false;
                }
                self.pump(worker, held);
            }
            (Reply::Recorded, Some(Request::Checkpoint { held, new })) => {
                if let Some(work) = w.work(held) {
                    let last = new.iter().filter(|c| !c.best).map(|c| c.epoch).max().unwrap_or(0);
                    work.recorded = work.recorded.max(last);
                    work.recording = false;
                }
                self.pump(worker, held);
            }
            (Reply::Finished | Reply::NotFinite, _) => self.let_go(worker, about),
            (Reply::Taken(_) | Reply::Recorded, _) => {}
        }
    }

    fn let_go(&mut self, worker: usize, held: Option<Held>) {
        let Some(w) = self.workers.get_mut(worker) else { return };
        if let Some(held) = held {
            w.drop_work(held);
        }
        if w.draining && w.works.is_empty() && !w.calls.values().any(|r| of(r).is_some()) {
            let pause = self.rng.range(1, 20) * SECOND;
            self.worker_down(worker, pause);
        } else {
            self.ask(worker);
        }
    }

    fn refused(&mut self, worker: usize, refusal: Refusal, about: Option<Held>, asked: Option<Request>) {
        match refusal {
            Refusal::StaleIncarnation => {
                let pause = self.rng.range(1, 5) * SECOND;
                self.worker_down(worker, pause);
            }
            Refusal::UnknownWorker => {
                if let Some(w) = self.workers.get_mut(worker) {
                    w.asking = false;
                }
                self.call(worker, Request::Register);
            }
            Refusal::StaleAttempt => self.let_go(worker, about),
            // Sent before the answer to what it builds on, and overtaken on the way.
            Refusal::EpochGap | Refusal::Incomplete if self.plan.pipelined => {
                let work = about.and_then(|held| self.workers.get_mut(worker)?.work(held));
                if let Some(work) = work {
                    work.sent = work.acknowledged;
                    work.reporting = false;
                    match asked {
                        Some(Request::Checkpoint { .. }) => work.recording = false,
                        Some(Request::Finish { .. }) => work.finishing = false,
                        _ => {}
                    }
                    let held = work.held;
                    self.timer(worker, SECOND, Timer::Pump(held));
                }
            }
            other => {
                let what = format!("worker {worker} did nothing wrong, and is refused: {other}");
                self.failed.get_or_insert(what);
            }
        }
    }

    fn ordered(&mut self, worker: usize, orders: &[(Held, Order)], drain: bool) {
        for &(held, order) in orders {
            let Some(w) = self.workers.get_mut(worker) else { return };
            let Some(work) = w.work(held) else { continue };
            match order {
                Order::Forget => {
                    self.counts.forgotten += 1;
                    self.let_go(worker, Some(held));
                }
                Order::Cancel => {
                    w.drop_work(held);
                    let finish = Finish {
                        rows: Vec::new(),
                        outcome: Outcome::Canceled,
                        last: false,
                        checkpoints: Vec::new(),
                    };
                    self.call(worker, Request::Finish { held, finish: Arc::new(finish) });
                    self.ask(worker);
                }
                Order::Pause | Order::Prune => {
                    if work.ending.is_none() {
                        work.stop(Outcome::Paused);
                        self.pump(worker, held);
                    }
                }
            }
        }
        if drain {
            self.drain(worker);
        }
    }

    fn drain(&mut self, worker: usize) {
        let Some(w) = self.workers.get_mut(worker).filter(|w| !w.draining) else { return };
        w.draining = true;
        let works: Vec<Held> = w.works.iter().map(|w| w.held).collect();
        for held in works {
            if let Some(work) = self.workers.get_mut(worker).and_then(|w| w.work(held))
                && work.ending.is_none()
            {
                work.stop(Outcome::Released);
            }
            self.pump(worker, held);
        }
        self.let_go(worker, None);
    }

    fn take(&mut self, worker: usize, works: &[Leased]) {
        let Some(w) = self.workers.get_mut(worker) else { return };
        w.asking = false;
        let draining = w.draining;
        let mut begun = Vec::new();
        for leased in works {
            if w.works.iter().any(|w| w.held == leased.held) {
                continue;
            }
            let start = leased.resume.as_ref().map_or(0, |c| c.epoch);
            w.works.push(Work {
                held: leased.held,
                wanted: leased.epochs_wanted,
                trained: start,
                acknowledged: start,
                sent: start,
                reporting: false,
                saved: start,
                recorded: start,
                recording: false,
                ending: draining.then_some(Outcome::Released),
                finishing: false,
            });
            begun.push(leased.held);
        }
        for held in begun {
            if draining {
                self.pump(worker, held);
            } else {
                self.next_epoch(worker, held);
            }
        }
        let pause = if works.is_empty() { SECOND } else { 0 };
        self.timer(worker, pause, Timer::Ask);
    }

    fn next_epoch(&mut self, worker: usize, held: Held) {
        let us = self.plan.epoch_us / 2 + self.rng.below(self.plan.epoch_us);
        self.timer(worker, us, Timer::Epoch(held));
    }

    /// An epoch is trained.
    fn epoch(&mut self, worker: usize, held: Held) {
        let (every, fails) = (self.plan.checkpoint_every, self.rng.chance(self.plan.failures) && !self.quiet);
        let Some(work) = self.workers.get_mut(worker).and_then(|w| w.work(held)) else { return };
        if work.ending.is_some() {
            return;
        }
        if work.trained < work.wanted {
            work.trained += 1;
            self.counts.epochs += 1;
        }
        if work.trained == work.wanted {
            work.stop(Outcome::Complete);
        } else if fails {
            work.ending = Some(Outcome::Failed);
        } else {
            if work.trained.is_multiple_of(every) {
                work.saved = work.trained;
            }
            self.next_epoch(worker, held);
        }
        self.pump(worker, held);
    }

    /// Sends what can be sent of an attempt now: measurements, then a checkpoint, then its end.
    fn pump(&mut self, worker: usize, held: Held) {
        let (plan, pipelined) = (&self.plan, self.plan.pipelined);
        let Some(work) = self.workers.get_mut(worker).and_then(|w| w.work(held)) else { return };
        let mut calls = Vec::new();
        let from = if pipelined { work.sent } else { work.acknowledged };
        // Every other trial's end carries what is left to report.
        let whole = !plan.bare || work.recorded == work.saved;
        let busy = work.reporting || work.recording;
        let carries = work.ending.is_some() && held.trial % 2 == 1 && whole && !busy;
        let mut left = Vec::new();
        if (pipelined || !work.reporting) && from < work.trained {
            let rows = (from + 1..=work.trained).map(|epoch| plan.truth(held.trial, epoch)).collect();
            if carries {
                left = rows;
            } else {
                calls.push(Request::Report { held, rows: Arc::new(rows) });
                (work.reporting, work.sent) = (true, work.trained);
            }
        }
        let checkpoints = |epoch: u32| {
            let make =
                |best, epoch| NewCheckpoint { best, digest: checkpoint_digest(held.trial, epoch), epoch };
            vec![make(true, plan.best_epoch(held.trial, epoch)), make(false, epoch)]
        };
        let measured = pipelined || work.acknowledged >= work.saved;
        if work.saved > work.recorded && measured && !work.recording && !carries {
            calls.push(Request::Checkpoint { held, new: Arc::new(checkpoints(work.saved)) });
            work.recording = true;
        }
        let sent = carries || (work.acknowledged == work.trained && work.recorded == work.saved);
        if let Some(outcome) = work.ending
            && (sent || pipelined)
            && !work.finishing
        {
            let checkpoints = if plan.bare || work.saved == 0 { Vec::new() } else { checkpoints(work.saved) };
            calls.push(Request::Finish {
                held,
                finish: Arc::new(Finish { rows: left, outcome, last: false, checkpoints }),
            });
            work.finishing = true;
        }
        for request in calls {
            self.call(worker, request);
        }
    }
}

impl Work {
    /// Ends in good order: with a checkpoint of where it is.
    fn stop(&mut self, outcome: Outcome) {
        self.ending = Some(outcome);
        self.saved = self.trained;
    }
}
