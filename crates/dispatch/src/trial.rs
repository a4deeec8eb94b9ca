//! The life of a trial: one total function from state and event to the next state and its effects.
//!
//! ```text
//!                    Lease                Finish(COMPLETE), Finish(PRUNED)
//!  (new) --> QUEUED -------> RUNNING ------------------------------------> COMPLETE, PRUNED
//!             ^  ^            |  |  |
//!             |  | Lose, or   |  |  | Finish(PAUSED)            Cancel
//!             |  | Finish(    |  |  +--------------> PAUSED --------------> CANCELED
//!             |  | RELEASED,  |  |                     | Resume             ^    |
//!             |  | FAILED):   |  |                     v                    |    |
//!             |  | again      |  |                   QUEUED ------ Cancel --+    |
//!             |  +------------+  |                   RUNNING ----- Cancel --+    |
//!             |                  |                                               |
//!             |                  | Lose, Finish(FAILED): final, or once too often|
//!             |                  +-----------------> FAILED                      |
//!             |                                        | Retry                   | Retry
//!             +----------------------------------------+-------------------------+
//! ```
//!
//! Every arrow, one a line (a test reads them here), with what becomes of the attempt; whatever is not in the list is
//! refused and changes nothing:
//!
//! ```text
//! QUEUED   Lease              RUNNING    starts an attempt
//! QUEUED   Cancel             CANCELED   -
//! RUNNING  Finish(COMPLETE)   COMPLETE   ends it COMPLETE
//! RUNNING  Finish(PRUNED)     PRUNED     ends it PRUNED
//! RUNNING  Finish(PAUSED)     PAUSED     ends it PAUSED
//! RUNNING  Finish(RELEASED)   QUEUED     ends it RELEASED
//! RUNNING  Finish(FAILED)     QUEUED     ends it FAILED
//! RUNNING  Finish(FAILED)     FAILED     ends it FAILED
//! RUNNING  Lose               QUEUED     ends it LOST
//! RUNNING  Lose               FAILED     ends it LOST
//! RUNNING  Pause              RUNNING    orders it to pause
//! RUNNING  Cancel             CANCELED   ends it CANCELED
//! PAUSED   Resume             QUEUED     -
//! PAUSED   Cancel             CANCELED   -
//! FAILED   Retry              QUEUED     -
//! CANCELED Retry              QUEUED     -
//! ```
//!
//! An attempt is drawn quickly: it is open from the Lease that starts it to the one event that ends it.
//!
//! ```text
//!  Lease --> open --+-- Finish --> COMPLETE, PRUNED, PAUSED, FAILED, RELEASED
//!                   +-- Lose ----> LOST
//!                   +-- Cancel --> CANCELED
//! ```
//!
//! A cancellation ends the attempt at once: the fence falls with the same commit, and the worker is told to stop.
//! What it sends afterwards is refused as stale, but for its `Finish(CANCELED)`, which says what is so already.
//! A failure that turns out to be its worker's is forgiven (see [`crate::quarantine`]): FAILED by it goes back to QUEUED.
//! An attempt has an outcome exactly if it has ended; RELEASED counts nowhere, FAILED counts against `max_attempts`,
//! LOST against `max_lost`. Losses are counted since the trial last got on: a trial whose workers die often, but that
//! comes nearer to its end each time, is not given up; one that kills its workers does not get past the place where
//! it does so, and is.

use thiserror::Error;

/// Where a trial stands. A running trial knows the one attempt that holds it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TrialState {
    Queued,
    Running { attempt: u32 },
    Paused,
    Complete,
    Pruned,
    Failed,
    Canceled,
}

impl TrialState {
    /// As the store, the wire and people spell it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Queued => "QUEUED",
            Self::Running { .. } => "RUNNING",
            Self::Paused => "PAUSED",
            Self::Complete => "COMPLETE",
            Self::Pruned => "PRUNED",
            Self::Failed => "FAILED",
            Self::Canceled => "CANCELED",
        }
    }

    /// The state of this name; `attempt` is the one that holds a running trial.
    #[must_use]
    pub fn parse(name: &str, attempt: Option<u32>) -> Option<Self> {
        Some(match (name, attempt) {
            ("QUEUED", None) => Self::Queued,
            ("RUNNING", Some(attempt)) => Self::Running { attempt },
            ("PAUSED", None) => Self::Paused,
            ("COMPLETE", None) => Self::Complete,
            ("PRUNED", None) => Self::Pruned,
            ("FAILED", None) => Self::Failed,
            ("CANCELED", None) => Self::Canceled,
            _ => return None,
        })
    }

    /// The attempt that holds the trial, if one does.
    #[must_use]
    pub fn attempt(self) -> Option<u32> {
        if let Self::Running { attempt } = self { Some(attempt) } else { None }
    }

    /// Has it ended? (A retry can open it again.)
    #[must_use]
    pub fn ended(self) -> bool {
        matches!(self, Self::Complete | Self::Pruned | Self::Failed | Self::Canceled)
    }
}

