//! The invariants. The oracle remembers what was promised (acknowledgements, leases) and looks after every step whether
//! the store on disk still keeps it, and whether the step was one that may happen at all.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use super::coordinator::Coordinator;
use super::plan::Plan;
use super::rows::Counts;
use super::store::{Name, Reference, Refusal, TrialRow};
use crate::Held;
use crate::lease::restart_grace;
use crate::report::Summary;
use crate::study::StudyState;
use crate::trial::{Outcome, TrialState};

/// Clocks of different rates are compared to within this.
const SLACK_US: u64 = 1000;

/// What an acknowledgement says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Fact {
    Rows(Held, Vec<u32>),
    Checkpoint(Held, u32),
    Finished(Held, Outcome),
    Leased(Name, Vec<Held>),
    Registered { worker: usize, process: u32 },
}

/// When an attempt may be lost for want of beats, and when it must have been.
#[derive(Debug, Clone, Copy, Default)]
struct Deadline {
    us: u64,
    /// Of the grace, since a beat was heard.
    used: Duration,
}

#[derive(Debug, Default)]
pub(super) struct Oracle {
    rows: BTreeMap<Held, BTreeSet<u32>>,
    /// By trial.
    checkpoints: BTreeMap<i64, u32>,
    finished: BTreeMap<Held, Outcome>,
    leased: HashMap<Name, Vec<Held>>,
    deadlines: HashMap<Held, Deadline>,
    /// Attempts whose lease counts as run out.
    expired: BTreeSet<Held>,
    /// Attempts whose worker is another process now.
    replaced: BTreeSet<Held>,
    /// The processes of each worker that were told that they are registered, in that order.
    processes: HashMap<usize, Vec<u32>>,
    idle_since_us: Option<u64>,
}

/// Says what is broken, unless something was before.
fn broken(failed: &mut Option<String>, what: impl FnOnce() -> String) {
    if failed.is_none() {
        *failed = Some(what());
    }
}

/// The attempts that have not ended, whatever their trials say.
pub(super) fn open_attempts(store: &Reference) -> Vec<Held> {
    let newest = store.trials.iter().flat_map(|(&trial, row)| {
        (1..)
            .zip(&row.attempts)
            .filter(|(_, a)| a.outcome.is_none())
            .map(move |(attempt, _)| Held { trial, attempt })
    });
    newest.collect()
}

fn is_open(store: &Reference, held: Held) -> bool {
    store.trials.get(&held.trial).and_then(|t| t.attempt(held.attempt)).is_some_and(|a| a.outcome.is_none())
}

impl Oracle {
    /// An attempt's request has been carried out, or refused. Gives 1 if the attempt had ended.
    pub(super) fn wrote(
        &self,
        held: Held,
        refused: Option<Refusal>,
        before: &Reference,
        after: &Reference,
        failed: &mut Option<String>,
    ) -> u64 {
        let open = is_open(before, held);
        let row = |store: &Reference| store.trials.get(&held.trial).cloned();
        let same = match (row(before), row(after)) {
            (Some(a), Some(b)) => Arc::ptr_eq(&a, &b) || a == b,
            (None, None) => true,
            _ => false,
        };
        if !open && !same {
            broken(failed, || format!("{held:?} has ended, and what it sent has changed its trial"));
        }
        if refused.is_some() && !same {
            broken(failed, || format!("a request of {held:?} was refused, and has changed its trial"));
        }
        u64::from(!open)
    }

    pub(super) fn registering(&mut self, store: &Reference, worker: &str, current: bool) {
        if !current {
            let of = |h: &Held| {
                let attempt = store.trials.get(&h.trial).and_then(|t| t.attempt(h.attempt));
                attempt.is_some_and(|a| &*a.worker == worker)
            };
            self.replaced.extend(open_attempts(store).into_iter().filter(of));
        }
    }

    pub(super) fn registered(&self, worker: usize, process: u32, failed: &mut Option<String>) {
        // (One whose very first word comes after its successor's cannot be told from a newer one.)
        let known = self.processes.get(&worker).map_or(&[][..], Vec::as_slice);
        if known.contains(&process) && known.last() != Some(&process) {
            broken(failed, || format!("process {process} of worker {worker} was replaced, and is back"));
        }
    }

    pub(super) fn granted(&mut self, held: Held, now: u64, plan: &Plan, c: &Coordinator) {
        self.deadlines.insert(held, Deadline { us: now + c.true_us(plan.lease_us), used: Duration::ZERO });
    }

