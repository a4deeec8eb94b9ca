//! The coordinator's decisions in a simulated house: one seed is one history of workers, network, clocks, people and
//! faults, run event by event in virtual time, with the invariants looked at after every step.
//!
//! What decides is the real thing: [`crate::trial`], [`crate::study`], [`crate::lease`], [`crate::queue`],
//! [`crate::report`], [`crate::finish`] and [`crate::Reactor`]. What is simulated is around it:
//!
//! ```text
//!   people ----+                                      +-- working copy --commit--> committed (survives a crash)
//!              v                                      |
//!   worker <-- network: drop, duplicate, delay, --> coordinator
//!   (epochs)   reorder, half-open, cut                |
//!                                                     +-- Reactor: leases, who is there (rebuilt by adoption)
//! ```
//!
//! Requests share a commit some milliseconds later; answers go out after it, and a crash before it loses the batch.
//! Workers retry what is not answered, die and come back as new processes, and stand still for longer than a lease.
//! Every side has a monotonic clock of its own rate and a wall clock that jumps. When the faults end, the study has to
//! come to its end within a bound.
//!
//! What an epoch measures is a function of trial and epoch, so an epoch that is trained again has to come out the same.
//! [`Bug`]s break a rule each, to see that the invariants notice.

mod bug;
mod coordinator;
mod network;
mod oracle;
mod plan;
mod random;
mod rows;
pub mod store;
mod worker;
mod world;

pub use bug::Bug;
pub use oracle::check_trial;
pub use plan::{ALL_MIXTURES, Mixture};
pub use random::Random;
pub use rows::{Counts, Row, run_row};

use std::fmt;

/// A history that broke an invariant, with all that replays it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct Failure {
    pub seed: u64,
    pub mixture: &'static str,
    /// Virtual time, in microseconds.
    pub at_us: u64,
    /// Events until then.
    pub events: u64,
    pub what: String,
    /// The history, where it was asked for.
    pub trace: Vec<String>,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { seed, mixture, at_us, events, what, trace } = self;
        for line in trace {
            writeln!(f, "{line}")?;
        }
        writeln!(f, "seed {seed} ({mixture}), event {events}, {at_us} us: {what}")?;
        write!(
            f,
            "replay: cargo run --release -p kapell-dispatch --example simulate -- --mixture {mixture} --seed {seed} --trace"
        )
    }
}

/// Runs one history. `bug` breaks a rule; `trace` keeps a line for every event.
///
/// # Errors
/// The first invariant that was broken.
pub fn run(seed: u64, mixture: &Mixture, bug: Option<Bug>, trace: bool) -> Result<Counts, Box<Failure>> {
    world::World::new(seed, mixture, bug, trace).run()
}

#[cfg(test)]
mod tests;