/// What the machine needs to know of a trial.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Trial {
    pub state: TrialState,
    /// Attempts so far; the newest has this number.
    pub attempts: u32,
    /// Attempts that failed by the trial's own fault, since it was queued by a person.
    pub failures: u32,
    /// Attempts that were lost with their worker, from the last of them on that had got the trial on, or since it was
    /// queued by a person.
    pub losses: u32,
}

impl Trial {
    /// A trial that nobody has tried.
    pub const NEW: Self = Self { state: TrialState::Queued, attempts: 0, failures: 0, losses: 0 };
}

/// How often a trial is tried again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetryPolicy {
    /// Failures at which a trial is FAILED.
    pub max_attempts: u32,
    /// Losses without a new checkpoint between them at which a trial is FAILED.
    pub max_lost: u32,
}

/// How an attempt ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Outcome {
    Complete,
    Pruned,
    Paused,
    Failed,
    Lost,
    Released,
    Canceled,
}

impl Outcome {
    /// All of them, for tables.
    pub const ALL: [Self; 7] = [
        Self::Complete,
        Self::Pruned,
        Self::Paused,
        Self::Failed,
        Self::Lost,
        Self::Released,
        Self::Canceled,
    ];

    /// As the store, the wire and people spell it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Complete => "COMPLETE",
            Self::Pruned => "PRUNED",
            Self::Paused => "PAUSED",
            Self::Failed => "FAILED",
            Self::Lost => "LOST",
            Self::Released => "RELEASED",
            Self::Canceled => "CANCELED",
        }
    }

    /// The inverse of [`Outcome::name`].
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|o| o.name() == name)
    }
}

/// How a worker says that its attempt ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    Complete,
    Pruned,
    Paused,
    /// `last`: trying again would end the same way.
    Failed {
        last: bool,
    },
    Released,
    Canceled,
}

/// What happens to a trial.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TrialEvent {
    /// A worker takes it.
    Lease,
    /// The worker that holds `attempt` ends it.
    Finish { attempt: u32, ending: Ending },
    /// The lease of `attempt` ran out, or its worker came back as a new process. `advanced`: it had recorded a
    /// checkpoint that the next attempt goes on from.
    Lose { attempt: u32, advanced: bool },
    /// A person or a pruner wants it to pause: the worker is asked, and ends the attempt itself.
    Pause,
    /// What paused it wants it to go on.
    Resume,
    /// A person or a limit of the study ends it.
    Cancel,
    /// A person queues it again.
    Retry,
    /// The failure of `attempt` was its worker's: it does not count. Where it was what made the trial FAILED, the trial
    /// is queued again.
    Forgive { attempt: u32 },
}

impl TrialEvent {
    fn name(self) -> &'static str {
        match self {
            Self::Lease => "lease",
            Self::Finish { ending, .. } => match ending {
                Ending::Complete => "finish as COMPLETE",
                Ending::Pruned => "finish as PRUNED",
                Ending::Paused => "finish as PAUSED",
                Ending::Failed { .. } => "finish as FAILED",
                Ending::Released => "finish as RELEASED",
                Ending::Canceled => "finish as CANCELED",
            },
            Self::Lose { .. } => "lose",
            Self::Pause => "pause",
            Self::Resume => "resume",
            Self::Cancel => "cancel",
            Self::Retry => "retry",
            Self::Forgive { .. } => "be forgiven a failure",
        }
    }
}

/// What a worker is told about an attempt that it holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Order {
    Cancel,
    Pause,
    Prune,
    /// The lease is gone: stop, and send nothing more of it.
    Forget,
}

/// What a transition wants done, in this order, with its commit (rows) or after it (orders, wakes).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    StartAttempt {
        attempt: u32,
    },
    EndAttempt {
        attempt: u32,
        outcome: Outcome,
    },
    Order {
        attempt: u32,
        order: Order,
    },
    /// There is something to lease.
    Wake,
    /// The study may be complete now.
    JudgeStudy,
}

/// Where an event leads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transition {
    pub next: Trial,
    pub effects: Vec<Effect>,
}

/// An event that this state does not know.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum IllegalEvent {
    /// The attempt does not hold the trial (any more).
    #[error("attempt {attempt} does not hold the trial, which is {}", .state.name())]
    StaleAttempt { attempt: u32, state: TrialState },
    #[error("a trial that is {} cannot {event}", .state.name())]
    Illegal { state: TrialState, event: &'static str },
}

