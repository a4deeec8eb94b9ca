//! Drives the real binary in a folder of its own: commands, daemons, signals, JSON.

#[path = "../support/watchdog.rs"]
mod watchdog;

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use watchdog::Watchdog;

/// Nothing here takes longer; a test that waits this long has failed.
const PATIENCE: Duration = Duration::from_secs(120);

/// A study that a laptop trains in seconds, on the corpus that needs no network.
pub(crate) fn study(name: &str, space: &str, train: &str) -> String {
    format!(
        "name = \"{name}\"\ncorpus = \"exercises\"\ncheckpoint = {{ every = \"1s\" }}\n[space]\n{space}\n\
         [train]\nlayers = 1\nembedding = 8\nseq_len = 32\n{train}\n"
    )
}

/// A home of its own for everything that the program keeps.
pub(crate) struct House {
    pub(crate) home: tempfile::TempDir,
    /// Where this house's coordinator listens, once it does.
    pub(crate) url: String,
    _watchdog: Watchdog,
}

/// A daemon that ends with the test.
pub(crate) struct Daemon {
    pub(crate) child: Child,
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // It may have ended already, which is as good.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Daemon {
    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    pub(crate) fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_raw(self.child.id().try_into().unwrap()).unwrap();
        rustix::process::kill_process(pid, signal).unwrap();
    }

    /// Waits for it to end by itself.
    pub(crate) fn ended(&mut self) -> i32 {
        let mut code = None;
        wait_until("the process to end", || {
            code = self.child.try_wait().unwrap();
            code.is_some()
        });
        code.and_then(|c| c.code()).unwrap_or(-1)
    }
}

/// Asks again and again until it is so.
pub(crate) fn wait_until(what: &str, mut so: impl FnMut() -> bool) {
    let start = Instant::now();
    while !so() {
        assert!(start.elapsed() < PATIENCE, "waited {PATIENCE:?} for {what}");
        std::thread::sleep(Duration::from_millis(30));
    }
}

/// What a command did.
pub(crate) struct Ran {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Ran {
    /// The JSON objects on standard output, a line each.
    pub(crate) fn json(&self) -> Vec<Value> {
        self.stdout
            .lines()
            .map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{line}: {e}")))
            .collect()
    }

    pub(crate) fn one(&self) -> Value {
        self.json().pop().unwrap_or_else(|| panic!("no output; {}", self.stderr))
    }

    /// The error object on standard error.
    pub(crate) fn error(&self) -> Value {
        let line = self.stderr.lines().last().unwrap_or_default();
        serde_json::from_str::<Value>(line).unwrap_or_else(|e| panic!("{}: {e}", self.stderr))["error"]
            .clone()
    }

    #[track_caller]
    pub(crate) fn ok(self) -> Self {
        assert_eq!(self.code, 0, "stdout: {}\nstderr: {}", self.stdout, self.stderr);
        self
    }

    #[track_caller]
    pub(crate) fn fails(self, code: i32) -> Self {
        assert_eq!(self.code, code, "stdout: {}\nstderr: {}", self.stdout, self.stderr);
        self
    }
}

impl House {
    pub(crate) fn new() -> Self {
        Self {
            home: tempfile::tempdir().unwrap(),
            url: "http://127.0.0.1:1".into(),
            _watchdog: Watchdog::new(),
        }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }

    pub(crate) fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path(name);
        std::fs::write(&path, text).unwrap();
        path
    }

    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_kapell"));
        command.args(args).env("HOME", self.home.path()).env("KAPELL_COORDINATOR", &self.url);
        command.env_remove("XDG_DATA_HOME").env_remove("XDG_CACHE_HOME").env_remove("RUST_LOG");
        command.env("KAPELL_CORPUS_DIR", self.path("corpora"));
        command
    }

    /// Runs a command to its end.
    pub(crate) fn run(&self, args: &[&str]) -> Ran {
        let Output { status, stdout, stderr } = self.command(args).stdin(Stdio::null()).output().unwrap();
        Ran {
            code: status.code().unwrap_or(-1),
            stdout: String::from_utf8(stdout).unwrap(),
            stderr: String::from_utf8(stderr).unwrap(),
        }
    }

    pub(crate) fn daemon(&self, args: &[&str], log: &str) -> Daemon {
        let log = std::fs::File::options().create(true).append(true).open(self.path(log)).unwrap();
        let child =
            self.command(args).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().unwrap();
        Daemon { child }
    }

    /// Starts a coordinator on a free port (or the one it had), with leases short enough for a test.
    pub(crate) fn coordinator(&mut self) -> Daemon {
        let listen = self.url.trim_start_matches("http://").to_owned();
        let listen = if listen.ends_with(":1") { "127.0.0.1:0".to_owned() } else { listen };
        let data = self.path("data");
        let args = [
            "coordinator",
            "--data-dir",
            data.to_str().unwrap(),
            "--listen",
            &listen,
            "--lease",
            "2s",
            "--heartbeat",
            "500ms",
            "--outage-grace",
            "2s",
            "--min-free",
            "1MiB",
            "--json",
        ];
        let mut command = self.command(&args);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut daemon = Daemon { child: command.spawn().unwrap() };
        let mut lines = BufReader::new(daemon.child.stderr.take().unwrap()).lines();
        let mut seen = String::new();
        for line in lines.by_ref().map_while(Result::ok) {
            seen.push_str(&line);
            let record: Value = serde_json::from_str(&line).unwrap_or_default();
            if let Some(address) = record["fields"]["addr"].as_str() {
                self.url = format!("http://{address}");
                // Somebody must read on, or the coordinator would wait for a full pipe.
                let log = self.path("coordinator.log");
                std::thread::spawn(move || {
                    use std::io::Write as _;
                    let mut log = std::fs::File::options().create(true).append(true).open(log).unwrap();
                    for line in lines.map_while(Result::ok) {
                        if writeln!(log, "{line}").is_err() {
                            break;
                        }
                    }
                });
                return daemon;
            }
        }
        panic!("the coordinator did not start: {seen}");
    }

    pub(crate) fn worker(&self, name: &str, slots: u32) -> Daemon {
        let cache = self.path(&format!("cache-{name}"));
        let slots = slots.to_string();
        self.daemon(
            &["worker", "--name", name, "--slots", &slots, "--cache-dir", cache.to_str().unwrap()],
            &format!("{name}.log"),
        )
    }

    /// Creates a study from its text.
    pub(crate) fn create(&self, text: &str) -> Value {
        let path = self.write("study.toml", text);
        self.run(&["study", "create", path.to_str().unwrap(), "--json"]).ok().one()
    }

    pub(crate) fn show(&self, study: &str) -> Value {
        self.run(&["study", "show", study, "--json"]).ok().one()
    }

    pub(crate) fn trials(&self, study: &str) -> Vec<Value> {
        self.run(&["trial", "list", study, "--json"]).ok().json()
    }

    pub(crate) fn trial(&self, trial: &str) -> Value {
        self.run(&["trial", "show", trial, "--json"]).ok().one()
    }

    /// Waits until a trial of the study has measured this many epochs.
    pub(crate) fn wait_for_epochs(&self, study: &str, epochs: u64) {
        wait_until("measurements", || {
            self.trials(study).iter().any(|t| t["epochs"].as_u64() >= Some(epochs))
        });
    }

    /// Waits for the study's end, and checks that every configuration is complete exactly once.
    pub(crate) fn wait_for_coverage(&self, study: &str, configurations: u64) -> Value {
        let watched = self.run(&["study", "watch", study, "--json"]);
        assert_eq!(watched.code, 0, "{}", watched.stderr);
        let shown = self.show(study);
        let c = &shown["coverage"];
        assert_eq!(shown["state"], "COMPLETE");
        assert_eq!(
            (c["configurations"].as_u64(), c["complete"].as_u64()),
            (Some(configurations), Some(configurations))
        );
        assert_eq!(
            (c["duplicates"].as_u64(), c["lost"].as_u64(), c["missing"].as_u64()),
            (Some(0), Some(0), Some(0))
        );
        shown
    }
}

/// Every epoch from 1 to `epochs`, once each, in order.
#[track_caller]
pub(crate) fn assert_whole_curve(trial: &Value, epochs: u64) {
    let seen: Vec<u64> =
        trial["measurements"].as_array().unwrap().iter().map(|m| m["epoch"].as_u64().unwrap()).collect();
    assert_eq!(seen, (1..=epochs).collect::<Vec<_>>(), "{trial}");
}

/// Is this a folder with something in it?
pub(crate) fn has_files(dir: &Path) -> bool {
    dir.read_dir().is_ok_and(|mut entries| entries.next().is_some())
}
