//! Workers as child processes of this program: the wiring of production, with an end that is tied to ours.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use tokio::process::{Child, Command};

use crate::daemon::stopped;
use crate::error::{CliError, file_error};
use crate::logging::LogFormat;
use crate::output;

/// A worker that ends sooner than this after its start is started again only after a pause.
const SHORT_LIFE: Duration = Duration::from_secs(5);
/// Between the starts of a worker that does not stay.
const PAUSE: Duration = Duration::from_secs(2);
/// Workers that keep dying at once, in a row, before the run gives up.
const SHORT_LIVES_MAX: u32 = 5;

/// How to start a worker.
#[derive(Clone)]
pub(crate) struct WorkerPlan {
    pub coordinator: String,
    pub name: String,
    /// As `--kernels`.
    pub kernels: String,
    pub cores: usize,
    pub slots: usize,
    pub cache_dir: PathBuf,
    pub log: PathBuf,
    pub log_format: LogFormat,
    pub drain_timeout: Duration,
}

impl WorkerPlan {
    fn start(&self) -> Result<Child, CliError> {
        let program =
            std::env::current_exe().map_err(|e| file_error(Path::new("/proc/self/exe"), "find", &e))?;
        let log = std::fs::File::options().create(true).append(true).open(&self.log);
        let log = log.map_err(|e| file_error(&self.log, "write", &e))?;
        let mut command = Command::new(program);
        command.args([
            "worker",
            "--die-with-parent",
            "--coordinator",
            &self.coordinator,
            "--name",
            &self.name,
        ]);
        command.arg("--kernels").arg(&self.kernels);
        command.arg("--cores").arg(self.cores.to_string());
        command.arg("--slots").arg(self.slots.to_string());
        command.arg("--log-format").arg(self.log_format.name());
        command.arg("--cache-dir").arg(&self.cache_dir);
        command.arg("--drain-timeout").arg(format!("{}ms", self.drain_timeout.as_millis()));
        // Ctrl-C reaches the whole foreground group; the workers are told by us instead, in order.
        command.process_group(0).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        // What was set for this command is not meant for the workers it starts.
        for variable in [
            "KAPELL_JSON",
            "KAPELL_WORKERS",
            "KAPELL_STUDY",
            "KAPELL_EXIT_WHEN_IDLE",
            "KAPELL_MAX_RUNTIME",
            "KAPELL_DEVICE",
        ] {
            command.env_remove(variable);
        }
        command.spawn().map_err(|e| file_error(Path::new("kapell worker"), "start", &e))
    }

    /// Keeps the worker running until `stop` says so; then lets it checkpoint and leave.
    async fn supervise(self, stop: tokio::sync::watch::Receiver<bool>) -> Result<(), CliError> {
        let mut short_lives = 0;
        loop {
            let started = Instant::now();
            let mut child = self.start()?;
            let status = tokio::select! {
                status = child.wait() => status,
                () = stopped(stop.clone()) => return self.end(child).await,
            };
            let how = status.map_or_else(|e| e.to_string(), |s| s.to_string());
            output::remark(format!(
                "{} ended ({how}); starting it again (its log: {})",
                self.name,
                self.log.display()
            ));
            short_lives = if started.elapsed() < SHORT_LIFE { short_lives + 1 } else { 0 };
            if short_lives >= SHORT_LIVES_MAX {
                let message = format!("{} ended {SHORT_LIVES_MAX} times within seconds", self.name);
                return Err(CliError::new(
                    1,
                    "worker-dies",
                    message,
                    format!("its log says why: {}", self.log.display()),
                ));
            }
            if short_lives > 0 {
                tokio::select! {
                    () = tokio::time::sleep(PAUSE) => {}
                    () = stopped(stop.clone()) => return Ok(()),
                }
            }
        }
    }

    async fn end(&self, mut child: Child) -> Result<(), CliError> {
        if let Some(pid) =
            child.id().and_then(|id| i32::try_from(id).ok()).and_then(rustix::process::Pid::from_raw)
        {
            // It may have ended by itself in the meantime.
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        }
        let patience = self.drain_timeout + Duration::from_secs(5);
        if tokio::time::timeout(patience, child.wait()).await.is_err() {
            output::remark(format!(
                "{} did not leave within {patience:?} and was killed; nothing acknowledged is lost",
                self.name
            ));
            child.kill().await.map_err(|e| file_error(Path::new("kapell worker"), "kill", &e))?;
        }
        Ok(())
    }
}

/// Running workers.
pub(crate) struct Children {
    stop: tokio::sync::watch::Sender<bool>,
    tasks: tokio::task::JoinSet<Result<(), CliError>>,
}

impl Children {
    pub(crate) fn start(plans: Vec<WorkerPlan>) -> Self {
        let (stop, told) = tokio::sync::watch::channel(false);
        let mut tasks = tokio::task::JoinSet::new();
        for plan in plans {
            tasks.spawn(plan.supervise(told.clone()));
        }
        Self { stop, tasks }
    }

    /// Ends only if a worker cannot be kept running.
    pub(crate) async fn failed(&mut self) -> CliError {
        match self.tasks.join_next().await {
            Some(Ok(Err(error))) => error,
            Some(Err(panic)) => CliError::from(anyhow::Error::new(panic)),
            // A supervisor without an error ends only when told to; and without workers nothing can fail.
            Some(Ok(Ok(()))) | None => std::future::pending().await,
        }
    }

    /// Lets every worker checkpoint, release what it holds, and leave.
    pub(crate) async fn stop(mut self) {
        self.stop.send_replace(true);
        while let Some(ended) = self.tasks.join_next().await {
            if let Ok(Err(error)) = ended {
                output::remark(format!("error: {error}"));
            }
        }
    }
}
