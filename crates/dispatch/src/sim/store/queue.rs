//! Workers and the queue: who is registered, and who gets what.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use super::{
    ANSWERS_KEPT, After, Answer, AttemptRow, CheckpointRow, Name, PAST_KEPT, Reference, Refusal, TrialRow,
    WorkerRow, WorkerState,
};
use crate::Held;
use crate::lease::restart_grace;
use crate::queue::{Candidate, Share, choose, next_study};
use crate::report::Summary;
use crate::sim::Bug;
use crate::study::StudyState;
use crate::trial::{Order, TrialEvent, TrialState};

/// A request for work.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ask {
    pub worker: Name,
    pub incarnation: Name,
    pub request: Name,
    /// Free slots.
    pub max_works: u32,
    /// Trials of one shape that a slot takes at once.
    pub max_mates: u32,
}

/// A trial under a lease.
#[derive(Debug, Clone, PartialEq)]
pub struct Leased {
    pub held: Held,
    pub number: u32,
    pub epochs_wanted: u32,
    pub losses: u32,
    pub resume: Option<CheckpointRow>,
    pub best: Option<CheckpointRow>,
}

/// What the queue asks of what lives only in memory.
pub struct Env<'a> {
    /// Is a worker other than this one there?
    pub others: bool,
    /// How long a trial has waited since it came back.
    pub waited: &'a dyn Fn(i64) -> Duration,
    /// How long it is kept for another worker.
    pub patience: Duration,
}

impl Reference {
    /// Introduces a worker. The attempts of an earlier process of this name are lost at once; a process that has
    /// been replaced does not come back.
    ///
    /// # Errors
    /// It has been replaced.
    pub fn register(&mut self, name: &Name, incarnation: &Name) -> Result<(), Refusal> {
        let before = self.workers.get(name).cloned();
        let replaced = before.as_ref().is_some_and(|w| w.incarnation != *incarnation);
        let returns = before.as_ref().is_some_and(|w| w.past.contains(incarnation));
        if returns && !self.has(Bug::OldProcessReturns) {
            return Err(Refusal::StaleIncarnation);
        }
        if replaced && !self.has(Bug::RegisterKeepsOld) {
            for held in self.held_by(name) {
                self.lose(held)?;
            }
        }
        let mut past = before.as_ref().map(|w| w.past.clone()).unwrap_or_default();
        if let Some(old) = before.as_ref().filter(|_| replaced) {
            past.push_back(Arc::clone(&old.incarnation));
            past.drain(..past.len().saturating_sub(PAST_KEPT));
        }
        let cordoned = before.is_some_and(|w| w.state == WorkerState::Cordoned);
        let state = if cordoned { WorkerState::Cordoned } else { WorkerState::Ready };
        let row = WorkerRow { incarnation: Arc::clone(incarnation), state, past };
        Arc::make_mut(&mut self.workers).insert(Arc::clone(name), row);
        Ok(())
    }

    /// The attempts of a worker that have not ended.
    fn held_by(&self, worker: &str) -> Vec<Held> {
        let open = |(trial, attempt): (i64, u32)| {
            let row = self.trials.get(&trial).and_then(|t| t.attempt(attempt));
            row.is_some_and(|a| a.outcome.is_none() && &*a.worker == worker)
                .then_some(Held { trial, attempt })
        };
        let newest = self.trials.iter().map(|(id, t)| (*id, t.machine.attempts));
        newest.filter_map(open).collect()
    }

    /// The worker of this name and process.
    ///
    /// # Errors
    /// It is unknown, or another process.
    pub fn known(&self, worker: &str, incarnation: &str) -> Result<&WorkerRow, Refusal> {
        let row = self.workers.get(worker).ok_or(Refusal::UnknownWorker)?;
        if &*row.incarnation == incarnation { Ok(row) } else { Err(Refusal::StaleIncarnation) }
    }

    /// Cordons a worker, drains it, or makes it ready again.
    ///
    /// # Errors
    /// There is none of this name.
    pub fn control(&mut self, worker: &Name, state: WorkerState) -> Result<(), Refusal> {
        let row = Arc::make_mut(&mut self.workers).get_mut(worker).ok_or(Refusal::NotFound)?;
        row.state = state;
        self.after.push(match state {
            WorkerState::Draining => After::Drain { worker: Arc::clone(worker) },
            WorkerState::Ready | WorkerState::Cordoned => After::Wake,
        });
        Ok(())
    }

