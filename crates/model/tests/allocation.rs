//! What training takes of the allocator: nothing in an update after the first, and as much memory as is reported.

use std::alloc::System;
use std::sync::Arc;

use kapell_model::{Step, TrainConfig, Trainer, bench};
use kapell_music::corpus::{Corpus, Kind, PartOfSplit, Piece, Protocol};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

fn corpus(tokens: u16) -> Arc<Corpus> {
    let piece = |(id, part): (&str, PartOfSplit)| Piece {
        id: id.into(),
        part,
        tokens: (0..tokens).map(|place| place * 7 % 110).collect(),
    };
    Arc::new(Corpus {
        name: "sevens".into(),
        kind: Kind::Text,
        protocol: Protocol::Pieces,
        vocabulary: (0..110).map(|token| format!("t{token}")).collect(),
        pieces: [("a", PartOfSplit::Train), ("b", PartOfSplit::Val)].map(piece).into(),
    })
}

/// Without the usual harness: the allocator counts for the whole process, and its threads allocate now and then.
fn main() {
    updates_allocate_nothing_after_the_first_and_take_the_memory_that_is_reported();
}

fn updates_allocate_nothing_after_the_first_and_take_the_memory_that_is_reported() {
    for (threads, batch_norm, dropout) in [(1, true, 0.3), (3, true, 0.3), (2, false, 0.0)] {
        let config = TrainConfig {
            layers: 2,
            hidden: 24,
            embedding: 8,
            seq_len: 10,
            batch_size: 7,
            batch_norm,
            dropout,
            threads,
            ..TrainConfig::default()
        };
        let mut trainer = Trainer::new(config, corpus(3000)).expect("a corpus of many windows");
        assert!(trainer.updates_per_epoch() > 30);
        trainer.step().expect("finite");
        let region = Region::new(ALLOCATOR);
        for update in 2..=30 {
            assert!(matches!(trainer.step().expect("finite"), Step::Updated { .. }), "{update}");
        }
        let change = region.change();
        assert_eq!((change.allocations, change.reallocations), (0, 0), "with {threads} threads");
    }

    let config = TrainConfig { threads: 2, ..TrainConfig::default() };
    assert_eq!((config.layers, config.hidden, config.seq_len, config.batch_size), (3, 256, 128, 50));
    let reported = bench::memory_bytes(&config, 110);
    let corpus = corpus(6500);
    let region = Region::new(ALLOCATOR);
    let trainer = Trainer::new(config, corpus).expect("one window");
    let change = region.change();
    let taken = change.bytes_allocated - change.bytes_deallocated;
    drop(trainer);
    assert!(taken.abs_diff(reported) < reported / 50, "{taken} bytes are taken, {reported} reported");
    assert!(reported < 400_000_000, "the winner of BachBot's search trains in {reported} bytes");
}
