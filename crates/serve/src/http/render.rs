//! `POST /v1/render`: a score in another form, with no model in it. The page hears and draws pieces by it.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::http::header::ACCEPT;
use axum::response::Response;
use kapell_music::read::read_score;

use super::accept::{Format, negotiate};
use super::{App, body, header_text, pieces};
use crate::error::ApiError;

/// Forms of a score, in our order of preference.
const FORMATS: [Format; 4] = [Format::MusicXml, Format::Midi, Format::Wav, Format::Svg];

pub(crate) async fn render(State(app): State<Arc<App>>, request: Request) -> Result<Response, ApiError> {
    pieces::in_time(&app, work(&app, request)).await
}

async fn work(app: &Arc<App>, request: Request) -> Result<Response, ApiError> {
    let _place = app.place()?;
    let format = negotiate(header_text(request.headers(), &ACCEPT), &FORMATS)?;
    let asked = body::read(app, request).await?;
    let Some(bytes) = asked.score else {
        let hint = "send a score as the body, or name a built-in melody: melody=twinkle";
        return Err(ApiError::new(StatusCode::BAD_REQUEST, "no-score", "there is no score", hint));
    };
    app.compute(move || {
        let score = read_score(&bytes, &asked.name)?;
        Ok(pieces::response(pieces::write(&score, format)?, format))
    })
    .await?
}
