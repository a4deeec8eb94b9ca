//! A TCP proxy of our own between clients and the coordinator: it passes, cuts, swallows, delays and counts.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Result;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// Which way bytes go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// From the client to the coordinator.
    Up,
    Down,
}

/// What all connections of a proxy share.
#[derive(Debug)]
struct Control {
    to: SocketAddr,
    /// Grows with every cut; a connection lives as long as the number that it began with.
    cuts: watch::Sender<u64>,
    refuses: AtomicBool,
    swallows_up: AtomicBool,
    swallows_down: AtomicBool,
    delay_ms: AtomicU64,
    /// Bytes that still go up before the connection that carries the last of them is cut.
    fuse: AtomicI64,
    up: AtomicU64,
    blown: AtomicU64,
}

/// A proxy that ends with its owner.
#[derive(Debug)]
pub(crate) struct Proxy {
    pub(crate) address: SocketAddr,
    control: Arc<Control>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
        self.cut();
    }
}

impl Proxy {
    /// Listens on a free port and passes everything on.
    pub(crate) async fn start(to: SocketAddr) -> Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = listener.local_addr()?;
        let control = Arc::new(Control {
            to,
            cuts: watch::Sender::new(0),
            refuses: AtomicBool::new(false),
            swallows_up: AtomicBool::new(false),
            swallows_down: AtomicBool::new(false),
            delay_ms: AtomicU64::new(0),
            fuse: AtomicI64::new(i64::MAX),
            up: AtomicU64::new(0),
            blown: AtomicU64::new(0),
        });
        let task = tokio::spawn(accept(listener, control.clone()));
        Ok(Self { address, control, task })
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Cuts every connection there is.
    pub(crate) fn cut(&self) {
        self.control.cuts.send_modify(|cuts| *cuts += 1);
    }

    /// Takes new connections and closes them at once.
    pub(crate) fn refuse(&self, refuses: bool) {
        self.control.refuses.store(refuses, Ordering::Relaxed);
        if refuses {
            self.cut();
        }
    }

    /// Swallows what goes this way and leaves the connections open: half of them is dead, and nobody is told. They end
    /// with a cut, since no connection goes on without the bytes that it has lost.
    pub(crate) fn swallow(&self, way: Way, swallows: bool) {
        if !swallows {
            self.cut();
        }
        let flag = match way {
            Way::Up => &self.control.swallows_up,
            Way::Down => &self.control.swallows_down,
        };
        flag.store(swallows, Ordering::Relaxed);
    }

    /// Holds everything back for so long.
    pub(crate) fn delay(&self, delay: Duration) {
        let ms = u64::try_from(delay.as_millis()).unwrap_or(u64::MAX);
        self.control.delay_ms.store(ms, Ordering::Relaxed);
    }

    /// Cuts the connection that carries the last of the next `bytes` up.
    pub(crate) fn cut_after(&self, bytes: u64) {
        self.control.fuse.store(i64::try_from(bytes).unwrap_or(i64::MAX), Ordering::Relaxed);
    }

    /// Bytes that went up so far.
    pub(crate) fn up(&self) -> u64 {
        self.control.up.load(Ordering::Relaxed)
    }

    /// How often [`Proxy::cut_after`] has cut.
    pub(crate) fn blown(&self) -> u64 {
        self.control.blown.load(Ordering::Relaxed)
    }
}

async fn accept(listener: TcpListener, control: Arc<Control>) {
    while let Ok((client, _)) = listener.accept().await {
        if control.refuses.load(Ordering::Relaxed) {
            continue;
        }
        tokio::spawn(carry(client, control.clone()));
    }
}

/// One connection, until either side or a cut ends it. What is dropped is closed at once, both ways.
async fn carry(client: TcpStream, control: Arc<Control>) {
    let mut cuts = control.cuts.subscribe();
    let Ok(server) = TcpStream::connect(control.to).await else { return };
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let (client_reads, client_writes) = client.into_split();
    let (server_reads, server_writes) = server.into_split();
    tokio::select! {
        () = pump(client_reads, server_writes, Way::Up, &control) => {}
        () = pump(server_reads, client_writes, Way::Down, &control) => {}
        _ = cuts.changed() => {}
    }
}

async fn pump(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, way: Way, control: &Control) {
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(read @ 1..) = from.read(&mut buffer).await {
        let delay_ms = control.delay_ms.load(Ordering::Relaxed);
        if delay_ms > 0 {
            tokio::time::sleep(Duration::from_millis(delay_ms)).await;
        }
        let swallows = match way {
            Way::Up => &control.swallows_up,
            Way::Down => &control.swallows_down,
        };
        if swallows.load(Ordering::Relaxed) {
            continue;
        }
        let passed = if way == Way::Up { control.burn(read) } else { read };
        if to.write_all(buffer.get(..passed).unwrap_or_default()).await.is_err() || passed < read {
            return;
        }
    }
}

impl Control {
    /// How many of these bytes may go up before the fuse blows.
    fn burn(&self, bytes: usize) -> usize {
        let length = i64::try_from(bytes).unwrap_or(i64::MAX);
        let before = self.fuse.fetch_sub(length, Ordering::Relaxed);
        let mut passed = bytes;
        if before < length {
            self.fuse.store(i64::MAX, Ordering::Relaxed);
            self.blown.fetch_add(1, Ordering::Relaxed);
            passed = usize::try_from(before).unwrap_or(0);
        }
        self.up.fetch_add(passed as u64, Ordering::Relaxed);
        passed
    }
}
