//! A coordinator in memory, on a runtime of its own that can be killed and started again, and a scripted trainer.

#[path = "../../../../rpc/tests/support/blobs.rs"]
pub(crate) mod blobs;
pub(crate) mod trainer;
#[path = "../../../../../tests/support/watchdog.rs"]
mod watchdog;

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use blobs::FakeBlobs;
use kapell_rpc::v1::blob_service_server::BlobServiceServer;
use kapell_rpc::v1::order::What;
use kapell_rpc::v1::worker_service_server::{WorkerService, WorkerServiceServer};
use kapell_rpc::{REASON_KEY, reason, v1};
use tokio::runtime::Runtime;
use tokio::sync::{Notify, broadcast, mpsc};
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::metadata::MetadataMap;
use tonic::{Request, Response, Status, Streaming};
use watchdog::Watchdog;

/// No test waits longer for what must come.
pub(crate) const LONG: Duration = Duration::from_secs(10);

/// What came in, and what is answered.
#[derive(Default)]
pub(crate) struct State {
    pub(crate) works: VecDeque<v1::Work>,
    pub(crate) registrations: Vec<v1::RegisterRequest>,
    pub(crate) beats: Vec<v1::Beat>,
    pub(crate) reported: Vec<(i64, v1::Measurement)>,
    pub(crate) recorded: Vec<v1::RecordCheckpointRequest>,
    /// For each, the newest epoch that had been reported when it came.
    pub(crate) recorded_behind: Vec<u32>,
    pub(crate) finished: Vec<(Instant, v1::FinishRequest)>,
    /// How long a report takes to be taken.
    pub(crate) report_takes: Duration,
    /// Reasons to refuse with, by method.
    pub(crate) refuse_register: Option<&'static str>,
    pub(crate) refuse_lease: Option<&'static str>,
    pub(crate) refuse_report: Option<&'static str>,
    /// Grants the next lease in an answer that is lost.
    pub(crate) lose_lease: bool,
    /// What was granted so, by request id.
    pub(crate) lost_lease: Option<(String, Vec<v1::Work>)>,
    /// Whether the worker has registered since the start.
    known: bool,
}

/// What the coordinator's services share.
#[derive(Clone)]
pub(crate) struct Service {
    pub(crate) state: Arc<Mutex<State>>,
    changed: Arc<Notify>,
    orders: broadcast::Sender<v1::Order>,
}

/// The coordinator.
pub(crate) struct Fake {
    service: Service,
    pub(crate) blobs: FakeBlobs,
    running: Mutex<Option<Runtime>>,
    addr: SocketAddr,
    _watchdog: Watchdog,
}

impl std::ops::Deref for Fake {
    type Target = Service;

    fn deref(&self) -> &Service {
        &self.service
    }
}

fn refusal(reason: &'static str) -> Status {
    let mut metadata = MetadataMap::new();
    metadata.insert(REASON_KEY, reason.parse().unwrap());
    Status::with_metadata(reason::code(reason), reason, metadata)
}

fn check(refuse: Option<&'static str>) -> Result<(), Status> {
    refuse.map_or(Ok(()), |reason| Err(refusal(reason)))
}

impl Service {
    pub(crate) fn with<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let result = change(&mut self.state.lock().unwrap());
        self.changed.notify_waiters();
        result
    }
}

impl Fake {
    /// Started, on a free port.
    pub(crate) fn start() -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let service =
            Service { state: Arc::default(), changed: Arc::default(), orders: broadcast::Sender::new(16) };
        let fake = Self {
            service,
            blobs: FakeBlobs::default(),
            running: Mutex::default(),
            addr: listener.local_addr().unwrap(),
            _watchdog: Watchdog::new(),
        };
        fake.serve(listener);
        fake
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// Ends it as SIGKILL would: connections break, nothing is answered any more.
    pub(crate) fn kill(&self) {
        self.running.lock().unwrap().take().unwrap().shutdown_background();
    }

