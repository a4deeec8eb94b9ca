//! Locks and shared memory of a database, between the connections of one process.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::AtomicU64;

/// SQLite's levels of a lock on the database file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(crate) enum Level {
    #[default]
    None,
    Shared,
    Reserved,
    Pending,
    Exclusive,
}

/// Who holds what of one file: connections by number.
#[derive(Debug, Default)]
pub(crate) struct FileLocks {
    held: HashMap<u64, Level>,
    /// The slots of the shared memory: connections that share, or the one that excludes.
    slots: [Slot; SLOTS],
    regions: Vec<Box<[AtomicU64]>>,
    mapped: HashSet<u64>,
}

/// Slots that SQLite locks in shared memory (SQLITE_SHM_NLOCK).
pub(crate) const SLOTS: usize = 8;

#[derive(Debug, Default)]
struct Slot {
    shared: Vec<u64>,
    exclusive: Option<u64>,
}

impl FileLocks {
    /// Raises a connection's lock. False: busy.
    pub(crate) fn lock(&mut self, who: u64, wanted: Level) -> bool {
        let mine = self.held.get(&who).copied().unwrap_or_default();
        if mine >= wanted {
            return true;
        }
        let others = || self.held.iter().filter(|(other, _)| **other != who).map(|(_, level)| *level);
        let granted = match wanted {
            Level::None | Level::Pending => mine,
            Level::Shared if others().any(|l| l >= Level::Pending) => return false,
            Level::Reserved if others().any(|l| l >= Level::Reserved) => return false,
            Level::Exclusive if others().any(|l| l >= Level::Reserved) => return false,
            Level::Exclusive if others().any(|l| l >= Level::Shared) => Level::Pending,
            level => level,
        };
        self.held.insert(who, granted);
        granted >= wanted
    }

    pub(crate) fn unlock(&mut self, who: u64, to: Level) {
        match to {
            Level::None => drop(self.held.remove(&who)),
            level => drop(self.held.insert(who, level)),
        }
    }

    pub(crate) fn reserved(&self) -> bool {
        self.held.values().any(|l| *l >= Level::Reserved)
    }

    /// Locks slots of the shared memory, all or none. False: busy.
    pub(crate) fn shm_lock(&mut self, who: u64, slots: std::ops::Range<usize>, exclusive: bool) -> bool {
        let free = |slot: &Slot| {
            slot.exclusive.is_none_or(|holder| holder == who)
                && (!exclusive || slot.shared.iter().all(|holder| *holder == who))
        };
        if !self.slots[slots.clone()].iter().all(free) {
            return false;
        }
        for slot in &mut self.slots[slots] {
            match exclusive {
                true => slot.exclusive = Some(who),
                false if slot.shared.contains(&who) => {}
                false => slot.shared.push(who),
            }
        }
        true
    }

    pub(crate) fn shm_unlock(&mut self, who: u64, slots: std::ops::Range<usize>) {
        for slot in &mut self.slots[slots] {
            slot.shared.retain(|holder| *holder != who);
            slot.exclusive = slot.exclusive.filter(|holder| *holder != who);
        }
    }

    /// The address of a region, made if need be.
    pub(crate) fn region(
        &mut self,
        who: u64,
        index: usize,
        bytes: usize,
        extend: bool,
    ) -> Option<*const AtomicU64> {
        self.mapped.insert(who);
        while self.regions.len() <= index {
            if !extend {
                return None;
            }
            self.regions.push((0..bytes.div_ceil(8)).map(|_| AtomicU64::new(0)).collect());
        }
        Some(self.regions[index].as_ptr())
    }

    /// A connection lets go of the shared memory; with the last one it is gone.
    pub(crate) fn unmap(&mut self, who: u64) {
        self.shm_unlock(who, 0..SLOTS);
        if self.mapped.remove(&who) && self.mapped.is_empty() {
            self.regions.clear();
        }
    }
}
