//! `kapell run`: a whole search on this machine, from corpus to harmonised melody, over real loopback gRPC.

mod children;
mod plans;
mod report;

use std::path::Path;
use std::time::Duration;

use kapell_rpc::{Client, v1};

use crate::args::{Global, RunArgs};
use crate::corpus::{self, CorpusError, LoadedCorpus};
use crate::error::{CliError, exit, file_error};
use crate::progress::Progress;
use crate::study::{StudyFile, submit};
use crate::{Outcome, daemon, logging, output, paths, watch};
use children::Children;

/// The built-in study.
const DEMO: &str = include_str!("demo.toml");
/// Its stand-in where the chorales cannot be fetched.
const FALLBACK_CORPUS: &str = "exercises";
/// A worker of this machine is given up for lost after this long: it is a child, and watched.
const LEASE: Duration = Duration::from_secs(10);
const HEARTBEAT: Duration = Duration::from_secs(1);
/// Workers end with the coordinator here, so none can still be training after its restart.
const OUTAGE_GRACE: Duration = Duration::from_secs(2);
/// How often a run looks whether its workers get work.
const GLANCE: Duration = Duration::from_secs(2);
const DRAIN_TIMEOUT: Duration = Duration::from_secs(15);
/// Less than the daemon's default: a search on one's own machine shares the disk.
const FREE_BYTES_MIN: u64 = 512 << 20;

pub(crate) async fn run(args: RunArgs, global: &Global) -> Outcome {
    let stop = daemon::stop_signal()?;
    let data_dir = paths::data_dir(args.data_dir.as_deref())?;
    let (file, corpus) = load_unless_stopped(&args, stop.clone()).await?;
    std::fs::create_dir_all(data_dir.join("logs")).map_err(|e| file_error(&data_dir, "make", &e))?;
    logging::to_file(&data_dir.join("logs").join("coordinator.log"), args.log_format)?;
    let mut coordinator = kapell_coordinator::start(kapell_coordinator::Config {
        data_dir: data_dir.clone(),
        listen: ([127, 0, 0, 1], 0).into(),
        lease: LEASE,
        heartbeat: HEARTBEAT,
        outage_grace: OUTAGE_GRACE,
        min_free_bytes: FREE_BYTES_MIN,
        disk: std::sync::Arc::new(kapell_coordinator::RealDisk),
        limits: kapell_coordinator::Limits::default(),
    })
    .await?;
    let url = format!("http://{}", coordinator.addr());
    let client = Client::connect(&url, None)?;
    let search = Search {
        args: &args,
        kernels: &global.kernels,
        json: global.json,
        data_dir: &data_dir,
        url: &url,
        client: &client,
    };
    let outcome = tokio::select! {
        outcome = search.whole(&file, &corpus, stop) => outcome,
        failed = coordinator.wait() => Err(failed.into()),
    };
    coordinator.shutdown().await;
    outcome
}

/// The study and its corpus. Fetching and encoding take their time, and Ctrl-C need not wait for them.
async fn load_unless_stopped(
    args: &RunArgs,
    stop: tokio::sync::watch::Receiver<bool>,
) -> Result<(StudyFile, LoadedCorpus), CliError> {
    let owned = args.clone();
    let loaded = tokio::select! {
        biased;
        () = daemon::stopped(stop) => return Err(CliError::interrupted("interrupted; nothing was begun")),
        loaded = tokio::task::spawn_blocking(move || load(&owned)) => loaded,
    };
    let loaded = loaded.map_err(|e| CliError::from(anyhow::Error::new(e)))??;
    if let Some(error) = &loaded.unfetched {
        output::remark(format!("the chorales cannot be fetched: {error}"));
        output::remark(format!("hint: {}", error.hint()));
        output::remark(format!(
            "going on with generated exercises instead, as the study \"{}\"",
            loaded.file.spec.name
        ));
    }
    Ok((loaded.file, loaded.corpus))
}

/// What a run begins with.
struct Loaded {
    file: StudyFile,
    corpus: LoadedCorpus,
    /// Why the demo makes do with exercises, if it does.
    unfetched: Option<CorpusError>,
}

/// The study and its corpus; the demo makes do with generated exercises where the chorales cannot be had.
fn load(args: &RunArgs) -> Result<Loaded, CliError> {
    if let Some(path) = &args.study {
        let file = StudyFile::read(path, &args.set, &[])?;
        let corpus = corpus::load(&file.spec.corpus)?;
        return Ok(Loaded { file, corpus, unfetched: None });
    }
    let file = StudyFile::parse(DEMO, "the demo study", &args.set, &[])?;
    match corpus::load(&file.spec.corpus) {
        Ok(corpus) => Ok(Loaded { file, corpus, unfetched: None }),
        Err(error) if file.spec.corpus == "chorales" && error.is_unfetched() => {
            let mut set = args.set.clone();
            set.extend([format!("corpus={FALLBACK_CORPUS}"), "name=demo-exercises".to_owned()]);
            let file = StudyFile::parse(DEMO, "the demo study", &set, &[])?;
            Ok(Loaded { file, corpus: corpus::load(FALLBACK_CORPUS)?, unfetched: Some(error) })
        }
        Err(error) => Err(error.into()),
    }
}

