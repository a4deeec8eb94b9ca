//! What a seed stands for: the size of the house, the study, and how much of each fault there is.

use kapell_search::study::{At, Direction, Keep, Metric, Objective};

use super::random::{Random, mix};
use super::store::{NewStudy, NewTrial, Rules};
use crate::report::Measurement;
use crate::trial::RetryPolicy;

/// Microseconds in a second.
pub(super) const SECOND: u64 = 1_000_000;

/// Which faults there may be: the most of each, per mille of messages, or as weights among the faults that strike.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mixture {
    pub name: &'static str,
    pub drop_max: u64,
    pub duplicate_max: u64,
    pub late_max: u64,
    pub deaths: u64,
    pub stalls: u64,
    pub crashes: u64,
    pub cuts: u64,
    pub half_open: u64,
    pub jumps: u64,
    /// Per mille of epochs that fail by the trial's own fault.
    pub failures_max: u64,
    pub people: bool,
    /// Not one attempt may be lost.
    pub lossless: bool,
}

const NOTHING: Mixture = Mixture {
    name: "",
    drop_max: 0,
    duplicate_max: 0,
    late_max: 0,
    deaths: 0,
    stalls: 0,
    crashes: 0,
    cuts: 0,
    half_open: 0,
    jumps: 0,
    failures_max: 0,
    people: false,
    lossless: false,
};

impl Mixture {
    /// Everything at once.
    pub const ALL: Self = Self {
        name: "all",
        drop_max: 200,
        duplicate_max: 200,
        late_max: 200,
        deaths: 3,
        stalls: 3,
        crashes: 3,
        cuts: 2,
        half_open: 2,
        jumps: 1,
        failures_max: 60,
        people: true,
        ..NOTHING
    };
    /// Workers that come back after their leases are gone.
    pub const STALE: Self = Self {
        name: "stale",
        duplicate_max: 200,
        late_max: 300,
        drop_max: 50,
        deaths: 1,
        stalls: 5,
        crashes: 1,
        cuts: 3,
        half_open: 2,
        people: true,
        ..NOTHING
    };
    /// Workers that die.
    pub const DEATHS: Self = Self { name: "deaths", deaths: 1, ..NOTHING };
    /// Clocks that jump, and a coordinator that restarts.
    pub const CLOCKS: Self = Self { name: "clocks", jumps: 6, crashes: 1, lossless: true, ..NOTHING };
    /// A network that does what networks do, and ends of it that crash.
    pub const PARTITIONS: Self = Self {
        name: "partitions",
        drop_max: 300,
        duplicate_max: 300,
        late_max: 300,
        cuts: 4,
        half_open: 4,
        deaths: 1,
        crashes: 1,
        ..NOTHING
    };
}

/// All mixtures, by name.
pub const ALL_MIXTURES: [Mixture; 5] =
    [Mixture::ALL, Mixture::STALE, Mixture::DEATHS, Mixture::CLOCKS, Mixture::PARTITIONS];

/// What strikes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    Death,
    Stall,
    Crash,
    Cut,
    HalfOpen,
    Jump,
}

/// One seed's house.
#[derive(Debug, Clone)]
pub(super) struct Plan {
    pub(super) mixture: Mixture,
    pub(super) workers: u64,
    pub(super) slots: usize,
    pub(super) study: NewStudy,
    /// The epoch at which a trial's loss is not a number, by trial number; 0: none.
    pub(super) poison: Vec<u32>,
    pub(super) epoch_us: u64,
    /// Epochs from one checkpoint to the next.
    pub(super) checkpoint_every: u32,
    /// Workers send on without waiting for answers.
    pub(super) pipelined: bool,
    /// What ends an attempt does not bring its checkpoints along: they were sent before.
    pub(super) bare: bool,
    pub(super) lease_us: u64,
    pub(super) beat_us: u64,
    pub(super) grace_us: u64,
    pub(super) sweep_us: u64,
    pub(super) commit_us_max: u64,
    pub(super) drop: u64,
    pub(super) duplicate: u64,
    pub(super) late: u64,
    pub(super) failures: u64,
    pub(super) faults: Vec<Fault>,
    pub(super) fault_gap_us: u64,
    /// When the faults end.
    pub(super) quiet_us: u64,
}

