//! The cores that this process may use.

/// How many threads can compute at once: what the affinity mask allows, and no more than the CPU quota of the control
/// group (v1 or v2) and of every group above it, rounded down; at least one.
///
/// The standard library reads all of these.
#[must_use]
pub fn available() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

/// Equal parts of the cores, one for each of so many processes; the first ones get what does not divide evenly.
/// With more processes than cores each gets one.
#[must_use]
pub fn shares(cores: usize, processes: usize) -> Vec<usize> {
    let share = |i| (cores / processes.max(1) + usize::from(i < cores % processes.max(1))).max(1);
    (0..processes).map(share).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mask_of_one_core_leaves_one() {
        let pinned = || {
            let all = rustix::thread::sched_getaffinity(None).unwrap();
            let first = (0..rustix::thread::CpuSet::MAX_CPU).find(|cpu| all.is_set(*cpu)).unwrap();
            let mut one = rustix::thread::CpuSet::new();
            one.set(first);
            rustix::thread::sched_setaffinity(None, &one).unwrap();
            available()
        };
        // The mask is the thread's, and ends with it.
        assert_eq!(std::thread::spawn(pinned).join().unwrap(), 1);
    }

    #[test]
    fn processes_share_all_cores_and_no_core_twice() {
        for cores in 1..20 {
            for processes in 1..=cores {
                let shares = shares(cores, processes);
                assert_eq!(shares.iter().sum::<usize>(), cores);
                assert!(shares.iter().max().unwrap() - shares.iter().min().unwrap() <= 1);
            }
        }
        assert_eq!(shares(2, 3), [1, 1, 1]);
    }
}
