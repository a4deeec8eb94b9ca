//! One attempt of a trial on this worker: prepare, train, send, finish.

mod log;
mod outbox;
mod saved;
mod send;
mod thread;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use kapell_rpc::convert::config_from_wire;
use kapell_rpc::{Client, ClientError, v1};
use tokio::sync::{oneshot, watch};

use crate::control::{Control, Stop};
use crate::corpora::Corpora;
use crate::training::{Job, Start};
use crate::trouble::Trouble;
use log::Log;
use outbox::Outbox;
use saved::Latest;
pub(crate) use send::pauses;
use send::{Sender, Sent, is_about_trial};
use thread::{Ending, Plan, Shared};

/// How long a canceled trial's step may go on before the cancellation is answered all the same.
const STEP_GRACE: Duration = Duration::from_millis(1500);
/// How long a canceled trial's last measurements may take.
const REPORT_GRACE: Duration = Duration::from_millis(500);

/// What all attempts of a worker share.
#[derive(Clone)]
pub(crate) struct Context {
    pub(crate) client: Client,
    pub(crate) corpora: Arc<Corpora>,
    pub(crate) start: Start,
    pub(crate) threads: usize,
    /// A folder for the attempts' folders.
    pub(crate) dir: PathBuf,
    pub(crate) trouble: Arc<Trouble>,
}

/// How an attempt ended, for the coordinator.
#[derive(Debug)]
struct End {
    outcome: v1::Outcome,
    reason: String,
    is_final: bool,
    seconds: f64,
    sent: Sent,
    /// Measurements that no report has carried.
    left: Vec<v1::Measurement>,
    /// A fault of this machine ended it.
    is_local: bool,
}

impl End {
    fn failed(reason: impl Into<String>, is_final: bool) -> Self {
        let (outcome, reason) = (v1::Outcome::Failed, reason.into());
        Self {
            outcome,
            reason,
            is_final,
            seconds: 0.0,
            sent: Sent::default(),
            left: Vec::new(),
            is_local: false,
        }
    }

    /// Nothing is wrong with the trial: it goes back and is not counted as failed.
    fn local(reason: impl Into<String>) -> Self {
        Self { outcome: v1::Outcome::Released, is_local: true, ..Self::failed(reason, false) }
    }

    /// What an attempt needs did not come.
    fn not_fetched(what: &str, error: &ClientError) -> Self {
        let reason = format!("{what}: {error}");
        if is_about_trial(error) { Self::failed(reason, false) } else { Self::local(reason) }
    }

    /// Says what the end means for this machine.
    fn tell(&self, trouble: &Trouble) {
        if self.is_local {
            if let Some(pause) = trouble.met() {
                let (reason, pause_ms) = (&self.reason, pause.as_millis());
                tracing::warn!(
                    reason,
                    pause_ms,
                    "this machine has a problem: it asks for no work for a while"
                );
            }
        } else if self.outcome == v1::Outcome::Complete || self.sent.last().is_some() {
            trouble.passed();
        }
    }

    fn stopped(control: &Control) -> Self {
        let (stop, reason) = control.level_and_reason().unwrap_or((Stop::Release, String::new()));
        let outcome = match stop {
            Stop::Release | Stop::Local => v1::Outcome::Released,
            Stop::Pause => v1::Outcome::Paused,
            Stop::Prune => v1::Outcome::Pruned,
            Stop::Cancel => v1::Outcome::Canceled,
            Stop::Fault | Stop::Forget => v1::Outcome::Failed,
        };
        Self { outcome, is_local: stop == Stop::Local, ..Self::failed(reason, false) }
    }
}

