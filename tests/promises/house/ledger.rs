//! What the coordinator has acknowledged, written down by those whom it told.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use kapell_rpc::v1;

/// Everything acknowledged so far. Clones share it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Ledger(Arc<Mutex<Entries>>);

#[derive(Debug, Default)]
pub(crate) struct Entries {
    /// Configurations of every study that was created.
    pub(crate) studies: BTreeMap<String, u64>,
    /// (trial, attempt) of every lease.
    pub(crate) leases: BTreeSet<(i64, u32)>,
    /// By trial, attempt and epoch.
    pub(crate) measurements: BTreeMap<(i64, u32, u32), v1::Measurement>,
    /// The newest checkpoint to go on from, by trial and attempt: its epoch and digest.
    pub(crate) checkpoints: BTreeMap<(i64, u32), (u32, String)>,
    /// Attempts whose end as COMPLETE was acknowledged.
    pub(crate) complete: BTreeSet<(i64, u32)>,
    /// Writes behind the end of their lease that were refused.
    pub(crate) refused: u64,
    /// Writes that were refused for want of space.
    pub(crate) full: u64,
    /// Refusals that must not be.
    pub(crate) complaints: Vec<String>,
}

impl Ledger {
    pub(crate) fn open(&self) -> MutexGuard<'_, Entries> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn complain(&self, text: String) {
        self.open().complaints.push(text);
    }
}

impl Entries {
    /// How many answers were written down.
    pub(crate) fn len(&self) -> usize {
        self.leases.len() + self.measurements.len() + self.checkpoints.len() + self.complete.len()
    }
}
