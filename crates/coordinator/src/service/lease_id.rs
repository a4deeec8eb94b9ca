//! Trials as workers name them. A lease is of one life of the store: after a restore to an older state the numbers of
//! trials and attempts come again, and a worker that still holds attempt 3 of what was must not write to the attempt 3
//! that somebody else is given. So the number that a worker gets for a trial, and gives back with every write, has the
//! store's life in its upper half; what names another life holds nothing here. Nor does what names a trial of another
//! coordinator's store, found in the place of the worker's own: every store numbers its trials from a place drawn by lot.

/// Trials have numbers below 2^32.
const TRIAL_BITS: u32 = 32;

/// What a worker is told.
pub(crate) fn to_wire(life: u32, trial: i64) -> i64 {
    (i64::from(life) << TRIAL_BITS) | trial
}

/// The trial that a worker names; none, if it is of another life.
pub(crate) fn from_wire(life: u32, trial_id: i64) -> Option<i64> {
    let trial = trial_id & ((1 << TRIAL_BITS) - 1);
    (trial_id >> TRIAL_BITS == i64::from(life)).then_some(trial)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trial_is_known_in_its_own_life_only() {
        for life in [0, 1, 7, 0x7FFF_FFFF] {
            for trial in [1, 864, (1 << 32) - 1] {
                let wire = to_wire(life, trial);
                assert!(wire > 0);
                assert_eq!(from_wire(life, wire), Some(trial));
                for other in [0, 1, 7, 0x7FFF_FFFF] {
                    assert!(other == life || from_wire(other, wire).is_none());
                }
            }
        }
        assert_eq!(from_wire(0, -1), None);
        assert_eq!(to_wire(0, 5), 5, "a store that was never restored has plain numbers");
    }
}
