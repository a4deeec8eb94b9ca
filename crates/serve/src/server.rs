//! The port and its connections: how many there may be, how slow they may be, and how they end.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot, watch};
use tokio::task::JoinHandle;
use tokio_io_timeout::TimeoutStream;

use crate::engine::Engine;
use crate::error::StartError;
use crate::http::{self, App};
use crate::metrics::Metrics;
use crate::model::{self, Offer, Served};
use crate::{Config, Limits};

/// After a connection could not be accepted: most likely there are too many open files.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
const HEADER_BYTES_MAX: usize = 32 << 10;

/// A server at work. Dropped, it stops at once.
#[derive(Debug)]
pub struct Running {
    /// Where it listens.
    pub addr: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    serving: JoinHandle<()>,
    following: JoinHandle<()>,
    drain: Duration,
}

impl Running {
    /// Accepts no more, and waits until what was asked is answered, at most as long as a request may take.
    pub async fn shutdown(mut self) {
        if let Some(stop) = self.stop.take() {
            // An error means that it has stopped already.
            let _ = stop.send(());
        }
        if tokio::time::timeout(self.drain, &mut self.serving).await.is_err() {
            tracing::warn!("requests were left unanswered after {:?}", self.drain);
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.serving.abort();
        self.following.abort();
    }
}

/// Opens the port, and serves whatever is offered.
///
/// # Errors
/// If the port cannot be had.
pub async fn start(config: Config, offers: watch::Receiver<Offer>) -> Result<Running, StartError> {
    let addr = config.listen;
    let failed = |source: io::Error| match source.kind() {
        io::ErrorKind::AddrInUse => StartError::PortInUse(addr),
        _ => StartError::Listen { addr, source },
    };
    let listener = TcpListener::bind(addr).await.map_err(failed)?;
    let addr = listener.local_addr().map_err(|source| StartError::Listen { addr, source })?;
    let metrics = Arc::new(Metrics::new());
    let served = Arc::new(Served::default());
    let engine = Engine::start(config.cores, config.limits.batch_max, Arc::clone(&metrics))
        .map_err(StartError::Thread)?;
    let following = tokio::spawn(model::follow(offers, Arc::clone(&served), Arc::clone(&metrics)));
    let limits = config.limits;
    let router = http::router(Arc::new(App::new(config, engine, served, Arc::clone(&metrics))));
    let (stop, stopped) = oneshot::channel();
    let serving = tokio::spawn(accept(listener, router, limits, metrics, stopped));
    tracing::info!(%addr, "serving: http://{addr}/");
    let drain = limits.request_time_max + limits.client_time_max;
    Ok(Running { addr, stop: Some(stop), serving, following, drain })
}

async fn accept(
    listener: TcpListener,
    router: Router,
    limits: Limits,
    metrics: Arc<Metrics>,
    mut stopped: oneshot::Receiver<()>,
) {
    let graceful = GracefulShutdown::new();
    let places = Arc::new(Semaphore::new(limits.connections_max));
    loop {
        let next = async {
            // Beyond the limit they wait in the kernel's queue, and then are refused there.
            let place = Arc::clone(&places).acquire_owned().await;
            (place, listener.accept().await)
        };
        tokio::select! {
            _ = &mut stopped => break,
            (place, accepted) = next => match (place, accepted) {
                (Ok(place), Ok((stream, _))) => {
                    let connection = Connection { router: router.clone(), limits, place, metrics: Arc::clone(&metrics) };
                    tokio::spawn(connection.serve(stream, graceful.watcher()));
                }
                (_, failed) => {
                    tracing::debug!("no connection: {:?}", failed.err());
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
        }
    }
    drop(listener);
    graceful.shutdown().await;
}

struct Connection {
    router: Router,
    limits: Limits,
    place: OwnedSemaphorePermit,
    metrics: Arc<Metrics>,
}

impl Connection {
    async fn serve(self, stream: TcpStream, watcher: Watcher) {
        let Self { router, limits, place, metrics } = self;
        metrics.connections.inc();
        // Only speed is lost where it cannot be set.
        let _ = stream.set_nodelay(true);
        let mut stream = TimeoutStream::new(stream);
        stream.set_write_timeout(Some(limits.client_time_max));
        let service = TowerToHyperService::new(router);
        let connection = hyper::server::conn::http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(limits.client_time_max)
            .max_buf_size(HEADER_BYTES_MAX)
            .serve_connection(TokioIo::new(Box::pin(stream)), service);
        if let Err(error) = watcher.watch(connection).await {
            tracing::debug!("a connection ended early: {error}");
        }
        metrics.connections.dec();
        drop(place);
    }
}