    /// The same again, on the same port; it knows no worker.
    pub(crate) fn restart(&self) {
        self.state.lock().unwrap().known = false;
        let deadline = Instant::now() + LONG;
        loop {
            match std::net::TcpListener::bind(self.addr) {
                Ok(listener) => return self.serve(listener),
                Err(error) => assert!(Instant::now() < deadline, "{error}"),
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn serve(&self, listener: std::net::TcpListener) {
        listener.set_nonblocking(true).unwrap();
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let blobs = BlobServiceServer::new(self.blobs.clone());
        let workers = WorkerServiceServer::new(self.service.clone());
        runtime.spawn(async move {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            tonic::transport::Server::builder()
                .add_service(blobs)
                .add_service(workers)
                .serve_with_incoming(TcpListenerStream::new(listener))
                .await
                .unwrap();
        });
        *self.running.lock().unwrap() = Some(runtime);
    }

    /// Hands this out next.
    pub(crate) fn queue(&self, work: v1::Work) {
        self.with(|state| state.works.push_back(work));
    }

    /// Pushes an order for attempt 1 of a trial to whoever listens.
    pub(crate) fn order(&self, trial_id: i64, what: What) {
        self.orders.send(v1::Order { trial_id, attempt: 1, what: Some(what) }).unwrap();
    }

    /// Waits until something holds of what came in.
    pub(crate) async fn until<T>(&self, what: &str, mut holds: impl FnMut(&State) -> Option<T>) -> T {
        let waiting = async {
            loop {
                let changed = self.changed.notified();
                tokio::pin!(changed);
                changed.as_mut().enable();
                if let Some(found) = holds(&self.state.lock().unwrap()) {
                    return found;
                }
                changed.await;
            }
        };
        tokio::time::timeout(LONG, waiting).await.unwrap_or_else(|_| panic!("in vain: {what}"))
    }

    /// Waits for the end of a trial's attempt.
    pub(crate) async fn finish_of(&self, trial_id: i64) -> v1::FinishRequest {
        self.until("a finish", |s| {
            s.finished.iter().map(|(_, f)| f).find(|f| f.trial_id == trial_id).cloned()
        })
        .await
    }

    /// Waits for the end of an attempt that really trains, which takes as long as the machine needs: but it gets on.
    pub(crate) async fn trained(&self, trial_id: i64) -> v1::FinishRequest {
        let mut known = 0;
        loop {
            let (epochs, finish) = self
                .until("an epoch, or a finish", |s| {
                    let epochs = s.reported.iter().filter(|(id, _)| *id == trial_id).count();
                    let finish = s.finished.iter().map(|(_, f)| f).find(|f| f.trial_id == trial_id);
                    (finish.is_some() || epochs > known).then_some((epochs, finish.cloned()))
                })
                .await;
            if let Some(finish) = finish {
                return finish;
            }
            known = epochs;
        }
    }

    /// The epochs reported of a trial, in order of arrival.
    pub(crate) fn epochs_of(&self, trial_id: i64) -> Vec<u32> {
        let state = self.state.lock().unwrap();
        state.reported.iter().filter(|(id, _)| *id == trial_id).map(|(_, m)| m.epoch).collect()
    }

    /// Waits until the worker's heartbeat channel is open and it holds this trial.
    pub(crate) async fn held(&self, trial_id: i64) {
        let holds = |beat: &v1::Beat| beat.held.iter().any(|held| held.trial_id == trial_id);
        self.until("a beat", |s| s.beats.iter().any(holds).then_some(())).await;
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        // A runtime must not be dropped where a test waits.
        if let Some(runtime) = self.running.lock().unwrap().take() {
            runtime.shutdown_background();
        }
    }
}

#[tonic::async_trait]
impl WorkerService for Service {
    async fn register(
        &self,
        request: Request<v1::RegisterRequest>,
    ) -> Result<Response<v1::RegisterResponse>, Status> {
        self.with(|state| {
            check(state.refuse_register)?;
            state.registrations.push(request.into_inner());
            state.known = true;
            Ok(Response::new(v1::RegisterResponse {
                heartbeat_ms: 50,
                lease_ms: 1000,
                coordinator_version: "fake".into(),
            }))
        })
    }

    async fn lease(&self, request: Request<v1::LeaseRequest>) -> Result<Response<v1::LeaseResponse>, Status> {
        let request = request.into_inner();
        let deadline = tokio::time::Instant::now() + Duration::from_millis(request.wait_ms.min(200));
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            let works: Vec<v1::Work> = {
                let mut state = self.state.lock().unwrap();
                check(state.refuse_lease)?;
                if !state.known {
                    return Err(refusal(reason::UNKNOWN_WORKER));
                }
                if let Some((_, works)) = state.lost_lease.take_if(|(id, _)| *id == request.request_id) {
                    return Ok(Response::new(v1::LeaseResponse { works }));
                }
                let count = state.works.len().min(usize::try_from(request.max_works).unwrap());
                state.works.drain(..count).collect()
            };
            let lost = !works.is_empty() && self.with(|state| std::mem::take(&mut state.lose_lease));
            if lost {
                self.with(|state| state.lost_lease = Some((request.request_id, works)));
                return std::future::pending().await;
            }
            if !works.is_empty() || tokio::time::timeout_at(deadline, changed).await.is_err() {
                return Ok(Response::new(v1::LeaseResponse { works }));
            }
        }
    }

    type HeartbeatStream =
        Pin<Box<dyn tokio_stream::Stream<Item = Result<v1::Orders, Status>> + Send + 'static>>;

    async fn heartbeat(
        &self,
        request: Request<Streaming<v1::Beat>>,
    ) -> Result<Response<Self::HeartbeatStream>, Status> {
        let (answers, stream) = mpsc::channel(16);
        let (fake, mut beats, mut orders) = (self.clone(), request.into_inner(), self.orders.subscribe());
        tokio::spawn(async move {
            loop {
                let answer = tokio::select! {
                    beat = beats.message() => match beat {
                        Ok(Some(beat)) => fake.with(|state| {
                            state.beats.push(beat);
                            if state.known { Ok(v1::Orders::default()) } else { Err(refusal(reason::UNKNOWN_WORKER)) }
                        }),
                        _ => return,
                    },
                    order = orders.recv() => Ok(v1::Orders { orders: vec![order.unwrap()] }),
                };
                if answers.send(answer).await.is_err() {
                    return;
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(stream))))
    }

    async fn report(
        &self,
        request: Request<v1::ReportRequest>,
    ) -> Result<Response<v1::ReportResponse>, Status> {
        let request = request.into_inner();
        tokio::time::sleep(self.with(|state| state.report_takes)).await;
        self.with(|state| {
            check(state.refuse_report)?;
            let last_epoch = request.measurements.last().map_or(0, |m| m.epoch);
            let trial = request.trial_id;
            state.reported.extend(request.measurements.into_iter().map(|m| (trial, m)));
            Ok(Response::new(v1::ReportResponse { last_epoch }))
        })
    }

    async fn record_checkpoint(
        &self,
        request: Request<v1::RecordCheckpointRequest>,
    ) -> Result<Response<v1::RecordCheckpointResponse>, Status> {
        self.with(|state| {
            let behind = state.reported.iter().map(|(_, m)| m.epoch).max().unwrap_or_default();
            state.recorded_behind.push(behind);
            state.recorded.push(request.into_inner());
        });
        Ok(Response::new(v1::RecordCheckpointResponse {}))
    }

    async fn append_log(
        &self,
        request: Request<v1::AppendLogRequest>,
    ) -> Result<Response<v1::AppendLogResponse>, Status> {
        let request = request.into_inner();
        let end = request.start + request.text.len() as u64;
        Ok(Response::new(v1::AppendLogResponse { end }))
    }

    async fn finish(
        &self,
        request: Request<v1::FinishRequest>,
    ) -> Result<Response<v1::FinishResponse>, Status> {
        let request = request.into_inner();
        self.with(|state| {
            if !request.measurements.is_empty() {
                check(state.refuse_report)?;
            }
            let last_epoch = request.measurements.last().map_or(0, |m| m.epoch);
            let left = request.measurements.iter().map(|m| (request.trial_id, m.clone()));
            state.reported.extend(left);
            state.finished.push((Instant::now(), request));
            Ok(Response::new(v1::FinishResponse { last_epoch, ..Default::default() }))
        })
    }
}
