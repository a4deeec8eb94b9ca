//! Who is served: so many connections, so many calls at once on each, and every call for so long. Who comes beyond that
//! is told RESOURCE_EXHAUSTED (kapell-reason: overloaded) and comes back later; nothing queues without a bound.

use std::convert::Infallible;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use kapell_rpc::reason;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::{Instant, Sleep};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::{BoxFuture, Service, http};
use tonic::server::NamedService;
use tonic::transport::server::Connected;

use super::refuse;
use super::worker::WAIT_MAX;
use crate::start::Limits;

/// Connections beyond the limit that are heard, to be told to come back later. Others wait to be accepted.
const CROWD_MAX: usize = 64;
/// Connections that are accepted and not yet served.
const ACCEPTED_MAX: usize = 16;
/// Files that the coordinator has open besides connections: the database, blobs on their way.
const FILES: u64 = 256;
/// Calls that work through a whole study take longer than others by this.
const LONG: u32 = 4;

/// A connection, for as long as it is open.
pub(crate) struct Connection {
    stream: TcpStream,
    /// When it has been silent for too long, and how long that is: whoever lives answers a ping sooner.
    silence: Pin<Box<Sleep>>,
    silence_max: Duration,
    guest: Guest,
    _door: OwnedSemaphorePermit,
}

/// What the calls of a connection share.
#[derive(Clone)]
pub(crate) struct Guest(Arc<Seats>);

struct Seats {
    house: Arc<Semaphore>,
    /// The connection's own place; none, as long as it came beyond the limit.
    place: Mutex<Option<OwnedSemaphorePermit>>,
    calls: Arc<Semaphore>,
}

impl Guest {
    /// A place for one more call; none where there are too many.
    fn admit(&self) -> Option<OwnedSemaphorePermit> {
        let mut place = self.0.place.lock().unwrap_or_else(PoisonError::into_inner);
        if place.is_none() {
            *place = Some(Arc::clone(&self.0.house).try_acquire_owned().ok()?);
        }
        drop(place);
        Arc::clone(&self.0.calls).try_acquire_owned().ok()
    }
}

/// Accepts connections until nobody wants them any more.
pub(crate) fn accept(listener: TcpListener, limits: &Limits) -> ReceiverStream<io::Result<Connection>> {
    let (out, incoming) = mpsc::channel(ACCEPTED_MAX);
    let connections = affordable(limits.connections);
    let (house, doors) = (
        Arc::new(Semaphore::new(connections)),
        Arc::new(Semaphore::new(connections.saturating_add(CROWD_MAX))),
    );
    let (calls, silence_max) = (limits.calls_per_connection, limits.silence);
    tokio::spawn(async move {
        loop {
            let Ok(door) = Arc::clone(&doors).acquire_owned().await else { return };
            let stream = tokio::select! {
                accepted = listener.accept() => accepted,
                () = out.closed() => return,
            };
            let connection = match stream {
                Ok((stream, _)) => {
                    // Without it every other answer waits 40 ms for the other side's acknowledgement. What cannot be set
                    // is slower, no more.
                    drop(stream.set_nodelay(true));
                    let place = Mutex::new(Arc::clone(&house).try_acquire_owned().ok());
                    if place.lock().is_ok_and(|place| place.is_none()) {
                        tracing::warn!(
                            connections,
                            "too many connections: the newest are told to come back later"
                        );
                    }
                    let calls = Arc::new(Semaphore::new(calls));
                    let guest = Guest(Arc::new(Seats { house: Arc::clone(&house), place, calls }));
                    let silence = Box::pin(tokio::time::sleep(silence_max));
                    Connection { stream, silence, silence_max, guest, _door: door }
                }
                Err(error) => {
                    tracing::warn!(%error, "a connection cannot be accepted");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                }
            };
            if out.send(Ok(connection)).await.is_err() {
                return;
            }
        }
    });
    ReceiverStream::new(incoming)
}

/// So many connections as this process may have files open, which is raised as far as it may be.
fn affordable(wanted: usize) -> usize {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    let now = match setrlimit(Resource::Nofile, raised) {
        Ok(()) => limit.maximum,
        Err(_) => limit.current,
    };
    let most = now.map_or(usize::MAX, |n| usize::try_from(n.saturating_sub(FILES)).unwrap_or(usize::MAX));
    if most < wanted {
        tracing::warn!(wanted, most, "fewer connections than wanted: this process may not open more files");
    }
    wanted.min(most.max(1))
}

impl Connected for Connection {
    type ConnectInfo = Guest;

    fn connect_info(&self) -> Guest {
        self.guest.clone()
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if let Poll::Ready(read) = Pin::new(&mut self.stream).poll_read(cx, buf) {
            let until = Instant::now() + self.silence_max;
            self.silence.as_mut().reset(until);
            return Poll::Ready(read);
        }
        // Some never say a word, and would keep their place.
        self.silence.as_mut().poll(cx).map(|()| Err(io::ErrorKind::TimedOut.into()))
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// A service with its limits.
#[derive(Clone)]
pub(crate) struct Limited<S> {
    service: S,
    deadline: Duration,
}

impl<S> Limited<S> {
    pub(crate) fn new(service: S, limits: &Limits) -> Self {
        Self { service, deadline: limits.call_deadline }
    }
}

impl<S: NamedService> NamedService for Limited<S> {
    const NAME: &'static str = S::NAME;
}

/// How long a call may take until its answer begins; none: it has limits of its own.
fn deadline(path: &str, usual: Duration) -> Option<Duration> {
    match path.rsplit('/').next().unwrap_or_default() {
        // Silence ends it.
        "Upload" => None,
        "Lease" => Some(usual.saturating_add(WAIT_MAX)),
        "CreateStudy" | "CancelStudy" | "DeleteStudy" | "ResumeStudy" | "ListTrials" | "Promote" => {
            Some(usual.saturating_mul(LONG))
        }
        _ => Some(usual),
    }
}

impl<S> Service<http::Request<Body>> for Limited<S>
where
    S: Service<http::Request<Body>, Response = http::Response<Body>, Error = Infallible>,
    S::Future: Send + 'static,
{
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Infallible>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.service.poll_ready(cx)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let Some(place) = request.extensions().get::<Guest>().and_then(Guest::admit) else {
            let status =
                refuse(reason::OVERLOADED, "the coordinator has too much to do: try again in a moment");
            return Box::pin(std::future::ready(Ok(status.into_http())));
        };
        let deadline = deadline(request.uri().path(), self.deadline);
        let answer = self.service.call(request);
        Box::pin(async move {
            let _place = place;
            let Some(deadline) = deadline else { return answer.await };
            match tokio::time::timeout(deadline, answer).await {
                Ok(answer) => answer,
                Err(_) => {
                    let text = format!("the coordinator did not get to it within {} s", deadline.as_secs());
                    Ok(Status::deadline_exceeded(text).into_http())
                }
            }
        })
    }
}
