//! A coordinator in this process, and what a worker and a person would say to it.

#[path = "../../../../tests/support/watchdog.rs"]
mod watchdog;

use std::path::PathBuf;
use std::time::Duration;

use kapell_coordinator::{Config, Running, start};
use kapell_rpc::manifest::{Manifest, ManifestFile};
use kapell_rpc::v1::blob_service_client::BlobServiceClient;
use kapell_rpc::v1::model_service_client::ModelServiceClient;
use kapell_rpc::v1::study_service_client::StudyServiceClient;
use kapell_rpc::v1::worker_service_client::WorkerServiceClient;
use kapell_rpc::{PROTOCOL_VERSION, REASON_KEY, digest, v1};
use tonic::Status;
use tonic::transport::Channel;
use watchdog::Watchdog;

/// Two trials of three epochs.
pub(crate) const SPEC: &str = r#"
name = "demo"
corpus = "exercises"
[space]
hidden = [8, 16]
[train]
epochs = 3
"#;

/// A coordinator on a folder of its own.
pub(crate) struct House {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) running: Running,
    channel: Channel,
    _watchdog: Watchdog,
}

pub(crate) fn config(dir: PathBuf) -> Config {
    Config {
        listen: ([127, 0, 0, 1], 0).into(),
        min_free_bytes: 0,
        lease: Duration::from_secs(30),
        heartbeat: Duration::from_millis(50),
        ..Config::new(dir)
    }
}

impl House {
    pub(crate) async fn open() -> Self {
        Self::with(|_| {}).await
    }

    pub(crate) async fn with(adjust: impl FnOnce(&mut Config)) -> Self {
        Self::on(tempfile::tempdir().unwrap(), adjust).await
    }

    /// A coordinator on a folder that may have been used before.
    pub(crate) async fn on(dir: tempfile::TempDir, adjust: impl FnOnce(&mut Config)) -> Self {
        let mut config = config(dir.path().to_owned());
        adjust(&mut config);
        let running = start(config).await.unwrap();
        Self { dir, ..Self::of(running).await }
    }

    /// One that runs already, on a folder that is somebody else's.
    pub(crate) async fn of(running: Running) -> Self {
        let channel = Channel::from_shared(running.url()).unwrap().connect().await.unwrap();
        Self { dir: tempfile::tempdir().unwrap(), running, channel, _watchdog: Watchdog::new() }
    }

    /// Another connection to one that runs.
    pub(crate) async fn of_url(url: &str) -> Other {
        Other(Channel::from_shared(url.to_owned()).unwrap().connect().await.unwrap())
    }

    /// Ends it, and starts another one on the same folder.
    pub(crate) async fn restart(self, adjust: impl FnOnce(&mut Config)) -> Self {
        drop(self.channel);
        self.running.shutdown().await;
        Self::on(self.dir, adjust).await
    }

    pub(crate) fn studies(&self) -> StudyServiceClient<Channel> {
        StudyServiceClient::new(self.channel.clone())
    }

    pub(crate) fn workers(&self) -> WorkerServiceClient<Channel> {
        WorkerServiceClient::new(self.channel.clone())
    }

    pub(crate) fn models(&self) -> ModelServiceClient<Channel> {
        ModelServiceClient::new(self.channel.clone())
    }

    pub(crate) fn blobs(&self) -> BlobServiceClient<Channel> {
        BlobServiceClient::new(self.channel.clone())
    }

    /// Uploads bytes. Gives their digest.
    pub(crate) async fn upload(&self, bytes: &[u8]) -> String {
        let digest = digest::of_bytes(bytes);
        let chunk = v1::UploadChunk {
            digest: digest.clone(),
            size: bytes.len() as u64,
            offset: 0,
            data: bytes.to_vec(),
        };
        let done = self.blobs().upload(tokio_stream::iter([chunk])).await.unwrap().into_inner();
        assert!(done.complete);
        digest
    }