    pub(super) fn adopt(&mut self, open: &[Held], now: u64, plan: &Plan, c: &Coordinator) {
        self.idle_since_us = None;
        let old = std::mem::take(&mut self.deadlines);
        for &held in open {
            let used = old.get(&held).map_or(Duration::ZERO, |d| d.used);
            let given = restart_grace(used, Duration::from_micros(plan.grace_us));
            let micros = u64::try_from(given.as_micros()).unwrap_or(u64::MAX);
            let us = now + c.true_us(plan.lease_us.saturating_add(micros));
            self.deadlines.insert(held, Deadline { us, used: used + given });
        }
    }

    /// It is on disk that a beat was heard of these since the restart.
    pub(super) fn heard(&mut self, held: &[Held]) {
        for held in held {
            if let Some(deadline) = self.deadlines.get_mut(held) {
                deadline.used = Duration::ZERO;
            }
        }
    }

    /// A beat has named an attempt, and was answered. Who is not told to forget has a lease's time from now.
    pub(super) fn beat(
        &mut self,
        held: Held,
        renewed: bool,
        now: u64,
        (worker, incarnation): (&str, &str),
        c: &Coordinator,
        failed: &mut Option<String>,
    ) {
        let lease_us = u64::try_from(c.reactor.table().length().as_micros()).unwrap_or(u64::MAX);
        let Some(deadline) = self.deadlines.get_mut(&held) else { return };
        if renewed {
            deadline.us = now + c.true_us(lease_us);
            return;
        }
        let row = c.working.trials.get(&held.trial).and_then(|t| t.attempt(held.attempt));
        let its_own = row
            .is_some_and(|a| a.outcome.is_none() && &*a.worker == worker && &*a.incarnation == incarnation);
        if its_own && now + SLACK_US < deadline.us {
            broken(failed, || format!("{held:?} beats in time and is told to forget its trial"));
        }
    }

    /// The lease of an attempt counts as run out.
    pub(super) fn sweeping(&mut self, held: Held, now: u64, store: &Reference, failed: &mut Option<String>) {
        if !is_open(store, held) {
            return;
        }
        if let Some(deadline) = self.deadlines.get(&held).filter(|d| now + SLACK_US < d.us) {
            broken(failed, || format!("{held:?} is lost {} us early", deadline.us - now));
        }
        self.expired.insert(held);
    }

    /// A sweep is over. `idle`: a trial waits, and so does a worker that could have it.
    pub(super) fn swept(
        &mut self,
        idle: bool,
        now: u64,
        plan: &Plan,
        c: &Coordinator,
        failed: &mut Option<String>,
    ) {
        let late_us = 2 * (plan.sweep_us + plan.commit_us_max);
        for held in open_attempts(&c.committed) {
            let due = self.deadlines.get(&held).map_or(0, |d| d.us);
            if now > due + late_us {
                broken(failed, || format!("{held:?} is still open though its lease ran out at {due}"));
            }
        }
        let since = *self.idle_since_us.get_or_insert(now);
        if !idle {
            self.idle_since_us = None;
        } else if now - since > late_us {
            broken(failed, || format!("a trial waits since {since} though a worker asks"));
        }
    }

    /// A batch comes to the disk: `old` becomes `new`.
    pub(super) fn committed(
        &self,
        now: u64,
        (old, new): (&Reference, &Reference),
        plan: &Plan,
        counts: &mut Counts,
        failed: &mut Option<String>,
    ) {
        let all_new = old.trials.len() != new.trials.len();
        for (&id, row) in &new.trials {
            let before = old.trials.get(&id);
            if before.is_some_and(|b| Arc::ptr_eq(b, row)) {
                continue;
            }
            let what = self
                .change((id, now), before.map(|b| &**b), row, plan, counts)
                .and_then(|()| check(id, row, plan, new));
            if let Err(what) = what {
                broken(failed, || format!("trial {id}: {what}: {row:?}"));
            }
        }
        if let Err(what) = study(new, plan, all_new) {
            broken(failed, || what);
        }
        if let Err(what) = self.promised(new, plan) {
            broken(failed, || what);
        }
    }

