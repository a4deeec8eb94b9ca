//! Random events over a whole study, the effects applied to a small model of the tables, and what must hold after each.

use kapell_dispatch::finish::{self, Roles};
use kapell_dispatch::study::{self, StudyEffect, StudyEvent, StudyState};
use kapell_dispatch::trial::{self, Effect, Ending, IllegalEvent, Order, RetryPolicy, Trial, TrialEvent};
use kapell_dispatch::{Outcome, TrialState};
use kapell_search::study::Keep;
use proptest::prelude::*;

const POLICY: RetryPolicy = RetryPolicy { max_attempts: 2, max_lost: 3 };
const TRIALS: usize = 4;
const EPOCHS: u32 = 3;

/// A trial's row and its attempts' rows.
#[derive(Debug, Clone, PartialEq)]
struct Row {
    trial: Trial,
    attempts: Vec<Option<Outcome>>,
    epochs: u32,
    /// Attempts with this outcome since a person queued the trial.
    failed: u32,
    lost: u32,
}

#[derive(Debug, Clone, PartialEq)]
struct House {
    study: StudyState,
    rows: Vec<Row>,
    /// Orders that are on their way to a worker: (trial, attempt).
    orders: Vec<(usize, u32, Order)>,
}

/// What happens to a study or to one of its trials.
#[derive(Debug, Clone, Copy)]
enum Event {
    Trial(usize, TrialEvent),
    /// The attempt that holds the trial measures an epoch.
    Epoch(usize),
    Study(StudyEvent),
}

impl House {
    fn new() -> Self {
        let row = Row { trial: Trial::NEW, attempts: Vec::new(), epochs: 0, failed: 0, lost: 0 };
        Self { study: StudyState::Active, rows: vec![row; TRIALS], orders: Vec::new() }
    }

    fn open(&self) -> u64 {
        u64::try_from(self.rows.iter().filter(|r| !r.trial.state.ended()).count()).unwrap()
    }

    /// Carries an event out. What is illegal leaves everything as it was.
    fn put(&mut self, event: Event) -> Result<(), String> {
        let before = self.clone();
        let done = match event {
            Event::Trial(i, event) => self.step(i, event),
            Event::Epoch(i) => {
                let row = &mut self.rows[i];
                let runs = row.trial.state.attempt().is_some() && row.epochs < EPOCHS;
                row.epochs += u32::from(runs);
                Ok(())
            }
            Event::Study(event) => self.step_study(event),
        };
        match done {
            Err(refused) if refused.is_empty() => {
                // Typed, and refused before anything was done.
                *self = before;
                Ok(())
            }
            other => other,
        }
    }

    /// `Err("")`: the event is none of this state's; other texts say what is broken.
    fn step(&mut self, i: usize, event: TrialEvent) -> Result<(), String> {
        let row = &mut self.rows[i];
        let before = row.trial;
        if let TrialEvent::Finish { attempt, ending: Ending::Complete } = event
            && before.state.attempt() == Some(attempt)
            && finish::complete(row.epochs, EPOCHS, Keep::Last, Roles { best: false, last: true }).is_err()
        {
            return Err(String::new());
        }
        if event == TrialEvent::Lease && self.study != StudyState::Active {
            return Err(String::new());
        }
        let change = match trial::transition(&before, &event, &POLICY) {
            Ok(change) => change,
            Err(error) => return refused(&before, event, error),
        };
        row.trial = change.next;
        let reopened = event == TrialEvent::Retry;
        if reopened {
            (row.failed, row.lost) = (0, 0);
        }
        if matches!(event, TrialEvent::Lose { advanced: true, .. }) {
            row.lost = 0;
        }
        for effect in &change.effects {
            self.apply(i, &before, *effect)?;
        }
        if reopened {
            self.step_study(StudyEvent::Reopen)?;
        }
        Ok(())
    }

