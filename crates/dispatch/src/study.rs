//! The life of a study. Completion is level-triggered: whoever ends a trial has the study judged by its counts.
//!
//! ```text
//!                        Judge: nothing open
//!            +------------------------------------------+
//!            |                                          v
//!  (new) --> ACTIVE <------ Reopen, Judge: some --- COMPLETE
//!            |  ^  ^               open                 ^
//!      Pause |  |  |                                    |
//!            |  |  +------- Reopen ---- CANCELED        |
//!            |  |                        ^   ^          |
//!            |  | Resume                 |   |          |
//!            v  |                 Cancel |   | Cancel   | Judge: nothing open
//!            PAUSED ---------------------+   |          |
//!            PAUSED -------------------------|----------+
//!            ACTIVE -------------------------+
//! ```
//!
//! Every arrow, one a line (a test reads them here); what is so already is no error and has no effect, and whatever
//! else is not in the list is refused:
//!
//! ```text
//! ACTIVE    Pause         PAUSED
//! ACTIVE    Cancel        CANCELED
//! ACTIVE    Judge(none)   COMPLETE
//! PAUSED    Resume        ACTIVE
//! PAUSED    Cancel        CANCELED
//! PAUSED    Judge(none)   COMPLETE
//! COMPLETE  Reopen        ACTIVE
//! COMPLETE  Judge(some)   ACTIVE
//! CANCELED  Reopen        ACTIVE
//! ```
//!
//! An open trial is QUEUED, RUNNING or PAUSED. A limit (time, target) cancels the open trials; the study, with
//! nothing open, is then COMPLETE and says why. CANCELED is what a person said, and it stays
//! until a person queues one of its trials again (Reopen): the study is then ACTIVE, its other trials stay CANCELED.

use thiserror::Error;

use crate::trial::Order;

/// Where a study stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum StudyState {
    Active,
    Paused,
    Complete,
    Canceled,
}

impl StudyState {
    pub const ALL: [Self; 4] = [Self::Active, Self::Paused, Self::Complete, Self::Canceled];

    /// As the store, the wire and people spell it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Active => "ACTIVE",
            Self::Paused => "PAUSED",
            Self::Complete => "COMPLETE",
            Self::Canceled => "CANCELED",
        }
    }

    /// The inverse of [`StudyState::name`].
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|s| s.name() == name)
    }

    /// What the workers of its running trials are to do, repeated with every beat.
    #[must_use]
    pub fn wish(self) -> Option<Order> {
        (self == Self::Paused).then_some(Order::Pause)
    }

    /// Has it ended? (A retry of one of its trials can open it again.)
    #[must_use]
    pub fn ended(self) -> bool {
        matches!(self, Self::Complete | Self::Canceled)
    }
}

/// What happens to a study.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StudyEvent {
    Pause,
    Resume,
    Cancel,
    /// Its time is over or its target reached.
    Limit,
    /// A trial of it is queued again by a person.
    Reopen,
    /// Look whether it is complete: `open` trials are QUEUED, RUNNING or PAUSED.
    Judge {
        open: u64,
    },
    /// Forget it and all that belongs to it, but for the models that came of it.
    Delete,
}

impl StudyEvent {
    fn name(self) -> &'static str {
        match self {
            Self::Pause => "be paused",
            Self::Resume => "be resumed",
            Self::Cancel => "be canceled",
            Self::Limit => "reach a limit",
            Self::Reopen => "have a trial queued again",
            Self::Judge { .. } => "be judged",
            Self::Delete => "be deleted: cancel it first, or let it end",
        }
    }
}

/// What a transition wants done with its commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StudyEffect {
    /// Ask the workers of its running trials to pause them.
    PauseRunning,
    /// Queue what the pause had paused, and take back the wish where a worker has not heeded it yet.
    RequeuePaused,
    /// End every open trial as CANCELED.
    CancelOpen,
    /// Write this event to its history.
    Announce(&'static str),
}

