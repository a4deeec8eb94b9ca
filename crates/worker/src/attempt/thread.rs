//! The training thread of an attempt: steps, measures, saves, and looks at its orders after every update.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use kapell_model::{EpochResult, Step, TrainError};
use kapell_rpc::v1;
use tokio::sync::watch;

use super::log::Log;
use super::outbox::Outbox;
use super::saved::{Latest, Saved};
use crate::control::{Control, Stop};
use crate::training::{Job, Start, Training, is_final, is_local};

/// What is to be kept, and when.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    /// When the first checkpoint is due.
    pub(crate) first: Duration,
    /// The longest pause between two.
    pub(crate) every: Duration,
    pub(crate) keep_best: bool,
    pub(crate) keep_last: bool,
    /// The larger validation loss is the better one.
    pub(crate) maximize: bool,
    /// The best of the attempts before.
    pub(crate) best_val_loss: Option<f64>,
    /// Of the checkpoint that the attempt starts from; NaN without one.
    pub(crate) start_val_loss: f64,
}

/// At most one part in so many of the time goes into checkpoints, as long as they come more often than on the interval.
const COST_SHARE: u32 = 20;

/// What the thread shares with the attempt's other parts.
pub(crate) struct Shared {
    pub(crate) control: Arc<Control>,
    pub(crate) outbox: Arc<Outbox>,
    pub(crate) latest: watch::Sender<Latest>,
    pub(crate) log: Arc<Log>,
    /// A folder for checkpoints.
    pub(crate) dir: PathBuf,
}

/// How training ended.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Ending {
    Complete,
    /// As the control says; the checkpoint that it asks for is written.
    Stopped,
    Failed {
        reason: String,
        is_final: bool,
    },
    /// A fault of this machine, not of the trial.
    Local {
        reason: String,
    },
}

/// Trains to an end, whatever it is: a panic is one, too. Also gives the time that it took.
pub(crate) fn train(job: Job, start: &Start, plan: Plan, shared: Shared) -> (Ending, Duration) {
    let (begun, outbox, log) = (Instant::now(), shared.outbox.clone(), shared.log.clone());
    let mut run = Run::new(plan, shared);
    // Everything that the closure could leave half-done is dropped or closed right behind it.
    let ended = catch_unwind(AssertUnwindSafe(|| run.work(job, start)));
    let ending = match ended {
        Ok(Ok(ending)) => ending,
        Ok(Err(failure)) => failure,
        Err(panic) => {
            let reason = format!("the trainer panicked: {}", panic_message(panic.as_ref()));
            Ending::Failed { reason, is_final: false }
        }
    };
    if let Ending::Failed { reason, .. } | Ending::Local { reason } = &ending {
        log.warn(&format!("failed: {reason}"));
    }
    run.publish();
    outbox.close();
    (ending, begun.elapsed())
}

struct Run {
    plan: Plan,
    shared: Shared,
    /// What is on its way or to be sent next.
    latest: Latest,
    best_val_loss: Option<f64>,
    val_loss: f64,
    /// The checkpoint of exactly the present state, if there is one.
    current: Option<Arc<Saved>>,
    saves: u32,
    saved_at: Instant,
    /// From there to the next.
    pause: Duration,
}

impl From<TrainError> for Ending {
    fn from(error: TrainError) -> Self {
        let reason = error.to_string();
        match error {
            TrainError::Abandoned => Self::Stopped,
            error if is_local(&error) => Self::Local { reason },
            error => Self::Failed { reason, is_final: is_final(&error) },
        }
    }
}

impl Run {
    fn new(plan: Plan, shared: Shared) -> Self {
        Self {
            best_val_loss: plan.best_val_loss.filter(|loss| loss.is_finite()),
            pause: plan.first.min(plan.every),
            val_loss: plan.start_val_loss,
            plan,
            shared,
            latest: Latest::default(),
            current: None,
            saves: 0,
            saved_at: Instant::now(),
        }
    }