impl Plan {
    pub(super) fn draw(rng: &mut Random, mixture: &Mixture) -> Self {
        let trials = rng.range(1, 5);
        let epochs = u32::try_from(rng.range(1, 5)).unwrap_or(1);
        // Quiet seeds, and seeds with much of one thing and little of another.
        let level =
            |rng: &mut Random, max: u64| if rng.chance(300) { 0 } else { rng.below(max.saturating_add(1)) };
        let rules = Rules {
            retry: RetryPolicy {
                max_attempts: u32::try_from(rng.range(1, 4)).unwrap_or(1),
                max_lost: u32::try_from(rng.range(2, 20)).unwrap_or(2),
            },
            objective: Objective {
                metric: Metric::ValLoss,
                at: if rng.chance(500) { At::Best } else { At::Last },
                direction: Direction::Minimize,
            },
            keep: *rng.pick(&[Keep::BestAndLast, Keep::Best, Keep::Last]).unwrap_or(&Keep::Last),
            target: None,
            weight: 1.0,
        };
        let plan = |n: u64| NewTrial {
            identity: format!("configuration {n}").into(),
            shape: "shape".into(),
            epochs,
        };
        let study = NewStudy {
            name: "study".into(),
            rules,
            content: String::new(),
            trials: (1..=trials).map(plan).collect(),
        };
        let poison = (1..=trials).map(|_| if rng.chance(40) { rng.range(1, u64::from(epochs)) } else { 0 });
        let poison = if mixture.failures_max == 0 { vec![0; study.trials.len()] } else { small(poison) };
        let lease_us = rng.range(10, 40) * SECOND;
        Self {
            mixture: *mixture,
            workers: rng.range(1, 4),
            slots: usize::try_from(rng.range(1, 2)).unwrap_or(1),
            study,
            poison,
            epoch_us: rng.range(SECOND, 30 * SECOND),
            checkpoint_every: u32::try_from(rng.range(1, 3)).unwrap_or(1),
            pipelined: rng.chance(500),
            bare: rng.chance(500),
            lease_us,
            beat_us: lease_us / 6,
            grace_us: rng.range(30, 120) * SECOND,
            sweep_us: SECOND,
            commit_us_max: *rng.pick(&[1000, 50_000, 50_000, 3 * SECOND]).unwrap_or(&1000),
            drop: level(rng, mixture.drop_max),
            duplicate: level(rng, mixture.duplicate_max),
            late: level(rng, mixture.late_max),
            failures: level(rng, mixture.failures_max),
            faults: faults(rng, mixture),
            fault_gap_us: rng.range(2, 40) * SECOND,
            quiet_us: rng.range(30, 300) * SECOND,
        }
    }

    /// What an epoch of a trial measures, whoever trains it and however often.
    pub(super) fn truth(&self, trial: i64, epoch: u32) -> Measurement {
        let poisoned = self.poison_of(trial) == epoch && epoch > 0;
        let bits = mix(u64::try_from(trial).unwrap_or(0).wrapping_mul(1000).wrapping_add(u64::from(epoch)));
        let low = u32::try_from(bits & 0xffff).unwrap_or(0);
        let high = u32::try_from((bits >> 16) & 0xffff).unwrap_or(0);
        Measurement {
            epoch,
            train_loss: f64::from(high) / 65536.0,
            val_loss: if poisoned { f64::NAN } else { f64::from(low) / 65536.0 },
            seconds: 1.0,
            tokens_per_s: 1.0,
            weights_digest: String::new(),
        }
    }

    /// The epoch at which this trial's loss is not a number; 0: none. (Trials have their numbers as ids here.)
    pub(super) fn poison_of(&self, trial: i64) -> u32 {
        let index = usize::try_from(trial.saturating_sub(1)).unwrap_or(usize::MAX);
        self.poison.get(index).copied().unwrap_or(0)
    }

    /// The epoch up to `epoch` with the least validation loss.
    pub(super) fn best_epoch(&self, trial: i64, epoch: u32) -> u32 {
        let mut best = (1, f64::INFINITY);
        for e in 1..=epoch {
            let loss = self.truth(trial, e).val_loss;
            if loss < best.1 {
                best = (e, loss);
            }
        }
        best.0
    }
}

fn small(numbers: impl Iterator<Item = u64>) -> Vec<u32> {
    numbers.map(|n| u32::try_from(n).unwrap_or(0)).collect()
}

/// The faults of this seed, as often as they weigh; some kinds are left out of it.
fn faults(rng: &mut Random, m: &Mixture) -> Vec<Fault> {
    let kinds = [
        (Fault::Death, m.deaths),
        (Fault::Stall, m.stalls),
        (Fault::Crash, m.crashes),
        (Fault::Cut, m.cuts),
        (Fault::HalfOpen, m.half_open),
        (Fault::Jump, m.jumps),
    ];
    let several = kinds.iter().filter(|k| k.1 > 0).count() > 1;
    let mut faults = Vec::new();
    for (kind, weight) in kinds {
        if weight == 0 || several && rng.chance(250) {
            continue;
        }
        for _ in 0..weight {
            faults.push(kind);
        }
    }
    faults
}
