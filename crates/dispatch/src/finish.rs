//! What the end of an attempt asks for and means beyond the trial: what must be there for COMPLETE, which checkpoint
//! is kept, and what becomes of a trial whose study has changed meanwhile.

use kapell_search::study::{Keep, Objective};
use thiserror::Error;

use crate::study::StudyState;
use crate::trial::{Ending, Outcome, TrialState};

/// What is so of each of a trial's two checkpoints.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Roles {
    pub best: bool,
    pub last: bool,
}

/// Why an attempt is not COMPLETE, whatever its worker says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum Incomplete {
    #[error("{have} of {want} epochs are measured")]
    Epochs { have: u32, want: u32 },
    #[error("its {role} checkpoint is not here")]
    Checkpoint { role: &'static str },
}

/// COMPLETE means: every epoch measured, and the checkpoints there that the study keeps. Gives those to drop.
///
/// # Errors
/// What is missing.
pub fn complete(have: u32, want: u32, keep: Keep, there: Roles) -> Result<Roles, Incomplete> {
    if have < want {
        return Err(Incomplete::Epochs { have, want });
    }
    for (role, kept, there) in [("best", keep.best(), there.best), ("last", keep.last(), there.last)] {
        if kept && !there {
            return Err(Incomplete::Checkpoint { role });
        }
    }
    Ok(surplus(keep, there))
}

/// The checkpoints that a trial does not need which cannot go on: it is COMPLETE or PRUNED, and keeps what its study's
/// policy says. (One that FAILED or was CANCELED keeps its last one as well: a retry goes on from it.)
#[must_use]
pub fn surplus(keep: Keep, there: Roles) -> Roles {
    Roles { best: there.best && !keep.best(), last: there.last && !keep.last() }
}

/// How a worker ends an attempt with this outcome; `last`: trying again would end the same way. A worker does not
/// finish an attempt as LOST.
#[must_use]
pub fn ending(outcome: Outcome, last: bool) -> Option<Ending> {
    Some(match outcome {
        Outcome::Complete => Ending::Complete,
        Outcome::Pruned => Ending::Pruned,
        Outcome::Paused => Ending::Paused,
        Outcome::Failed => Ending::Failed { last },
        Outcome::Released => Ending::Released,
        Outcome::Canceled => Ending::Canceled,
        Outcome::Lost => return None,
    })
}

/// Is a trial that its worker has paused to be queued at once, since its study was resumed meanwhile?
#[must_use]
pub fn goes_on(trial: TrialState, study: StudyState) -> bool {
    trial == TrialState::Paused && study == StudyState::Active
}

/// The objective of a trial that has ended so, where it reaches the study's target.
#[must_use]
pub fn reached(
    trial: TrialState,
    objective: Option<f64>,
    rule: &Objective,
    target: Option<f64>,
) -> Option<f64> {
    let (value, target) = objective.zip(target)?;
    let good = value.total_cmp(&target).is_eq() || rule.better(value, target);
    (trial == TrialState::Complete && good).then_some(value)
}

/// What is done with a checkpoint that the attempt announces which holds the trial.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CheckpointVerdict {
    /// Written down, in the place of what is on record.
    New,
    /// On record already.
    Known,
    /// A newer one is on record: this announcement was overtaken on its way, and changes nothing.
    Overtaken,
}

/// A checkpoint of an epoch that is not measured yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("a checkpoint of epoch {epoch} before that epoch is measured (newest: {measured})")]
pub struct Unmeasured {
    pub epoch: u32,
    pub measured: u32,
}

/// Judges a checkpoint (digest, epoch) by the one `known` in its role and the epochs that are `measured`.
///
/// # Errors
/// Its epoch is not measured yet.
pub fn judge_checkpoint(
    (digest, epoch): (&str, u32),
    known: Option<(&str, u32)>,
    measured: u32,
) -> Result<CheckpointVerdict, Unmeasured> {
    if epoch > measured {
        return Err(Unmeasured { epoch, measured });
    }
    Ok(match known {
        Some(known) if known == (digest, epoch) => CheckpointVerdict::Known,
        Some((_, newer)) if newer > epoch => CheckpointVerdict::Overtaken,
        _ => CheckpointVerdict::New,
    })
}

#[cfg(test)]
mod tests {
    use kapell_search::study::{At, Direction, Metric};

    use super::*;

    #[test]
    fn complete_needs_every_epoch_and_what_the_study_keeps() {
        let both = Roles { best: true, last: true };
        assert_eq!(complete(2, 3, Keep::BestAndLast, both), Err(Incomplete::Epochs { have: 2, want: 3 }));
        assert_eq!(complete(3, 3, Keep::BestAndLast, both), Ok(Roles::default()));
        assert_eq!(complete(3, 3, Keep::Best, both), Ok(Roles { best: false, last: true }));
        assert_eq!(
            complete(3, 3, Keep::Last, Roles { last: true, ..Roles::default() }),
            Ok(Roles::default())
        );
        let missing = complete(3, 3, Keep::Best, Roles { last: true, ..Roles::default() });
        assert_eq!(missing, Err(Incomplete::Checkpoint { role: "best" }));
    }

    #[test]
    fn a_checkpoint_that_was_overtaken_changes_nothing() {
        use CheckpointVerdict as V;
        assert_eq!(judge_checkpoint(("a", 3), None, 3), Ok(V::New));
        assert_eq!(judge_checkpoint(("a", 3), Some(("a", 3)), 5), Ok(V::Known));
        assert_eq!(judge_checkpoint(("b", 3), Some(("a", 3)), 5), Ok(V::New), "further into the same epoch");
        assert_eq!(judge_checkpoint(("a", 3), Some(("b", 4)), 5), Ok(V::Overtaken));
        assert_eq!(judge_checkpoint(("a", 6), None, 5), Err(Unmeasured { epoch: 6, measured: 5 }));
    }

    #[test]
    fn a_target_is_reached_by_complete_trials_only() {
        let rule = Objective { metric: Metric::ValLoss, at: At::Best, direction: Direction::Minimize };
        let state = TrialState::Complete;
        assert_eq!(reached(state, Some(0.5), &rule, Some(0.5)), Some(0.5));
        assert_eq!(reached(state, Some(0.4), &rule, Some(0.5)), Some(0.4));
        assert_eq!(reached(state, Some(0.6), &rule, Some(0.5)), None);
        assert_eq!(reached(TrialState::Failed, Some(0.4), &rule, Some(0.5)), None);
        assert_eq!(reached(state, Some(0.4), &rule, None), None);
    }

    #[test]
    fn only_a_trial_of_an_active_study_goes_on_at_once() {
        assert!(goes_on(TrialState::Paused, StudyState::Active));
        assert!(!goes_on(TrialState::Paused, StudyState::Paused));
        assert!(!goes_on(TrialState::Queued, StudyState::Active));
        assert_eq!(ending(Outcome::Lost, false), None);
    }
}
