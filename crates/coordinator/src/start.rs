//! Starts a coordinator in this process, and ends it.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::blobs::Blobs;
use crate::data_dir::{DataDir, DataDirError, clean_backups};
use crate::disk::{Disk, RealDisk};
use crate::live::Live;
use crate::service::{self, Shared};
use crate::store::{self, OpenError, Store, StoreError};
use crate::upkeep;

/// How long open calls may take to end at a shutdown.
const SHUTDOWN_MAX: Duration = Duration::from_secs(3);

/// What a coordinator needs to know.
#[derive(Debug, Clone)]
pub struct Config {
    pub data_dir: PathBuf,
    /// Port 0: any free one (see [`Running::addr`]).
    pub listen: SocketAddr,
    /// How long a lease lives without a beat.
    pub lease: Duration,
    /// How often workers are to beat.
    pub heartbeat: Duration,
    /// What running attempts get on top of a lease after a restart of the coordinator.
    pub outage_grace: Duration,
    /// Below this free space on the data folder's disk nothing is leased.
    pub min_free_bytes: u64,
    /// What the files of the data folder lie on, but for SQLite's.
    pub disk: Arc<dyn Disk>,
    pub limits: Limits,
}

/// How much is served at once; beyond it callers are told to come back later.
#[derive(Debug, Clone)]
pub struct Limits {
    /// A worker has up to three.
    pub connections: usize,
    /// Calls without an answer yet, on one connection.
    pub calls_per_connection: usize,
    /// Until an answer begins. Waiting for work, and what goes through a whole study, may take longer.
    pub call_deadline: Duration,
    /// A connection from which nothing is heard for so long is closed. Pings are answered sooner.
    pub silence: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 32_768,
            calls_per_connection: 512,
            call_deadline: Duration::from_secs(30),
            silence: Duration::from_secs(60),
        }
    }
}

impl Config {
    /// The documented defaults, on a data folder.
    #[must_use]
    pub fn new(data_dir: PathBuf) -> Self {
        Self {
            data_dir,
            listen: SocketAddr::from(([127, 0, 0, 1], 7070)),
            lease: Duration::from_secs(30),
            heartbeat: Duration::from_secs(5),
            outage_grace: Duration::from_secs(120),
            min_free_bytes: 10 << 30,
            disk: Arc::new(RealDisk),
            limits: Limits::default(),
        }
    }
}

/// Why a coordinator does not start. Where nothing else is said it is the caller's to mend
/// (exit code 2).
#[derive(Debug, Error)]
pub enum StartError {
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    #[error("{0} is in use: another coordinator may be running; name another with --listen")]
    PortInUse(SocketAddr),
    #[error("cannot listen on {addr}: {error}")]
    Listen { addr: SocketAddr, error: std::io::Error },
    #[error(
        "the data folder has schema {found}, which is newer than this program knows ({known}): use the newer program"
    )]
    NewerSchema { found: i64, known: i64 },
    /// Exit code 75: it may start when there is room.
    #[error("no space is left on the data folder's disk: make room and start again")]
    DiskFull,
    /// Exit code 7.
    #[error("the database of the data folder is damaged, or is none: {0}; restore the folder from a copy")]
    Damaged(String),
    #[error("{0}")]
    BadConfig(String),
    #[error("{0}")]
    Unexpected(String),
}

impl From<OpenError> for StartError {
    fn from(error: OpenError) -> Self {
        match error {
            OpenError::NewerSchema { found, known } => Self::NewerSchema { found, known },
            OpenError::BrokenKeys { .. } => Self::Damaged(error.to_string()),
            other => match cause(&other) {
                Some(error) if store::error::is_full(error) => Self::DiskFull,
                Some(error) if store::error::is_damaged(error) => Self::Damaged(other.to_string()),
                _ => Self::Unexpected(other.to_string()),
            },
        }
    }
}

/// The database's own error behind an error.
fn cause<'e>(error: &'e (dyn std::error::Error + 'static)) -> Option<&'e sqlx::Error> {
    std::iter::successors(Some(error), |e| e.source())
        .filter_map(|e| e.downcast_ref::<sqlx::Error>())
        .find(|e| e.as_database_error().is_some())
}

impl From<StoreError> for StartError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::DiskFull => Self::DiskFull,
            other => Self::Unexpected(other.to_string()),
        }
    }
}