    /// Leases up to `max_works` slots full of trials. The same request gets the same answer, less what it does not
    /// hold any more.
    ///
    /// # Errors
    /// The worker is not known, or the request id was used otherwise.
    pub fn lease(&mut self, ask: &Ask, env: &Env<'_>) -> Result<Vec<Leased>, Refusal> {
        let state = self.known(&ask.worker, &ask.incarnation)?.state;
        if ask.request.is_empty() {
            return Err(Refusal::BadRequest);
        }
        match self.answers.get(&ask.request) {
            Some(Answer::Lease { worker, .. }) if *worker == ask.worker && self.has(Bug::ForgetRequests) => {}
            Some(Answer::Lease { worker, held }) if *worker == ask.worker => {
                return Ok(held.iter().filter_map(|h| self.leased(*h)).collect());
            }
            Some(_) => return Err(Refusal::RequestIdReused),
            None => {}
        }
        if state != WorkerState::Ready {
            return Ok(Vec::new());
        }
        let mut held = Vec::new();
        for _ in 0..ask.max_works {
            let Some((study, first)) = self.next(&ask.worker, env) else { break };
            held.push(self.start(first, ask)?);
            for mate in self.mates(study, first, ask.max_mates) {
                held.push(self.start(mate, ask)?);
            }
        }
        if !held.is_empty() {
            self.remember(ask, &held);
        }
        Ok(held.iter().filter_map(|h| self.leased(*h)).collect())
    }

    /// Was this request for work answered before? If nothing of the answer is held any more, there is nothing to
    /// wait for: whoever asks has to ask anew.
    #[must_use]
    pub fn answered(&self, request: &str) -> bool {
        self.answers.contains_key(request)
    }

    fn remember(&mut self, ask: &Ask, held: &[Held]) {
        let answers = Arc::make_mut(&mut self.answers);
        let answer = Answer::Lease { worker: Arc::clone(&ask.worker), held: held.to_vec() };
        answers.insert(Arc::clone(&ask.request), answer);
        let answered: &mut VecDeque<Name> =
            Arc::make_mut(&mut self.answered).entry(Arc::clone(&ask.worker)).or_default();
        answered.push_back(Arc::clone(&ask.request));
        while answered.len() > ANSWERS_KEPT {
            if let Some(oldest) = answered.pop_front() {
                answers.remove(&oldest);
            }
        }
    }

    /// The trial that a worker that asks is to get now, with its study.
    #[must_use]
    pub fn next(&self, worker: &str, env: &Env<'_>) -> Option<(i64, i64)> {
        let mut shares = self.shares();
        while let Some(share) = next_study(&shares) {
            let candidates = self.candidates(share.study, worker, env);
            if let Some(chosen) = choose(&candidates, worker, env.others, env.patience) {
                return Some((share.study, chosen.trial));
            }
            shares.retain(|s| s.study != share.study);
        }
        None
    }

    /// The active studies with something in the queue.
    fn shares(&self) -> Vec<Share> {
        let active = self.studies.iter().filter(|(_, s)| s.state == StudyState::Active);
        let shares = active.filter_map(|(&study, row)| {
            let trials = || row.trials.iter().filter_map(|id| self.trials.get(id));
            let running = trials().filter(|t| t.machine.state.attempt().is_some()).count();
            let share = Share {
                study,
                weight: row.rules.weight,
                running: u64::try_from(running).unwrap_or(u64::MAX),
            };
            trials().any(|t| is_queued(t)).then_some(share)
        });
        shares.collect()
    }

    fn queued(&self, study: i64) -> impl Iterator<Item = (i64, &TrialRow)> {
        let ids = self.studies.get(&study).map(|s| s.trials.as_slice()).unwrap_or_default();
        ids.iter().filter_map(|id| Some((*id, &**self.trials.get(id)?))).filter(|(_, t)| is_queued(t))
    }

    /// The first of the queue that came back from this worker, and the first that did not, in queue order.
    fn candidates(&self, study: i64, worker: &str, env: &Env<'_>) -> Vec<Candidate> {
        let (mut mine, mut other) = (None, None);
        for (trial, row) in self.queued(study) {
            let avoided = row.avoid.as_deref() == Some(worker);
            let slot = if avoided { &mut mine } else { &mut other };
            if slot.is_none() {
                let avoid = row.avoid.as_deref().filter(|_| avoided).map(str::to_owned);
                *slot = Some((row.number, Candidate { trial, avoid, waited: (env.waited)(trial) }));
            }
        }
        let mut found: Vec<_> = mine.into_iter().chain(other).collect();
        found.sort_by_key(|(number, _)| *number);
        found.into_iter().map(|(_, candidate)| candidate).collect()
    }

    fn mates(&self, study: i64, first: i64, max_mates: u32) -> Vec<i64> {
        let Some(shape) = self.trials.get(&first).map(|t| Arc::clone(&t.shape)) else { return Vec::new() };
        let mates = usize::try_from(max_mates.saturating_sub(1)).unwrap_or(usize::MAX);
        self.queued(study).filter(|(_, t)| t.shape == shape).map(|(id, _)| id).take(mates).collect()
    }

