//! How far an attempt has been told to stop: a level that only rises.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::watch;

/// Ascending: a later one overrides an earlier one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Stop {
    /// Write a checkpoint and give the trial back: the worker drains.
    Release,
    /// Write a checkpoint; the study is paused.
    Pause,
    /// Write a checkpoint; the trial is not promising.
    Prune,
    /// This machine cannot go on with it: give the trial back as it was last recorded.
    Local,
    /// Stop within two seconds.
    Cancel,
    /// The coordinator does not take what this attempt measures: it has failed.
    Fault,
    /// The lease is gone: stop, and send nothing more.
    Forget,
}

impl Stop {
    /// Whether the trial is meant to go on from a checkpoint, or to keep one.
    pub(crate) fn keeps_checkpoint(self) -> bool {
        self <= Self::Prune
    }
}

/// The level and why.
#[derive(Debug)]
pub(crate) struct Control {
    level: watch::Sender<Option<(Stop, String)>>,
    abandon: Arc<AtomicBool>,
}

impl Control {
    pub(crate) fn new() -> Self {
        Self { level: watch::Sender::new(None), abandon: Arc::default() }
    }

    /// Raises the level; a lower one than before changes nothing.
    pub(crate) fn raise(&self, stop: Stop, reason: &str) {
        self.level.send_if_modified(|level| {
            let rises = level.as_ref().is_none_or(|(before, _)| *before < stop);
            if rises {
                if stop >= Stop::Cancel {
                    self.abandon.store(true, Ordering::Relaxed);
                }
                *level = Some((stop, reason.to_owned()));
            }
            rises
        });
    }

    /// Set from a cancellation on: nothing of the trial's present state is kept.
    pub(crate) fn abandon(&self) -> Arc<AtomicBool> {
        self.abandon.clone()
    }

    pub(crate) fn level(&self) -> Option<Stop> {
        self.level.borrow().as_ref().map(|(stop, _)| *stop)
    }

    pub(crate) fn level_and_reason(&self) -> Option<(Stop, String)> {
        self.level.borrow().clone()
    }

    /// Waits until the level is at least this.
    pub(crate) async fn reaches(&self, stop: Stop) {
        let mut levels = self.level.subscribe();
        // The sender lives as long as self, so that this ends only when the level is reached.
        let _ = levels.wait_for(|level| level.as_ref().is_some_and(|(now, _)| *now >= stop)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_level_only_rises() {
        let control = Control::new();
        assert_eq!(control.level(), None);
        control.raise(Stop::Pause, "the study is paused");
        control.raise(Stop::Release, "drain");
        assert_eq!(control.level_and_reason(), Some((Stop::Pause, "the study is paused".to_owned())));
        control.raise(Stop::Forget, "the lease is gone");
        control.raise(Stop::Cancel, "");
        assert_eq!(control.level(), Some(Stop::Forget));
    }

    #[test]
    fn a_step_is_abandoned_from_a_cancellation_on_and_never_before_a_checkpoint() {
        let control = Control::new();
        for stop in [Stop::Release, Stop::Pause, Stop::Prune, Stop::Local] {
            control.raise(stop, "");
            assert!(!control.abandon().load(Ordering::Relaxed), "{stop:?}");
        }
        control.raise(Stop::Cancel, "");
        assert!(control.abandon().load(Ordering::Relaxed));
    }

    #[test]
    fn only_what_may_go_on_keeps_a_checkpoint() {
        let keeping = [Stop::Release, Stop::Pause, Stop::Prune];
        let dropping = [Stop::Local, Stop::Cancel, Stop::Fault, Stop::Forget];
        assert!(keeping.iter().all(|s| s.keeps_checkpoint()));
        assert!(!dropping.iter().any(|s| s.keeps_checkpoint()));
    }
}