/// A coordinator that runs. Dropping it does not end it; [`Running::shutdown`] does.
pub struct Running {
    addr: SocketAddr,
    live: Arc<Live>,
    blobs: Blobs,
    failed: oneshot::Receiver<String>,
    server: JoinHandle<Result<(), tonic::transport::Error>>,
    upkeep: JoinHandle<()>,
    writer: JoinHandle<()>,
    store: Store,
    // Let go of last.
    data_dir: DataDir,
}

/// The store has failed: what is on disk is for the next start to judge.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("the coordinator had to end: {0}")]
pub struct Failed(pub String);

/// Starts a coordinator: takes hold of the data folder, brings the schema up to date, adopts what runs, serves.
///
/// # Errors
/// Why it cannot.
pub async fn start(config: Config) -> Result<Running, StartError> {
    check(&config)?;
    let data_dir = DataDir::open(&config.data_dir, &*config.disk)?;
    let listener = listen(config.listen).await?;
    let addr = listener.local_addr().map_err(|error| StartError::Listen { addr: config.listen, error })?;
    let live = Arc::new(Live::new(config.lease));
    let (store, writer, failed) = store::open(&data_dir.database(), Arc::clone(&live)).await?;
    let blobs = Blobs::open(&data_dir.path, store.clone(), Arc::clone(&config.disk))
        .map_err(|error| DataDirError::Io { path: data_dir.path.clone(), error })?;
    clean_backups(&data_dir.path).map_err(|error| DataDirError::Io { path: data_dir.path.clone(), error })?;
    let grace = config.outage_grace;
    let adopted = store.writer.write(move |tx| Box::pin(store::upkeep::adopt(tx, grace))).await?;
    let shared = Shared {
        store: store.clone(),
        live: Arc::clone(&live),
        blobs: blobs.clone(),
        config: Arc::new(Config { data_dir: data_dir.path.clone(), ..config }),
        expand: Arc::default(),
    };
    let upkeep = tokio::spawn(upkeep::run(shared.clone()));
    let server = service::serve(shared, listener);
    tracing::info!(%addr, data_dir = %data_dir.path.display(), adopted, "coordinator started");
    Ok(Running { addr, live, blobs, failed, server, upkeep, writer, store, data_dir })
}

fn check(config: &Config) -> Result<(), StartError> {
    if config.heartbeat.is_zero() || config.lease <= config.heartbeat {
        let text =
            format!("a lease ({:?}) must be longer than a heartbeat ({:?})", config.lease, config.heartbeat);
        return Err(StartError::BadConfig(text));
    }
    Ok(())
}

async fn listen(addr: SocketAddr) -> Result<TcpListener, StartError> {
    TcpListener::bind(addr).await.map_err(|error| match error.kind() {
        std::io::ErrorKind::AddrInUse => StartError::PortInUse(addr),
        _ => StartError::Listen { addr, error },
    })
}

impl std::fmt::Debug for Running {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Running")
            .field("addr", &self.addr)
            .field("data_dir", &self.data_dir)
            .finish_non_exhaustive()
    }
}

impl Running {
    /// Where it listens.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Where clients find it: `http://127.0.0.1:7070`.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// Waits until the store has failed. Nothing else ends a coordinator but [`Running::shutdown`].
    pub async fn wait(&mut self) -> Failed {
        match (&mut self.failed).await {
            Ok(why) => Failed(why),
            Err(_) => Failed("its writer has ended".into()),
        }
    }

    /// Removes blobs that nothing has referred to or asked for in `grace`. Gives the bytes that are free now. Done
    /// now and then without being asked.
    ///
    /// # Errors
    /// A sentence about what failed.
    pub async fn sweep_blobs(&self, grace: Duration) -> Result<u64, String> {
        self.blobs.sweep(grace).await.map_err(|e| e.to_string())
    }

    /// Ends the coordinator: no new calls, what is queued for the disk is written, the data folder let go.
    pub async fn shutdown(self) {
        self.live.close();
        self.upkeep.abort();
        let mut server = self.server;
        if tokio::time::timeout(SHUTDOWN_MAX, &mut server).await.is_err() {
            tracing::warn!("open calls did not end in time");
            server.abort();
            // Its handles to the store are gone only when it is.
            drop(server.await);
        }
        drop(self.upkeep.await);
        self.store.readers.close().await;
        drop((self.store, self.blobs));
        if tokio::time::timeout(SHUTDOWN_MAX, self.writer).await.is_err() {
            tracing::warn!("the writer did not end in time");
        }
        drop(self.data_dir);
        tracing::info!("coordinator ended");
    }
}
