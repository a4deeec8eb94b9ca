//! Ends a test's process where the test does not end: a hang is a failure with a name, never a silent wait.

use std::io::Write as _;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::time::Duration;

/// Several times what the slowest test takes on a loaded machine.
const PATIENCE: Duration = Duration::from_secs(600);

/// Watches the test that makes it, until it is dropped.
pub(crate) struct Watchdog {
    _lives: Sender<()>,
}

impl Watchdog {
    pub(crate) fn new() -> Self {
        let (lives, ended) = channel();
        let test = std::thread::current().name().unwrap_or("a test").to_owned();
        std::thread::spawn(move || {
            if ended.recv_timeout(PATIENCE) == Err(RecvTimeoutError::Timeout) {
                // Past the harness, which keeps what a test prints until it ends.
                let _ = writeln!(std::io::stderr(), "{test} hangs: no end after {} s", PATIENCE.as_secs());
                std::process::exit(101);
            }
        });
        Self { _lives: lives }
    }
}
