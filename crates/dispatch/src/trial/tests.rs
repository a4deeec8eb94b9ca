//! Every state with every event, and random histories that keep the invariants.

use proptest::prelude::*;

use super::*;

const POLICY: RetryPolicy = RetryPolicy { max_attempts: 3, max_lost: 2 };

fn states() -> [TrialState; 7] {
    use TrialState as S;
    [S::Queued, S::Running { attempt: 2 }, S::Paused, S::Complete, S::Pruned, S::Failed, S::Canceled]
}

fn events() -> Vec<TrialEvent> {
    let endings = [
        Ending::Complete,
        Ending::Pruned,
        Ending::Paused,
        Ending::Failed { last: false },
        Ending::Failed { last: true },
        Ending::Released,
        Ending::Canceled,
    ];
    let mut events: Vec<TrialEvent> =
        endings.into_iter().map(|ending| TrialEvent::Finish { attempt: 2, ending }).collect();
    events.extend([
        TrialEvent::Lease,
        TrialEvent::Lose { attempt: 2, advanced: false },
        TrialEvent::Pause,
        TrialEvent::Resume,
        TrialEvent::Cancel,
        TrialEvent::Retry,
        TrialEvent::Forgive { attempt: 2 },
    ]);
    events
}

/// The whole table of what is legal: (state, event, next state, outcome of the attempt).
fn legal() -> Vec<(TrialState, TrialEvent, TrialState, Option<Outcome>)> {
    use TrialState as S;
    let running = S::Running { attempt: 2 };
    let finish = |ending| TrialEvent::Finish { attempt: 2, ending };
    vec![
        (S::Queued, TrialEvent::Lease, S::Running { attempt: 3 }, None),
        (S::Queued, TrialEvent::Cancel, S::Canceled, None),
        (running, finish(Ending::Complete), S::Complete, Some(Outcome::Complete)),
        (running, finish(Ending::Pruned), S::Pruned, Some(Outcome::Pruned)),
        (running, finish(Ending::Paused), S::Paused, Some(Outcome::Paused)),
        (running, finish(Ending::Failed { last: false }), S::Queued, Some(Outcome::Failed)),
        (running, finish(Ending::Failed { last: true }), S::Failed, Some(Outcome::Failed)),
        (running, finish(Ending::Released), S::Queued, Some(Outcome::Released)),
        (running, TrialEvent::Lose { attempt: 2, advanced: false }, S::Queued, Some(Outcome::Lost)),
        (running, TrialEvent::Pause, running, None),
        (running, TrialEvent::Cancel, S::Canceled, Some(Outcome::Canceled)),
        (S::Paused, TrialEvent::Resume, S::Queued, None),
        (S::Paused, TrialEvent::Cancel, S::Canceled, None),
        (S::Failed, TrialEvent::Retry, S::Queued, None),
        (S::Canceled, TrialEvent::Retry, S::Queued, None),
        (S::Queued, TrialEvent::Forgive { attempt: 2 }, S::Queued, None),
        (running, TrialEvent::Forgive { attempt: 2 }, running, None),
        (S::Paused, TrialEvent::Forgive { attempt: 2 }, S::Paused, None),
        (S::Failed, TrialEvent::Forgive { attempt: 2 }, S::Queued, None),
    ]
}

#[test]
fn every_pair_of_state_and_event_is_in_the_table_or_an_error() {
    let legal = legal();
    let mut seen = 0;
    for state in states() {
        for event in events() {
            let trial = Trial { state, attempts: 2, failures: 0, losses: 0 };
            let want = legal.iter().find(|l| l.0 == state && l.1 == event);
            match (transition(&trial, &event, &POLICY), want) {
                (Ok(t), Some(&(_, _, next, outcome))) => {
                    seen += 1;
                    assert_eq!(t.next.state, next, "{state:?} {event:?}");
                    let ended = t.effects.iter().find_map(|e| match *e {
                        Effect::EndAttempt { outcome, .. } => Some(outcome),
                        _ => None,
                    });
                    assert_eq!(ended, outcome, "{state:?} {event:?}");
                }
                (Err(_), None) => {}
                (got, want) => panic!("{state:?} {event:?}: {got:?}, wanted {want:?}"),
            }
        }
    }
    assert_eq!(seen, legal.len());
}

#[test]
fn an_attempt_that_does_not_hold_the_trial_changes_nothing() {
    for state in states() {
        let trial = Trial { state, attempts: 3, failures: 0, losses: 0 };
        for event in [
            TrialEvent::Finish { attempt: 1, ending: Ending::Complete },
            TrialEvent::Finish { attempt: 3, ending: Ending::Canceled },
            TrialEvent::Lose { attempt: 1, advanced: true },
        ] {
            let refused = transition(&trial, &event, &POLICY);
            assert!(matches!(refused, Err(IllegalEvent::StaleAttempt { .. })), "{state:?} {event:?}");
        }
    }
}

#[test]
fn failures_and_losses_have_counts_of_their_own_and_a_release_has_none() {
    let running =
        |failures, losses| Trial { state: TrialState::Running { attempt: 9 }, attempts: 9, failures, losses };
    let step = |trial: Trial, event| transition(&trial, &event, &POLICY).unwrap().next;
    let fail = TrialEvent::Finish { attempt: 9, ending: Ending::Failed { last: false } };
    let lose = TrialEvent::Lose { attempt: 9, advanced: false };
    let release = TrialEvent::Finish { attempt: 9, ending: Ending::Released };
    assert_eq!(step(running(1, 1), fail).state, TrialState::Queued);
    assert_eq!(step(running(2, 0), fail).state, TrialState::Failed);
    assert_eq!(step(running(2, 0), lose).state, TrialState::Queued);
    assert_eq!(step(running(0, 1), lose).state, TrialState::Failed);
    let released = step(running(2, 1), release);
    assert_eq!((released.state, released.failures, released.losses), (TrialState::Queued, 2, 1));
}

