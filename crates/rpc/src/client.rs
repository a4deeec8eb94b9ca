//! The client of a coordinator: lazy connections, a deadline on every call, and calls that are tried again.

use std::future::Future;
use std::hash::{BuildHasher, RandomState};
use std::time::{Duration, Instant};

use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Response, Status, Streaming};

use crate::v1;
use crate::v1::admin_service_client::AdminServiceClient;
use crate::v1::blob_service_client::BlobServiceClient;
use crate::v1::model_service_client::ModelServiceClient;
use crate::v1::study_service_client::StudyServiceClient;
use crate::v1::worker_service_client::WorkerServiceClient;
use crate::{ClientError, Kind};

/// How long a call may take before it counts as lost.
pub const CALL_DEADLINE: Duration = Duration::from_secs(20);
/// The same of calls that work through a whole study.
const LONG_DEADLINE: Duration = Duration::from_secs(120);
/// How long a call is tried again, unless [`Client::with_patience`] says otherwise.
const PATIENCE: Duration = Duration::from_secs(3);
const CONNECT_DEADLINE: Duration = Duration::from_secs(5);
const PING_INTERVAL: Duration = Duration::from_secs(10);
/// No answer is longer: trials come as streams, so the longest is the measurements of one trial.
const MESSAGE_BYTES_MAX: usize = 32 << 20;
const WINDOW_BYTES: u32 = 1 << 20;

/// A connected service, which sends the token with every call.
pub type Intercepted = InterceptedService<Channel, Token>;

/// Puts the token, if there is one, into a call's metadata.
#[derive(Debug, Clone)]
pub struct Token(Option<MetadataValue<Ascii>>);

impl Interceptor for Token {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(token) = &self.0 {
            request.metadata_mut().insert("authorization", token.clone());
        }
        Ok(request)
    }
}

/// A coordinator's client. Cheap to clone; clones share the connections.
#[derive(Debug, Clone)]
pub struct Client {
    url: String,
    calls: Channel,
    bulk: Channel,
    beats: Channel,
    token: Token,
    patience: Duration,
}

/// Waiting times that double from try to try, with jitter so that many clients do not come back at once.
#[derive(Debug, Clone)]
pub struct Backoff {
    next: Duration,
    max: Duration,
}

impl Backoff {
    /// From `first` on, at most `max`.
    #[must_use]
    pub fn new(first: Duration, max: Duration) -> Self {
        Self { next: first, max }
    }

    /// The next waiting time: half to one and a half of the doubling value.
    #[must_use]
    pub fn delay(&mut self) -> Duration {
        let base = self.next;
        self.next = (base * 2).min(self.max);
        let per_mille = u32::try_from(RandomState::new().hash_one(0) % 1000).unwrap_or(500);
        base / 2 + base * per_mille / 1000
    }
}

impl Default for Backoff {
    fn default() -> Self {
        Self::new(Duration::from_millis(100), Duration::from_secs(5))
    }
}

