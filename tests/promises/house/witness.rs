//! Workers that do not train: they speak the protocol as a worker does, with trials that cost nothing, and write
//! down every acknowledgement that they get.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use kapell_rpc::manifest::{Manifest, ManifestFile};
use kapell_rpc::{Client, ClientError, PROTOCOL_VERSION, digest, reason, v1};
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;

use super::PATIENCE;
use super::ledger::Ledger;
use crate::dice::Dice;

/// Between two tries of a call.
const PAUSE: Duration = Duration::from_millis(10);
const BEAT: Duration = Duration::from_millis(60);
/// Of each study that is fed to witnesses.
const TRIALS: u64 = 40;
const EPOCHS: u64 = 12;

/// Makes a call again until it is answered, one way or the other.
pub(crate) async fn insist<T, F, Answer>(mut call: F) -> Result<T, ClientError>
where
    F: FnMut() -> Answer,
    Answer: Future<Output = Result<T, ClientError>>,
{
    let begun = Instant::now();
    loop {
        match call().await {
            Err(error) if error.is_temporary() && begun.elapsed() < PATIENCE => {
                tokio::time::sleep(PAUSE).await;
            }
            other => return other,
        }
    }
}

/// A client that does not try again by itself.
pub(crate) fn client(url: &str) -> Result<Client> {
    Ok(Client::connect(url, None)?.with_patience(Duration::ZERO))
}

/// The attempts that a witness holds, for its heartbeat.
type Holding = Arc<Mutex<BTreeSet<(i64, u32)>>>;

/// A worker by hand.
pub(crate) struct Witness {
    pub(crate) name: String,
    pub(crate) client: Client,
    ledger: Ledger,
    incarnation: String,
    holding: Holding,
    dice: Dice,
    /// Serves only this study; empty: any.
    study: String,
    slowest_beat: Arc<Mutex<Duration>>,
}

impl Witness {
    pub(crate) fn new(name: &str, url: &str, ledger: &Ledger, dice: Dice) -> Result<Self> {
        Self::only_for(name, url, ledger, dice, "")
    }

    /// One that serves this study only.
    pub(crate) fn only_for(
        name: &str,
        url: &str,
        ledger: &Ledger,
        mut dice: Dice,
        study: &str,
    ) -> Result<Self> {
        Ok(Self {
            name: name.to_owned(),
            client: client(url)?,
            ledger: ledger.clone(),
            incarnation: format!("{name}-{:016x}", dice.next()),
            holding: Holding::default(),
            dice,
            study: study.to_owned(),
            slowest_beat: Arc::default(),
        })
    }

