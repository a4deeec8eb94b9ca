//! Whose trial is next: studies share the workers by weight, and a retry prefers another worker.

use std::time::Duration;

/// A study that has something to lease.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Share {
    pub study: i64,
    /// Above 0.
    pub weight: f64,
    /// Trials that run now.
    pub running: u64,
}

/// The study that is furthest below its share: the least running trials per weight, the older one of equals.
#[must_use]
#[expect(clippy::cast_precision_loss, reason = "counts of running trials are far below 2^53")]
pub fn next_study(shares: &[Share]) -> Option<Share> {
    let load = |s: &Share| s.running as f64 / s.weight.max(f64::MIN_POSITIVE);
    shares.iter().copied().min_by(|a, b| load(a).total_cmp(&load(b)).then(a.study.cmp(&b.study)))
}

/// A queued trial, as the choice sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    pub trial: i64,
    /// The worker on which its newest attempt failed or was lost.
    pub avoid: Option<String>,
    /// How long it has waited since.
    pub waited: Duration,
}

/// Of candidates in queue order, the first that `worker` should take. Where there are `others`, a trial that came
/// back from this very worker is left to them: taken only when nothing else is there, and `patience` is over.
#[must_use]
pub fn choose<'a>(
    candidates: &'a [Candidate],
    worker: &str,
    others: bool,
    patience: Duration,
) -> Option<&'a Candidate> {
    if !others {
        return candidates.first();
    }
    let avoids = |c: &&Candidate| c.avoid.as_deref() == Some(worker);
    candidates.iter().find(|c| !avoids(c)).or_else(|| candidates.iter().find(|c| c.waited >= patience))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn studies_get_workers_in_proportion_to_their_weights() {
        let mut shares = [
            Share { study: 1, weight: 1.0, running: 0 },
            Share { study: 2, weight: 3.0, running: 0 },
            Share { study: 3, weight: 0.5, running: 0 },
        ];
        for _ in 0..45 {
            let next = next_study(&shares).unwrap();
            shares.iter_mut().find(|s| s.study == next.study).unwrap().running += 1;
        }
        assert_eq!(shares.map(|s| s.running), [10, 30, 5]);
        assert_eq!(next_study(&[]), None);
    }

    fn candidate(trial: i64, avoid: Option<&str>, waited_s: u64) -> Candidate {
        Candidate { trial, avoid: avoid.map(str::to_owned), waited: Duration::from_secs(waited_s) }
    }

    #[test]
    fn a_retry_prefers_another_worker_while_there_is_one() {
        let patience = Duration::from_secs(10);
        let pick = |c: &[Candidate], worker, others| choose(c, worker, others, patience).map(|c| c.trial);
        let queue = [candidate(1, Some("a"), 0), candidate(2, None, 0)];
        assert_eq!(pick(&queue, "a", true), Some(2));
        assert_eq!(pick(&queue, "b", true), Some(1));
        assert_eq!(pick(&queue, "a", false), Some(1));
        let alone = [candidate(1, Some("a"), 0)];
        assert_eq!(pick(&alone, "a", true), None);
        assert_eq!(pick(&alone, "a", false), Some(1));
        assert_eq!(pick(&[candidate(1, Some("a"), 10)], "a", true), Some(1));
    }
}
