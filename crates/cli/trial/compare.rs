//! An epoch trained again beside the epoch on record, and what all of them come to. Pure: no clock, no output.

use kapell_rpc::v1;
use serde::Serialize;

use crate::error::exit;

/// How far losses may lie apart, in nats per token, where the arithmetic is another one: this much and this share of
/// the recorded loss. Rounding grows as training goes on, to about what another seed changes.
const APART: f64 = 0.02;
const APART_SHARE: f64 = 0.05;

/// An epoch on record.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Record {
    pub(super) measurement: v1::Measurement,
    /// All that it was trained with has this machine's numerics: the bytes must be the same.
    pub(super) same_numerics: bool,
}

/// The epochs on record, beside this machine's numerics.
pub(super) fn records(detail: &v1::TrialDetail, mine: &v1::Numerics) -> Vec<Record> {
    let is_mine = |attempt: &v1::Attempt| attempt.numerics.as_ref() == Some(mine);
    // An attempt that left a checkpoint, so that the next one did not start where it had started itself.
    let kept = |at: usize| {
        let next = detail.attempts.get(at + 1);
        next.is_some_and(|next| next.start_checkpoint != detail.attempts[at].start_checkpoint)
    };
    let record = |m: &v1::Measurement| {
        let mut before = detail.attempts.iter().enumerate().filter(|(_, a)| a.attempt <= m.attempt);
        let same_numerics = before.all(|(at, a)| is_mine(a) || (a.attempt < m.attempt && !kept(at)));
        Record { measurement: m.clone(), same_numerics }
    };
    detail.measurements.iter().map(record).collect()
}

/// An epoch's figures.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Figures {
    pub(super) train_loss: f64,
    pub(super) val_loss: f64,
    pub(super) weights_digest: String,
}

impl Figures {
    pub(super) fn of(m: &v1::Measurement) -> Self {
        Self { train_loss: m.train_loss, val_loss: m.val_loss, weights_digest: m.weights_digest.clone() }
    }

    fn is_same(&self, other: &Self) -> bool {
        let bits = |f: &Self| (f.train_loss.to_bits(), f.val_loss.to_bits());
        bits(self) == bits(other) && self.weights_digest == other.weights_digest
    }

    fn is_close(&self, recorded: &Self) -> bool {
        let near = |own: f64, recorded: f64| (own - recorded).abs() <= APART + APART_SHARE * recorded.abs();
        near(self.train_loss, recorded.train_loss) && near(self.val_loss, recorded.val_loss)
    }
}

/// What an epoch trained again says of the one on record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Match {
    /// Weights and losses to the last bit.
    Same,
    /// Other bytes, on other numerics, and losses within the tolerance.
    Close,
    /// Other bytes, on other numerics, and losses outside of it.
    Far,
    /// Other bytes on the same numerics.
    Differs,
}

/// One epoch, both times.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Epoch {
    pub(super) epoch: u32,
    #[serde(rename = "match")]
    pub(super) found: Match,
    pub(super) same_numerics: bool,
    pub(super) reproduced: Figures,
    pub(super) recorded: Figures,
    /// That measured it.
    pub(super) attempt: u32,
}

impl Epoch {
    pub(super) fn compare(reproduced: Figures, record: &Record) -> Self {
        let (recorded, same_numerics) = (Figures::of(&record.measurement), record.same_numerics);
        let found = if reproduced.is_same(&recorded) {
            Match::Same
        } else if same_numerics {
            Match::Differs
        } else if reproduced.is_close(&recorded) {
            Match::Close
        } else {
            Match::Far
        };
        let (epoch, attempt) = (record.measurement.epoch, record.measurement.attempt);
        Self { epoch, found, same_numerics, reproduced, recorded, attempt }
    }
}

/// What all epochs come to.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Decision {
    /// "reproduced", "inconclusive" or "differs".
    pub(super) decision: &'static str,
    pub(super) exit_code: u8,
    /// Epochs on record, and those of them that came out the same.
    pub(super) epochs: usize,
    pub(super) same: usize,
    pub(super) reason: Option<String>,
}

