//! What can go wrong: at the start, and with a request, where every answer says what happened and what to do.

use std::io;
use std::net::SocketAddr;

use axum::http::header::{CONTENT_TYPE, RETRY_AFTER};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use kapell_model::decode::phrases::ParsePhrasesError;
use kapell_model::decode::tonality::ParseKeyError;
use kapell_model::decode::{DecodeError, MelodyError, Stuck, Unknown};
use kapell_music::read::ReadError;
use kapell_music::write::wav::WavError;
use serde_json::json;

/// Why the server does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("{0} is in use: another program listens there")]
    PortInUse(SocketAddr),
    #[error("cannot listen on {addr}: {source}")]
    Listen { addr: SocketAddr, source: io::Error },
    #[error("cannot start a thread that decodes: {0}")]
    Thread(io::Error),
}

/// A request that is not answered as its client hoped: `{"error":{"code","message","hint"}}`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ApiError {
    pub(crate) status: StatusCode,
    /// kebab-case, stable.
    pub(crate) code: &'static str,
    pub(crate) message: String,
    /// What to do next; may be empty.
    pub(crate) hint: String,
}

impl ApiError {
    pub(crate) fn new(
        status: StatusCode,
        code: &'static str,
        message: impl Into<String>,
        hint: impl Into<String>,
    ) -> Self {
        Self { status, code, message: message.into(), hint: hint.into() }
    }

    /// An option that is unknown, or has a value that it cannot have.
    pub(crate) fn option(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "bad-option", message, hint)
    }

    /// As many requests as there may be are at work.
    pub(crate) fn busy() -> Self {
        let message = "as many requests as this server takes are at work";
        Self::new(StatusCode::TOO_MANY_REQUESTS, "busy", message, "try again in a second")
    }

    /// The body has more bytes than one may have.
    pub(crate) fn too_large(bytes_max: usize) -> Self {
        let message = format!("the request's body is larger than {} KiB", bytes_max >> 10);
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "too-large", message, "cut the score into movements")
    }

    /// The answer was not there in time.
    pub(crate) fn out_of_time(seconds: u64) -> Self {
        let message = format!("this took longer than the {seconds} s that a request may take");
        let hint =
            "cut the melody, ask for fewer variations or a narrower beam, or try again when less is going on";
        Self::new(StatusCode::GATEWAY_TIMEOUT, "timed-out", message, hint)
    }

    /// The body did not arrive in time.
    pub(crate) fn slow_client() -> Self {
        let message = "the request's body did not arrive in time";
        Self::new(StatusCode::REQUEST_TIMEOUT, "slow-client", message, "send it at once")
    }

    /// A bug.
    pub(crate) fn unexpected(what: &str) -> Self {
        let hint = "this looks like a bug in kapell; please report it with the request";
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "unexpected", what, hint)
    }
}

impl From<ReadError> for ApiError {
    fn from(error: ReadError) -> Self {
        // A reader's message ends with what to do.
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, "bad-score", error.to_string(), "")
    }
}

impl From<MelodyError> for ApiError {
    fn from(error: MelodyError) -> Self {
        let hint = match &error {
            MelodyError::NoPart { .. } => "name one of these parts, or give its number from 1",
            MelodyError::TooLong => "cut it into movements",
            MelodyError::BadNote { .. } => "export the score again from the program that made it",
            _ => "name a part with notes: part=NAME",
        };
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, "bad-melody", error.to_string(), hint)
    }
}

impl From<ParseKeyError> for ApiError {
    fn from(error: ParseKeyError) -> Self {
        Self::option(error.to_string(), "write it like G, Bb, \"f# minor\" or \"E-flat major\"")
    }
}

impl From<WavError> for ApiError {
    fn from(error: WavError) -> Self {
        let hint = "accept audio/midi";
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, "too-long", error.to_string(), hint)
    }
}

impl From<ParsePhrasesError> for ApiError {
    fn from(error: ParsePhrasesError) -> Self {
        Self::option(error.to_string(), "for example phrases=every:4")
    }
}

const WRONG_MODEL: &str = "serve a model that was trained on scores, such as the chorales";

impl From<Unknown> for ApiError {
    fn from(error: Unknown) -> Self {
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, "wrong-model", error.to_string(), WRONG_MODEL)
    }
}

impl From<Stuck> for ApiError {
    fn from(error: Stuck) -> Self {
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, "wrong-model", error.to_string(), WRONG_MODEL)
    }
}

impl From<DecodeError> for ApiError {
    fn from(error: DecodeError) -> Self {
        match error {
            DecodeError::Melody(error) => error.into(),
            DecodeError::Unknown(error) => error.into(),
            DecodeError::Stuck(error) => error.into(),
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let body = json!({"error": {"code": self.code, "message": self.message, "hint": self.hint}});
        let json = HeaderValue::from_static("application/json");
        let mut response = (self.status, [(CONTENT_TYPE, json)], body.to_string()).into_response();
        if matches!(self.status, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE) {
            response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("1"));
        }
        response
    }
}