/// What `event` makes of `trial`: the only way in which a trial changes its state.
///
/// # Errors
/// The event is none of this state's, or of an attempt that does not hold the trial.
pub fn transition(
    trial: &Trial,
    event: &TrialEvent,
    policy: &RetryPolicy,
) -> Result<Transition, IllegalEvent> {
    use TrialState as S;
    let illegal = Err(IllegalEvent::Illegal { state: trial.state, event: event.name() });
    match (trial.state, *event) {
        (S::Queued, TrialEvent::Lease) => {
            let Some(attempt) = trial.attempts.checked_add(1) else { return illegal };
            let next = Trial { state: S::Running { attempt }, attempts: attempt, ..*trial };
            Ok(Transition { next, effects: vec![Effect::StartAttempt { attempt }] })
        }
        (state, TrialEvent::Finish { attempt, .. } | TrialEvent::Lose { attempt, .. })
            if state.attempt() != Some(attempt) =>
        {
            Err(IllegalEvent::StaleAttempt { attempt, state })
        }
        // Whoever cancels ends the attempt himself: a worker cannot cancel on its own.
        (S::Running { .. }, TrialEvent::Finish { ending: Ending::Canceled, .. }) => illegal,
        (S::Running { attempt }, TrialEvent::Finish { ending, .. }) => {
            Ok(finish(trial, attempt, ending, policy))
        }
        (S::Running { attempt }, TrialEvent::Lose { advanced, .. }) => {
            Ok(lose(trial, attempt, advanced, policy))
        }
        (S::Running { attempt }, TrialEvent::Pause) => {
            Ok(Transition { next: *trial, effects: vec![Effect::Order { attempt, order: Order::Pause }] })
        }
        (S::Paused, TrialEvent::Resume) => {
            Ok(Transition { next: Trial { state: S::Queued, ..*trial }, effects: vec![Effect::Wake] })
        }
        (S::Queued | S::Paused, TrialEvent::Cancel) => {
            Ok(Transition { next: Trial { state: S::Canceled, ..*trial }, effects: vec![Effect::JudgeStudy] })
        }
        (S::Running { attempt }, TrialEvent::Cancel) => Ok(Transition {
            next: Trial { state: S::Canceled, ..*trial },
            effects: vec![
                Effect::EndAttempt { attempt, outcome: Outcome::Canceled },
                Effect::Order { attempt, order: Order::Cancel },
                Effect::JudgeStudy,
            ],
        }),
        (S::Failed | S::Canceled, TrialEvent::Retry) => Ok(Transition {
            next: Trial { state: S::Queued, failures: 0, losses: 0, ..*trial },
            effects: vec![Effect::Wake],
        }),
        (S::Failed, TrialEvent::Forgive { attempt }) if attempt == trial.attempts => Ok(Transition {
            next: Trial { state: S::Queued, failures: trial.failures.saturating_sub(1), ..*trial },
            effects: vec![Effect::Wake],
        }),
        (S::Queued | S::Running { .. } | S::Paused, TrialEvent::Forgive { .. }) => Ok(Transition {
            next: Trial { failures: trial.failures.saturating_sub(1), ..*trial },
            effects: vec![],
        }),
        (
            S::Queued | S::Running { .. } | S::Paused | S::Complete | S::Pruned | S::Failed | S::Canceled,
            _,
        ) => illegal,
    }
}

fn finish(trial: &Trial, attempt: u32, ending: Ending, policy: &RetryPolicy) -> Transition {
    use TrialState as S;
    let failures = trial.failures.saturating_add(1);
    let (next, outcome) = match ending {
        Ending::Complete => (Trial { state: S::Complete, ..*trial }, Outcome::Complete),
        Ending::Pruned => (Trial { state: S::Pruned, ..*trial }, Outcome::Pruned),
        Ending::Paused => (Trial { state: S::Paused, ..*trial }, Outcome::Paused),
        Ending::Failed { last } => {
            let state = if last || failures >= policy.max_attempts { S::Failed } else { S::Queued };
            (Trial { state, failures, ..*trial }, Outcome::Failed)
        }
        Ending::Released | Ending::Canceled => (Trial { state: S::Queued, ..*trial }, Outcome::Released),
    };
    ended(next, attempt, outcome)
}

fn lose(trial: &Trial, attempt: u32, advanced: bool, policy: &RetryPolicy) -> Transition {
    let losses = if advanced { 1 } else { trial.losses.saturating_add(1) };
    let state = if losses >= policy.max_lost { TrialState::Failed } else { TrialState::Queued };
    ended(Trial { state, losses, ..*trial }, attempt, Outcome::Lost)
}

fn ended(next: Trial, attempt: u32, outcome: Outcome) -> Transition {
    let mut effects = vec![Effect::EndAttempt { attempt, outcome }];
    match next.state {
        TrialState::Queued => effects.push(Effect::Wake),
        state if state.ended() => effects.push(Effect::JudgeStudy),
        _ => {}
    }
    Transition { next, effects }
}

#[cfg(test)]
mod tests;