#[test]
fn losses_count_only_as_long_as_the_trial_does_not_get_on() {
    let policy = RetryPolicy { max_lost: 3, ..POLICY };
    let lose = |trial: Trial, advanced| {
        let leased = transition(&trial, &TrialEvent::Lease, &policy).unwrap().next;
        transition(&leased, &TrialEvent::Lose { attempt: leased.attempts, advanced }, &policy).unwrap().next
    };
    let mut trial = Trial::NEW;
    for advanced in [false, false, true, false, true, true, true, false] {
        trial = lose(trial, advanced);
        assert_eq!(trial.state, TrialState::Queued, "{trial:?}");
    }
    assert_eq!(trial.losses, 2, "the one that had recorded the checkpoint, and the one behind it");
    assert_eq!(lose(trial, false).state, TrialState::Failed);
    let once = RetryPolicy { max_lost: 1, ..policy };
    let leased = transition(&Trial::NEW, &TrialEvent::Lease, &once).unwrap().next;
    let lost = transition(&leased, &TrialEvent::Lose { attempt: 1, advanced: true }, &once).unwrap().next;
    assert_eq!(lost.state, TrialState::Failed, "who allows no loss is told of the first");
}

#[test]
fn a_retry_by_a_person_starts_the_counts_again_but_not_the_attempts() {
    let failed = Trial { state: TrialState::Failed, attempts: 5, failures: 3, losses: 1 };
    let next = transition(&failed, &TrialEvent::Retry, &POLICY).unwrap().next;
    assert_eq!(next, Trial { state: TrialState::Queued, attempts: 5, failures: 0, losses: 0 });
}

#[test]
fn a_failure_that_was_the_nodes_fault_does_not_count_and_queues_what_it_made_fail() {
    let forgive = |state, attempts, failures| {
        let trial = Trial { state, attempts, failures, losses: 1 };
        transition(&trial, &TrialEvent::Forgive { attempt: 3 }, &POLICY).map(|t| t.next)
    };
    let queued = Trial { state: TrialState::Queued, attempts: 3, failures: 2, losses: 1 };
    assert_eq!(forgive(TrialState::Failed, 3, 3), Ok(queued));
    assert_eq!(forgive(TrialState::Queued, 4, 3), Ok(Trial { attempts: 4, ..queued }));
    assert!(forgive(TrialState::Failed, 4, 3).is_err(), "a later attempt made it fail");
}

fn any_event() -> impl Strategy<Value = TrialEvent> {
    let ending = prop_oneof![
        Just(Ending::Complete),
        Just(Ending::Pruned),
        Just(Ending::Paused),
        any::<bool>().prop_map(|last| Ending::Failed { last }),
        Just(Ending::Released),
        Just(Ending::Canceled),
    ];
    prop_oneof![
        4 => Just(TrialEvent::Lease),
        4 => (0..12u32, ending).prop_map(|(attempt, ending)| TrialEvent::Finish { attempt, ending }),
        2 => (0..12u32, any::<bool>()).prop_map(|(attempt, advanced)| TrialEvent::Lose { attempt, advanced }),
        1 => Just(TrialEvent::Pause),
        2 => Just(TrialEvent::Resume),
        1 => Just(TrialEvent::Cancel),
        2 => Just(TrialEvent::Retry),
        1 => (0..12u32).prop_map(|attempt| TrialEvent::Forgive { attempt }),
    ]
}

proptest! {
    #[test]
    fn a_random_history_starts_and_ends_every_attempt_once(events in prop::collection::vec(any_event(), 1..300)) {
        let mut trial = Trial::NEW;
        let mut outcomes: Vec<Option<Outcome>> = Vec::new();
        for event in events {
            let Ok(t) = transition(&trial, &event, &POLICY) else { continue };
            for effect in &t.effects {
                match *effect {
                    Effect::StartAttempt { attempt } => {
                        prop_assert!(outcomes.iter().all(Option::is_some), "two attempts at once");
                        outcomes.push(None);
                        prop_assert_eq!(usize::try_from(attempt).unwrap(), outcomes.len());
                    }
                    Effect::EndAttempt { attempt, outcome } => {
                        let slot = &mut outcomes[usize::try_from(attempt).unwrap() - 1];
                        prop_assert_eq!(*slot, None, "an attempt ended twice");
                        *slot = Some(outcome);
                    }
                    Effect::Order { attempt, .. } => prop_assert_eq!(trial.state.attempt(), Some(attempt)),
                    Effect::Wake => prop_assert_eq!(t.next.state, TrialState::Queued),
                    Effect::JudgeStudy => prop_assert!(t.next.state.ended()),
                }
            }
            prop_assert_eq!(t.next.state.ended() && !trial.state.ended(), t.effects.contains(&Effect::JudgeStudy));
            trial = t.next;
            prop_assert_eq!(usize::try_from(trial.attempts).unwrap(), outcomes.len());
            prop_assert_eq!(trial.state.attempt().is_some(), outcomes.last() == Some(&None));
            prop_assert!(trial.failures <= POLICY.max_attempts && trial.losses <= POLICY.max_lost);
        }
    }
}
