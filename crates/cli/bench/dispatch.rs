//! `kapell bench dispatch`: how fast trials go through the real service and the real store.
//!
//! A coordinator is started as a process of its own, with its defaults, on a folder of its own; workers that do
//! nothing (see [`super::noop`]) take a study's trials over gRPC. What counts is the time from the first request for
//! work to the answer to the last completion, and the coordinator's own CPU time in it.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use kapell_rpc::manifest::{Manifest, ManifestFile};
use kapell_rpc::{Client, digest, reason, v1};
use serde::Serialize;

use super::noop::{self, Plan, Seen};
use crate::args::BenchDispatchArgs;
use crate::error::{CliError, file_error};
use crate::{daemon, output, paths};

/// Values of one option at most: three options make up a space of any size.
const VALUES_MAX: u64 = 1000;
/// Linux counts CPU time in /proc in hundredths of a second, on every machine (USER_HZ, proc(5)).
const TICKS_PER_S: f64 = 100.0;
/// How often to look whether the study is whole.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// The name of the study.
const STUDY: &str = "bench";

#[derive(Debug, Serialize)]
struct Report {
    trials: u64,
    workers: u32,
    slots: u32,
    reports: u32,
    seconds: f64,
    trials_per_s: f64,
    reports_per_s: f64,
    coordinator_cpu_s_per_trial: f64,
    coordinator_memory_bytes: u64,
    db_bytes: u64,
    lost: u64,
    duplicated: u64,
    /// Of requests that got work, in ms.
    lease_ms: Quantiles,
    /// Until the study was taken, and until it was expanded to its last trial.
    taken_s: f64,
    create_s: f64,
    /// Trials that the study has.
    expanded: u64,
}

#[derive(Debug, Serialize)]
struct Quantiles {
    p50: f64,
    p99: f64,
    max: f64,
}

pub(super) async fn dispatch(args: &BenchDispatchArgs, json: bool) -> Result<(), CliError> {
    let place = args.dir.clone().map_or_else(paths::user_data_dir, Ok)?;
    std::fs::create_dir_all(&place).map_err(|e| file_error(&place, "create", &e))?;
    let folder = Folder(place.join(format!("bench-{}", uuid::Uuid::now_v7())));
    let coordinator = Coordinator::start(&folder.0)?;
    let client = Client::connect(&coordinator.url, None)?.with_patience(Duration::from_secs(20));
    let checkpoint = upload(&client, args.reports).await?;
    let begun = Instant::now();
    let expanded = create(&client, args.trials, args.reports).await?;
    let taken_s = begun.elapsed().as_secs_f64();
    whole(&client, expanded).await?;
    let create_s = begun.elapsed().as_secs_f64();

    let trials = args.limit.unwrap_or(args.trials).min(args.trials);
    let plan = Plan {
        url: coordinator.url.clone(),
        workers: args.workers,
        slots: args.slots,
        reports: args.reports,
        hold: args.hold,
        checkpoint,
    };
    let cpu = coordinator.cpu_s()?;
    let stop = daemon::stop_signal()?;
    let (seen, took) = tokio::select! {
        done = noop::run(plan, trials) => done?,
        () = daemon::stopped(stop) => return Err(CliError::interrupted("nothing of the measurement is kept")),
    };
    let cpu = coordinator.cpu_s()? - cpu;
    let (lost, duplicated) = judge(&client, &seen, args.reports).await?;
    let (seconds, n) = (took.as_secs_f64(), count(trials));
    let report = Report {
        trials,
        workers: args.workers,
        slots: args.slots,
        reports: args.reports,
        seconds,
        trials_per_s: n / seconds,
        reports_per_s: n * f64::from(args.reports) / seconds,
        coordinator_cpu_s_per_trial: cpu / n,
        coordinator_memory_bytes: coordinator.memory_bytes(),
        db_bytes: db_bytes(&folder.0),
        lost,
        duplicated,
        lease_ms: quantiles(seen.leases),
        taken_s,
        create_s,
        expanded,
    };
    if json {
        output::json(&report);
    } else {
        show(&report);
    }
    Ok(())
}

