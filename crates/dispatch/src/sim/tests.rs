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