    /// Starts an attempt at the trial's last checkpoint. What older attempts measured beyond it is superseded.
    fn start(&mut self, trial: i64, ask: &Ask) -> Result<Held, Refusal> {
        let attempt = self.step(trial, TrialEvent::Lease)?.attempt().ok_or(Refusal::IllegalEvent)?;
        let keep_all = self.has(Bug::SupersedeForgotten);
        let study = self.trials.get(&trial).map(|t| t.study).ok_or(Refusal::NotFound)?;
        let rule = self.rules(study)?.objective;
        let row = self.trial_mut(trial)?;
        let start_epoch = row.last.as_ref().map_or(0, |c| c.epoch);
        row.attempts.push(AttemptRow {
            worker: Arc::clone(&ask.worker),
            incarnation: Arc::clone(&ask.incarnation),
            start_epoch,
            start_checkpoint: row.last.as_ref().map(|c| Arc::clone(&c.digest)),
            outcome: None,
            grace: Duration::ZERO,
            rows: Vec::new(),
        });
        if !keep_all {
            for old in row.attempts.iter_mut().flat_map(|a| &mut a.rows) {
                old.superseded |= old.measurement.epoch > start_epoch;
            }
            row.best = row.best.take().filter(|best| best.epoch <= start_epoch);
        }
        let mut summary = Summary::default();
        for m in row.curve().into_iter().filter(|m| m.epoch <= start_epoch) {
            summary.add(&rule, m.epoch, m.train_loss, m.val_loss, m.weights_digest.clone());
        }
        row.summary = summary;
        let held = Held { trial, attempt };
        self.after.push(After::Granted { held, worker: Arc::clone(&ask.worker), study });
        Ok(held)
    }

    fn leased(&self, held: Held) -> Option<Leased> {
        let row = self.trials.get(&held.trial).filter(|t| t.machine.state.attempt() == Some(held.attempt))?;
        Some(Leased {
            held,
            number: row.number,
            epochs_wanted: row.epochs_wanted,
            losses: row.machine.losses,
            // What a first attempt has recorded itself, it did not start from.
            resume: row.last.clone().filter(|_| held.attempt > 1),
            best: row.best.clone().filter(|_| held.attempt > 1),
        })
    }

    /// Adopts the attempts that ran when the last process ended: each with the grace it still gets, and what its
    /// worker is to do.
    pub fn adopt(&mut self, grace: Duration) -> Vec<(Held, Name, i64, Duration, Option<Order>)> {
        let (unbounded, none) = (self.has(Bug::GraceUnbounded), self.has(Bug::NoGrace));
        let mut adopted = Vec::new();
        for (&trial, row) in &mut self.trials {
            let Some(attempt) = row.machine.state.attempt() else { continue };
            let wish = self.studies.get(&row.study).and_then(|s| s.state.wish());
            let (study, row) = (row.study, Arc::make_mut(row));
            let Some(open) = row.attempt_mut(attempt) else { continue };
            let given = if none { Duration::ZERO } else { restart_grace(open.grace, grace) };
            let given = if unbounded { grace } else { given };
            open.grace = open.grace.saturating_add(given);
            adopted.push((Held { trial, attempt }, Arc::clone(&open.worker), study, given, wish));
        }
        adopted
    }

    /// Notes that adopted attempts were heard of: a next restart gives them the whole grace again.
    pub fn heard(&mut self, held: &[Held]) {
        for &held in held {
            if let Ok(attempt) = self.attempt_mut(held) {
                attempt.grace = Duration::ZERO;
            }
        }
    }

    /// Ends an attempt whose worker is lost. One that has ended otherwise meanwhile is left alone.
    ///
    /// # Errors
    /// The state machine does not know better; a bug.
    pub fn lose(&mut self, held: Held) -> Result<(), Refusal> {
        let held = match self.trials.get(&held.trial).and_then(|t| t.machine.state.attempt()) {
            Some(attempt) if self.has(Bug::LoseUnfenced) => Held { attempt, ..held },
            _ => held,
        };
        let Ok(row) = self.held(held) else {
            self.after.push(After::Ended { held });
            return Ok(());
        };
        let advanced = row.last.as_ref().is_some_and(|c| c.attempt == held.attempt);
        match self.step(held.trial, TrialEvent::Lose { attempt: held.attempt, advanced }) {
            Err(Refusal::StaleAttempt) => Ok(()),
            other => other.map(drop),
        }
    }
}

fn is_queued(trial: &TrialRow) -> bool {
    trial.machine.state == TrialState::Queued
}