    fn work(&mut self, job: Job, start: &Start) -> Result<Ending, Ending> {
        let mut training = start(job)?;
        training.abandon_on(self.shared.control.abandon());
        self.shared.log.info(&format!("training begins behind epoch {}", training.epoch()));
        loop {
            if let Some(stop) = self.shared.control.level() {
                self.stopped(stop, training.as_ref())?;
                return Ok(Ending::Stopped);
            }
            match training.step()? {
                Step::Updated { .. } => {
                    self.current = None;
                    if self.saved_at.elapsed() >= self.pause {
                        let begun = Instant::now();
                        self.save_last(training.as_ref())?;
                        self.publish();
                        self.pause = next_pause(self.pause, begun.elapsed(), self.plan.every);
                    }
                }
                Step::EpochEnded(result) => self.epoch_ended(&result, training.as_ref())?,
                Step::Finished => {
                    if self.plan.keep_last {
                        self.save_last(training.as_ref())?;
                    }
                    self.shared.log.info(&format!("complete after epoch {}", training.epoch()));
                    return Ok(Ending::Complete);
                }
            }
        }
    }

    fn stopped(&mut self, stop: Stop, training: &dyn Training) -> Result<(), Ending> {
        self.shared.log.info(&format!("told to stop in epoch {}: {stop:?}", training.epoch() + 1));
        if stop.keeps_checkpoint() {
            self.save_last(training)?;
        }
        Ok(())
    }

    fn epoch_ended(&mut self, result: &EpochResult, training: &dyn Training) -> Result<(), Ending> {
        self.current = None;
        self.val_loss = result.val_loss;
        self.shared.log.info(&format!(
            "epoch {}: train_loss {:.4}, val_loss {:.4}, {:.1} s, {:.0} tokens/s",
            result.epoch, result.train_loss, result.val_loss, result.seconds, result.tokens_per_s
        ));
        let measurement = v1::Measurement {
            epoch: result.epoch,
            train_loss: result.train_loss,
            val_loss: result.val_loss,
            seconds: result.seconds,
            tokens_per_s: result.tokens_per_s,
            weights_digest: result.weights_digest.clone(),
            attempt: 0,
        };
        let control = self.shared.control.clone();
        let pushed = self.shared.outbox.push(&measurement, || control.level().is_some());
        let kept = pushed
            .map_err(|error| Ending::Local { reason: format!("measurements cannot be written: {error}") })?;
        if kept && self.plan.keep_best && self.is_best(result.val_loss) {
            self.best_val_loss = Some(result.val_loss);
            self.latest.best = Some(self.save(training)?);
        }
        Ok(())
    }

    fn is_best(&self, val_loss: f64) -> bool {
        self.best_val_loss
            .is_none_or(|best| if self.plan.maximize { val_loss > best } else { val_loss < best })
    }

    fn save_last(&mut self, training: &dyn Training) -> Result<(), Ending> {
        self.latest.last = Some(self.save(training)?);
        self.saved_at = Instant::now();
        Ok(())
    }

    fn save(&mut self, training: &dyn Training) -> Result<Arc<Saved>, Ending> {
        if let Some(current) = &self.current {
            return Ok(current.clone());
        }
        self.saves += 1;
        let dir = self.shared.dir.join(format!("checkpoint-{}", self.saves));
        training.save(&dir)?;
        let saved = Arc::new(Saved { dir, epoch: training.epoch(), val_loss: self.val_loss });
        self.current = Some(saved.clone());
        Ok(saved)
    }

    /// Has the uploader take the latest checkpoints.
    fn publish(&self) {
        if self.latest.best.is_some() || self.latest.last.is_some() {
            self.shared.latest.send_replace(self.latest.clone());
        }
    }
}

/// The pause behind a checkpoint that took `cost`.
fn next_pause(pause: Duration, cost: Duration, every: Duration) -> Duration {
    pause.saturating_mul(2).max(cost.saturating_mul(COST_SHARE)).min(every)
}

fn panic_message(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("without a message")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_the_interval_and_leave_a_costly_checkpoint_its_time() {
        let ms = Duration::from_millis;
        let mut pauses = vec![ms(900)];
        while pauses.last() < Some(&ms(60_000)) {
            pauses.push(next_pause(pauses[pauses.len() - 1], ms(10), ms(60_000)));
        }
        assert_eq!(pauses, [900, 1800, 3600, 7200, 14_400, 28_800, 57_600, 60_000].map(ms));
        assert_eq!(next_pause(ms(900), ms(500), ms(60_000)), ms(10_000));
        assert_eq!(next_pause(ms(900), ms(5000), ms(60_000)), ms(60_000), "never longer than the interval");
        assert_eq!(next_pause(ms(5), ms(1), ms(5)), ms(5));
    }
}
