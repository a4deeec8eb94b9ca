//! Short forms of what the simulation is for; the example `simulate` runs longer ones.

use super::*;

#[test]
fn a_history_is_the_same_whenever_it_is_run() {
    for seed in 0..20 {
        let once = run(seed, &Mixture::ALL, None, false).unwrap();
        assert_eq!(run(seed, &Mixture::ALL, None, false).unwrap(), once);
        assert_eq!(run(seed, &Mixture::ALL, None, true).unwrap(), once, "being watched changes nothing");
    }
}

#[test]
fn everything_at_once_breaks_no_invariant() {
    let mut met = Counts::default();
    for seed in 0..1500 {
        met += run(seed, &Mixture::ALL, None, false).unwrap_or_else(|failure| panic!("{failure}"));
    }
    assert!(met.by_hand > 0 && met.stale_writes > 0 && met.batches_lost > 0 && met.lost > 0, "{met}");
    assert!(met.events / met.seeds > 300, "{met}");
}

#[test]
fn every_row_of_the_promises_holds_in_its_histories() {
    for row in Row::ALL {
        run_row(&row, 0..700, None).unwrap_or_else(|failure| panic!("row {}: {failure}", row.number));
    }
}

#[test]
fn histories_that_meet_nothing_show_nothing() {
    for row in Row::ALL {
        let failure = run_row(&row, 0..0, None).unwrap_err();
        assert!(failure.what.contains("have not met"), "{failure}");
    }
}

/// The first history that a bug does not survive.
fn caught(bug: Bug) -> Option<Box<Failure>> {
    const SEEDS: u64 = 1500;
    let mixtures = [Mixture::ALL, Mixture::STALE, Mixture::PARTITIONS];
    let tries = (0..SEEDS).flat_map(|seed| mixtures.map(|mixture| (seed, mixture)));
    tries.into_iter().find_map(|(seed, mixture)| run(seed, &mixture, Some(bug), false).err())
}

#[test]
fn every_seeded_bug_is_caught_and_its_history_replays() {
    for bug in Bug::ALL {
        let found = caught(bug).unwrap_or_else(|| panic!("nobody has noticed {bug:?}"));
        let mixture = ALL_MIXTURES.into_iter().find(|m| m.name == found.mixture).unwrap();
        let again = run(found.seed, &mixture, Some(bug), true).unwrap_err();
        assert_eq!((again.at_us, again.events, &again.what), (found.at_us, found.events, &found.what));
        assert!(!again.trace.is_empty(), "{bug:?}");
        assert!(again.to_string().contains(&format!("--seed {} --trace", found.seed)), "{again}");
        run(found.seed, &mixture, None, false).unwrap_or_else(|failure| panic!("without a bug: {failure}"));
    }
}
