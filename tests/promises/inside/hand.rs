//! A coordinator in this process on a simulated disk, and a worker's and a person's hands at it.

use std::sync::Arc;
use std::time::Duration;

use kapell_coordinator::{Config, Running, StartError, start};
use kapell_rpc::manifest::{Manifest, ManifestFile};
use kapell_rpc::v1::blob_service_client::BlobServiceClient;
use kapell_rpc::v1::model_service_client::ModelServiceClient;
use kapell_rpc::v1::study_service_client::StudyServiceClient;
use kapell_rpc::v1::worker_service_client::WorkerServiceClient;
use kapell_rpc::{PROTOCOL_VERSION, digest, v1};
use tonic::Status;
use tonic::transport::Channel;

use crate::disk::SimDisk;

/// Epochs of every trial.
pub(crate) const EPOCHS: u32 = 3;
/// The corpus that every study names.
pub(crate) const CORPUS: &[u8] = b"a corpus";

/// A coordinator that runs on a disk.
pub(crate) struct House {
    pub(crate) running: Running,
    pub(crate) channel: Channel,
}

impl House {
    /// Starts one in the folder `data` of the disk.
    pub(crate) async fn start(disk: &Arc<SimDisk>) -> Result<Self, StartError> {
        let config = Config {
            listen: ([127, 0, 0, 1], 0).into(),
            min_free_bytes: 0,
            // Nothing is to expire here, and nobody beats.
            lease: Duration::from_secs(3600),
            disk: Arc::<SimDisk>::clone(disk),
            ..Config::new(disk.root.join("data"))
        };
        let running = start(config).await?;
        let channel = Channel::from_shared(running.url())
            .map_err(|e| StartError::Unexpected(e.to_string()))?
            .connect_lazy();
        Ok(Self { running, channel })
    }

    pub(crate) async fn end(self) {
        drop(self.channel);
        self.running.shutdown().await;
    }

    pub(crate) fn hand(&self, name: &str, incarnation: String) -> Hand {
        Hand { name: name.to_owned(), incarnation, channel: self.channel.clone() }
    }
}

/// What a worker or a person does, by hand.
#[derive(Clone)]
pub(crate) struct Hand {
    pub(crate) name: String,
    pub(crate) incarnation: String,
    channel: Channel,
}

impl Hand {
    /// A hand at a coordinator that is found there.
    pub(crate) fn at(url: &str, name: &str, incarnation: String) -> anyhow::Result<Self> {
        let channel = Channel::from_shared(url.to_owned())?.connect_lazy();
        Ok(Self { name: name.to_owned(), incarnation, channel })
    }

    fn workers(&self) -> WorkerServiceClient<Channel> {
        WorkerServiceClient::new(self.channel.clone())
    }

    fn studies(&self) -> StudyServiceClient<Channel> {
        StudyServiceClient::new(self.channel.clone())
    }

    pub(crate) async fn register(&self) -> Result<(), Status> {
        let request = v1::RegisterRequest {
            protocol_version: PROTOCOL_VERSION,
            name: self.name.clone(),
            incarnation: self.incarnation.clone(),
            host: "here".into(),
            devices: vec![v1::Device {
                kind: "cpu".into(),
                name: "a processor".into(),
                ..Default::default()
            }],
            slots: 4,
            numerics: Some(v1::Numerics {
                program_version: "kapell 0.1.0".into(),
                kind: "cpu-avx2".into(),
                dtype: "f32".into(),
            }),
            study: String::new(),
        };
        self.workers().register(request).await.map(drop)
    }

    /// Uploads bytes. Gives their digest.
    pub(crate) async fn upload(&self, bytes: &[u8]) -> Result<String, Status> {
        let (digest, size) = (digest::of_bytes(bytes), bytes.len());
        let half = size / 2;
        let chunk = |offset: usize, data: &[u8]| v1::UploadChunk {
            digest: digest.clone(),
            size: u64::try_from(size).unwrap_or(u64::MAX),
            offset: u64::try_from(offset).unwrap_or(u64::MAX),
            data: data.to_vec(),
        };
        let chunks = [chunk(0, &bytes[..half]), chunk(half, &bytes[half..])];
        let done = BlobServiceClient::new(self.channel.clone())
            .upload(tokio_stream::iter(chunks))
            .await?
            .into_inner();
        if done.complete { Ok(digest) } else { Err(Status::internal("an upload that is not complete")) }
    }

    /// A trial by its number.
    pub(crate) async fn trial(&self, study: &str, number: u32) -> Result<v1::TrialDetail, Status> {
        let request = v1::TrialRef { study: study.to_owned(), number };
        self.studies().get_trial(request).await.map(tonic::Response::into_inner)
    }

    /// Creates a study of `trials` trials, whose corpus is there.
    pub(crate) async fn create(&self, name: &str, trials: u64) -> Result<v1::Study, Status> {
        let hidden: Vec<String> = (1..=trials).map(|n| (8 * n).to_string()).collect();
        let spec_toml = format!(
            "name = \"{name}\"\ncorpus = \"exercises\"\n[space]\nhidden = [{}]\n[train]\nepochs = {EPOCHS}\n",
            hidden.join(", ")
        );
        self.create_from(name, spec_toml).await
    }