/// Serves a work under its lease. Returns when the coordinator knows its end (or does not want to know it), and
/// nothing of it runs here any more.
pub(crate) async fn serve(context: Context, work: v1::Work, control: Arc<Control>) {
    let log = Arc::new(Log::default());
    let sender = Sender {
        client: context.client.clone(),
        trial_id: work.trial_id,
        attempt: work.attempt,
        control,
        log: log.clone(),
    };
    let dir = context.dir.join(format!("{}-{}", work.trial_id, work.attempt));
    let mut thread = None;
    let end = match work.kind {
        Some(v1::work::Kind::Train(train)) => tokio::select! {
            end = train_work(&context, &sender, &dir, train, &mut thread) => end,
            never = sender.send_log() => match never {},
        },
        _ => End::failed("this version of the worker trains and does nothing else", true),
    };
    if sender.control.level() == Some(Stop::Forget) {
        log.info("forgotten");
    } else {
        end.tell(&context.trouble);
        log.info(&format!("ends {} {}", kapell_rpc::convert::outcome_name(end.outcome), end.reason));
        sender.finish(finish_request(&sender, &end)).await;
    }
    if let Some(thread) = thread {
        // Its slot is taken as long as its step computes.
        let _ = thread.await;
    }
    drop(end);
    if let Err(error) = std::fs::remove_dir_all(&dir)
        && error.kind() != std::io::ErrorKind::NotFound
    {
        tracing::warn!(%error, dir = %dir.display(), "an attempt's folder stays behind");
    }
}

fn finish_request(sender: &Sender, end: &End) -> v1::FinishRequest {
    let (log_tail, log_bytes) = sender.log.tail();
    v1::FinishRequest {
        trial_id: sender.trial_id,
        attempt: sender.attempt,
        outcome: end.outcome.into(),
        reason: end.reason.clone(),
        r#final: end.is_final,
        seconds: end.seconds,
        log_tail,
        log_bytes,
        best: end.sent.best(),
        last: end.sent.last(),
        measurements: end.left.clone(),
    }
}

type Thread = oneshot::Receiver<(Ending, Duration)>;

async fn train_work(
    context: &Context,
    sender: &Sender,
    dir: &Path,
    work: v1::TrainWork,
    left_over: &mut Option<Thread>,
) -> End {
    let prepared = tokio::select! {
        prepared = prepare(context, sender, dir, &work) => prepared,
        () = sender.control.reaches(Stop::Release) => return End::stopped(&sender.control),
    };
    let (job, outbox) = match prepared {
        Ok(prepared) => prepared,
        Err(end) => return end,
    };
    let outbox = Arc::new(outbox);
    let (publish, latest) = watch::channel(Latest::default());
    let shared = Shared {
        control: sender.control.clone(),
        outbox: outbox.clone(),
        latest: publish,
        log: sender.log.clone(),
        dir: dir.to_owned(),
    };
    let mut thread = match spawn(job, context.start.clone(), plan(&work), shared) {
        Ok(thread) => thread,
        Err(error) => return End::local(format!("no thread for training: {error}")),
    };
    let start_epoch = work.resume.as_ref().map_or(0, |checkpoint| checkpoint.epoch);
    let (acknowledge, acknowledged) = watch::channel(start_epoch);
    let control = &sender.control;
    let (ended, left, uploaded) = tokio::join!(
        unless(after(control, Stop::Cancel, STEP_GRACE), &mut thread),
        unless(after(control, Stop::Cancel, REPORT_GRACE), sender.report(&outbox, acknowledge)),
        unless(control.reaches(Stop::Cancel), sender.upload(latest, acknowledged)),
    );
    if ended.is_none() {
        *left_over = Some(thread);
    }
    conclude(sender, ended, left.unwrap_or_default(), uploaded)
}

