//! What workers say. Every write carries (trial, attempt), and is refused if the attempt does not hold the trial.

use std::pin::{Pin, pin};
use std::time::Duration;

use kapell_dispatch::{Held, Outcome};
use kapell_rpc::v1::worker_service_server::WorkerService;
use kapell_rpc::{PROTOCOL_VERSION, convert, reason, v1};
use tokio_stream::Stream;
use tonic::{Request, Response, Status, Streaming};
use tracing::Instrument;

use super::{Shared, bad_request, heartbeat, refuse, wire};
use crate::store::checkpoints::{self, NewCheckpoint};
use crate::store::finish::Finish;
use crate::store::lease::Ask;
use crate::store::logs;
use crate::store::together::{Heard, Word};
use crate::store::workers::{self, NewWorker, Numerics};
use crate::store::writer::Boxed;
use crate::store::{StoreError, Tx};

/// The longest that a call for work waits.
pub(super) const WAIT_MAX: Duration = Duration::from_secs(60);
/// How long a worker waits at least where the queue cannot be used (no space left).
const BACK_OFF: Duration = Duration::from_secs(1);

pub(crate) struct Workers(pub(crate) Shared);

#[tonic::async_trait]
impl WorkerService for Workers {
    async fn register(
        &self,
        request: Request<v1::RegisterRequest>,
    ) -> Result<Response<v1::RegisterResponse>, Status> {
        let new = new_worker(request.into_inner())?;
        let name = new.name.clone();
        self.0
            .store
            .writer
            .write(move |tx| Box::pin(async move { workers::register(tx, &new).await }))
            .await?;
        self.0.live.registered(&name);
        Ok(Response::new(v1::RegisterResponse {
            heartbeat_ms: millis(self.0.config.heartbeat),
            lease_ms: millis(self.0.config.lease),
            coordinator_version: env!("CARGO_PKG_VERSION").to_owned(),
        }))
    }

    async fn lease(&self, request: Request<v1::LeaseRequest>) -> Result<Response<v1::LeaseResponse>, Status> {
        let request = request.into_inner();
        let wait = Duration::from_millis(request.wait_ms).min(WAIT_MAX);
        let ask = Ask {
            worker: request.worker,
            incarnation: request.incarnation,
            request_id: request.request_id,
            max_works: request.max_works.max(1),
            max_mates: request.max_mates.max(1),
        };
        self.0.live.heard(&ask.worker);
        let works = self.wait_for_work(ask, wait).await?;
        Ok(Response::new(v1::LeaseResponse { works }))
    }

    type HeartbeatStream = Pin<Box<dyn Stream<Item = Result<v1::Orders, Status>> + Send>>;

    async fn heartbeat(
        &self,
        request: Request<Streaming<v1::Beat>>,
    ) -> Result<Response<Self::HeartbeatStream>, Status> {
        heartbeat::open(self.0.clone(), request.into_inner()).await
    }

    async fn report(
        &self,
        request: Request<v1::ReportRequest>,
    ) -> Result<Response<v1::ReportResponse>, Status> {
        let request = request.into_inner();
        let held = self.0.held(request.trial_id, request.attempt)?;
        let rows: Vec<_> = request.measurements.into_iter().map(wire::measurement_from_wire).collect();
        let heard = self.hear(Word::Report(held, rows)).await?;
        Ok(Response::new(v1::ReportResponse { last_epoch: heard.epochs }))
    }

    async fn record_checkpoint(
        &self,
        request: Request<v1::RecordCheckpointRequest>,
    ) -> Result<Response<v1::RecordCheckpointResponse>, Status> {
        let request = request.into_inner();
        let held = self.0.held(request.trial_id, request.attempt)?;
        let new = self.checkpoints(request.best, request.last).await?;
        self.write(held, move |tx| Box::pin(async move { checkpoints::record(tx, held, &new).await }))
            .await?;
        Ok(Response::new(v1::RecordCheckpointResponse {}))
    }

    async fn append_log(
        &self,
        request: Request<v1::AppendLogRequest>,
    ) -> Result<Response<v1::AppendLogResponse>, Status> {
        let request = request.into_inner();
        let held = self.0.held(request.trial_id, request.attempt)?;
        let start = i64::try_from(request.start).unwrap_or(-1);
        let text = request.text;
        let end = self
            .write(held, move |tx| Box::pin(async move { logs::append(tx, held, start, &text).await }))
            .await?;
        Ok(Response::new(v1::AppendLogResponse { end: u64::try_from(end).unwrap_or(0) }))
    }

