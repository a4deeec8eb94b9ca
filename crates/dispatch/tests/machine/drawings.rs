//! The arrows that the modules' documentation lists are those that the functions have.

use std::collections::BTreeSet;

use kapell_dispatch::study::{self, StudyEvent, StudyState};
use kapell_dispatch::trial::{self, Effect, Ending, RetryPolicy, Trial, TrialEvent, TrialState};

/// The lines of a documentation that begin with a state's name and go on with an event.
fn listed(source: &str, states: &[&str]) -> BTreeSet<String> {
    let lines = source.lines().filter_map(|line| line.strip_prefix("//! "));
    let words = lines.map(|line| line.split_whitespace().collect::<Vec<_>>());
    let arrows = words.filter(|w| w.len() >= 3 && states.contains(&w[0]) && states.contains(&w[2]));
    arrows.map(|w| w.join(" ")).collect()
}

#[test]
fn the_arrows_of_a_trial_are_drawn() {
    use TrialState as S;
    let states =
        [S::Queued, S::Running { attempt: 2 }, S::Paused, S::Complete, S::Pruned, S::Failed, S::Canceled];
    let finish = |ending| TrialEvent::Finish { attempt: 2, ending };
    let events = [
        ("Lease", TrialEvent::Lease),
        ("Finish(COMPLETE)", finish(Ending::Complete)),
        ("Finish(PRUNED)", finish(Ending::Pruned)),
        ("Finish(PAUSED)", finish(Ending::Paused)),
        ("Finish(FAILED)", finish(Ending::Failed { last: false })),
        ("Finish(FAILED)", finish(Ending::Failed { last: true })),
        ("Finish(RELEASED)", finish(Ending::Released)),
        ("Finish(CANCELED)", finish(Ending::Canceled)),
        ("Lose", TrialEvent::Lose { attempt: 2, advanced: false }),
        ("Lose", TrialEvent::Lose { attempt: 2, advanced: true }),
        ("Pause", TrialEvent::Pause),
        ("Resume", TrialEvent::Resume),
        ("Cancel", TrialEvent::Cancel),
        ("Retry", TrialEvent::Retry),
    ];
    let policy = RetryPolicy { max_attempts: 2, max_lost: 2 };
    let mut arrows = BTreeSet::new();
    for state in states {
        for (name, event) in events {
            for (failures, losses) in [(0, 0), (1, 0), (0, 1)] {
                let Ok(t) =
                    trial::transition(&Trial { state, attempts: 2, failures, losses }, &event, &policy)
                else {
                    continue;
                };
                let attempt = t.effects.iter().find_map(|e| match e {
                    Effect::StartAttempt { .. } => Some("starts an attempt".to_owned()),
                    Effect::EndAttempt { outcome, .. } => Some(format!("ends it {}", outcome.name())),
                    _ => None,
                });
                let ordered = t.effects.iter().any(|e| matches!(e, Effect::Order { .. }));
                let attempt =
                    attempt.unwrap_or(if ordered { "orders it to pause".into() } else { "-".into() });
                arrows.insert(format!("{} {name} {} {attempt}", state.name(), t.next.state.name()));
            }
        }
    }
    let names = states.map(TrialState::name);
    assert_eq!(listed(include_str!("../../src/trial.rs"), &names), arrows);
}

#[test]
fn the_arrows_of_a_study_are_drawn() {
    let events = [
        ("Pause", StudyEvent::Pause),
        ("Resume", StudyEvent::Resume),
        ("Cancel", StudyEvent::Cancel),
        ("Limit", StudyEvent::Limit),
        ("Reopen", StudyEvent::Reopen),
        ("Judge(none)", StudyEvent::Judge { open: 0 }),
        ("Judge(some)", StudyEvent::Judge { open: 2 }),
        ("Delete", StudyEvent::Delete),
    ];
    let mut arrows = BTreeSet::new();
    for state in StudyState::ALL {
        for (name, event) in events {
            if let Ok((next, _)) = study::transition(state, event)
                && next != state
            {
                arrows.insert(format!("{} {name} {}", state.name(), next.name()));
            }
        }
    }
    let names = StudyState::ALL.map(StudyState::name);
    assert_eq!(listed(include_str!("../../src/study.rs"), &names), arrows);
}