    fn apply(&mut self, i: usize, before: &Trial, effect: Effect) -> Result<(), String> {
        let row = &mut self.rows[i];
        match effect {
            Effect::StartAttempt { attempt } => {
                row.attempts.push(None);
                ensure(usize::try_from(attempt) == Ok(row.attempts.len()), "an attempt's number")
            }
            Effect::EndAttempt { attempt, outcome } => {
                let index = usize::try_from(attempt).unwrap() - 1;
                ensure(row.attempts.get(index) == Some(&None), "an attempt ends that is not open")?;
                ensure(before.state.attempt() == Some(attempt), "an attempt ends that held nothing")?;
                row.attempts[index] = Some(outcome);
                row.failed += u32::from(outcome == Outcome::Failed);
                row.lost += u32::from(outcome == Outcome::Lost);
                Ok(())
            }
            Effect::Order { attempt, order } => {
                ensure(before.state.attempt() == Some(attempt), "an order to nobody")?;
                self.orders.push((i, attempt, order));
                Ok(())
            }
            Effect::Wake => ensure(row.trial.state == TrialState::Queued, "a wake without anything to lease"),
            Effect::JudgeStudy => {
                ensure(row.trial.state.ended(), "a study is judged though nothing has ended")?;
                let open = self.open();
                self.step_study(StudyEvent::Judge { open })
            }
        }
    }

    fn step_study(&mut self, event: StudyEvent) -> Result<(), String> {
        let (next, effects) = study::transition(self.study, event).map_err(|_| String::new())?;
        self.study = next;
        for effect in effects {
            match effect {
                StudyEffect::PauseRunning => self.each(|t| t.attempt().is_some(), TrialEvent::Pause)?,
                StudyEffect::RequeuePaused => {
                    self.each(|t| t == TrialState::Paused, TrialEvent::Resume)?;
                    self.orders.retain(|o| o.2 != Order::Pause);
                }
                StudyEffect::CancelOpen => {
                    self.each(|t| !t.ended(), TrialEvent::Cancel)?;
                    let open = self.open();
                    self.step_study(StudyEvent::Judge { open })?;
                }
                StudyEffect::Announce(_) => {}
            }
        }
        Ok(())
    }

    fn each(&mut self, which: impl Fn(TrialState) -> bool, event: TrialEvent) -> Result<(), String> {
        for i in 0..TRIALS {
            if which(self.rows[i].trial.state) {
                self.step(i, event)?;
            }
        }
        Ok(())
    }

    /// What must hold after every event.
    fn check(&self) -> Result<(), String> {
        for row in &self.rows {
            let t = row.trial;
            let open: Vec<usize> =
                row.attempts.iter().enumerate().filter(|(_, a)| a.is_none()).map(|(i, _)| i + 1).collect();
            let holder: Vec<usize> =
                t.state.attempt().map(|a| usize::try_from(a).unwrap()).into_iter().collect();
            ensure(open == holder, "a trial is RUNNING exactly with its one open attempt")?;
            ensure(usize::try_from(t.attempts) == Ok(row.attempts.len()), "every attempt is counted")?;
            ensure(holder.iter().all(|h| *h == row.attempts.len()), "it is the newest that holds the trial")?;
            ensure(
                t.failures == row.failed && t.losses == row.lost,
                "failures and losses are counted apart",
            )?;
            ensure(t.failures + t.losses <= t.attempts, "no more of them than attempts")?;
            ensure(
                t.state == TrialState::Failed
                    || t.failures < POLICY.max_attempts && t.losses < POLICY.max_lost,
                "once too often is FAILED",
            )?;
            ensure(t.state != TrialState::Complete || row.epochs == EPOCHS, "COMPLETE has its epochs")?;
            let last = row.attempts.last().copied().flatten();
            let ended = [
                (TrialState::Complete, Outcome::Complete),
                (TrialState::Pruned, Outcome::Pruned),
                (TrialState::Paused, Outcome::Paused),
            ];
            for (state, outcome) in ended {
                ensure(
                    t.state != state || last == Some(outcome),
                    "how a trial ended is how its attempt did",
                )?;
            }
        }
        ensure((self.open() == 0) == self.study.ended(), "a study has ended exactly if nothing of it is open")
    }
}

