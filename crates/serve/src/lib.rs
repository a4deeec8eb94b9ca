//! The promoted model behind HTTP and a page: harmonises and composes for many at once.
//!
//! [`start`] opens the port. Models come over a channel of [`Offer`]s: whoever holds its other end says which folder is
//! to be served now, and need not be asked again. [`engine`] decodes, `http` speaks, `server` owns the connections.
//! Nothing here knows the coordinator, and no path ever comes from a request.

mod engine;
mod error;
mod http;
mod metrics;
mod model;
mod server;

use std::net::SocketAddr;
use std::time::Duration;

pub use error::StartError;
pub use model::{ModelFolder, Offer};
pub use server::{Running, start};

/// What a server is started with.
#[derive(Debug, Clone)]
pub struct Config {
    pub listen: SocketAddr,
    /// Melodies that are always there: a name, and a score as MusicXML.
    pub melodies: &'static [(&'static str, &'static [u8])],
    /// Threads that decode, at least one.
    pub cores: usize,
    /// Origins ("https://example.org") whose pages may call this server; none but its own without one.
    pub allow_origins: Vec<String>,
    pub limits: Limits,
}

/// What nobody may go beyond.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Of a request's body.
    pub body_bytes_max: usize,
    /// Sixteenths of a melody.
    pub frames_max: usize,
    /// Pieces that one request may ask for.
    pub variations_max: usize,
    pub beam_width_max: usize,
    /// Harmonising and composing at once, waiting ones included. Others are told to come back.
    pub requests_max: usize,
    pub connections_max: usize,
    /// Requests that a core decodes at once, as one batch.
    pub batch_max: usize,
    /// From a request's first byte to its answer's first byte.
    pub request_time_max: Duration,
    /// For a request's headers, for its body, and for a client to take the next piece of an answer.
    pub client_time_max: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            body_bytes_max: 8 << 20,
            frames_max: 8192,
            variations_max: 8,
            beam_width_max: 32,
            requests_max: 64,
            connections_max: 1024,
            batch_max: 16,
            request_time_max: Duration::from_secs(120),
            client_time_max: Duration::from_secs(20),
        }
    }
}
