//! What a request brings: options from its query, its form or its JSON, and a score.

use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::multipart::{Field, MultipartError};
use axum::extract::{FromRequest as _, Multipart, Request};
use axum::http::StatusCode;
use axum::http::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use serde_json::Value;

use super::options::Options;
use super::{App, built_in, header_text};
use crate::error::ApiError;

/// Parts of a form, at most.
const FIELDS_MAX: usize = 32;

/// A request, read.
#[derive(Debug)]
pub(crate) struct Asked {
    pub(crate) options: Options,
    /// A file's bytes, MusicXML from JSON, or a built-in melody; none where the request brings none.
    pub(crate) score: Option<Bytes>,
    /// What to call it in messages.
    pub(crate) name: String,
}

/// Reads a request to its end, within the limits of size and time.
pub(crate) async fn read(app: &Arc<App>, request: Request) -> Result<Asked, ApiError> {
    let reading = tokio::time::timeout(app.limits.client_time_max, read_all(app, request));
    reading.await.unwrap_or_else(|_| Err(ApiError::slow_client()))
}

async fn read_all(app: &Arc<App>, request: Request) -> Result<Asked, ApiError> {
    let bytes_max = app.limits.body_bytes_max;
    let declared = header_text(request.headers(), &CONTENT_LENGTH).parse::<usize>().ok();
    if declared.is_some_and(|bytes| bytes > bytes_max) {
        return Err(ApiError::too_large(bytes_max));
    }
    let encoding = header_text(request.headers(), &CONTENT_ENCODING);
    if !matches!(encoding, "" | "identity") {
        let message = format!("the content encoding {encoding:?} is not taken");
        return Err(unsupported(message, "send it as it is"));
    }
    let mut asked = Asked { options: Options::default(), score: None, name: "the score".into() };
    asked.options.add_query(request.uri().query().unwrap_or_default())?;
    let media_type = header_text(request.headers(), &CONTENT_TYPE).split(';').next().unwrap_or_default();
    match media_type.trim().to_ascii_lowercase().as_str() {
        "application/json" => add_json(&mut asked, &whole_body(request, bytes_max).await?)?,
        "multipart/form-data" => add_form(&mut asked, request, bytes_max).await?,
        kind if is_a_score(kind) => {
            asked.score = Some(whole_body(request, bytes_max).await?).filter(|body| !body.is_empty());
        }
        other => {
            let hint = "send MusicXML, .mxl or MIDI, a form with a file \"melody\", or JSON";
            return Err(unsupported(format!("a body of the type {other:?} is not taken"), hint));
        }
    }
    match (asked.options.melody()?, &asked.score) {
        (Some(_), Some(_)) => {
            let message = "there are two melodies: a file, and the option melody";
            Err(ApiError::option(message, "leave one of them out"))
        }
        (Some(text), None) => {
            let is_xml = text.trim_start_matches('\u{feff}').trim_start().starts_with('<');
            asked.score = Some(if is_xml { text.into() } else { Bytes::from_static(built_in(app, &text)?) });
            Ok(asked)
        }
        (None, _) => Ok(asked),
    }
}

/// Any type that a score may come under: what it really is its content tells. `curl --data-binary` sends files as forms.
fn is_a_score(media_type: &str) -> bool {
    let known = [
        "",
        "application/octet-stream",
        "application/vnd.recordare.musicxml",
        "application/vnd.recordare.musicxml+xml",
        "application/xml",
        "text/xml",
        "application/zip",
        "audio/midi",
        "audio/x-midi",
        "audio/mid",
        "audio/sp-midi",
        "application/x-midi",
        "application/x-www-form-urlencoded",
    ];
    known.contains(&media_type)
}

fn unsupported(message: String, hint: &str) -> ApiError {
    ApiError::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported-type", message, hint)
}

fn broken(what: &str) -> ApiError {
    ApiError::new(StatusCode::BAD_REQUEST, "bad-request", format!("the body cannot be read: {what}"), "")
}

async fn whole_body(request: Request, bytes_max: usize) -> Result<Bytes, ApiError> {
    match Limited::new(request.into_body(), bytes_max).collect().await {
        Ok(body) => Ok(body.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => Err(ApiError::too_large(bytes_max)),
        Err(error) => Err(broken(&error.to_string())),
    }
}

fn add_json(asked: &mut Asked, body: &[u8]) -> Result<(), ApiError> {
    let bad = |what: &str| {
        let hint = "for example {\"melody\": \"twinkle\", \"search\": \"sample\", \"seed\": 7}";
        ApiError::new(
            StatusCode::BAD_REQUEST,
            "bad-json",
            format!("the body is no JSON object: {what}"),
            hint,
        )
    };
    if body.is_empty() {
        return Ok(());
    }
    let value: Value = serde_json::from_slice(body).map_err(|error| bad(&error.to_string()))?;
    let Value::Object(object) = value else { return Err(bad("it is another kind of value")) };
    object.into_iter().try_for_each(|(name, value)| asked.options.add(&name, value))
}

/// A form's file "melody", and its other fields as options.
async fn add_form(asked: &mut Asked, request: Request, bytes_max: usize) -> Result<(), ApiError> {
    let request = request.map(|body| axum::body::Body::new(Limited::new(body, bytes_max)));
    let failed = |error: MultipartError| match error.status() {
        StatusCode::PAYLOAD_TOO_LARGE => ApiError::too_large(bytes_max),
        _ => broken(&error.body_text()),
    };
    let form = Multipart::from_request(request, &()).await;
    let mut form = form.map_err(|error| broken(&error.body_text()))?;
    for _ in 0..FIELDS_MAX {
        let field: Option<Field<'_>> = form.next_field().await.map_err(failed)?;
        let Some(field) = field else { return Ok(()) };
        let name = field.name().unwrap_or_default().to_owned();
        let is_file = field.file_name().is_some();
        let file_name = field.file_name().filter(|name| !name.is_empty()).map(shown);
        let bytes = field.bytes().await.map_err(failed)?;
        if name == "melody" && is_file {
            asked.score = Some(bytes).filter(|bytes| !bytes.is_empty());
            asked.name = file_name.unwrap_or_else(|| asked.name.clone());
            continue;
        }
        let text = String::from_utf8(bytes.to_vec()).map_err(|_| broken(&format!("{name} is no text")))?;
        asked.options.add(&name, Value::String(text))?;
    }
    Err(broken(&format!("it has more than {FIELDS_MAX} fields")))
}

/// A file's name for messages: what a terminal may show of it.
fn shown(name: &str) -> String {
    name.chars().filter(|c| !c.is_control()).take(80).collect()
}