    pub(crate) async fn create_from(&self, name: &str, spec_toml: String) -> Result<v1::Study, Status> {
        let request = v1::CreateStudyRequest {
            request_id: format!("create {name}"),
            spec_toml,
            corpus_digest: digest::of_bytes(CORPUS),
            split_digest: digest::of_bytes(b"a split"),
            vocabulary: 5,
        };
        let done = self.studies().create_study(request).await?.into_inner();
        done.study.ok_or_else(|| Status::internal("an answer without a study"))
    }

    pub(crate) async fn lease(&self, request_id: &str, max_works: u32) -> Result<Vec<v1::Work>, Status> {
        let request = v1::LeaseRequest {
            worker: self.name.clone(),
            incarnation: self.incarnation.clone(),
            request_id: request_id.to_owned(),
            max_works,
            max_mates: 1,
            wait_ms: 0,
        };
        self.workers().lease(request).await.map(|r| r.into_inner().works)
    }

    pub(crate) async fn report(&self, work: &v1::Work, rows: &[v1::Measurement]) -> Result<(), Status> {
        let request =
            v1::ReportRequest { trial_id: work.trial_id, attempt: work.attempt, measurements: rows.to_vec() };
        self.workers().report(request).await.map(drop)
    }

    /// Uploads a checkpoint of small files.
    pub(crate) async fn checkpoint(
        &self,
        epoch: u32,
        text: &str,
    ) -> Result<(v1::Checkpoint, Vec<String>), Status> {
        let mut files = Vec::new();
        for name in ["config.json", "model.safetensors", "training.safetensors", "vocab.json"] {
            let bytes = format!("{name} of {text}, ").repeat(40).into_bytes();
            let size = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
            files.push(ManifestFile { name: name.to_owned(), size, digest: self.upload(&bytes).await? });
        }
        let mut digests: Vec<String> = files.iter().map(|f| f.digest.clone()).collect();
        let manifest = Manifest::new(files);
        digests.push(self.upload(&manifest.to_bytes()).await?);
        let bytes = manifest.total_bytes();
        Ok((v1::Checkpoint { digest: manifest.digest(), epoch, val_loss: 1.0, bytes }, digests))
    }

    pub(crate) async fn record(
        &self,
        work: &v1::Work,
        best: Option<v1::Checkpoint>,
        last: Option<v1::Checkpoint>,
    ) -> Result<(), Status> {
        let request =
            v1::RecordCheckpointRequest { trial_id: work.trial_id, attempt: work.attempt, best, last };
        self.workers().record_checkpoint(request).await.map(drop)
    }

    pub(crate) async fn finish(
        &self,
        work: &v1::Work,
        outcome: v1::Outcome,
    ) -> Result<v1::TrialState, Status> {
        let request = v1::FinishRequest {
            trial_id: work.trial_id,
            attempt: work.attempt,
            outcome: outcome.into(),
            seconds: 1.5,
            log_tail: "the log".into(),
            ..Default::default()
        };
        self.workers().finish(request).await.map(|r| r.into_inner().state())
    }

    pub(crate) async fn pause(&self, study: &str) -> Result<v1::Study, Status> {
        self.studies().pause_study(study_ref(study)).await.map(tonic::Response::into_inner)
    }

    pub(crate) async fn resume(&self, study: &str) -> Result<v1::Study, Status> {
        self.studies().resume_study(study_ref(study)).await.map(tonic::Response::into_inner)
    }

    pub(crate) async fn cancel(&self, study: &str) -> Result<v1::Study, Status> {
        self.studies().cancel_study(study_ref(study)).await.map(tonic::Response::into_inner)
    }

    pub(crate) async fn promote(&self, request_id: &str, study: &str) -> Result<v1::PromoteResponse, Status> {
        let request = v1::PromoteRequest {
            request_id: request_id.to_owned(),
            study: study.to_owned(),
            allow_partial: true,
            actor: "a hand".into(),
            ..Default::default()
        };
        ModelServiceClient::new(self.channel.clone()).promote(request).await.map(tonic::Response::into_inner)
    }
}

fn study_ref(study: &str) -> v1::StudyRef {
    v1::StudyRef { study: study.to_owned() }
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

/// Where a piece of work stands: the epochs it starts from.
pub(crate) fn start_epoch(work: &v1::Work) -> u32 {
    match work.kind.as_ref() {
        Some(v1::work::Kind::Train(train)) => train.resume.as_ref().map_or(0, |c| c.epoch),
        _ => 0,
    }
}

/// Whether an error is an answer: the request cannot be granted as things stand.
pub(crate) fn refused(status: &Status) -> bool {
    use tonic::Code::{AlreadyExists, FailedPrecondition, InvalidArgument, NotFound};
    matches!(status.code(), AlreadyExists | FailedPrecondition | InvalidArgument | NotFound)
}