/// Out of how training and uploading ended (nothing: cut short by a cancellation), how the attempt did.
fn conclude(
    sender: &Sender,
    ended: Option<Result<(Ending, Duration), oneshot::error::RecvError>>,
    left: Vec<v1::Measurement>,
    uploaded: Option<Sent>,
) -> End {
    let (ending, took) = match ended {
        Some(Ok(ended)) => ended,
        Some(Err(_)) => {
            let reason = "the training thread ended without a word".to_owned();
            (Ending::Failed { reason, is_final: false }, Duration::ZERO)
        }
        None => (Ending::Stopped, Duration::ZERO),
    };
    let mut end = match ending {
        // An order that came too late changes nothing, but a refused measurement does.
        Ending::Complete if sender.control.level() < Some(Stop::Local) => {
            End { outcome: v1::Outcome::Complete, ..End::failed("", false) }
        }
        Ending::Complete | Ending::Stopped => End::stopped(&sender.control),
        Ending::Failed { reason, is_final } => End::failed(reason, is_final),
        Ending::Local { reason } => End::local(reason),
    };
    // Behind a fault on the way, checkpoints may be ahead of the measurements that the coordinator has.
    if sender.control.level() < Some(Stop::Local) {
        end.sent = uploaded.unwrap_or_default();
        end.left = left;
    }
    end.seconds = took.as_secs_f64();
    end
}

fn plan(work: &v1::TrainWork) -> Plan {
    let every = Duration::from_millis(work.checkpoint_every_ms);
    Plan {
        first: if work.checkpoint_first_ms == 0 {
            every
        } else {
            Duration::from_millis(work.checkpoint_first_ms)
        },
        every,
        keep_best: work.keep_best,
        keep_last: work.keep_last,
        maximize: work.maximize,
        best_val_loss: work.best.as_ref().map(|checkpoint| checkpoint.val_loss),
        start_val_loss: work.resume.as_ref().map_or(f64::NAN, |checkpoint| checkpoint.val_loss),
    }
}

/// Everything that training needs, on this machine. Waits for a coordinator that is away.
async fn prepare(
    context: &Context,
    sender: &Sender,
    dir: &Path,
    work: &v1::TrainWork,
) -> Result<(Job, Outbox), End> {
    let config = config_from_wire(&work.config.clone().unwrap_or_default())
        .map_err(|error| End::failed(format!("the configuration cannot be used: {error}"), true))?;
    let local = |error: std::io::Error| {
        End::local(format!("the cache folder {} cannot be used: {error}", dir.display()))
    };
    std::fs::create_dir_all(dir).map_err(local)?;
    let outbox = Outbox::create(&dir.join("outbox")).map_err(local)?;
    let corpus = patiently(|| context.corpora.get(&work.corpus_digest)).await;
    let corpus = corpus.map_err(|error| End::not_fetched("no corpus", &error))?;
    let resume = match &work.resume {
        None => None,
        Some(checkpoint) => {
            let to = dir.join("resume");
            let got = patiently(|| context.client.download_directory(&checkpoint.digest, &to)).await;
            got.map_err(|error| End::not_fetched("no checkpoint to go on from", &error))?;
            sender.log.info(&format!("goes on from {} of epoch {}", checkpoint.digest, checkpoint.epoch));
            Some(to)
        }
    };
    let threads = context.threads;
    Ok((Job { config, replicate: work.replicate, threads, corpus, resume }, outbox))
}

/// Tries again for as long as it may help.
async fn patiently<T, F, Answer>(mut call: F) -> Result<T, ClientError>
where
    F: FnMut() -> Answer,
    Answer: Future<Output = Result<T, ClientError>>,
{
    let mut pauses = pauses();
    loop {
        match call().await {
            Err(error) if error.is_temporary() => tokio::time::sleep(pauses.delay()).await,
            other => return other,
        }
    }
}

fn spawn(job: Job, start: Start, plan: Plan, shared: Shared) -> std::io::Result<Thread> {
    let (tell, told) = oneshot::channel();
    let span = tracing::Span::current();
    std::thread::Builder::new().name("train".into()).spawn(move || {
        let _entered = span.entered();
        // Nobody listens any more when the worker has left.
        let _ = tell.send(thread::train(job, &start, plan, shared));
    })?;
    Ok(told)
}

async fn after(control: &Control, stop: Stop, grace: Duration) {
    control.reaches(stop).await;
    tokio::time::sleep(grace).await;
}

/// What the work gives, unless the other comes first.
async fn unless<T>(other: impl Future<Output = ()>, work: impl Future<Output = T>) -> Option<T> {
    tokio::select! {
        biased;
        done = work => Some(done),
        () = other => None,
    }
}
