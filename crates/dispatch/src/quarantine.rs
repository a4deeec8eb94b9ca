//! Bad nodes: a worker on which three different trials in a row fail before their first epoch gets no more work.
//!
//! What counts against a worker is an attempt that FAILED before it measured an epoch, in a way that might end otherwise
//! elsewhere (a NaN comes again on any worker), of a trial that has not failed so on another worker already. An attempt
//! that gets to its first epoch clears the worker. Where every other worker is quarantined already, the cause is not a
//! node: this one goes on, and the trials fail by their own count.

use serde::{Deserialize, Serialize};

/// Trials in a row that are too many.
pub const EARLY_FAILURES_MAX: usize = 3;

/// What is held against a worker.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Streak {
    /// (trial, attempt), a trial once, the oldest first.
    pub failed: Vec<(i64, u32)>,
    /// How many of its running attempts had measured an epoch when the first of these failed.
    pub measuring: u32,
}

/// How an attempt of the worker has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// FAILED before its first epoch, and it may be the worker's fault.
    Early { trial: i64, attempt: u32 },
    /// It got to its first epoch.
    Measured,
    /// In a way that says nothing about the worker.
    Otherwise,
}

/// The other workers that are connected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Others {
    pub healthy: u32,
    pub quarantined: u32,
}

/// What is held against a worker when an attempt of it has ended; `measuring` of its attempts that run have measured
/// an epoch.
#[must_use]
pub fn after(streak: &Streak, ended: Ended, measuring: u32) -> Streak {
    match ended {
        Ended::Measured => Streak::default(),
        Ended::Otherwise => streak.clone(),
        Ended::Early { trial, attempt } => {
            // One that runs has got to its first epoch meanwhile.
            let cleared = streak.failed.is_empty() || measuring > streak.measuring;
            let mut next = if cleared { Streak { failed: Vec::new(), measuring } } else { streak.clone() };
            next.failed.retain(|(known, _)| *known != trial);
            next.failed.push((trial, attempt));
            next
        }
    }
}

/// Is it the worker?
#[must_use]
pub fn is_bad(streak: &Streak, others: Others) -> bool {
    let common_cause = others.healthy == 0 && others.quarantined > 0;
    streak.failed.len() >= EARLY_FAILURES_MAX && !common_cause
}

#[cfg(test)]
mod tests {
    use super::*;

    const NONE: Others = Others { healthy: 0, quarantined: 0 };

    fn early(trial: i64) -> Ended {
        Ended::Early { trial, attempt: 1 }
    }

    fn run(ends: &[(Ended, u32)]) -> Streak {
        ends.iter().fold(Streak::default(), |streak, (ended, measuring)| after(&streak, *ended, *measuring))
    }

    #[test]
    fn three_different_trials_in_a_row_are_too_many() {
        assert!(!is_bad(&run(&[(early(1), 0), (early(2), 0)]), NONE));
        let bad = run(&[(early(1), 0), (early(2), 0), (early(3), 0)]);
        assert!(is_bad(&bad, NONE));
        assert_eq!(bad.failed, [(1, 1), (2, 1), (3, 1)]);
        let same = run(&[(early(1), 0), (early(1), 0), (early(1), 0), (early(2), 0)]);
        assert!(!is_bad(&same, NONE), "one trial that fails again and again is one");
    }

    #[test]
    fn what_gets_to_its_first_epoch_clears_the_worker_and_what_says_nothing_does_not() {
        assert!(!is_bad(&run(&[(early(1), 0), (early(2), 0), (Ended::Measured, 0), (early(3), 0)]), NONE));
        assert!(is_bad(&run(&[(early(1), 0), (early(2), 0), (Ended::Otherwise, 0), (early(3), 0)]), NONE));
    }

    #[test]
    fn an_attempt_that_runs_clears_the_worker_only_by_getting_on_meanwhile() {
        let before = run(&[(early(1), 1), (early(2), 1), (early(3), 1)]);
        assert!(is_bad(&before, NONE), "it had measured before any of them failed");
        let meanwhile = run(&[(early(1), 0), (early(2), 1), (early(3), 1)]);
        assert_eq!(meanwhile.failed, [(2, 1), (3, 1)]);
    }

    #[test]
    fn the_last_worker_is_kept_where_all_others_are_quarantined() {
        let bad = run(&[(early(1), 0), (early(2), 0), (early(3), 0)]);
        assert!(!is_bad(&bad, Others { healthy: 0, quarantined: 1 }));
        assert!(is_bad(&bad, Others { healthy: 1, quarantined: 1 }));
    }
}