    pub(crate) async fn create_as(
        &self,
        request_id: &str,
        spec: &str,
    ) -> Result<v1::CreateStudyResponse, Status> {
        let corpus_digest = self.upload(b"a corpus").await;
        let request = v1::CreateStudyRequest {
            request_id: request_id.to_owned(),
            spec_toml: spec.to_owned(),
            corpus_digest,
            split_digest: digest::of_bytes(b"a split"),
            vocabulary: 5,
        };
        self.studies().create_study(request).await.map(tonic::Response::into_inner)
    }

    /// Creates the study [`SPEC`].
    pub(crate) async fn create(&self) -> v1::Study {
        self.create_as("create-1", SPEC).await.unwrap().study.unwrap()
    }

    pub(crate) async fn study(&self) -> v1::Study {
        self.studies().get_study(v1::StudyRef { study: "demo".into() }).await.unwrap().into_inner()
    }

    pub(crate) async fn trial(&self, number: u32) -> v1::TrialDetail {
        let request = v1::TrialRef { study: "demo".into(), number };
        self.studies().get_trial(request).await.unwrap().into_inner()
    }

    pub(crate) async fn state(&self, number: u32) -> v1::TrialState {
        self.trial(number).await.trial.unwrap().state()
    }

    /// A worker's hands.
    pub(crate) async fn worker(&self, name: &str, incarnation: &str) -> Hand {
        self.worker_of_kind(name, incarnation, "cpu-avx2").await
    }

    /// One with these numerics.
    pub(crate) async fn worker_of_kind(&self, name: &str, incarnation: &str, kind: &str) -> Hand {
        let hand = Hand {
            name: name.to_owned(),
            kind: kind.to_owned(),
            incarnation: incarnation.to_owned(),
            client: self.workers(),
            blobs: self.blobs(),
        };
        hand.register(PROTOCOL_VERSION).await.unwrap();
        hand
    }
}

/// A connection of somebody else.
pub(crate) struct Other(Channel);

impl Other {
    pub(crate) fn studies(&self) -> StudyServiceClient<Channel> {
        StudyServiceClient::new(self.0.clone())
    }
}

/// What a worker does, by hand.
#[derive(Clone)]
pub(crate) struct Hand {
    pub(crate) name: String,
    pub(crate) incarnation: String,
    /// Of its numerics.
    pub(crate) kind: String,
    pub(crate) client: WorkerServiceClient<Channel>,
    pub(crate) blobs: BlobServiceClient<Channel>,
}

impl Hand {
    pub(crate) async fn register(&self, protocol_version: u32) -> Result<v1::RegisterResponse, Status> {
        let request = v1::RegisterRequest {
            protocol_version,
            name: self.name.clone(),
            incarnation: self.incarnation.clone(),
            host: "here".into(),
            devices: vec![v1::Device {
                kind: "cpu".into(),
                name: "a processor".into(),
                ..Default::default()
            }],
            slots: 1,
            numerics: Some(v1::Numerics {
                program_version: "kapell 0.1.0".into(),
                kind: self.kind.clone(),
                dtype: "f32".into(),
            }),
            study: String::new(),
        };
        self.client.clone().register(request).await.map(tonic::Response::into_inner)
    }

    /// Asks for work without waiting.
    pub(crate) async fn lease(&self, request_id: &str, max_works: u32) -> Result<Vec<v1::Work>, Status> {
        self.lease_for(request_id, max_works, 0).await
    }

    pub(crate) async fn lease_for(
        &self,
        request_id: &str,
        max_works: u32,
        wait_ms: u64,
    ) -> Result<Vec<v1::Work>, Status> {
        let request = v1::LeaseRequest {
            worker: self.name.clone(),
            incarnation: self.incarnation.clone(),
            request_id: request_id.to_owned(),
            max_works,
            max_mates: 1,
            wait_ms,
        };
        self.client.clone().lease(request).await.map(|r| r.into_inner().works)
    }