/// What the parts of a run share.
struct Search<'a> {
    args: &'a RunArgs,
    kernels: &'a str,
    json: bool,
    data_dir: &'a Path,
    url: &'a str,
    client: &'a Client,
}

impl Search<'_> {
    /// Creates the study or takes it up again, trains what is left, and shows what came of it.
    async fn whole(
        &self,
        file: &StudyFile,
        corpus: &LoadedCorpus,
        stop: tokio::sync::watch::Receiver<bool>,
    ) -> Outcome {
        let made = submit(self.client, file, corpus).await?;
        let study = made.study.ok_or_else(|| anyhow::anyhow!("the coordinator answered without a study"))?;
        self.say_start(&study, made.created, corpus);
        let finished = matches!(study.state(), v1::StudyState::Complete | v1::StudyState::Canceled);
        let ended = if finished { study } else { self.train(&study, file, corpus, stop).await? };
        report::show(self.client, self.data_dir, &ended, self.json).await?;
        Ok(watch::exit_code(&ended))
    }

    fn say_start(&self, study: &v1::Study, created: bool, corpus: &LoadedCorpus) {
        let counts = study.trials.unwrap_or_default();
        let verb = match (created, study.state()) {
            (true, _) => "searching",
            (false, v1::StudyState::Complete | v1::StudyState::Canceled) => "done already:",
            (false, _) => "going on with",
        };
        let stats = corpus.corpus.statistics();
        output::remark(format!(
            "{verb} {}: {} trials ({} done) on {} ({} pieces, {} tokens, vocabulary {})",
            study.name,
            counts.total,
            counts.complete + counts.pruned,
            corpus.corpus.name,
            stats.pieces,
            stats.tokens,
            stats.vocabulary
        ));
        output::remark(format!(
            "coordinator {} (from another terminal: kapell study watch {} --coordinator {0})",
            self.url, study.name
        ));
    }

    async fn train(
        &self,
        study: &v1::Study,
        file: &StudyFile,
        corpus: &LoadedCorpus,
        stop: tokio::sync::watch::Receiver<bool>,
    ) -> Result<v1::Study, CliError> {
        if study.state() == v1::StudyState::Paused {
            let hint = format!("go on with: kapell study resume {} --coordinator {}", study.name, self.url);
            output::remark(format!("the study is paused; {hint}"));
        }
        let counts = study.trials.unwrap_or_default();
        let unfinished = counts.queued + counts.running + counts.paused;
        let plans = tokio::select! {
            plans = self.plans(file, corpus, unfinished) => plans,
            () = daemon::stopped(stop.clone()) => {
                return Err(CliError::interrupted("interrupted; the same command goes on"));
            }
        };
        let names: Vec<String> = plans.iter().map(|plan| plan.name.clone()).collect();
        self.uncordon(&names).await?;
        let mut children = Children::start(plans);
        let mut progress = Progress::start(self.client, &study.id).await?;
        let ended = tokio::select! {
            ended = watch::follow(self.client, &study.id, 0, Some(&mut progress), false) => ended,
            error = children.failed() => Err(error),
            error = self.all_quarantined(&names) => Err(error),
            never = watch::warn(self.client) => match never {},
            () = daemon::stopped(stop) => {
                output::remark("stopping: the running trials write their checkpoints");
                Err(CliError::interrupted("interrupted; nothing is lost, and the same command goes on"))
            }
        };
        progress.finish();
        children.stop().await;
        ended
    }

    /// Whoever runs the command again has seen to what was wrong with this machine.
    async fn uncordon(&self, names: &[String]) -> Result<(), CliError> {
        for worker in self.quarantined(names).await? {
            let mut request = v1::ControlWorkerRequest { name: worker.name, ..Default::default() };
            request.set_action(v1::control_worker_request::Action::Uncordon);
            self.client.control_worker(request).await?;
        }
        Ok(())
    }

    /// Ends when no worker of this run gets work any more.
    async fn all_quarantined(&self, names: &[String]) -> CliError {
        loop {
            tokio::time::sleep(GLANCE).await;
            match self.quarantined(names).await {
                Ok(workers) if workers.len() == names.len() => {
                    let why = workers.into_iter().next().unwrap_or_default();
                    let message = format!("no worker is left: {} is quarantined: {}", why.name, why.reason);
                    let logs = self.data_dir.join("logs");
                    let hint =
                        format!("see to it (its log is in {}); the same command goes on", logs.display());
                    return CliError::new(exit::REFUSED, "quarantined", message, hint);
                }
                // The coordinator is in this process: its end is told elsewhere.
                Ok(_) | Err(_) => {}
            }
        }
    }

    async fn quarantined(&self, names: &[String]) -> Result<Vec<v1::Worker>, CliError> {
        let mut workers = self.client.list_workers(v1::ListWorkersRequest {}).await?.workers;
        workers.retain(|w| w.state == "quarantined" && names.contains(&w.name));
        Ok(workers)
    }
}
