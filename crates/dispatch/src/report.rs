//! Which measurements are taken: within an attempt every epoch once, in order, from its checkpoint on.

use kapell_search::study::{At, Metric, Objective};
use thiserror::Error;

/// One epoch of one attempt. Losses are nats per token.
#[derive(Debug, Clone, PartialEq)]
pub struct Measurement {
    /// From 1.
    pub epoch: u32,
    pub train_loss: f64,
    pub val_loss: f64,
    pub seconds: f64,
    pub tokens_per_s: f64,
    /// sha256:<hex> of the weights after this epoch.
    pub weights_digest: String,
}

/// What is done with a measurement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Written down.
    New,
    /// Written down before, with equal content: acknowledged again.
    Known,
}

/// Why a measurement is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Error)]
pub enum ReportError {
    #[error("epoch {epoch} is on record with other content")]
    Differs { epoch: u32 },
    #[error("epoch {epoch} does not follow: epoch {want} is the next of this attempt")]
    Gap { epoch: u32, want: u32 },
    #[error("loss became {value} at epoch {epoch}")]
    NotFinite { epoch: u32, value: f64 },
    #[error("epoch {epoch}: {field} is {value}, which is no duration or speed")]
    Absurd { epoch: u32, field: &'static str, value: f64 },
    #[error("epoch {epoch} is beyond the trial's {epochs}")]
    Beyond { epoch: u32, epochs: u32 },
}

/// Judges what an attempt reports. `known` is the row on record of this attempt and epoch, `start_epoch` that of
/// the checkpoint the attempt began at, `last_epoch` the newest that it has on record (`start_epoch` if none),
/// `epochs` what the trial is to run.
///
/// # Errors
/// Why the measurement is refused.
pub fn judge(
    m: &Measurement,
    known: Option<&Measurement>,
    last_epoch: u32,
    epochs: u32,
) -> Result<Verdict, ReportError> {
    let epoch = m.epoch;
    for value in [m.train_loss, m.val_loss] {
        if !value.is_finite() {
            return Err(ReportError::NotFinite { epoch, value });
        }
    }
    for (field, value) in [("seconds", m.seconds), ("tokens_per_s", m.tokens_per_s)] {
        if !(value.is_finite() && value >= 0.0) {
            return Err(ReportError::Absurd { epoch, field, value });
        }
    }
    match known {
        Some(known) if known == m => Ok(Verdict::Known),
        Some(_) => Err(ReportError::Differs { epoch }),
        None if epoch > epochs => Err(ReportError::Beyond { epoch, epochs }),
        None if Some(epoch) != last_epoch.checked_add(1) => {
            Err(ReportError::Gap { epoch, want: last_epoch.saturating_add(1) })
        }
        None => Ok(Verdict::New),
    }
}

/// What the measurements of a lineage come to.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Summary {
    /// The newest epoch.
    pub epochs: u32,
    /// What ranks the trial.
    pub objective: Option<f64>,
    pub train_loss: Option<f64>,
    pub val_loss: Option<f64>,
    pub best_val_loss: Option<f64>,
    pub best_epoch: Option<u32>,
    pub weights_digest: Option<String>,
}

impl Summary {
    /// Goes on with the next epoch.
    pub fn add(&mut self, rule: &Objective, epoch: u32, train_loss: f64, val_loss: f64, weights: String) {
        self.epochs = epoch;
        self.train_loss = Some(train_loss);
        self.val_loss = Some(val_loss);
        self.weights_digest = Some(weights);
        if self.best_val_loss.is_none_or(|best| rule.better(val_loss, best)) {
            self.best_val_loss = Some(val_loss);
            self.best_epoch = Some(epoch);
        }
        let value = match rule.metric {
            Metric::ValLoss => val_loss,
            Metric::TrainLoss => train_loss,
        };
        if rule.at == At::Last || self.objective.is_none_or(|best| rule.better(value, best)) {
            self.objective = Some(value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(epoch: u32) -> Measurement {
        let weights_digest = "sha256:00".to_owned();
        Measurement {
            epoch,
            train_loss: 1.5,
            val_loss: 1.25,
            seconds: 2.0,
            tokens_per_s: 10.0,
            weights_digest,
        }
    }

    #[test]
    fn an_epoch_again_is_taken_if_equal_and_refused_if_not() {
        assert_eq!(judge(&row(4), None, 3, 9), Ok(Verdict::New));
        assert_eq!(judge(&row(4), Some(&row(4)), 7, 9), Ok(Verdict::Known));
        let other = Measurement { val_loss: 1.24, ..row(4) };
        assert_eq!(judge(&other, Some(&row(4)), 7, 9), Err(ReportError::Differs { epoch: 4 }));
    }

    #[test]
    fn an_epoch_out_of_order_or_beyond_the_last_is_refused() {
        assert_eq!(judge(&row(6), None, 4, 9), Err(ReportError::Gap { epoch: 6, want: 5 }));
        assert_eq!(judge(&row(3), None, 4, 9), Err(ReportError::Gap { epoch: 3, want: 5 }));
        assert_eq!(judge(&row(10), None, 9, 9), Err(ReportError::Beyond { epoch: 10, epochs: 9 }));
    }

    #[test]
    fn what_is_not_finite_is_refused() {
        let bad = Measurement { train_loss: f64::NAN, ..row(1) };
        assert!(matches!(judge(&bad, None, 0, 9), Err(ReportError::NotFinite { epoch: 1, .. })));
        let bad = Measurement { val_loss: f64::INFINITY, ..row(1) };
        assert!(matches!(judge(&bad, None, 0, 9), Err(ReportError::NotFinite { epoch: 1, .. })));
        let bad = Measurement { seconds: -1.0, ..row(1) };
        assert!(matches!(judge(&bad, None, 0, 9), Err(ReportError::Absurd { field: "seconds", .. })));
    }
}