    async fn finish(
        &self,
        request: Request<v1::FinishRequest>,
    ) -> Result<Response<v1::FinishResponse>, Status> {
        let request = request.into_inner();
        let outcome = Outcome::parse(convert::outcome_name(request.outcome()))
            .ok_or_else(|| bad_request("a finish needs an outcome"))?;
        let held = self.0.held(request.trial_id, request.attempt)?;
        let finish = Finish {
            held,
            rows: request.measurements.into_iter().map(wire::measurement_from_wire).collect(),
            outcome,
            reason: head(&request.reason),
            last: request.r#final,
            seconds: request.seconds,
            log_tail: request.log_tail,
            log_bytes: i64::try_from(request.log_bytes).unwrap_or(0),
            checkpoints: self.checkpoints(request.best, request.last).await?,
        };
        let heard = self.hear(Word::Finish(finish)).await?;
        let state = convert::trial_state_from_name(heard.state.name()).unwrap_or_default();
        Ok(Response::new(v1::FinishResponse { state: state.into(), last_epoch: heard.epochs }))
    }
}

impl Workers {
    /// Writes for an attempt, whose lines in the log say whose they are.
    async fn write<T, F>(&self, held: Held, f: F) -> Result<T, Status>
    where
        T: Send + 'static,
        F: for<'c> FnOnce(&'c mut Tx) -> Boxed<'c, Result<T, StoreError>> + Send + 'static,
    {
        self.told(held, self.0.store.writer.write(f)).await
    }

    /// Writes down what a worker says of an attempt.
    async fn hear(&self, word: Word) -> Result<Heard, Status> {
        let heard = self.told(word.held(), self.0.store.writer.word(word)).await?;
        match heard.not_finite {
            None => Ok(heard),
            Some(why) => Err(refuse(reason::NOT_FINITE, why)),
        }
    }

    async fn told<T>(
        &self,
        held: Held,
        write: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, Status> {
        let written = async {
            let written = write.await;
            if let Err(StoreError::Refused(refusal)) = &written {
                tracing::info!(reason = refusal.reason, why = refusal.message, "refused");
            }
            Ok(written?)
        };
        written.instrument(self.0.live.span(held)).await
    }

    /// Asks the queue, and again whenever something has come into it, until there is work or the time is over.
    async fn wait_for_work(&self, ask: Ask, wait: Duration) -> Result<Vec<v1::Work>, Status> {
        let deadline = tokio::time::Instant::now() + wait;
        let (waiting, mut closing) = (self.0.live.wait(), self.0.live.closing());
        loop {
            // Before the look at the queue: what comes in behind it must not be missed.
            let mut woken = pin!(waiting.woken());
            woken.as_mut().enable();
            let pause = if self.0.space_is_low() {
                BACK_OFF
            } else {
                let ask = ask.clone();
                let leased = self.0.store.writer.ask(ask).await?;
                if let Some(leased) = leased {
                    self.0.live.pass_on();
                    return leased
                        .into_iter()
                        .map(|l| wire::work(self.0.store.life, l).map_err(Into::into))
                        .collect();
                }
                waiting.pause()
            };
            let again = (tokio::time::Instant::now() + pause).min(deadline);
            tokio::select! {
                () = woken => {}
                () = tokio::time::sleep_until(again) => {}
                _ = closing.wait_for(|closing| *closing) => return Ok(Vec::new()),
            }
            if tokio::time::Instant::now() >= deadline {
                return Ok(Vec::new());
            }
        }
    }

    /// Checkpoints as a worker announces them, with their manifests read and checked.
    async fn checkpoints(
        &self,
        best: Option<v1::Checkpoint>,
        last: Option<v1::Checkpoint>,
    ) -> Result<Vec<NewCheckpoint>, Status> {
        let mut new = Vec::new();
        for (role, checkpoint) in [("best", best), ("last", last)] {
            let Some(c) = checkpoint else { continue };
            let manifest = self.0.blobs.manifest_to_keep(&c.digest).await?;
            let val_loss = c.val_loss.is_finite().then_some(c.val_loss);
            new.push(NewCheckpoint { role, digest: c.digest, epoch: c.epoch, val_loss, manifest });
        }
        Ok(new)
    }
}

fn new_worker(request: v1::RegisterRequest) -> Result<NewWorker, Status> {
    if request.protocol_version != PROTOCOL_VERSION {
        let text = format!(
            "the worker speaks protocol version {}, the coordinator {PROTOCOL_VERSION}: use the same release",
            request.protocol_version
        );
        return Err(refuse(reason::PROTOCOL_VERSION, text));
    }
    for (field, value) in [("name", &request.name), ("incarnation", &request.incarnation)] {
        if value.is_empty() || value.len() > 256 || value.contains(',') {
            return Err(bad_request(format!("a worker's {field} has 1 to 256 bytes and no comma")));
        }
    }
    let numerics = request.numerics.ok_or_else(|| bad_request("a worker says what numerics it has"))?;
    Ok(NewWorker {
        name: request.name,
        incarnation: request.incarnation,
        host: request.host,
        devices: request.devices.into_iter().map(wire::device_from_wire).collect(),
        slots: request.slots.max(1),
        study: Some(request.study).filter(|s| !s.is_empty()),
        numerics: Numerics {
            program_version: numerics.program_version,
            kind: numerics.kind,
            dtype: numerics.dtype,
        },
    })
}

/// What is kept of a reason: it is shown in a table.
fn head(reason: &str) -> String {
    const CHARS_MAX: usize = 2000;
    reason.chars().take(CHARS_MAX).collect()
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
