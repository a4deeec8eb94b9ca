//! The wire: gRPC services over the store, the blobs and what lives in memory.

mod admin;
mod admission;
mod blob;
mod heartbeat;
mod lease_id;
mod model;
mod study;
mod wire;
mod worker;

use std::sync::Arc;
use std::time::Duration;

use kapell_dispatch::Held;
use kapell_rpc::v1::admin_service_server::AdminServiceServer;
use kapell_rpc::v1::blob_service_server::BlobServiceServer;
use kapell_rpc::v1::model_service_server::ModelServiceServer;
use kapell_rpc::v1::study_service_server::StudyServiceServer;
use kapell_rpc::v1::worker_service_server::WorkerServiceServer;
use kapell_rpc::{REASON_KEY, reason};
use tokio::net::TcpListener;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tonic::metadata::{MetadataMap, MetadataValue};
use tonic::{Code, Status};

use admission::{Limited, accept};

use crate::blobs::Blobs;
use crate::data_dir::free_bytes;
use crate::live::Live;
use crate::start::Config;
use crate::store::{Store, StoreError, quarantine};

/// The longest request: a chunk of a blob, a study file or an attempt's log, with room.
const MESSAGE_BYTES_MAX: usize = 4 << 20;
/// The longest answer: the measurements of one trial.
const ANSWER_BYTES_MAX: usize = 32 << 20;
/// The longest text of a refusal: it travels in a header, of which a client takes 16 KiB, and three bytes stand for one
/// that is not ASCII.
const REFUSAL_BYTES_MAX: usize = 4 << 10;
const STREAMS_MAX: u32 = 1024;
const PING_EVERY: Duration = Duration::from_secs(10);
const PING_TIMEOUT: Duration = Duration::from_secs(20);
const WINDOW_BYTES: u32 = 1 << 20;

/// What every service has.
#[derive(Clone)]
pub(crate) struct Shared {
    pub(crate) store: Store,
    pub(crate) live: Arc<Live>,
    pub(crate) blobs: Blobs,
    pub(crate) config: Arc<Config>,
    /// Told of studies that have trials to come.
    pub(crate) expand: Arc<Notify>,
}

impl Shared {
    /// The attempt that a worker names. One of an earlier life of the store holds nothing here.
    pub(crate) fn held(&self, trial_id: i64, attempt: u32) -> Result<Held, Status> {
        match lease_id::from_wire(self.store.life, trial_id) {
            Some(trial) => Ok(Held { trial, attempt }),
            None => Err(refuse(reason::STALE_ATTEMPT, "the lease is of before the store was restored")),
        }
    }

    /// Leasing and expanding stop while there is little space left; what runs goes on.
    pub(crate) fn space_is_low(&self) -> bool {
        if let Some(low) = self.live.space_known_low() {
            return low;
        }
        match free_bytes(&self.config.data_dir) {
            Ok(free) => {
                let min_free = self.config.min_free_bytes;
                let low = free < min_free;
                if self.live.space_was_low(low) != low {
                    tracing::warn!(free, min_free, leasing = !low, "disk space");
                }
                low
            }
            Err(error) => {
                tracing::warn!(%error, "cannot tell how much disk space is left");
                false
            }
        }
    }

    /// What a person should see to.
    async fn warnings(&self) -> Result<Vec<String>, Status> {
        let mut conn = self.store.readers.acquire().await.map_err(StoreError::from)?;
        let quarantined = quarantine::list(&mut conn).await?;
        drop(conn);
        let min = self.config.min_free_bytes;
        let low = free_bytes(&self.config.data_dir).ok().filter(|free| *free < min);
        let mut warnings: Vec<String> = low.map(|free| space_text(free, min)).into_iter().collect();
        for (worker, reason) in quarantined {
            warnings.push(format!(
                "worker {worker} is quarantined: {reason}; see to it, then: kapell workers uncordon {worker}"
            ));
        }
        Ok(warnings)
    }
}