    /// One trial, which must be there.
    pub(crate) async fn one(&self, request_id: &str) -> v1::Work {
        self.lease(request_id, 1).await.unwrap().pop().expect("no work")
    }

    pub(crate) async fn report(&self, work: &v1::Work, rows: &[v1::Measurement]) -> Result<u32, Status> {
        let request =
            v1::ReportRequest { trial_id: work.trial_id, attempt: work.attempt, measurements: rows.to_vec() };
        self.client.clone().report(request).await.map(|r| r.into_inner().last_epoch)
    }

    pub(crate) fn finish_request(work: &v1::Work, outcome: v1::Outcome) -> v1::FinishRequest {
        v1::FinishRequest {
            trial_id: work.trial_id,
            attempt: work.attempt,
            outcome: outcome.into(),
            seconds: 1.5,
            log_tail: "the log".into(),
            ..Default::default()
        }
    }

    pub(crate) async fn finish(&self, request: v1::FinishRequest) -> Result<v1::TrialState, Status> {
        self.client.clone().finish(request).await.map(|r| r.into_inner().state())
    }

    /// Uploads a checkpoint of small files.
    pub(crate) async fn checkpoint(&self, epoch: u32, text: &str) -> v1::Checkpoint {
        let mut files = Vec::new();
        for name in ["config.json", "model.safetensors", "training.safetensors", "vocab.json"] {
            let bytes = format!("{name} of {text}").into_bytes();
            files.push(ManifestFile {
                name: name.to_owned(),
                size: bytes.len() as u64,
                digest: digest::of_bytes(&bytes),
            });
            self.upload(bytes).await;
        }
        let manifest = Manifest::new(files);
        let bytes = manifest.total_bytes();
        self.upload(manifest.to_bytes()).await;
        v1::Checkpoint { digest: manifest.digest(), epoch, val_loss: 1.0, bytes }
    }

    async fn upload(&self, data: Vec<u8>) {
        let (digest, size) = (digest::of_bytes(&data), data.len() as u64);
        let chunk = v1::UploadChunk { digest, size, offset: 0, data };
        self.blobs.clone().upload(tokio_stream::iter([chunk])).await.unwrap();
    }

    pub(crate) async fn record(
        &self,
        work: &v1::Work,
        best: Option<v1::Checkpoint>,
        last: Option<v1::Checkpoint>,
    ) -> Result<(), Status> {
        let request =
            v1::RecordCheckpointRequest { trial_id: work.trial_id, attempt: work.attempt, best, last };
        self.client.clone().record_checkpoint(request).await.map(drop)
    }

    /// Trains a trial to its end.
    pub(crate) async fn complete(&self, work: &v1::Work, loss: f64) -> v1::TrialState {
        self.report(work, &[row(1, loss + 0.5), row(2, loss), row(3, loss + 0.1)]).await.unwrap();
        let text = format!("trial {}", work.trial_id);
        let (best, last) =
            (self.checkpoint(2, &text).await, self.checkpoint(3, &format!("{text} end")).await);
        let request = v1::FinishRequest {
            best: Some(best),
            last: Some(last),
            ..Self::finish_request(work, v1::Outcome::Complete)
        };
        self.finish(request).await.unwrap()
    }
}

pub(crate) fn row(epoch: u32, val_loss: f64) -> v1::Measurement {
    v1::Measurement {
        epoch,
        train_loss: val_loss - 0.1,
        val_loss,
        seconds: 2.0,
        tokens_per_s: 100.0,
        weights_digest: digest::of_bytes(format!("{epoch} {val_loss}").as_bytes()),
        attempt: 0,
    }
}

pub(crate) fn train(work: &v1::Work) -> &v1::TrainWork {
    match work.kind.as_ref() {
        Some(v1::work::Kind::Train(train)) => train,
        other => panic!("no training: {other:?}"),
    }
}

/// The reason of a refusal.
pub(crate) fn reason(status: &Status) -> &str {
    status.metadata().get(REASON_KEY).map_or("", |v| v.to_str().unwrap())
}
