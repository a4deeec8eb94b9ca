//! Studies and trials: created once, stepped by the state machine, ended when nothing is open.

use std::sync::Arc;

use kapell_search::study::{Keep, Objective};

use super::{After, Answer, Name, Reference, Refusal, StudyRow, TrialRow};
use crate::report::Summary;
use crate::sim::Bug;
use crate::study::{self, StudyEffect, StudyEvent, StudyState};
use crate::trial::{self, Effect, Outcome, RetryPolicy, Trial, TrialEvent, TrialState};
use crate::{Held, finish};

/// What a study file says that decisions depend on.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rules {
    pub retry: RetryPolicy,
    pub objective: Objective,
    pub keep: Keep,
    pub target: Option<f64>,
    /// Above 0.
    pub weight: f64,
}

/// What creates a study.
#[derive(Debug, Clone, PartialEq)]
pub struct NewStudy {
    pub name: Name,
    pub rules: Rules,
    pub content: String,
    pub trials: Vec<NewTrial>,
}

/// A trial of a new study.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewTrial {
    pub identity: Name,
    pub shape: Name,
    pub epochs: u32,
}

impl Reference {
    /// Creates and expands a study, or finds the same one; the same request gets the same answer. Gives its id and
    /// whether it is new.
    ///
    /// # Errors
    /// There is another one of this name, or the request id was used otherwise.
    pub fn create(&mut self, new: &NewStudy, request: &str) -> Result<(i64, bool), Refusal> {
        let known = match self.answers.get(request) {
            None => false,
            Some(Answer::Create { name, .. }) if *name == new.name => true,
            Some(_) => return Err(Refusal::RequestIdReused),
        };
        let found = self.studies.iter().find(|(_, s)| s.name == new.name).map(|(id, s)| (*id, Arc::clone(s)));
        if let Some((id, found)) = found {
            if found.rules != new.rules || found.content != new.content {
                return Err(Refusal::StudyDiffers);
            }
            if self.has(Bug::ExpandTwice) {
                self.expand(id, new)?;
            }
            return Ok((id, known));
        }
        self.studies_ever += 1;
        let id = self.studies_ever;
        let row = StudyRow {
            name: Arc::clone(&new.name),
            state: StudyState::Active,
            rules: new.rules,
            content: new.content.clone(),
            trials: Vec::new(),
        };
        self.studies.insert(id, Arc::new(row));
        self.expand(id, new)?;
        if !known {
            let answer = Answer::Create { name: Arc::clone(&new.name), study: id };
            Arc::make_mut(&mut self.answers).insert(request.into(), answer);
        }
        self.after.push(After::Wake);
        Ok((id, true))
    }

    fn expand(&mut self, study: i64, new: &NewStudy) -> Result<(), Refusal> {
        for plan in &new.trials {
            self.trials_ever += 1;
            let id = self.trials_ever;
            let row = self.studies.get_mut(&study).map(Arc::make_mut).ok_or(Refusal::NotFound)?;
            row.trials.push(id);
            let trial = TrialRow {
                study,
                number: u32::try_from(row.trials.len()).unwrap_or(u32::MAX),
                identity: Arc::clone(&plan.identity),
                shape: Arc::clone(&plan.shape),
                epochs_wanted: plan.epochs,
                machine: Trial::NEW,
                avoid: None,
                study_paused: false,
                summary: Summary::default(),
                best: None,
                last: None,
                attempts: Vec::new(),
            };
            self.trials.insert(id, Arc::new(trial));
        }
        Ok(())
    }

    /// The study of this name.
    ///
    /// # Errors
    /// There is none.
    pub fn find(&self, name: &str) -> Result<i64, Refusal> {
        self.studies.iter().find(|(_, s)| &*s.name == name).map(|(id, _)| *id).ok_or(Refusal::NotFound)
    }

    /// Puts an event to a study and does what follows.
    ///
    /// # Errors
    /// The study does not know the event in its state.
    pub fn step_study(&mut self, id: i64, event: StudyEvent) -> Result<StudyState, Refusal> {
        let row = self.studies.get_mut(&id).ok_or(Refusal::NotFound)?;
        let (next, effects) = study::transition(row.state, event).map_err(|_| Refusal::IllegalEvent)?;
        if next != row.state {
            Arc::make_mut(row).state = next;
        }
        for effect in effects {
            match effect {
                StudyEffect::PauseRunning => self.step_all(id, is_running, TrialEvent::Pause)?,
                StudyEffect::RequeuePaused => {
                    self.step_all(id, |t| t.study_paused, TrialEvent::Resume)?;
                    self.unwish_running(id);
                    self.after.push(After::Wake);
                }
                StudyEffect::CancelOpen => {
                    self.step_all(id, |t| !t.machine.state.ended(), TrialEvent::Cancel)?;
                    self.judge(id)?;
                }
                StudyEffect::Announce(_) => {}
            }
        }
        Ok(next)
    }

    fn ids(&self, study: i64, which: impl Fn(&TrialRow) -> bool) -> Vec<i64> {
        let all = self.studies.get(&study).map(|s| s.trials.clone()).unwrap_or_default();
        all.into_iter().filter(|id| self.trials.get(id).is_some_and(|t| which(t))).collect()
    }

    fn step_all(
        &mut self,
        study: i64,
        which: impl Fn(&TrialRow) -> bool,
        event: TrialEvent,
    ) -> Result<(), Refusal> {
        for id in self.ids(study, which) {
            self.step(id, event)?;
        }
        Ok(())
    }

