//! A worker against a coordinator in memory: what it reports, keeps, gives back, and outlives.

mod checkpoints;
mod life;
mod support;
mod trials;
mod trouble;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use kapell_music::corpus::{Corpus, Kind, PartOfSplit, Piece, Protocol};
use kapell_rpc::convert::config_to_wire;
use kapell_rpc::manifest::Manifest;
use kapell_rpc::v1::order::What;
use kapell_rpc::{digest, reason, v1};
use kapell_search::{Config, OptionValue};
use kapell_worker::training::{Start, model_trainer};
use kapell_worker::{Exit, WorkerConfig, WorkerError, run_with};
use support::trainer::{Script, Then};
use support::{Fake, LONG};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// A text of two pieces of training and one of validation.
fn corpus() -> Corpus {
    let piece = |id: &str, part, length: u16| Piece {
        id: id.to_owned(),
        part,
        tokens: std::iter::once(0).chain((0..length).map(|i| 2 + i * i % 3)).chain([1]).collect(),
    };
    Corpus {
        name: "tiny".into(),
        kind: Kind::Text,
        protocol: Protocol::Pieces,
        vocabulary: ["START", "END", "a", "b", "c"].map(str::to_owned).to_vec(),
        pieces: vec![
            piece("one", PartOfSplit::Train, 300),
            piece("two", PartOfSplit::Train, 200),
            piece("val", PartOfSplit::Val, 50),
        ],
    }
}

fn train_work(fake: &Fake) -> v1::TrainWork {
    let bytes = corpus().to_bytes();
    let corpus_digest = digest::of_bytes(&bytes);
    fake.blobs.0.lock().unwrap().whole.insert(corpus_digest.clone(), bytes);
    v1::TrainWork {
        study: "study".into(),
        number: 1,
        config: Some(config_to_wire(&Config::defaults())),
        corpus_digest,
        checkpoint_every_ms: 3_600_000,
        keep_best: true,
        keep_last: true,
        ..Default::default()
    }
}

fn work(trial_id: i64, train: v1::TrainWork) -> v1::Work {
    v1::Work { trial_id, attempt: 1, kind: Some(v1::work::Kind::Train(train)) }
}

struct Running {
    stop: watch::Sender<bool>,
    task: JoinHandle<Result<Exit, WorkerError>>,
    cache: tempfile::TempDir,
}

impl Running {
    async fn ended(self) -> Result<Exit, WorkerError> {
        tokio::time::timeout(LONG, self.task).await.expect("the worker ends in time").unwrap()
    }

    async fn stop(self) -> Result<Exit, WorkerError> {
        self.stop.send_replace(true);
        self.ended().await
    }
}

fn start_with(fake: &Fake, start: Start, change: impl FnOnce(&mut WorkerConfig)) -> Running {
    let cache = tempfile::tempdir().unwrap();
    let mut config = WorkerConfig {
        coordinator: fake.url(),
        token: None,
        name: "w".into(),
        cores: 2,
        slots: Some(1),
        cache_dir: cache.path().to_owned(),
        study: None,
        exit_when_idle: None,
        max_runtime: None,
        drain_timeout: Duration::from_secs(5),
        die_with_parent: false,
    };
    change(&mut config);
    let (stop, stopped) = watch::channel(false);
    Running { stop, task: tokio::spawn(run_with(config, stopped, start)), cache }
}

fn start(fake: &Fake, script: Script) -> Running {
    start_with(fake, script.start(), |_| {})
}

/// Waits until a trainer's counter is there.
async fn reaches(counter: &AtomicU64, count: u64) {
    let in_time = Instant::now() + LONG;
    while counter.load(Ordering::Relaxed) < count {
        assert!(Instant::now() < in_time, "training stands still");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// The model file of a checkpoint that the coordinator has.
fn model_of(fake: &Fake, checkpoint: Option<v1::Checkpoint>) -> String {
    let blobs = fake.blobs.0.lock().unwrap();
    let manifest = Manifest::parse(&blobs.whole[&checkpoint.unwrap().digest]).unwrap();
    let model = manifest.files.iter().find(|f| f.name == "model.safetensors").unwrap();
    String::from_utf8(blobs.whole[&model.digest].clone()).unwrap().trim_end_matches([' ', '.']).to_owned()
}

/// Orders the trial 7 of a worker with this script to be canceled amid a step: the order's instant.
async fn cancel_amid_a_step(fake: &Fake, script: Script) -> (Running, Instant) {
    let begun = script.begun.clone();
    let worker = start(fake, script);
    fake.queue(work(7, train_work(fake)));
    fake.held(7).await;
    reaches(&begun, 1).await;
    let ordered = Instant::now();
    fake.order(7, What::Cancel(v1::Stop::default()));
    (worker, ordered)
}
