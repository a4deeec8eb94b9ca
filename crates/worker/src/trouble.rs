//! After a fault of this machine: no work for a while, longer each time, until an attempt goes well.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use kapell_rpc::client::Backoff;

const PAUSE_MIN: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(120);

#[derive(Debug)]
pub(crate) struct Trouble(Mutex<State>);

#[derive(Debug)]
struct State {
    pauses: Backoff,
    until: Option<Instant>,
}

impl Trouble {
    pub(crate) fn new() -> Self {
        Self(Mutex::new(State { pauses: Backoff::new(PAUSE_MIN, PAUSE_MAX), until: None }))
    }

    /// An attempt met a fault of this machine. Gives the pause that begins; none if one is on: attempts that end
    /// side by side meet one fault.
    pub(crate) fn met(&self) -> Option<Duration> {
        let mut state = self.lock();
        if state.until.is_some_and(|until| Instant::now() < until) {
            return None;
        }
        let pause = state.pauses.delay();
        state.until = Some(Instant::now() + pause);
        Some(pause)
    }

    /// An attempt went well.
    pub(crate) fn passed(&self) {
        *self.lock() = State { pauses: Backoff::new(PAUSE_MIN, PAUSE_MAX), until: None };
    }

    /// Waits until no pause is on.
    pub(crate) async fn pause(&self) {
        loop {
            let until = self.lock().until.filter(|until| Instant::now() < *until);
            let Some(until) = until else { return };
            tokio::time::sleep_until(until.into()).await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_from_fault_to_fault_and_begin_anew_behind_a_success() {
        let trouble = Trouble::new();
        let met_later = || {
            trouble.lock().until = None;
            trouble.met().unwrap()
        };
        let pauses: Vec<Duration> = (0..4).map(|_| met_later()).collect();
        for (pause, base_s) in pauses.iter().zip([1, 2, 4, 8]) {
            let base = Duration::from_secs(base_s);
            assert!(*pause >= base / 2 && *pause <= base * 3 / 2, "{pause:?} around {base:?}");
        }
        assert_eq!(trouble.met(), None, "one pause is on");
        trouble.passed();
        assert!(trouble.met().unwrap() <= PAUSE_MIN * 3 / 2);
    }
}