fn ensure(holds: bool, what: &str) -> Result<(), String> {
    if holds { Ok(()) } else { Err(format!("broken: {what}")) }
}

/// A refusal says why, and of whom.
fn refused(before: &Trial, event: TrialEvent, error: IllegalEvent) -> Result<(), String> {
    let names = match event {
        TrialEvent::Finish { attempt, .. } | TrialEvent::Lose { attempt, .. } => Some(attempt),
        _ => None,
    };
    let stale = names.is_some_and(|attempt| before.state.attempt() != Some(attempt));
    match error {
        IllegalEvent::StaleAttempt { attempt, state } => {
            ensure(stale && names == Some(attempt) && state == before.state, "who is stale is said to be")?;
        }
        IllegalEvent::Illegal { state, .. } => {
            ensure(!stale && state == before.state, "what is illegal is said to be")?;
        }
    }
    Err(String::new())
}

fn any_event() -> impl Strategy<Value = Event> {
    let trial = 0..TRIALS;
    let ending = prop_oneof![
        6 => Just(Ending::Complete),
        1 => Just(Ending::Pruned),
        2 => Just(Ending::Paused),
        2 => any::<bool>().prop_map(|last| Ending::Failed { last }),
        2 => Just(Ending::Released),
        1 => Just(Ending::Canceled),
    ];
    let study = prop_oneof![
        3 => Just(StudyEvent::Pause),
        5 => Just(StudyEvent::Resume),
        1 => Just(StudyEvent::Cancel),
        1 => Just(StudyEvent::Limit),
        1 => Just(StudyEvent::Delete),
    ];
    prop_oneof![
        12 => trial.clone().prop_map(|i| Event::Trial(i, TrialEvent::Lease)),
        12 => trial.clone().prop_map(Event::Epoch),
        10 => (trial.clone(), 1..8u32, ending)
            .prop_map(|(i, attempt, ending)| Event::Trial(i, TrialEvent::Finish { attempt, ending })),
        4 => (trial.clone(), 1..8u32, any::<bool>())
            .prop_map(|(i, attempt, advanced)| Event::Trial(i, TrialEvent::Lose { attempt, advanced })),
        2 => trial.clone().prop_map(|i| Event::Trial(i, TrialEvent::Pause)),
        1 => trial.clone().prop_map(|i| Event::Trial(i, TrialEvent::Cancel)),
        3 => trial.prop_map(|i| Event::Trial(i, TrialEvent::Retry)),
        2 => study.prop_map(Event::Study),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1500, ..ProptestConfig::default() })]

    #[test]
    fn random_histories_of_a_study_keep_its_tables_whole(events in prop::collection::vec(any_event(), 1..250)) {
        let mut house = House::new();
        for event in events {
            let before = house.clone();
            // Whoever ends an attempt mostly means the newest one.
            let event = match event {
                Event::Trial(i, TrialEvent::Finish { attempt, ending }) if attempt > 2 => {
                    Event::Trial(i, TrialEvent::Finish { attempt: house.rows[i].trial.attempts, ending })
                }
                Event::Trial(i, TrialEvent::Lose { attempt, advanced }) if attempt > 2 => {
                    Event::Trial(i, TrialEvent::Lose { attempt: house.rows[i].trial.attempts, advanced })
                }
                other => other,
            };
            let done = house.put(event).and_then(|()| house.check());
            prop_assert_eq!(done, Ok(()), "{:?} on {:?}", event, before);
            for (old, new) in before.rows.iter().zip(&house.rows) {
                let stays = old.trial.state.ended() && new.trial.state != old.trial.state;
                let retried = matches!(event, Event::Trial(_, TrialEvent::Retry));
                prop_assert!(!stays || retried, "an ended trial stays ended but for a retry");
                let outcomes = old.attempts.iter().zip(&new.attempts);
                prop_assert!(outcomes.clone().all(|(a, b)| a.is_none() || a == b), "an outcome is final");
            }
        }
    }
}