fn show(report: &Report) {
    output::line(format!(
        "{:.0} trials/s with {:.0} reports/s; {:.3} ms of the coordinator's CPU a trial",
        report.trials_per_s,
        report.reports_per_s,
        1000.0 * report.coordinator_cpu_s_per_trial
    ));
    let lease = &report.lease_ms;
    output::line(format!(
        "lease: median {:.1} ms, p99 {:.1} ms, longest {:.1} ms",
        lease.p50, lease.p99, lease.max
    ));
    output::line(format!(
        "{} trials, {} lost, {} duplicated; database of {}",
        report.trials,
        report.lost,
        report.duplicated,
        output::bytes(report.db_bytes)
    ));
}

/// One small checkpoint, which every trial records.
async fn upload(client: &Client, epoch: u32) -> Result<v1::Checkpoint, CliError> {
    let mut files = Vec::new();
    for name in kapell_rpc::manifest::CHECKPOINT_FILES {
        let bytes = format!("{name} of a trial that does nothing").into_bytes();
        let (digest, size) = (digest::of_bytes(&bytes), bytes.len() as u64);
        client.upload_bytes(bytes).await?;
        files.push(ManifestFile { name: name.to_owned(), digest, size });
    }
    let manifest = Manifest::new(files);
    client.upload_bytes(manifest.to_bytes()).await?;
    Ok(v1::Checkpoint {
        digest: manifest.digest(),
        epoch,
        val_loss: 1.1 + 1.0 / f64::from(epoch),
        bytes: manifest.total_bytes(),
    })
}

/// Creates a study of at least so many trials. Gives how many it has.
async fn create(client: &Client, trials: u64, epochs: u32) -> Result<u64, CliError> {
    let corpus = b"no corpus: nothing is trained".to_vec();
    let corpus_digest = digest::of_bytes(&corpus);
    client.upload_bytes(corpus).await?;
    let (sides, expanded) = space(trials);
    let list = |n: u64| (1..=n).map(|i| i.to_string()).collect::<Vec<_>>().join(", ");
    let spec_toml = format!(
        "name = \"{STUDY}\"\ncorpus = \"exercises\"\n[space]\nseed = [{}]\nbatch_size = [{}]\nhidden = [{}]\n\
         [train]\nepochs = {epochs}\n",
        list(sides[0]),
        list(sides[1]),
        list(sides[2]),
    );
    client
        .create_study(v1::CreateStudyRequest {
            request_id: uuid::Uuid::now_v7().to_string(),
            spec_toml,
            split_digest: digest::of_bytes(b"no split"),
            corpus_digest,
            vocabulary: 2,
        })
        .await?;
    Ok(expanded)
}

/// Waits until the last trial of the study is there.
async fn whole(client: &Client, expanded: u64) -> Result<(), CliError> {
    let number = u32::try_from(expanded).unwrap_or(u32::MAX);
    let impatient = client.with_patience(Duration::ZERO);
    loop {
        match impatient.get_trial(v1::TrialRef { study: STUDY.to_owned(), number }).await {
            Err(error) if error.has_reason(reason::OVERLOADED) => tokio::time::sleep(LOOK_EVERY).await,
            done => return Ok(done.map(drop)?),
        }
    }
}

/// The sides of a space of `trials` points, or of the few more that have such sides.
fn space(trials: u64) -> ([u64; 3], u64) {
    let divisors = |n: u64| (1..=VALUES_MAX.min(n)).rev().filter(move |d| n.is_multiple_of(*d));
    let sides = |n: u64| {
        let pairs = divisors(n).flat_map(|a| divisors(n / a).map(move |b| [a, b, n / a / b]));
        pairs.into_iter().find(|sides| sides[2] <= VALUES_MAX)
    };
    let found = (trials.max(1)..).find_map(|n| Some((sides(n)?, n)));
    found.unwrap_or(([1; 3], 1))
}

/// Of what was acknowledged, how much the store does not hold, and how much it holds or acknowledged twice.
async fn judge(client: &Client, seen: &Seen, reports: u32) -> Result<(u64, u64), CliError> {
    let request = v1::ListTrialsRequest {
        studies: vec![STUDY.to_owned()],
        state: v1::TrialState::Complete.into(),
        ..v1::ListTrialsRequest::default()
    };
    let complete = client.list_trials(request).await?;
    let whole = complete.iter().filter(|t| t.epochs == reports && seen.finished.contains(&t.id)).count();
    let study = client.get_study(v1::StudyRef { study: STUDY.to_owned() }).await?;
    let coverage = study.coverage.unwrap_or_default();
    let lost = (seen.finished.len() - whole) as u64 + coverage.lost;
    Ok((lost, seen.twice + coverage.duplicates))
}

