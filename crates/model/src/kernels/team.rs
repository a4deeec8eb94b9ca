//! A trainer's threads: they take the same part of every piece of work, and a call ends when all have ended.
//!
//! A time step of a small model takes a fraction of a millisecond, so the threads wait for work by spinning a little
//! before they sleep, and handing it out allocates nothing.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;

/// Turns of spinning before a thread sleeps: some tens of microseconds.
const SPINS: u32 = 4_000;

/// A piece of work, called with each thread's index. The lifetime is a lie that [`Team::run`] makes good by returning
/// only when every thread has ended it.
type Work = &'static (dyn Fn(usize) + Sync);

struct Shared {
    /// Counts pieces of work.
    turn: AtomicUsize,
    work: Mutex<Option<Work>>,
    /// Threads that have not ended the current piece.
    left: AtomicUsize,
    panicked: AtomicBool,
    stop: AtomicBool,
    /// Where sleepers wait for the next turn.
    asleep: Mutex<()>,
    wake: Condvar,
}

/// Threads that work together: the caller's and, beside it, `threads - 1` of their own.
pub(crate) struct Team {
    shared: Arc<Shared>,
    helpers: Vec<JoinHandle<()>>,
}

impl Team {
    /// Starts the helpers. Where the system gives fewer threads than asked for, the team is smaller.
    pub(crate) fn new(threads: usize) -> Self {
        let shared = Arc::new(Shared {
            turn: AtomicUsize::new(0),
            work: Mutex::new(None),
            left: AtomicUsize::new(0),
            panicked: AtomicBool::new(false),
            stop: AtomicBool::new(false),
            asleep: Mutex::new(()),
            wake: Condvar::new(),
        });
        let start = |index: usize| {
            let shared = Arc::clone(&shared);
            let name = format!("kapell-train-{index}");
            std::thread::Builder::new().name(name).spawn(move || help(&shared, index)).ok()
        };
        Self { helpers: (1..threads).map_while(start).collect(), shared }
    }

    /// Threads, the caller's included.
    pub(crate) fn threads(&self) -> usize {
        self.helpers.len() + 1
    }

    /// Calls `work` with every index below [`Self::threads`], each on its own thread, and waits for all.
    ///
    /// # Panics
    /// Where `work` does, after all threads have ended.
    pub(crate) fn run(&mut self, work: &(dyn Fn(usize) + Sync)) {
        if self.helpers.is_empty() {
            return work(0);
        }
        let shared = &*self.shared;
        // SAFETY: only the lifetime changes. The reference is used by the helpers alone, between the turn's beginning
        // below and their counting down `left`; this function leaves only after `left` is zero, even if `work` panics.
        let lasting = unsafe { std::mem::transmute::<&(dyn Fn(usize) + Sync), Work>(work) };
        *lock(&shared.work) = Some(lasting);
        shared.left.store(self.helpers.len(), Ordering::Relaxed);
        shared.begin_turn();
        let own = catch_unwind(AssertUnwindSafe(|| work(0)));
        wait_until(|| shared.left.load(Ordering::Acquire) == 0);
        *lock(&shared.work) = None;
        if let Err(panic) = own {
            resume_unwind(panic);
        }
        assert!(!shared.panicked.swap(false, Ordering::Relaxed), "a thread of the team panicked");
    }

    /// Calls `work` once with each of `parts`, part p on thread p modulo the number of threads.
    pub(crate) fn each<P: Send>(&mut self, parts: &mut [P], work: impl Fn(&mut P) + Sync) {
        let (count, threads) = (parts.len(), self.threads());
        let first = Parts(parts.as_mut_ptr());
        self.run(&|index| {
            let first = &first;
            for part in (index..count).step_by(threads) {
                // SAFETY: `part` is below the slice's length, and no other thread has the same remainder modulo the
                // number of threads, so that this is the only reference to the part.
                work(unsafe { &mut *first.0.add(part) });
            }
        });
    }
}

/// The first of the parts that [`Team::each`] deals out.
struct Parts<P>(*mut P);

// SAFETY: the threads reach disjoint elements through it, as exclusive references to what may be sent to them.
unsafe impl<P: Send> Sync for Parts<P> {}

impl Shared {
    fn begin_turn(&self) {
        // Under the lock, so that no helper can look, find nothing, and fall asleep in between.
        let _asleep = lock(&self.asleep);
        self.turn.fetch_add(1, Ordering::Release);
        self.wake.notify_all();
    }

    /// Waits for a turn other than `seen`.
    fn next_turn(&self, seen: usize) -> usize {
        for _ in 0..SPINS {
            let turn = self.turn.load(Ordering::Acquire);
            if turn != seen {
                return turn;
            }
            std::hint::spin_loop();
        }
        let mut asleep = lock(&self.asleep);
        loop {
            let turn = self.turn.load(Ordering::Acquire);
            if turn != seen {
                return turn;
            }
            asleep = self.wake.wait(asleep).unwrap_or_else(std::sync::PoisonError::into_inner);
        }
    }
}

fn help(shared: &Shared, index: usize) {
    let mut turn = 0;
    loop {
        turn = shared.next_turn(turn);
        if shared.stop.load(Ordering::Relaxed) {
            return;
        }
        let work = *lock(&shared.work);
        if work.is_some_and(|work| catch_unwind(AssertUnwindSafe(|| work(index))).is_err()) {
            shared.panicked.store(true, Ordering::Relaxed);
        }
        shared.left.fetch_sub(1, Ordering::Release);
    }
}

/// Spins, then gives the processor away between looks.
fn wait_until(done: impl Fn() -> bool) {
    let mut turns = 0_u32;
    while !done() {
        turns = turns.saturating_add(1);
        if turns < SPINS {
            std::hint::spin_loop();
        } else {
            std::thread::yield_now();
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

impl Drop for Team {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        self.shared.begin_turn();
        for helper in self.helpers.drain(..) {
            // A panic of the helper was passed on by `run`.
            let _ = helper.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_is_worked_on_once_a_call_whatever_the_number_of_threads() {
        for threads in 1..5 {
            let mut team = Team::new(threads);
            let mut parts = [0_u32; 7];
            for _ in 0..100 {
                team.each(&mut parts, |part| *part += 1);
            }
            assert_eq!(parts, [100; 7]);
        }
    }

    #[test]
    fn a_panic_of_any_thread_reaches_the_caller_and_the_team_goes_on() {
        let mut team = Team::new(3);
        for bad in 0..3 {
            let work = |index: usize| assert_ne!(index, bad, "meant");
            assert!(catch_unwind(AssertUnwindSafe(|| team.run(&work))).is_err());
        }
        let calls = AtomicUsize::new(0);
        team.run(&|_| {
            calls.fetch_add(1, Ordering::Relaxed);
        });
        assert_eq!(calls.into_inner(), 3);
    }
}