    /// May `old` have become `new`?
    fn change(
        &self,
        (id, now): (i64, u64),
        old: Option<&TrialRow>,
        new: &TrialRow,
        plan: &Plan,
        counts: &mut Counts,
    ) -> Result<(), String> {
        let none = Vec::new();
        let before = old.map_or(&none, |o| &o.attempts);
        if before.len() > new.attempts.len() {
            return Err("an attempt is gone".to_owned());
        }
        // In total; who used it up while the coordinator died again and again may be lost.
        let grace = Duration::from_micros(plan.grace_us);
        for (number, (a, b)) in (1..).zip(before.iter().zip(&new.attempts)) {
            let held = Held { trial: id, attempt: number };
            if a.outcome.is_some() && a.outcome != b.outcome {
                return Err(format!("{held:?} had ended, and ends again"));
            }
            if a.outcome.is_some() && a.rows.len() != b.rows.len() {
                return Err(format!("{held:?} had ended, and measures"));
            }
            let kept = |(x, y): (&super::store::Row, &super::store::Row)| {
                x.measurement == y.measurement && (!x.superseded || y.superseded)
            };
            if a.rows.len() > b.rows.len() || !a.rows.iter().zip(&b.rows).all(kept) {
                return Err(format!("a measurement of {held:?} is gone or other"));
            }
            if a.outcome.is_none() && b.outcome == Some(Outcome::Lost) {
                counts.lost += 1;
                // Whoever was told that he has more time has it, whatever was on its way to the disk.
                let over = self.deadlines.get(&held).is_none_or(|d| now + SLACK_US >= d.us);
                let may_be = self.replaced.contains(&held) || over && self.expired.contains(&held);
                if !may_be || plan.mixture.lossless && a.grace < 3 * grace {
                    return Err(format!("{held:?} is lost without a reason"));
                }
            }
        }
        Ok(())
    }

    /// Is everything there that was acknowledged?
    fn promised(&self, store: &Reference, plan: &Plan) -> Result<(), String> {
        for (held, epochs) in &self.rows {
            let attempt = store.trials.get(&held.trial).and_then(|t| t.attempt(held.attempt));
            let attempt = attempt.ok_or_else(|| format!("{held:?} is gone, and had measured"))?;
            let there: BTreeSet<u32> = attempt.rows.iter().map(|r| r.measurement.epoch).collect();
            if let Some(epoch) = epochs.difference(&there).next() {
                return Err(format!("epoch {epoch} of {held:?} was acknowledged, and is not there"));
            }
        }
        for (&trial, &epoch) in &self.checkpoints {
            let row = store.trials.get(&trial).ok_or("a trial is gone")?;
            let dropped = row.machine.state == TrialState::Complete && !plan.study.rules.keep.last();
            if !dropped && row.last.as_ref().is_none_or(|last| last.epoch < epoch) {
                return Err(format!(
                    "checkpoint {epoch} of trial {trial} was acknowledged, and is not there"
                ));
            }
        }
        for (held, outcome) in &self.finished {
            let there = store.trials.get(&held.trial).and_then(|t| t.attempt(held.attempt)?.outcome);
            if there != Some(*outcome) {
                return Err(format!("the end of {held:?} was acknowledged, and is not there"));
            }
        }
        Ok(())
    }

    /// An answer goes out: what it says must be on disk, now and from now on.
    pub(super) fn acknowledged(
        &mut self,
        fact: Fact,
        store: &Reference,
        plan: &Plan,
        failed: &mut Option<String>,
    ) {
        match fact {
            Fact::Rows(held, epochs) => self.rows.entry(held).or_default().extend(epochs),
            Fact::Checkpoint(held, epoch) => {
                let newest = self.checkpoints.entry(held.trial).or_default();
                *newest = (*newest).max(epoch);
            }
            Fact::Registered { worker, process } => {
                let known = self.processes.entry(worker).or_default();
                if !known.contains(&process) {
                    known.push(process);
                }
            }
            Fact::Finished(held, outcome) => drop(self.finished.insert(held, outcome)),
            Fact::Leased(request, held) => {
                for held in &held {
                    if store.trials.get(&held.trial).is_none_or(|t| t.attempt(held.attempt).is_none()) {
                        broken(failed, || format!("the lease {held:?} was acknowledged, and is not there"));
                    }
                }
                let first = self.leased.entry(request).or_insert_with(|| held.clone());
                if held.iter().any(|h| !first.contains(h)) {
                    broken(failed, || format!("one request was answered with {first:?} and with {held:?}"));
                }
            }
        }
        if let Err(what) = self.promised(store, plan) {
            broken(failed, || what);
        }
    }
}