    fn unwish_running(&mut self, study: i64) {
        for trial in self.ids(study, is_running) {
            let attempt = self.trials.get(&trial).and_then(|t| t.machine.state.attempt());
            self.after.extend(attempt.map(|attempt| After::Unwish { held: Held { trial, attempt } }));
        }
    }

    /// Is the study complete? Asked whenever one of its trials has ended.
    fn judge(&mut self, study: i64) -> Result<(), Refusal> {
        if self.has(Bug::JudgeForgotten) {
            return Ok(());
        }
        let open = u64::try_from(self.ids(study, |t| !t.machine.state.ended()).len()).unwrap_or(u64::MAX);
        self.step_study(study, StudyEvent::Judge { open }).map(drop)
    }

    /// Puts an event to a trial and does what follows. Gives the state it is in now.
    ///
    /// # Errors
    /// The trial does not know the event in its state.
    pub fn step(&mut self, id: i64, event: TrialEvent) -> Result<TrialState, Refusal> {
        let before = self.trials.get(&id).ok_or(Refusal::NotFound)?;
        let (study, machine) = (before.study, before.machine);
        let policy = self.rules(study)?.retry;
        let event = match event {
            TrialEvent::Lose { attempt, .. } if self.has(Bug::LossIsFailure) => {
                TrialEvent::Finish { attempt, ending: trial::Ending::Failed { last: false } }
            }
            other => other,
        };
        let change = trial::transition(&machine, &event, &policy).map_err(|e| match e {
            trial::IllegalEvent::StaleAttempt { .. } => Refusal::StaleAttempt,
            trial::IllegalEvent::Illegal { .. } => Refusal::IllegalEvent,
        })?;
        let row = self.trial_mut(id)?;
        row.machine = change.next;
        row.study_paused = change.next.state == TrialState::Paused;
        for effect in change.effects {
            self.apply(id, study, effect)?;
        }
        Ok(change.next.state)
    }

    fn apply(&mut self, trial: i64, study: i64, effect: Effect) -> Result<(), Refusal> {
        let lossy = self.has(Bug::LossIsFailure);
        match effect {
            // Whoever leases writes the attempt: he knows the worker.
            Effect::StartAttempt { .. } => {}
            Effect::EndAttempt { attempt, outcome } => {
                let row = self.trial_mut(trial)?;
                let ended = row.attempt_mut(attempt).ok_or(Refusal::StaleAttempt)?;
                ended.outcome = Some(if lossy { Outcome::Lost } else { outcome });
                let worker = Arc::clone(&ended.worker);
                if matches!(outcome, Outcome::Failed | Outcome::Lost) {
                    row.avoid = Some(worker);
                }
                let returned = row.machine.state == TrialState::Queued && outcome != Outcome::Released;
                self.after.extend(returned.then_some(After::Returned { trial }));
                self.after.push(After::Ended { held: Held { trial, attempt } });
            }
            Effect::Order { attempt, order } => {
                let worker =
                    self.trials.get(&trial).and_then(|t| Some(Arc::clone(&t.attempt(attempt)?.worker)));
                let held = Held { trial, attempt };
                self.after.extend(worker.map(|worker| After::Order { held, worker, order }));
            }
            Effect::Wake => self.after.push(After::Wake),
            Effect::JudgeStudy => self.judge(study)?,
        }
        Ok(())
    }

    /// Queues a FAILED or CANCELED trial again, and opens its study by it.
    ///
    /// # Errors
    /// There is no such trial, or it has not ended so.
    pub fn retry(&mut self, study: i64, number: u32) -> Result<(), Refusal> {
        let trial = *self.ids(study, |t| t.number == number).first().ok_or(Refusal::NotFound)?;
        self.step(trial, TrialEvent::Retry)?;
        self.step_study(study, StudyEvent::Reopen).map(drop)
    }

    /// What a trial's end means for its study, and its study's state for a trial that was paused.
    pub(super) fn settle(&mut self, trial: i64, state: TrialState) -> Result<TrialState, Refusal> {
        let row = self.trials.get(&trial).ok_or(Refusal::NotFound)?;
        let study = self.studies.get(&row.study).ok_or(Refusal::NotFound)?;
        let (id, objective, rules) = (row.study, row.summary.objective, study.rules);
        if finish::goes_on(state, study.state) {
            return self.step(trial, TrialEvent::Resume);
        }
        if finish::reached(state, objective, &rules.objective, rules.target).is_some() {
            self.step_study(id, StudyEvent::Limit)?;
        }
        Ok(state)
    }

    /// Deletes a study that has ended. Gives the number of its trials.
    ///
    /// # Errors
    /// It has not ended.
    pub fn delete(&mut self, id: i64) -> Result<u64, Refusal> {
        self.step_study(id, StudyEvent::Delete)?;
        let study = self.studies.remove(&id).ok_or(Refusal::NotFound)?;
        self.trials.retain(|_, t| t.study != id);
        Arc::make_mut(&mut self.answers)
            .retain(|_, a| !matches!(a, Answer::Create { name, .. } if *name == study.name));
        Ok(u64::try_from(study.trials.len()).unwrap_or(u64::MAX))
    }
}

fn is_running(trial: &TrialRow) -> bool {
    trial.machine.state.attempt().is_some()
}
