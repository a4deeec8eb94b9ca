//! The reference model of the store and the real one: the same random operations, the same answers, the same content.
//!
//! Operations come in batches, which the writer commits together, so a refused one must leave the others alone.

mod ops;
mod real;

use std::sync::Arc;
use std::time::Duration;

use kapell_dispatch::sim::store::Reference;
use kapell_dispatch::sim::{Random, check_trial};

use super::Store;
use crate::live::Live;
use ops::{Sequence, run_on_model};

/// Sequences of the short form, and operations of each.
const SEQUENCES: u64 = 300;
const BATCHES: u64 = 16;

/// The real store, and the model of it.
struct Pair {
    store: Store,
    live: Arc<Live>,
    model: Reference,
    _dir: tempfile::TempDir,
}

impl Pair {
    async fn open() -> Self {
        // In memory where that is possible: that commits are durable is shown elsewhere.
        let dir = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
        // No worker counts as there, so that nothing depends on how fast the machine is.
        let live = Arc::new(Live::new(Duration::ZERO));
        let (store, _, _) = super::open(&dir.path().join("kapell.db"), Arc::clone(&live)).await.unwrap();
        let pair = Self { store, live, model: Reference::default(), _dir: dir };
        real::prepare(&pair.store).await;
        pair
    }

    /// Runs a sequence on both. Gives how many operations were accepted and refused.
    async fn run(&mut self, seed: u64) -> Result<(u64, u64), String> {
        let mut sequence = Sequence::new(seed, Random::new(seed));
        let (mut accepted, mut refused) = (0, 0);
        for batch in 0..=BATCHES {
            let n = if batch == BATCHES { 0 } else { sequence.random.range(1, 8) };
            let mut ops: Vec<ops::Op> = Vec::new();
            let mut wanted = Vec::new();
            for step in 0..n {
                let op = sequence.next(&self.model, batch == 0 && step < 2);
                // What meets the leases in memory has a batch of its own: they follow the commit. And the model does
                // things in the order in which the writer does them.
                let alone = matches!(op, ops::Op::Adopt | ops::Op::Beat { .. });
                let late = ops.last().is_some_and(|last| last.turn() > op.turn());
                if (alone && step > 0) || late {
                    break;
                }
                let answer = run_on_model(&mut self.model, &op);
                *(if answer.starts_with("refused") { &mut refused } else { &mut accepted }) += 1;
                wanted.push(answer);
                ops.push(op);
                if alone {
                    break;
                }
            }
            if batch == BATCHES {
                for op in sequence.end() {
                    wanted.push(run_on_model(&mut self.model, &op));
                    ops.push(op);
                }
            }
            self.model.after.clear();
            let answers = real::run(&self.store, &self.live, &ops).await;
            for ((op, answer), wanted) in ops.iter().zip(&answers).zip(&wanted) {
                if answer != wanted {
                    return Err(format!("{op:?}: the store says {answer:?}, the model {wanted:?}"));
                }
            }
            self.compare(&ops).await?;
        }
        Ok((accepted, refused))
    }

    async fn compare(&self, ops: &[ops::Op]) -> Result<(), String> {
        for (id, trial) in &self.model.trials {
            check_trial(trial).map_err(|what| format!("the model's trial {id}: {what}"))?;
        }
        let (dump, wanted) = (real::dump(&self.store).await, self.model.dump());
        if dump == wanted {
            return Ok(());
        }
        let differs = dump.lines().zip(wanted.lines()).find(|(a, b)| a != b);
        let lengths = (dump.lines().count(), wanted.lines().count());
        Err(format!("after {ops:?}:\nthe store and the model differ {lengths:?} in {differs:#?}"))
    }
}

#[tokio::test]
async fn the_store_does_what_the_reference_model_does() {
    let mut pair = Pair::open().await;
    let (mut accepted, mut refused) = (0, 0);
    for seed in 0..SEQUENCES {
        match pair.run(seed).await {
            Ok(counts) => {
                accepted += counts.0;
                refused += counts.1;
            }
            Err(what) => panic!("sequence {seed}: {what}"),
        }
    }
    assert!(accepted > 10 * SEQUENCES && refused > 4 * SEQUENCES, "accepted {accepted}, refused {refused}");
}