fn quantiles(mut leases: Vec<Duration>) -> Quantiles {
    leases.sort_unstable();
    let at = |per_mille: usize| {
        let place = (leases.len() * per_mille / 1000).min(leases.len().saturating_sub(1));
        leases.get(place).map_or(0.0, |d| 1000.0 * d.as_secs_f64())
    };
    Quantiles { p50: at(500), p99: at(990), max: at(1000) }
}

#[expect(clippy::cast_precision_loss, reason = "a count of trials is far below 2^53")]
fn count(n: u64) -> f64 {
    n as f64
}

fn db_bytes(data_dir: &Path) -> u64 {
    let size = |name: &str| std::fs::metadata(data_dir.join(name)).map_or(0, |m| m.len());
    size("kapell.db") + size("kapell.db-wal")
}

/// A folder that goes with the measurement.
struct Folder(PathBuf);

impl Drop for Folder {
    fn drop(&mut self) {
        // What stays is the user's to see; there is nobody to tell.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A coordinator in a process of its own, which ends with this one's interest in it.
struct Coordinator {
    child: Child,
    url: String,
}

impl Coordinator {
    fn start(data_dir: &Path) -> Result<Self, CliError> {
        let program =
            std::env::current_exe().map_err(|e| file_error(Path::new("/proc/self/exe"), "find", &e))?;
        let mut child = Command::new(program)
            .args(["coordinator", "--listen", "127.0.0.1:0", "--min-free", "0", "--json", "--data-dir"])
            .arg(data_dir)
            .env("RUST_LOG", "warn,kapell_coordinator::start=info")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|e| file_error(Path::new("kapell coordinator"), "start", &e))?;
        let mut lines = child.stderr.take().map(|e| BufReader::new(e).lines()).into_iter().flatten();
        let addr = lines.by_ref().map_while(Result::ok).find_map(|line| {
            let line: serde_json::Value = serde_json::from_str(&line).ok()?;
            line["fields"]["addr"].as_str().map(str::to_owned)
        });
        // Its later warnings must not fill the pipe.
        std::thread::spawn(move || lines.map_while(Result::ok).for_each(output::remark));
        let ended = || anyhow::anyhow!("the coordinator of the measurement ended at once");
        let url = format!("http://{}", addr.ok_or_else(ended)?);
        Ok(Self { child, url })
    }

    /// CPU time of all its threads so far, in seconds.
    fn cpu_s(&self) -> Result<f64, CliError> {
        let path = PathBuf::from(format!("/proc/{}/stat", self.child.id()));
        let stat = std::fs::read_to_string(&path).map_err(|e| file_error(&path, "read", &e))?;
        // After the name in brackets: state, then fields 4 and up of proc(5); utime and stime are 14 and 15.
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
        let ticks = |n: usize| fields.get(n - 3).and_then(|f| f.parse::<f64>().ok()).unwrap_or(0.0);
        Ok((ticks(14) + ticks(15)) / TICKS_PER_S)
    }

    /// The most memory that it has had, in bytes.
    fn memory_bytes(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap_or_default();
        let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:"));
        let kib = line.and_then(|l| l.trim().trim_end_matches("kB").trim().parse::<u64>().ok());
        kib.unwrap_or(0) << 10
    }
}

impl Drop for Coordinator {
    fn drop(&mut self) {
        // Its folder goes next: there is nothing to save.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_space_has_the_trials_that_are_asked_for_or_a_few_more() {
        for trials in [1, 2, 100, 864, 8640, 1_000, 10_000, 1_000_000] {
            assert_eq!(space(trials).1, trials);
        }
        for trials in [8_641, 99_991, 1_000_003, 9_999_991] {
            let (sides, n) = space(trials);
            assert!(n >= trials && n <= trials + VALUES_MAX, "{trials}: {sides:?}");
            assert_eq!(sides.iter().product::<u64>(), n);
            assert!(sides.iter().all(|s| *s <= VALUES_MAX));
        }
    }
}
