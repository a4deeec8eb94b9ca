//! The promises that the simulation stands for: which mixture shows which, and what it must have met to count.

use std::fmt;
use std::ops::{AddAssign, Range};

use super::{Bug, Failure, Mixture, run};

macro_rules! counts {
    ($($(#[$doc:meta])+ $name:ident,)+) => {
        /// What a history has met: a run that met nothing shows nothing.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
        pub struct Counts {
            $($(#[$doc])+ pub $name: u64,)+
        }

        impl AddAssign for Counts {
            fn add_assign(&mut self, other: Self) {
                $(self.$name += other.$name;)+
            }
        }

        impl fmt::Display for Counts {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                let all = [$((stringify!($name), self.$name)),+];
                let met: Vec<String> =
                    all.iter().filter(|c| c.1 > 0).map(|(name, n)| format!("{n} {}", name.replace('_', " "))).collect();
                f.write_str(&met.join(", "))
            }
        }
    };
}

counts! {
    /// Histories.
    seeds,
    /// Steps, after each of which the invariants were looked at.
    events,
    /// Epochs trained.
    epochs,
    /// Requests for work that got some.
    leases,
    /// Batches that came to the disk.
    commits,
    /// Answers that said that something is on disk.
    acknowledged,
    /// Requests that were refused.
    refused,
    /// Requests of attempts that had ended.
    stale_writes,
    /// Attempts that ended as LOST.
    lost,
    /// Attempts that their workers were told to forget.
    forgotten,
    /// Deaths of workers.
    deaths,
    /// Those of workers that held a trial.
    deaths_holding,
    /// Workers that stood still.
    stalls,
    /// Crashes of the coordinator.
    crashes,
    /// Batches that were lost with the coordinator.
    batches_lost,
    /// Connections cut.
    cuts,
    /// Connections dead in one direction.
    half_open,
    /// Messages that a cut or an absence has swallowed.
    blocked,
    /// Messages lost.
    dropped,
    /// Messages that came twice.
    duplicated,
    /// Messages that took seconds, or longer than a lease.
    late,
    /// Requests that were sent again.
    retries,
    /// Jumps of the wall clock by ten years.
    jumps,
    /// Pauses, cancellations and the like.
    by_hand,
}

/// A promise that the simulation stands for, by its number in the list of promises.
#[derive(Debug, Clone, Copy)]
pub struct Row {
    pub number: u8,
    pub promise: &'static str,
    pub mixture: Mixture,
    /// What must have been met.
    met: fn(&Counts) -> bool,
}

impl Row {
    pub const STALE: Self = Self {
        number: 3,
        promise: "a stale worker never wins",
        mixture: Mixture::STALE,
        met: |c| c.stale_writes > c.seeds / 4 && c.lost > 0 && c.stalls > 0,
    };
    pub const DEATHS: Self = Self {
        number: 5,
        promise: "no job is stuck",
        mixture: Mixture::DEATHS,
        met: |c| c.deaths_holding > c.seeds / 4 && c.lost > 0,
    };
    pub const CLOCKS: Self = Self {
        number: 8,
        promise: "clocks do not matter",
        mixture: Mixture::CLOCKS,
        met: |c| c.jumps > c.seeds && c.crashes > 0,
    };
    pub const PARTITIONS: Self = Self {
        number: 10,
        promise: "partitions heal",
        mixture: Mixture::PARTITIONS,
        met: |c| {
            [
                c.dropped,
                c.duplicated,
                c.late,
                c.cuts,
                c.half_open,
                c.blocked,
                c.lost,
                c.crashes,
                c.batches_lost,
            ]
            .iter()
            .all(|&n| n > 0)
        },
    };
    /// All of them.
    pub const ALL: [Self; 4] = [Self::STALE, Self::DEATHS, Self::CLOCKS, Self::PARTITIONS];
}

/// Runs a row's histories, one a seed, and gives what they have met.
///
/// # Errors
/// The first history that broke an invariant; or a sentence about all of them, if they met too little.
pub fn run_row(row: &Row, seeds: Range<u64>, bug: Option<Bug>) -> Result<Counts, Box<Failure>> {
    let mut counts = Counts::default();
    let first = seeds.start;
    for seed in seeds {
        counts += run(seed, &row.mixture, bug, false)?;
    }
    if (row.met)(&counts) {
        return Ok(counts);
    }
    let what = format!("these histories have not met what they are for: {counts}");
    let mixture = row.mixture.name;
    Err(Box::new(Failure { seed: first, mixture, at_us: 0, events: counts.events, what, trace: Vec::new() }))
}
