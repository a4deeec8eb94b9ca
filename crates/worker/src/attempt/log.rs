//! What an attempt logs: to the worker's own log, and kept to be sent with its end.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use kapell_rpc::view::instant;

/// Longer logs lose their beginning.
const BYTES_MAX: usize = 256 * 1024;

#[derive(Debug, Default)]
pub(crate) struct Log(Mutex<Lines>);

#[derive(Debug, Default)]
struct Lines {
    lines: VecDeque<String>,
    bytes: usize,
}

impl Log {
    pub(crate) fn info(&self, line: &str) {
        tracing::info!("{line}");
        self.keep(line);
    }

    pub(crate) fn warn(&self, line: &str) {
        tracing::warn!("{line}");
        self.keep(line);
    }

    fn keep(&self, line: &str) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
        let at = i64::try_from(now).ok().and_then(instant).unwrap_or_default();
        let end = line.floor_char_boundary(BYTES_MAX / 4);
        let line = format!("{at} {}\n", line.get(..end).unwrap_or_default());
        let mut log = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        log.bytes += line.len();
        log.lines.push_back(line);
        while log.bytes > BYTES_MAX {
            let Some(oldest) = log.lines.pop_front() else { break };
            log.bytes -= oldest.len();
        }
    }

    /// At most 256 KiB of whole lines, the newest.
    pub(crate) fn tail(&self) -> String {
        let log = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        log.lines.iter().map(String::as_str).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_log_keeps_its_newest_whole_lines() {
        let log = Log::default();
        for i in 0..10_000 {
            log.info(&format!("line {i} {}", "x".repeat(50)));
        }
        log.warn(&"y".repeat(1 << 20));
        let tail = log.tail();
        assert!(tail.len() <= BYTES_MAX && tail.len() > BYTES_MAX / 2);
        assert!(tail.lines().all(|line| line.contains("Z ")), "each line has its instant");
        assert!(tail.contains("line 9999") && !tail.contains("line 1 "));
    }
}