fn space_text(free: u64, min: u64) -> String {
    format!(
        "leasing has stopped: {} are free on the data folder's disk, below --min-free {}",
        gib(free),
        gib(min)
    )
}

#[expect(clippy::cast_precision_loss, reason = "shown with one decimal")]
fn gib(bytes: u64) -> String {
    format!("{:.1} GiB", bytes as f64 / f64::from(1 << 30))
}

/// Serves on a listener until the coordinator closes.
pub(crate) fn serve(
    shared: Shared,
    listener: TcpListener,
) -> JoinHandle<Result<(), tonic::transport::Error>> {
    let mut closing = shared.live.closing();
    let limits = shared.config.limits.clone();
    let studies = StudyServiceServer::new(study::Studies(shared.clone()))
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(ANSWER_BYTES_MAX);
    let workers = WorkerServiceServer::new(worker::Workers(shared.clone()))
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(ANSWER_BYTES_MAX);
    let models = ModelServiceServer::new(model::Models(shared.clone()))
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(ANSWER_BYTES_MAX);
    let admin = AdminServiceServer::new(admin::Admin(shared.clone()))
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(ANSWER_BYTES_MAX);
    let blobs = BlobServiceServer::new(blob::BlobCalls(shared))
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(ANSWER_BYTES_MAX);
    let server = tonic::transport::Server::builder()
        .http2_keepalive_interval(Some(PING_EVERY))
        .http2_keepalive_timeout(Some(PING_TIMEOUT))
        .max_concurrent_streams(Some(STREAMS_MAX))
        .initial_stream_window_size(Some(WINDOW_BYTES))
        .initial_connection_window_size(Some(4 * WINDOW_BYTES))
        .add_service(Limited::new(studies, &limits))
        .add_service(Limited::new(workers, &limits))
        .add_service(Limited::new(blobs, &limits))
        .add_service(Limited::new(models, &limits))
        .add_service(Limited::new(admin, &limits));
    let closed = async move {
        // An error means that the coordinator is gone altogether.
        drop(closing.wait_for(|closing| *closing).await);
    };
    tokio::spawn(server.serve_with_incoming_shutdown(accept(listener, &limits), closed))
}

/// A status with its reason where machines look for it.
pub(crate) fn refuse(reason: &'static str, message: impl Into<String>) -> Status {
    let mut message: String = message.into();
    if message.len() > REFUSAL_BYTES_MAX {
        message.truncate(message.floor_char_boundary(REFUSAL_BYTES_MAX));
        message.push_str("...");
    }
    let mut metadata = MetadataMap::new();
    metadata.insert(REASON_KEY, MetadataValue::from_static(reason));
    Status::with_metadata(reason::code(reason), message, metadata)
}

impl From<StoreError> for Status {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Refused(refusal) => refuse(refusal.reason, refusal.message),
            StoreError::DiskFull => refuse(reason::DISK_FULL, error.to_string()),
            StoreError::Overloaded => refuse(reason::OVERLOADED, error.to_string()),
            StoreError::Closed => refuse(reason::SHUTTING_DOWN, error.to_string()),
            StoreError::Failed(_) => refuse(reason::STORE_FAILED, error.to_string()),
            StoreError::Sql(sqlx::Error::PoolClosed) => {
                refuse(reason::SHUTTING_DOWN, "the coordinator is ending")
            }
            StoreError::Corrupt(_) | StoreError::Sql(_) | StoreError::File(_) => {
                tracing::error!(%error, "a call failed");
                refuse(reason::INTERNAL, error.to_string())
            }
        }
    }
}

/// A request that lacks something.
pub(crate) fn bad_request(what: impl Into<String>) -> Status {
    refuse(reason::BAD_REQUEST, what)
}

/// The stream has ended, or broken on the other side.
pub(crate) fn is_gone(status: &Status) -> bool {
    matches!(status.code(), Code::Cancelled | Code::Unknown | Code::Unavailable)
}
