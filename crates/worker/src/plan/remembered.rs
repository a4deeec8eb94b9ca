//! What was measured before, in a file of the cache folder for each kind of machine.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use kapell_rpc::digest;
use serde::{Deserialize, Serialize};

use super::Speed;
use crate::machine;

/// How long a process waits for another one that measures.
const PATIENCE: Duration = Duration::from_secs(15);
const GLANCE: Duration = Duration::from_millis(20);

/// What speeds depend on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Key {
    processor: String,
    cores: usize,
    program_version: String,
    numerics: String,
}

#[derive(Serialize, Deserialize)]
struct Memory {
    key: Key,
    speeds: Vec<Speed>,
}

/// Of this machine and program.
pub(super) fn key(cores: usize) -> Key {
    let numerics = machine::numerics();
    Key {
        processor: machine::processor(),
        cores,
        program_version: numerics.program_version,
        numerics: numerics.kind,
    }
}

/// Where the speeds of this key are kept.
pub(super) fn path(cache_dir: &Path, key: &Key) -> PathBuf {
    let name = digest::of_bytes(serde_json::to_string(key).unwrap_or_default().as_bytes());
    cache_dir.join(format!("cores-{}.json", &digest::hex_part(&name).unwrap_or_default()[..16]))
}

/// The speeds of this key, if they are known and can be true.
pub(super) fn read(cache_dir: &Path, key: &Key) -> Option<Vec<Speed>> {
    let bytes = std::fs::read(path(cache_dir, key)).ok()?;
    let memory: Memory = serde_json::from_slice(&bytes).ok()?;
    let possible = |speed: &Speed| {
        let plan = speed.plan;
        let threads = plan.slots.checked_mul(plan.threads);
        speed.tokens_per_s > 0.0 && threads.is_some_and(|n| (1..=key.cores).contains(&n))
    };
    let whole = memory.key == *key && !memory.speeds.is_empty() && memory.speeds.iter().all(possible);
    whole.then_some(memory.speeds)
}

/// Keeps speeds for the next process. Without the file that one only measures again.
pub(super) fn write(cache_dir: &Path, key: &Key, speeds: &[Speed]) {
    let path = path(cache_dir, key);
    let unfinished = path.with_extension(format!("{}.writing", std::process::id()));
    let memory = Memory { key: key.clone(), speeds: speeds.to_vec() };
    let written = serde_json::to_vec_pretty(&memory)
        .map_err(std::io::Error::from)
        .and_then(|bytes| std::fs::write(&unfinished, bytes))
        .and_then(|()| std::fs::rename(&unfinished, &path));
    if let Err(error) = written {
        tracing::warn!(%error, path = %path.display(), "what was measured cannot be kept");
        // It may not even have been made.
        let _ = std::fs::remove_file(&unfinished);
    }
}

/// A lock that one process has at a time, for as long as it is kept. Nothing where it cannot be had in time: then
/// two may measure at once, and the worst is a poor choice.
pub(super) fn turn(cache_dir: &Path, abandon: &AtomicBool) -> Option<File> {
    std::fs::create_dir_all(cache_dir).ok()?;
    let file = File::create(cache_dir.join("cores.lock")).ok()?;
    let begun = Instant::now();
    while begun.elapsed() < PATIENCE && !abandon.load(Ordering::Relaxed) {
        if file.try_lock().is_ok() {
            return Some(file);
        }
        std::thread::sleep(GLANCE);
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_process_has_its_turn_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let (go_on, stop) = (AtomicBool::new(false), AtomicBool::new(true));
        let first = turn(dir.path(), &go_on);
        assert!(first.is_some());
        std::thread::scope(|scope| {
            let second = scope.spawn(|| turn(dir.path(), &go_on));
            assert!(turn(dir.path(), &stop).is_none());
            assert!(!second.is_finished());
            drop(first);
            assert!(second.join().unwrap().is_some());
        });
    }
}