/// An event that this state does not know.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("a study that is {} cannot {event}", .state.name())]
pub struct IllegalStudyEvent {
    pub state: StudyState,
    pub event: &'static str,
}

/// What `event` makes of a study: the only way in which a study changes its state. What is so already is no error
/// and has no effects.
///
/// # Errors
/// The event is none of this state's.
pub fn transition(
    state: StudyState,
    event: StudyEvent,
) -> Result<(StudyState, Vec<StudyEffect>), IllegalStudyEvent> {
    use StudyEffect as E;
    use StudyEvent as V;
    use StudyState as S;
    Ok(match (state, event) {
        (S::Active, V::Pause) => (S::Paused, vec![E::PauseRunning, E::Announce("study.paused")]),
        (S::Paused, V::Resume) => (S::Active, vec![E::RequeuePaused, E::Announce("study.resumed")]),
        (S::Active | S::Paused, V::Cancel) => {
            (S::Canceled, vec![E::CancelOpen, E::Announce("study.canceled")])
        }
        (S::Active | S::Paused, V::Limit) => (state, vec![E::CancelOpen]),
        (S::Complete | S::Canceled, V::Reopen) => (S::Active, vec![E::Announce("study.resumed")]),
        (S::Active | S::Paused, V::Judge { open: 0 }) => (S::Complete, vec![E::Announce("study.completed")]),
        (S::Complete, V::Judge { open: 1.. }) => (S::Active, vec![E::Announce("study.resumed")]),
        (S::Paused, V::Pause)
        | (S::Active, V::Resume)
        | (S::Canceled, V::Cancel)
        | (S::Active | S::Paused, V::Reopen)
        | (S::Complete | S::Canceled, V::Delete | V::Limit)
        | (_, V::Judge { .. }) => (state, vec![]),
        (S::Complete, V::Pause | V::Resume | V::Cancel)
        | (S::Canceled, V::Pause | V::Resume)
        | (S::Active | S::Paused, V::Delete) => {
            return Err(IllegalStudyEvent { state, event: event.name() });
        }
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const EVENTS: [StudyEvent; 8] = [
        StudyEvent::Pause,
        StudyEvent::Resume,
        StudyEvent::Cancel,
        StudyEvent::Limit,
        StudyEvent::Reopen,
        StudyEvent::Judge { open: 0 },
        StudyEvent::Judge { open: 3 },
        StudyEvent::Delete,
    ];

    #[test]
    fn every_pair_of_state_and_event_leads_where_the_table_says() {
        use StudyState::{Active as A, Canceled as X, Complete as C, Paused as P};
        // Rows: states in the order of ALL; columns: EVENTS. None: refused.
        let table = [
            [Some(P), Some(A), Some(X), Some(A), Some(A), Some(C), Some(A), None],
            [Some(P), Some(A), Some(X), Some(P), Some(P), Some(C), Some(P), None],
            [None, None, None, Some(C), Some(A), Some(C), Some(A), Some(C)],
            [None, None, Some(X), Some(X), Some(A), Some(X), Some(X), Some(X)],
        ];
        for (state, row) in StudyState::ALL.into_iter().zip(table) {
            for (event, want) in EVENTS.into_iter().zip(row) {
                assert_eq!(transition(state, event).ok().map(|t| t.0), want, "{state:?} {event:?}");
            }
        }
    }

    proptest! {
        #[test]
        fn a_study_that_changes_its_state_says_so_once(picks in prop::collection::vec(0..EVENTS.len(), 1..100)) {
            let mut state = StudyState::Active;
            for pick in picks {
                let Ok((next, effects)) = transition(state, EVENTS[pick]) else { continue };
                let told = effects.iter().filter(|e| matches!(e, StudyEffect::Announce(_))).count();
                prop_assert_eq!(told, usize::from(next != state));
                let reopened = EVENTS[pick] == StudyEvent::Reopen;
                prop_assert!(state != StudyState::Canceled || next == StudyState::Canceled || reopened);
                state = next;
            }
        }
    }
}