/// Calls with one request and one answer: those marked `again` are idempotent and tried again while it may help.
macro_rules! calls {
    ($($(#[$doc:meta])+ $name:ident($service:ident: $request:ty) -> $answer:ty, $deadline:expr, $tries:ident;)+) => {
        impl Client {
            $($(#[$doc])+
            ///
            /// # Errors
            /// What the coordinator answered, or that it cannot be reached.
            pub async fn $name(&self, request: $request) -> Result<$answer, ClientError> {
                let deadline = $deadline(&request);
                self.$tries(|| {
                    let mut service = self.$service();
                    let request = with_deadline(request.clone(), deadline);
                    async move { service.$name(request).await }
                })
                .await
            }
            )+
        }
    };
}

fn usual<T>(_: &T) -> Duration {
    CALL_DEADLINE
}

fn long<T>(_: &T) -> Duration {
    LONG_DEADLINE
}

fn lease_deadline(request: &v1::LeaseRequest) -> Duration {
    CALL_DEADLINE.saturating_add(Duration::from_millis(request.wait_ms))
}

calls! {
    /// Version and data folder of the coordinator.
    server_info(studies: v1::ServerInfoRequest) -> v1::ServerInfoResponse, usual, again;
    /// Creates a study whose corpus blob is there already. Idempotent by its request id.
    create_study(studies: v1::CreateStudyRequest) -> v1::CreateStudyResponse, long, again;
    /// All studies.
    list_studies(studies: v1::ListStudiesRequest) -> v1::ListStudiesResponse, usual, again;
    /// One study, by name or id.
    get_study(studies: v1::StudyRef) -> v1::Study, usual, again;
    /// No new work of this study; what runs writes a checkpoint and waits.
    pause_study(studies: v1::StudyRef) -> v1::Study, usual, again;
    /// Takes a paused study up again.
    resume_study(studies: v1::StudyRef) -> v1::Study, usual, again;
    /// Ends a study and what runs of it.
    cancel_study(studies: v1::StudyRef) -> v1::Study, long, again;
    /// Removes a study and everything of it.
    delete_study(studies: v1::StudyRef) -> v1::DeleteStudyResponse, long, once;
    /// One trial with its measurements and attempts.
    get_trial(studies: v1::TrialRef) -> v1::TrialDetail, usual, again;
    /// What an attempt logged.
    trial_logs(studies: v1::TrialLogsRequest) -> v1::TrialLogsResponse, usual, again;
    /// Queues a failed or canceled trial again.
    retry_trial(studies: v1::TrialRef) -> v1::Trial, usual, once;
    /// All workers.
    list_workers(studies: v1::ListWorkersRequest) -> v1::ListWorkersResponse, usual, again;
    /// Cordons, uncordons or drains a worker.
    control_worker(studies: v1::ControlWorkerRequest) -> v1::Worker, usual, again;

    /// Points an alias at a trial's checkpoint. Idempotent by its request id.
    promote(models: v1::PromoteRequest) -> v1::PromoteResponse, long, again;
    /// All versions of all models.
    list_models(models: v1::ListModelsRequest) -> v1::ListModelsResponse, usual, again;
    /// One version of a model.
    get_model(models: v1::ModelRef) -> v1::ModelVersion, usual, again;
    /// The changes of a model's aliases, newest first.
    model_history(models: v1::ModelRef) -> v1::ModelHistoryResponse, usual, again;

    /// Introduces a worker. Idempotent by its incarnation.
    register(workers: v1::RegisterRequest) -> v1::RegisterResponse, usual, again;
    /// Asks for work and waits for it as long as the request says. Idempotent by its request id.
    lease(workers: v1::LeaseRequest) -> v1::LeaseResponse, lease_deadline, again;
    /// Adds measurements of an attempt.
    report(workers: v1::ReportRequest) -> v1::ReportResponse, usual, again;
    /// Records a checkpoint whose blobs are there already.
    record_checkpoint(workers: v1::RecordCheckpointRequest) -> v1::RecordCheckpointResponse, usual, again;
    /// Adds what an attempt has logged.
    append_log(workers: v1::AppendLogRequest) -> v1::AppendLogResponse, usual, again;
    /// Ends an attempt.
    finish(workers: v1::FinishRequest) -> v1::FinishResponse, usual, again;

    /// Which of these blobs are there, whole or in part.
    stat(blobs: v1::StatRequest) -> v1::StatResponse, usual, again;
}

impl Client {
    /// A client of the coordinator at `url` ("http://host:7070"). Connects when the first call is made, so it
    /// must be called within a tokio runtime.
    ///
    /// # Errors
    /// [`Kind::Usage`] where the URL or the token is malformed.
    pub fn connect(url: &str, token: Option<String>) -> Result<Self, ClientError> {
        let malformed = |error: &dyn std::fmt::Display| {
            ClientError::new(
                Kind::Usage,
                format!("{url:?} is no coordinator's URL, like http://host:7070: {error}"),
            )
        };
        if !url.starts_with("http://") {
            return Err(malformed(&"it begins with http://"));
        }
        let endpoint = endpoint(url).map_err(|error| malformed(&error))?;
        let token =
            match token {
                None => None,
                Some(token) => Some(format!("Bearer {}", token.trim()).parse().map_err(|_| {
                    ClientError::new(Kind::Usage, "the token has characters that no token has")
                })?),
            };
        Ok(Self {
            url: url.to_owned(),
            calls: endpoint.connect_lazy(),
            bulk: endpoint.connect_lazy(),
            beats: endpoint.connect_lazy(),
            token: Token(token),
            patience: PATIENCE,
        })
    }

    /// The same connections, with calls tried again for this long.
    #[must_use]
    pub fn with_patience(&self, patience: Duration) -> Self {
        Self { patience, ..self.clone() }
    }

    /// Where the coordinator is.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// All trials that the request asks for.
    ///
    /// # Errors
    /// As every call.
    pub async fn list_trials(&self, request: v1::ListTrialsRequest) -> Result<Vec<v1::Trial>, ClientError> {
        self.again(|| {
            let mut service = self.studies();
            let request = with_deadline(request.clone(), LONG_DEADLINE);
            async move {
                let mut stream = service.list_trials(request).await?.into_inner();
                let mut trials = Vec::new();
                while let Some(trial) = stream.message().await? {
                    trials.push(trial);
                }
                Ok(Response::new(trials))
            }
        })
        .await
    }

    /// A study's events, followed over interruptions of the connection.
    #[must_use]
    pub fn watch_study(&self, request: v1::WatchStudyRequest) -> Watch {
        Watch { client: self.clone(), request, stream: None }
    }

    /// Opens the heartbeat channel, on a connection of its own. Has no deadline: its messages have.
    ///
    /// # Errors
    /// As every call; is not tried again.
    pub async fn heartbeat(
        &self,
        beats: impl tokio_stream::Stream<Item = v1::Beat> + Send + 'static,
    ) -> Result<Streaming<v1::Orders>, ClientError> {
        let mut service = self.limited_workers(self.beats.clone());
        let opened = tokio::time::timeout(CALL_DEADLINE, service.heartbeat(beats)).await;
        self.answer(opened.unwrap_or_else(|_| Err(timed_out(CALL_DEADLINE))))
    }

    /// Begins a backup: its parts, in order. Has no deadline: its messages have.
    ///
    /// # Errors
    /// As every call.
    pub async fn backup(&self) -> Result<Streaming<v1::BackupPart>, ClientError> {
        self.again(|| {
            let mut service = AdminServiceClient::with_interceptor(self.bulk.clone(), self.token.clone())
                .max_decoding_message_size(MESSAGE_BYTES_MAX);
            async move {
                let opened = tokio::time::timeout(CALL_DEADLINE, service.backup(v1::BackupRequest {})).await;
                opened.unwrap_or_else(|_| Err(timed_out(CALL_DEADLINE)))
            }
        })
        .await
    }

    /// The study service itself, for calls that have no method here.
    #[must_use]
    pub fn studies(&self) -> StudyServiceClient<Intercepted> {
        StudyServiceClient::with_interceptor(self.calls.clone(), self.token.clone())
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
    }

    /// The model service itself.
    #[must_use]
    pub fn models(&self) -> ModelServiceClient<Intercepted> {
        ModelServiceClient::with_interceptor(self.calls.clone(), self.token.clone())
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
    }

    fn workers(&self) -> WorkerServiceClient<Intercepted> {
        self.limited_workers(self.calls.clone())
    }

    fn limited_workers(&self, channel: Channel) -> WorkerServiceClient<Intercepted> {
        WorkerServiceClient::with_interceptor(channel, self.token.clone())
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
    }

    pub(crate) fn blobs(&self) -> BlobServiceClient<Intercepted> {
        BlobServiceClient::with_interceptor(self.bulk.clone(), self.token.clone())
    }

    pub(crate) fn patience(&self) -> Duration {
        self.patience
    }

    /// Makes a call again, with growing pauses, while it fails for a reason that may pass.
    async fn again<T, F, Answer>(&self, mut call: F) -> Result<T, ClientError>
    where
        F: FnMut() -> Answer,
        Answer: Future<Output = Result<Response<T>, Status>>,
    {
        let start = Instant::now();
        let mut backoff = Backoff::default();
        loop {
            let error = match self.answer(call().await) {
                Err(error) if error.is_temporary() => error,
                other => return other,
            };
            let delay = backoff.delay();
            if start.elapsed() + delay > self.patience {
                return Err(error);
            }
            tracing::debug!(url = self.url, %error, ?delay, "trying again");
            tokio::time::sleep(delay).await;
        }
    }

    async fn once<T, F, Answer>(&self, mut call: F) -> Result<T, ClientError>
    where
        F: FnMut() -> Answer,
        Answer: Future<Output = Result<Response<T>, Status>>,
    {
        self.answer(call().await)
    }

    pub(crate) fn answer<T>(&self, result: Result<Response<T>, Status>) -> Result<T, ClientError> {
        match result {
            Ok(response) => Ok(response.into_inner()),
            Err(status) => Err(ClientError::from_status(&self.url, &status)),
        }
    }
}

/// A study's events as they come. After a broken connection it goes on behind the last event seen.
#[derive(Debug)]
pub struct Watch {
    client: Client,
    request: v1::WatchStudyRequest,
    stream: Option<Streaming<v1::Event>>,
}

impl Watch {
    /// The next event; none when the study has ended.
    ///
    /// # Errors
    /// What the coordinator answered, or that it could not be reached for as long as the client's patience.
    pub async fn next(&mut self) -> Result<Option<v1::Event>, ClientError> {
        loop {
            let stream = match &mut self.stream {
                Some(stream) => stream,
                none => none.insert(self.client.open_watch(&self.request).await?),
            };
            match stream.message().await {
                Ok(Some(event)) => {
                    self.request.after = event.seq;
                    return Ok(Some(event));
                }
                Ok(None) => return Ok(None),
                Err(status) => {
                    let error = ClientError::from_status(&self.client.url, &status);
                    if !error.is_temporary() {
                        return Err(error);
                    }
                    self.stream = None;
                }
            }
        }
    }
}

impl Client {
    async fn open_watch(&self, request: &v1::WatchStudyRequest) -> Result<Streaming<v1::Event>, ClientError> {
        self.again(|| {
            let mut service = self.studies();
            let request = request.clone();
            async move {
                let opened = tokio::time::timeout(CALL_DEADLINE, service.watch_study(request)).await;
                opened.unwrap_or_else(|_| Err(timed_out(CALL_DEADLINE)))
            }
        })
        .await
    }
}

fn endpoint(url: &str) -> Result<Endpoint, tonic::transport::Error> {
    Ok(Endpoint::from_shared(url.to_owned())?
        .user_agent(concat!("kapell/", env!("CARGO_PKG_VERSION")))?
        .connect_timeout(CONNECT_DEADLINE)
        .tcp_nodelay(true)
        .initial_stream_window_size(WINDOW_BYTES)
        .initial_connection_window_size(2 * WINDOW_BYTES)
        .http2_keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PING_INTERVAL)
        .keep_alive_while_idle(true))
}

pub(crate) fn with_deadline<T>(message: T, deadline: Duration) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(deadline);
    request
}

pub(crate) fn timed_out(deadline: Duration) -> Status {
    Status::deadline_exceeded(format!("the coordinator did not answer within {} s", deadline.as_secs()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waiting_times_double_up_to_their_bound() {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_millis(350));
        for base in [100, 200, 350, 350] {
            let delay = backoff.delay();
            let base = Duration::from_millis(base);
            assert!(delay >= base / 2 && delay <= base * 3 / 2, "{delay:?} around {base:?}");
        }
    }

    #[tokio::test]
    async fn a_coordinator_that_is_not_there_is_unreachable() {
        let client = Client::connect("http://127.0.0.1:1", None).unwrap().with_patience(Duration::ZERO);
        let error = client.list_studies(v1::ListStudiesRequest {}).await.unwrap_err();
        assert_eq!(error.kind, Kind::Unreachable);
        assert!(error.message.contains("Connection refused"), "{error}");
        assert!(error.hint().unwrap().contains("kapell coordinator"));
    }

    #[tokio::test]
    async fn what_is_no_url_is_a_usage_error() {
        for url in ["localhost:7070", "http://", "http://a b"] {
            assert_eq!(Client::connect(url, None).unwrap_err().kind, Kind::Usage, "{url}");
        }
    }
}