    /// The longest that an answer to a beat took.
    pub(crate) fn slowest_beat(&self) -> Duration {
        *self.slowest_beat.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Introduces itself.
    pub(crate) async fn register(&self) -> Result<()> {
        let request = v1::RegisterRequest {
            protocol_version: PROTOCOL_VERSION,
            name: self.name.clone(),
            incarnation: self.incarnation.clone(),
            host: "here".into(),
            devices: vec![v1::Device { kind: "cpu".into(), name: "none".into(), ..Default::default() }],
            slots: 1,
            numerics: Some(v1::Numerics {
                program_version: "kapell".into(),
                kind: "witness".into(),
                dtype: "f32".into(),
            }),
            study: self.study.clone(),
        };
        insist(|| self.client.register(request.clone())).await?;
        Ok(())
    }

    /// Beats on a connection of its own until it is aborted. Gives nothing back: orders are not heeded, refusals tell.
    pub(crate) fn beat(&self) -> tokio::task::JoinHandle<()> {
        let (client, holding) = (self.client.clone(), self.holding.clone());
        let slowest = self.slowest_beat.clone();
        let (worker, incarnation) = (self.name.clone(), self.incarnation.clone());
        let beat = move || v1::Beat {
            worker: worker.clone(),
            incarnation: incarnation.clone(),
            held: held_now(&holding),
            draining: false,
        };
        tokio::spawn(async move {
            loop {
                // A broken channel is opened again.
                let _ = beat_while_connected(&client, &beat, &slowest).await;
                tokio::time::sleep(PAUSE).await;
            }
        })
    }

    /// Serves trials until `stop` turns true and there is nothing more to do.
    pub(crate) async fn serve(mut self, stop: watch::Receiver<bool>) -> Result<()> {
        self.register().await?;
        let beats = self.beat();
        let served = async {
            while !(*stop.borrow()) {
                for work in self.lease(100).await? {
                    self.work(&work).await?;
                }
            }
            Ok(())
        };
        let result = served.await;
        beats.abort();
        result
    }

    /// Asks for one trial, and waits for it for at most `wait_ms`.
    pub(crate) async fn lease(&mut self, wait_ms: u64) -> Result<Vec<v1::Work>> {
        let request = v1::LeaseRequest {
            worker: self.name.clone(),
            incarnation: self.incarnation.clone(),
            request_id: format!("{}-{:016x}", self.name, self.dice.next()),
            max_works: 1,
            max_mates: 1,
            wait_ms,
        };
        let answer = insist(|| self.client.lease(request.clone())).await?;
        for work in &answer.works {
            let fresh = self.ledger.open().leases.insert((work.trial_id, work.attempt));
            ensure!(fresh, "attempt {} of trial {} was leased twice", work.attempt, work.trial_id);
            self.hold(work, true);
        }
        Ok(answer.works)
    }

    pub(crate) fn hold(&self, work: &v1::Work, holds: bool) {
        let mut holding = self.holding.lock().unwrap_or_else(PoisonError::into_inner);
        let held = (work.trial_id, work.attempt);
        let _ = if holds { holding.insert(held) } else { holding.remove(&held) };
    }

    /// Serves a trial to its end, or until it is refused.
    async fn work(&mut self, work: &v1::Work) -> Result<()> {
        let served = self.epochs(work).await;
        self.hold(work, false);
        let Err(error) = served else { return Ok(()) };
        match error.downcast_ref::<ClientError>() {
            Some(refusal) if refusal.has_reason(reason::STALE_ATTEMPT) => {
                self.ledger.open().refused += 1;
                Ok(())
            }
            _ => {
                let name = format!("trial {} attempt {}", work.trial_id, work.attempt);
                self.ledger.complain(format!("{name}: {error:#}"));
                Err(error)
            }
        }
    }

    async fn epochs(&mut self, work: &v1::Work) -> Result<()> {
        let Some(v1::work::Kind::Train(train)) = &work.kind else { bail!("work of another kind") };
        let epochs = epochs_of(train)?;
        let mut epoch = train.resume.as_ref().map_or(0, |checkpoint| checkpoint.epoch);
        while epoch < epochs {
            let batch = u32::try_from(self.dice.from(1..4))?.min(epochs - epoch);
            self.report(work, epoch + 1, epoch + batch).await?;
            epoch += batch;
            if epoch < epochs && self.dice.one_in(5) {
                self.checkpoint(work, epoch).await?;
            }
        }
        self.finish(work, epochs).await
    }

    /// Reports the epochs from `first` to `last`.
    pub(crate) async fn report(&self, work: &v1::Work, first: u32, last: u32) -> Result<()> {
        let rows: Vec<_> = (first..=last).map(|epoch| measurement(work, epoch)).collect();
        let request =
            v1::ReportRequest { trial_id: work.trial_id, attempt: work.attempt, measurements: rows.clone() };
        let answer = insist(|| async {
            let answer = self.client.report(request.clone()).await;
            if answer.as_ref().is_err_and(|error| error.has_reason(reason::DISK_FULL)) {
                self.ledger.open().full += 1;
            }
            answer
        });
        let answer = answer.await?;
        ensure!(answer.last_epoch >= last, "epoch {last} was taken as {}", answer.last_epoch);
        let mut ledger = self.ledger.open();
        for row in rows {
            ledger.measurements.insert((work.trial_id, work.attempt, row.epoch), row);
        }
        Ok(())
    }

    /// Uploads a checkpoint of this epoch and has it recorded.
    pub(crate) async fn checkpoint(&self, work: &v1::Work, epoch: u32) -> Result<()> {
        let saved = self.upload(work, epoch).await?;
        let request = v1::RecordCheckpointRequest {
            trial_id: work.trial_id,
            attempt: work.attempt,
            best: Some(saved.clone()),
            last: Some(saved.clone()),
        };
        insist(|| self.client.record_checkpoint(request.clone())).await?;
        self.ledger.open().checkpoints.insert((work.trial_id, work.attempt), (epoch, saved.digest));
        Ok(())
    }

    pub(crate) async fn finish(&self, work: &v1::Work, epochs: u32) -> Result<()> {
        let saved = self.upload(work, epochs).await?;
        let request = v1::FinishRequest {
            trial_id: work.trial_id,
            attempt: work.attempt,
            outcome: v1::Outcome::Complete.into(),
            seconds: 0.5,
            log_tail: "by hand".into(),
            best: Some(saved.clone()),
            last: Some(saved.clone()),
            ..Default::default()
        };
        let answer = insist(|| self.client.finish(request.clone())).await?;
        ensure!(answer.state() == v1::TrialState::Complete, "a finish gave {:?}", answer.state());
        let mut ledger = self.ledger.open();
        ledger.complete.insert((work.trial_id, work.attempt));
        ledger.checkpoints.insert((work.trial_id, work.attempt), (epochs, saved.digest));
        Ok(())
    }

    async fn upload(&self, work: &v1::Work, epoch: u32) -> Result<v1::Checkpoint> {
        let mut files = Vec::new();
        for name in ["config.json", "model.safetensors"] {
            let bytes = format!("{name} of trial {} behind epoch {epoch}", work.trial_id).into_bytes();
            let uploaded = insist(|| self.client.upload_bytes(bytes.clone())).await?;
            files.push(ManifestFile { name: name.to_owned(), size: uploaded.bytes, digest: uploaded.digest });
        }
        let manifest = Manifest::new(files);
        insist(|| self.client.upload_bytes(manifest.to_bytes())).await?;
        let (digest, bytes) = (manifest.digest(), manifest.total_bytes());
        Ok(v1::Checkpoint { digest, epoch, val_loss: loss(work.trial_id, epoch), bytes })
    }
}

fn held_now(holding: &Holding) -> Vec<v1::Held> {
    let holding = holding.lock().unwrap_or_else(PoisonError::into_inner);
    holding.iter().map(|&(trial_id, attempt)| v1::Held { trial_id, attempt }).collect()
}

async fn beat_while_connected(
    client: &Client,
    beat: &impl Fn() -> v1::Beat,
    slowest: &Mutex<Duration>,
) -> Result<(), ClientError> {
    let (beats, stream) = mpsc::channel(4);
    let _ = beats.try_send(beat());
    let mut asked = Instant::now();
    let mut orders = client.heartbeat(ReceiverStream::new(stream)).await?;
    loop {
        let told = |status| ClientError::from_status(client.url(), &status);
        if orders.message().await.map_err(told)?.is_none() {
            return Ok(());
        }
        note(slowest, asked.elapsed());
        tokio::time::sleep(BEAT).await;
        asked = Instant::now();
        let _ = beats.try_send(beat());
    }
}

fn note(slowest: &Mutex<Duration>, took: Duration) {
    let mut slowest = slowest.lock().unwrap_or_else(PoisonError::into_inner);
    *slowest = took.max(*slowest);
}

fn epochs_of(train: &v1::TrainWork) -> Result<u32> {
    let options = &train.config.as_ref().context("no configuration")?.options;
    match options.get("epochs").and_then(|option| option.value.clone()) {
        Some(v1::option_value::Value::Int(epochs)) => Ok(u32::try_from(epochs)?),
        other => Err(anyhow!("epochs is {other:?}")),
    }
}

/// The same for every attempt, as training is: an epoch again has the same weights.
fn loss(trial: i64, epoch: u32) -> f64 {
    let trial = f64::from(u32::try_from(trial % 1_000).unwrap_or(0));
    2.0 + trial / 1e3 - f64::from(epoch) / 1e5
}

fn measurement(work: &v1::Work, epoch: u32) -> v1::Measurement {
    let loss = loss(work.trial_id, epoch);
    v1::Measurement {
        epoch,
        train_loss: loss - 0.1,
        val_loss: loss,
        seconds: f64::from(work.attempt),
        tokens_per_s: f64::from(epoch),
        weights_digest: digest::of_bytes(format!("{} {epoch}", work.trial_id).as_bytes()),
        attempt: 0,
    }
}

/// A study for witnesses: `trials` configurations of `epochs` epochs, and attempts without end.
pub(crate) fn study(name: &str, trials: u64, epochs: u64) -> String {
    let hidden: Vec<String> = (8..8 + trials).map(|n| n.to_string()).collect();
    format!(
        "name = \"{name}\"\ncorpus = \"exercises\"\nretry = {{ max_lost = 1000000 }}\n[space]\nhidden = [{}]\n\
         [train]\nepochs = {epochs}\n",
        hidden.join(", ")
    )
}

/// Creates a study, as often as it takes.
pub(crate) async fn create(
    client: &Client,
    ledger: &Ledger,
    name: &str,
    trials: u64,
    epochs: u64,
) -> Result<()> {
    create_unlisted(client, name, trials, epochs).await?;
    ledger.open().studies.insert(name.to_owned(), trials);
    Ok(())
}

/// Creates one that need not come to its end.
pub(crate) async fn create_unlisted(client: &Client, name: &str, trials: u64, epochs: u64) -> Result<()> {
    let corpus = insist(|| client.upload_bytes(&b"a corpus"[..])).await?;
    let request = v1::CreateStudyRequest {
        request_id: format!("create-{name}"),
        spec_toml: study(name, trials, epochs),
        corpus_digest: corpus.digest,
        split_digest: digest::of_bytes(b"a split"),
        vocabulary: 5,
    };
    insist(|| client.create_study(request.clone())).await?;
    Ok(())
}

/// Waits until a study is COMPLETE.
pub(crate) async fn completed(client: &Client, name: &str) -> Result<v1::Study> {
    completed_within(client, name, PATIENCE).await
}

/// The same for a study that takes longer.
pub(crate) async fn completed_within(client: &Client, name: &str, patience: Duration) -> Result<v1::Study> {
    let begun = Instant::now();
    loop {
        let study = insist(|| client.get_study(v1::StudyRef { study: name.to_owned() })).await?;
        if study.state() == v1::StudyState::Complete {
            return Ok(study);
        }
        ensure!(begun.elapsed() < patience, "study {name} does not come to its end: {:?}", study.trials);
        tokio::time::sleep(Duration::from_millis(30)).await;
    }
}

/// One study after the other, until told to stop; then the last one's end is waited for.
pub(crate) async fn feed(client: Client, ledger: Ledger, stop: watch::Receiver<bool>) -> Result<()> {
    for n in 1.. {
        let name = format!("study-{n}");
        create(&client, &ledger, &name, TRIALS, EPOCHS).await?;
        completed(&client, &name).await?;
        if *stop.borrow() {
            break;
        }
    }
    Ok(())
}
