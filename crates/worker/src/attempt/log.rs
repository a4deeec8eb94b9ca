//! What an attempt logs: to the worker's own log, and kept to be sent with its end.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use kapell_rpc::view::instant;

/// Longer logs lose their beginning.
const BYTES_MAX: usize = 256 * 1024;
/// So do longer lines lose their end.
const LINE_BYTES_MAX: usize = 32 * 1024;

#[derive(Debug, Default)]
pub(crate) struct Log(Mutex<Lines>);

#[derive(Debug, Default)]
struct Lines {
    lines: VecDeque<String>,
    /// Of the lines that are kept, and of all there ever were.
    bytes: usize,
    total: u64,
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
        let end = line.floor_char_boundary(LINE_BYTES_MAX);
        let line = format!("{at} {}\n", line.get(..end).unwrap_or_default());
        let mut log = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        log.bytes += line.len();
        log.total += line.len() as u64;
        log.lines.push_back(line);
        while log.bytes > BYTES_MAX {
            let Some(oldest) = log.lines.pop_front() else { break };
            log.bytes -= oldest.len();
        }
    }

    /// At most 256 KiB of whole lines, the newest; and the bytes of all lines there were.
    pub(crate) fn tail(&self) -> (String, u64) {
        let log = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        (log.lines.iter().map(String::as_str).collect(), log.total)
    }

    /// Whole lines from byte `start` of the whole log on, or from the oldest that is kept, at most `max` bytes; with
    /// the byte at which they begin. Empty, if there is nothing new.
    pub(crate) fn since(&self, start: u64, max: usize) -> (u64, String) {
        let log = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut at = log.total - log.bytes as u64;
        let (mut from, mut text) = (start.max(at), String::new());
        for line in &log.lines {
            if at >= start {
                if text.is_empty() {
                    from = at;
                }
                if text.len() + line.len() > max {
                    break;
                }
                text.push_str(line);
            }
            at += line.len() as u64;
        }
        (from, text)
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
        let (tail, total) = log.tail();
        assert!(total > 10_000 * 50);
        assert!(tail.len() <= BYTES_MAX && tail.len() > BYTES_MAX / 2);
        assert!(tail.lines().all(|line| line.contains("Z ")), "each line has its instant");
        assert!(tail.contains("line 9999") && !tail.contains("line 1 "));
    }

    #[test]
    fn a_log_is_given_on_piece_by_piece_and_nothing_twice() {
        let log = Log::default();
        assert_eq!(log.since(0, 1000), (0, String::new()));
        (0..40).for_each(|i| log.info(&format!("line {i}")));
        let (whole, total) = log.tail();
        let (mut sent, mut pieces) = (String::new(), 0);
        while (sent.len() as u64) < total {
            let (from, text) = log.since(sent.len() as u64, 200);
            assert_eq!(from, sent.len() as u64);
            assert!(!text.is_empty() && text.len() <= 200 && text.ends_with('\n'));
            sent.push_str(&text);
            pieces += 1;
        }
        assert_eq!(sent, whole);
        assert!(pieces > 5);
        assert_eq!(log.since(total, 200).1, "");
        (0..5000).for_each(|i| log.info(&format!("{i} {}", "x".repeat(90))));
        let (from, text) = log.since(total, 1000);
        assert!(from > total && text.ends_with('\n'), "what is not kept any more is left out");
    }
}