/// What has to be so of every trial, wherever its row comes from.
///
/// # Errors
/// What is not.
pub fn check_trial(row: &TrialRow) -> Result<(), String> {
    let m = &row.machine;
    let open: Vec<u32> =
        (1..).zip(&row.attempts).filter(|(_, a)| a.outcome.is_none()).map(|(n, _)| n).collect();
    let wanted: Vec<u32> = m.state.attempt().into_iter().collect();
    if open != wanted {
        return Err(format!("it is {}, and open are {open:?}", m.state.name()));
    }
    if usize::try_from(m.attempts) != Ok(row.attempts.len())
        || m.state.attempt().is_some_and(|a| a != m.attempts)
    {
        return Err("it counts its attempts wrongly".to_owned());
    }
    let ended = |outcome| row.attempts.iter().filter(|a| a.outcome == Some(outcome)).count();
    let at_most = |count: u32, outcome| usize::try_from(count).is_ok_and(|n| n <= ended(outcome));
    if !at_most(m.failures, Outcome::Failed) || !at_most(m.losses, Outcome::Lost) {
        return Err("it counts its failures or losses wrongly".to_owned());
    }
    let curve = row.curve();
    if !curve.iter().map(|m| m.epoch).eq(1..=row.summary.epochs) {
        return Err("its curve has a gap, or an epoch twice".to_owned());
    }
    if [&row.best, &row.last].into_iter().flatten().any(|c| c.epoch > row.summary.epochs) {
        return Err("it has a checkpoint of an epoch that is not measured".to_owned());
    }
    for a in &row.attempts {
        let epochs = a.rows.iter().map(|r| r.measurement.epoch);
        if !epochs.eq((a.start_epoch..).skip(1).take(a.rows.len())) {
            return Err("an attempt's epochs do not follow its checkpoint's".to_owned());
        }
    }
    if m.state == TrialState::Complete && row.summary.epochs < row.epochs_wanted {
        return Err("it is COMPLETE without its epochs".to_owned());
    }
    Ok(())
}

fn check(id: i64, row: &TrialRow, plan: &Plan, store: &Reference) -> Result<(), String> {
    check_trial(row)?;
    let mut summary = Summary::default();
    for m in row.curve() {
        if *m != plan.truth(id, m.epoch) {
            return Err(format!("epoch {} has other content than it must have", m.epoch));
        }
        summary.add(&plan.study.rules.objective, m.epoch, m.train_loss, m.val_loss, m.weights_digest.clone());
    }
    if summary != row.summary {
        return Err("its summary is not that of its curve".to_owned());
    }
    for c in [&row.best, &row.last].into_iter().flatten() {
        if *c.digest != *checkpoint_digest(id, c.epoch) {
            return Err("a checkpoint has another epoch's content".to_owned());
        }
    }
    let keep = plan.study.rules.keep;
    let missing = keep.best() && row.best.is_none() || keep.last() && row.last.is_none();
    if row.machine.state == TrialState::Complete && missing {
        return Err("it is COMPLETE without its checkpoints".to_owned());
    }
    let grace = Duration::from_micros(plan.grace_us);
    for a in row.attempts.iter().filter(|a| a.outcome.is_none()) {
        if store.workers.get(&a.worker).is_none_or(|w| w.incarnation != a.incarnation) {
            return Err("it is held by a process that another one has replaced".to_owned());
        }
        if a.grace > grace * 3 {
            return Err("restarts have given it more than three times the grace".to_owned());
        }
    }
    Ok(())
}

/// The digest of the checkpoint of an epoch: its content, in short.
pub(super) fn checkpoint_digest(trial: i64, epoch: u32) -> Name {
    format!("{trial}.{epoch}").into()
}

fn study(store: &Reference, plan: &Plan, all_new: bool) -> Result<(), String> {
    for study in store.studies.values() {
        if all_new {
            let identities: BTreeSet<&str> =
                study.trials.iter().filter_map(|id| Some(&*store.trials.get(id)?.identity)).collect();
            let planned = plan.study.trials.len();
            if identities.len() != planned || study.trials.len() != planned {
                return Err(format!("{} trials of {planned} configurations", study.trials.len()));
            }
        }
        let mut rows = study.trials.iter().filter_map(|id| store.trials.get(id));
        let open = rows.any(|t| !t.machine.state.ended());
        if open == study.state.ended() {
            return Err(format!("the study is {}, and trials are open: {open}", study.state.name()));
        }
    }
    if store.studies.len() > 1
        || store.studies.values().any(|s| s.state == StudyState::Complete && s.trials.is_empty())
    {
        return Err("a study that nobody created".to_owned());
    }
    Ok(())
}
