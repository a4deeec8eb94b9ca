//! Leases work, trains, streams measurements and checkpoints.
