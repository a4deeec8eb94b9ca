//! The arguments of `kapell serve`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use super::values::{byte_size, duration};
use crate::logging::LogFormat;

pub(crate) const SERVE_HELP: &str = "Examples:
  kapell serve
  kapell serve --model my-study@champion --http 0.0.0.0:8080 --coordinator http://head:7070
  curl -s -T hymn.musicxml -X POST -H 'Accept: audio/midi' -o hymn.mid localhost:8080/v1/harmonize

A page for people is at http://ADDR/, what programs may call at /openapi.json. The alias is followed: the version that it
points at next is fetched, checked and put in the old one's place, while requests at work end with the model that they began with.
Without a coordinator the version that was served last goes on, or else one that `kapell run` left here. On SIGTERM what
was asked is answered first.

Exit codes: 0 told to stop; 2 the port is in use, no such folder, a wrong flag; 7 the folder's model is damaged.";

#[derive(Debug, Args)]
pub(crate) struct ServeArgs {
    /// A model of the coordinator's registry, which is followed, or a folder with one. [default: champion]
    #[arg(long, value_name = "REF|DIR")]
    pub model: Option<String>,
    /// Where browsers and programs connect.
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8080")]
    pub http: SocketAddr,
    /// Decode on no more than so many cores; by default all that this process may use.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=4096))]
    pub cores: Option<u32>,
    /// How often to look where the alias points.
    #[arg(long, value_name = "D", default_value = "3s", value_parser = duration)]
    pub poll: Duration,
    /// How long a request may take.
    #[arg(long, value_name = "D", default_value = "2m", value_parser = duration)]
    pub request_timeout: Duration,
    /// How long a client may take to send its request, and to take each piece of the answer.
    #[arg(long, value_name = "D", default_value = "20s", value_parser = duration)]
    pub client_timeout: Duration,
    /// Requests at work at once, waiting ones included; others are told to come back (429).
    #[arg(long, value_name = "N", default_value_t = 64)]
    pub max_requests: usize,
    /// Requests that a core decodes at once, as one batch.
    #[arg(long, value_name = "N", default_value_t = 16)]
    pub max_batch: usize,
    /// Of a request's body.
    #[arg(long, value_name = "SIZE", default_value = "8MiB", value_parser = byte_size)]
    pub max_body: u64,
    /// Sixteenths of a melody: 8192 are 512 bars of 4/4.
    #[arg(long, value_name = "N", default_value_t = 8192)]
    pub max_frames: usize,
    /// Let pages of this origin call the server, for example https://example.org.
    #[arg(long, value_name = "ORIGIN")]
    pub allow_origin: Vec<String>,
    /// Fetched models are kept here.
    #[arg(long, value_name = "DIR")]
    pub cache_dir: Option<PathBuf>,
    /// How the log is written: text, or a JSON object a line (as with --json).
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    pub log_format: LogFormat,
}