/// Decides by the worst: bytes that should be the same and are not, a digest that was expected and did not come,
/// losses too far apart (7); other bytes that need not be the same (4); nothing (0). `broken`: training ended before
/// the last epoch on record. `expected`: the digest, and whether the last or the best epoch's weights have it.
pub(super) fn decide(
    epochs: &[Epoch],
    recorded: usize,
    expected: Option<(&str, bool)>,
    broken: Option<&str>,
) -> Decision {
    let of = |found: Match| epochs.iter().filter(move |e| e.found == found);
    let same = of(Match::Same).count();
    let differs = if let Some(epoch) = of(Match::Differs).next() {
        Some(format!("epoch {} has other bytes than its record, on the same numerics", epoch.epoch))
    } else if let Some(why) = broken {
        Some(format!("{why}, and the record goes on to epoch {recorded}"))
    } else if let Some(epoch) = of(Match::Far).next() {
        Some(format!(
            "the losses of epoch {} lie further apart than other numerics explain (beyond {APART} + {:.0}%)",
            epoch.epoch,
            100.0 * APART_SHARE
        ))
    } else {
        let missed = expected.filter(|(_, found)| !found);
        missed.map(|(digest, _)| format!("neither the last nor the best epoch's weights are {digest}"))
    };
    let inconclusive = || {
        let close = of(Match::Close).count();
        let reason = format!(
            "recorded on other numerics, which promise no equal bytes; the losses of {close} epochs agree within \
             {APART} + {:.0}%",
            100.0 * APART_SHARE
        );
        (close > 0).then_some(reason)
    };
    let (decision, exit_code, reason) = match (differs, inconclusive()) {
        (Some(why), _) => ("differs", exit::INTEGRITY, Some(why)),
        (None, Some(why)) => ("inconclusive", exit::INCONCLUSIVE, Some(why)),
        (None, None) => ("reproduced", 0, None),
    };
    Decision { decision, exit_code, epochs: recorded, same, reason }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numerics(kind: &str) -> v1::Numerics {
        v1::Numerics { program_version: "kapell 0.1.0".into(), kind: kind.into(), dtype: "f32".into() }
    }

    fn attempt(attempt: u32, kind: &str, start_checkpoint: &str) -> v1::Attempt {
        let start_checkpoint = start_checkpoint.to_owned();
        v1::Attempt { attempt, numerics: Some(numerics(kind)), start_checkpoint, ..Default::default() }
    }

    fn measured(epoch: u32, attempt: u32) -> v1::Measurement {
        v1::Measurement { epoch, attempt, train_loss: 0.5, val_loss: 0.25, ..Default::default() }
    }

    fn epoch(same_numerics: bool, change: impl Fn(&mut Figures)) -> Epoch {
        let measurement = v1::Measurement { weights_digest: "a".into(), ..measured(1, 1) };
        let mut figures = Figures::of(&measurement);
        change(&mut figures);
        Epoch::compare(figures, &Record { measurement, same_numerics })
    }

    #[test]
    fn bytes_are_promised_where_all_that_an_epoch_goes_on_from_has_these_numerics() {
        let same = |attempts: Vec<v1::Attempt>, measured_by: u32| {
            let measurements = vec![measured(1, measured_by)];
            let detail = v1::TrialDetail { attempts, measurements, ..Default::default() };
            records(&detail, &numerics("a"))[0].same_numerics
        };
        assert!(same(vec![attempt(1, "a", "")], 1));
        assert!(!same(vec![attempt(1, "b", "")], 1));
        assert!(same(vec![attempt(1, "b", ""), attempt(2, "a", "")], 2), "the first left nothing");
        assert!(!same(vec![attempt(1, "b", ""), attempt(2, "a", "half")], 2), "the first left half an epoch");
        assert!(same(vec![attempt(1, "a", ""), attempt(2, "b", "x")], 1), "the second came later");
    }

    #[test]
    fn an_epoch_is_the_same_to_the_last_bit_or_not() {
        let last_bit = |f: &mut Figures| f.train_loss = f64::from_bits(f.train_loss.to_bits() + 1);
        let weights = |f: &mut Figures| f.weights_digest = "b".into();
        let far = |f: &mut Figures| f.val_loss += 0.04;
        assert_eq!(epoch(true, |_| {}).found, Match::Same);
        assert_eq!(epoch(false, |_| {}).found, Match::Same);
        assert_eq!(epoch(true, last_bit).found, Match::Differs);
        assert_eq!(epoch(true, weights).found, Match::Differs);
        assert_eq!(epoch(false, weights).found, Match::Close);
        assert_eq!(epoch(false, far).found, Match::Far);
        assert_eq!(epoch(false, |f| f.train_loss = f64::NAN).found, Match::Far);
    }

    #[test]
    fn the_worst_epoch_decides() {
        let same = || epoch(true, |_| {});
        let close = || epoch(false, |f| f.weights_digest = "b".into());
        let differs = || epoch(true, |f| f.weights_digest = "b".into());
        let code = |epochs: &[Epoch], expected, broken| {
            let decided = decide(epochs, 2, expected, broken);
            (decided.decision, decided.exit_code, decided.same)
        };
        assert_eq!(code(&[same(), same()], None, None), ("reproduced", 0, 2));
        assert_eq!(code(&[same(), same()], Some(("d", true)), None), ("reproduced", 0, 2));
        assert_eq!(code(&[same(), same()], Some(("d", false)), None), ("differs", 7, 2));
        assert_eq!(code(&[same(), close()], Some(("d", true)), None), ("inconclusive", 4, 1));
        assert_eq!(code(&[close(), differs()], None, None), ("differs", 7, 0));
        assert_eq!(code(&[same()], None, Some("loss became NaN")), ("differs", 7, 1));
    }
}
