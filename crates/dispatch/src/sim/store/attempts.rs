//! What an attempt sends: measurements, checkpoints, its end.

use std::sync::Arc;

use super::{CheckpointRow, Name, Reference, Refusal, Row, TrialRow};
use crate::Held;
use crate::finish::{self, CheckpointVerdict, Roles};
use crate::report::{Measurement, ReportError, Verdict, judge};
use crate::sim::Bug;
use crate::trial::{Ending, Outcome, TrialEvent, TrialState};

/// A checkpoint as a worker announces it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewCheckpoint {
    /// The best so far, or the last.
    pub best: bool,
    pub digest: Name,
    pub epoch: u32,
}

/// How a worker ends its attempt.
#[derive(Debug, Clone, PartialEq)]
pub struct Finish {
    /// Measurements that are left: taken before the end is judged.
    pub rows: Vec<Measurement>,
    pub outcome: Outcome,
    /// With FAILED: trying again would end the same way.
    pub last: bool,
    pub checkpoints: Vec<NewCheckpoint>,
}

/// What became of a report.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reported {
    /// Everything is on record; the newest epoch.
    Taken(u32),
    /// A loss was not finite: the trial has failed by it.
    NotFinite,
}

/// What became of an end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// The trial is that now.
    As(TrialState),
    /// A loss was not finite: the trial has failed by it.
    NotFinite,
}

impl Reference {
    /// Adds measurements. Repeating one with equal content is fine.
    ///
    /// # Errors
    /// The attempt does not hold its trial, or an epoch does not fit.
    pub fn report(&mut self, held: Held, rows: &[Measurement]) -> Result<Reported, Refusal> {
        let study = self.held(held)?.study;
        let rule = self.rules(study)?.objective;
        let gaps = self.has(Bug::GapsTaken);
        for m in rows {
            let trial = self.trial_mut(held.trial)?;
            let last = if gaps { m.epoch.saturating_sub(1) } else { trial.summary.epochs };
            let wanted = trial.epochs_wanted;
            let attempt = trial.attempt_mut(held.attempt).ok_or(Refusal::StaleAttempt)?;
            let known = attempt.rows.iter().find(|r| r.measurement.epoch == m.epoch);
            match judge(m, known.map(|r| &r.measurement), last, wanted) {
                Ok(Verdict::Known) => {}
                Ok(Verdict::New) => {
                    attempt.rows.push(Row { measurement: m.clone(), superseded: false });
                    let weights = m.weights_digest.clone();
                    trial.summary.add(&rule, m.epoch, m.train_loss, m.val_loss, weights);
                }
                Err(ReportError::NotFinite { .. }) => {
                    let ending = Ending::Failed { last: true };
                    self.step(held.trial, TrialEvent::Finish { attempt: held.attempt, ending })?;
                    return Ok(Reported::NotFinite);
                }
                Err(ReportError::Differs { .. }) => return Err(Refusal::EpochDiffers),
                Err(ReportError::Gap { .. } | ReportError::Beyond { .. }) => return Err(Refusal::EpochGap),
                Err(ReportError::Absurd { .. }) => return Err(Refusal::BadRequest),
            }
        }
        Ok(Reported::Taken(self.held(held)?.summary.epochs))
    }

    /// Records checkpoints; an equal one again, or one that was overtaken, changes nothing.
    ///
    /// # Errors
    /// The attempt does not hold its trial, or an epoch is not measured yet.
    pub fn checkpoint(&mut self, held: Held, new: &[NewCheckpoint]) -> Result<(), Refusal> {
        self.held(held)?;
        let goes_back = self.has(Bug::CheckpointGoesBack);
        for checkpoint in new {
            let trial = self.trial_mut(held.trial)?;
            let measured = trial.summary.epochs;
            let place = if checkpoint.best { &mut trial.best } else { &mut trial.last };
            let known = place.as_ref().map(|c| (&*c.digest, c.epoch));
            let verdict = finish::judge_checkpoint((&checkpoint.digest, checkpoint.epoch), known, measured);
            match verdict.map_err(|_| Refusal::EpochGap)? {
                CheckpointVerdict::Known => continue,
                CheckpointVerdict::Overtaken if !goes_back => continue,
                CheckpointVerdict::New | CheckpointVerdict::Overtaken => {}
            }
            *place = Some(CheckpointRow {
                digest: Arc::clone(&checkpoint.digest),
                epoch: checkpoint.epoch,
                attempt: held.attempt,
            });
        }
        Ok(())
    }

    /// Ends the attempt. What has ended so already is acknowledged again. Gives what the trial became.
    ///
    /// # Errors
    /// The attempt does not hold its trial, or is not what it says.
    pub fn finish(&mut self, held: Held, finish: &Finish) -> Result<Ended, Refusal> {
        let ending = finish::ending(finish.outcome, finish.last).ok_or(Refusal::BadRequest)?;
        let before = self.trials.get(&held.trial);
        if let Some(trial) = before.filter(|t| outcome(t, held.attempt) == Some(finish.outcome)) {
            return Ok(Ended::As(trial.machine.state));
        }
        if !finish.rows.is_empty() && self.report(held, &finish.rows)? == Reported::NotFinite {
            return Ok(Ended::NotFinite);
        }
        if !finish.checkpoints.is_empty() {
            self.checkpoint(held, &finish.checkpoints)?;
        }
        let study = self.held(held)?.study;
        match ending {
            Ending::Complete => self.complete(held, study)?,
            Ending::Pruned => {
                let keep = self.rules(study)?.keep;
                let trial = self.trial_mut(held.trial)?;
                drop_surplus(trial, finish::surplus(keep, roles(trial)));
            }
            _ => {}
        }
        let state = self.step(held.trial, TrialEvent::Finish { attempt: held.attempt, ending })?;
        self.settle(held.trial, state).map(Ended::As)
    }

    fn complete(&mut self, held: Held, study: i64) -> Result<(), Refusal> {
        let (keep, unchecked) = (self.rules(study)?.keep, self.has(Bug::CompleteUnchecked));
        let trial = self.trial_mut(held.trial)?;
        match finish::complete(trial.summary.epochs, trial.epochs_wanted, keep, roles(trial)) {
            Ok(surplus) => {
                drop_surplus(trial, surplus);
                Ok(())
            }
            Err(_) if unchecked => Ok(()),
            Err(_) => Err(Refusal::Incomplete),
        }
    }
}

fn roles(trial: &TrialRow) -> Roles {
    Roles { best: trial.best.is_some(), last: trial.last.is_some() }
}

fn drop_surplus(trial: &mut TrialRow, surplus: Roles) {
    trial.best = trial.best.take().filter(|_| !surplus.best);
    trial.last = trial.last.take().filter(|_| !surplus.last);
}

fn outcome(trial: &TrialRow, attempt: u32) -> Option<Outcome> {
    trial.attempt(attempt)?.outcome
}
