//! The routes, what every answer carries, and what everybody may ask: pages, health, metrics, the model.

mod accept;
mod body;
mod notes;
mod options;
mod pieces;
mod render;

use std::any::Any;
use std::sync::Arc;
use std::time::Instant;

use axum::Router;
use axum::extract::{DefaultBodyLimit, MatchedPath, Request, State};
use axum::http::header::{self, CONTENT_TYPE, HeaderName};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use serde_json::{Value, json};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::cors::CorsLayer;

use crate::engine::Engine;
use crate::error::ApiError;
use crate::metrics::{self, Metrics};
use crate::model::{Loaded, Served};
use crate::{Config, Limits};

/// What every answer carries. The page asks nobody but this server.
const HEADERS: [(HeaderName, &str); 6] = [
    (
        header::CONTENT_SECURITY_POLICY,
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; media-src blob:; \
         connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    ),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::X_FRAME_OPTIONS, "DENY"),
    (header::REFERRER_POLICY, "no-referrer"),
    (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
];

/// What all handlers share.
pub(crate) struct App {
    pub(crate) engine: Engine,
    pub(crate) served: Arc<Served>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) melodies: &'static [(&'static str, &'static [u8])],
    pub(crate) limits: Limits,
    /// Harmonising and composing at once.
    requests: Arc<Semaphore>,
    /// Reading and writing scores at once.
    pub(crate) readers: Arc<Semaphore>,
    allow_origins: Vec<HeaderValue>,
}

impl App {
    pub(crate) fn new(config: Config, engine: Engine, served: Arc<Served>, metrics: Arc<Metrics>) -> Self {
        let Config { melodies, limits, cores, allow_origins, .. } = config;
        let origins = allow_origins.iter().filter_map(|origin| HeaderValue::from_str(origin).ok());
        Self {
            engine,
            served,
            metrics,
            melodies,
            limits,
            requests: Arc::new(Semaphore::new(limits.requests_max)),
            readers: Arc::new(Semaphore::new(cores.max(1))),
            allow_origins: origins.collect(),
        }
    }

    /// A place among the requests, or the news that there is none.
    pub(crate) fn place(&self) -> Result<OwnedSemaphorePermit, ApiError> {
        Arc::clone(&self.requests).try_acquire_owned().map_err(|_| ApiError::busy())
    }

    /// The model for a new request.
    pub(crate) fn model(&self) -> Result<Arc<Loaded>, ApiError> {
        self.served.current().ok_or_else(|| {
            let why = self.served.trouble().map_or_else(String::new, |why| format!(": {why}"));
            let message = format!("no model is loaded yet{why}");
            ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "no-model", message, "try again in a moment")
        })
    }

    /// Does what takes processor time away from the event loop, on as many threads at once as there are cores.
    pub(crate) async fn compute<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, ApiError> {
        let place = Arc::clone(&self.readers).acquire_owned().await;
        let done = tokio::task::spawn_blocking(move || {
            let result = work();
            drop(place);
            result
        });
        done.await.map_err(|error| ApiError::unexpected(&error.to_string()))
    }
}

/// All routes.
pub(crate) fn router(app: Arc<App>) -> Router {
    let cors = CorsLayer::new()
        .allow_origin(app.allow_origins.clone())
        .allow_methods([Method::GET, Method::POST])
        .allow_headers([CONTENT_TYPE, header::ACCEPT]);
    let api = Router::new()
        .route("/v1/harmonize", post(pieces::harmonize))
        .route("/v1/compose", post(pieces::compose))
        .route("/v1/render", post(render::render))
        .route_layer(middleware::from_fn_with_state(Arc::clone(&app), same_site))
        .route("/v1/model", get(model))
        .route("/v1/melodies", get(melodies))
        .route("/v1/melodies/{name}", get(melody))
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics_text))
        .route("/openapi.json", get(async || text("application/json", include_str!("../page/openapi.json"))))
        .route("/", get(async || text("text/html; charset=utf-8", include_str!("../page/index.html"))))
        .route("/page.css", get(async || text("text/css; charset=utf-8", include_str!("../page/page.css"))))
        .route(
            "/page.js",
            get(async || text("text/javascript; charset=utf-8", include_str!("../page/page.js"))),
        )
        .route("/icon.svg", get(async || text("image/svg+xml", include_str!("../page/icon.svg"))))
        .fallback(unknown_route)
        .method_not_allowed_fallback(wrong_method);
    let cors = (!app.allow_origins.is_empty()).then_some(cors);
    let api = match cors {
        Some(cors) => api.layer(cors),
        None => api,
    };
    api.layer(CatchPanicLayer::custom(panicked))
        .layer(middleware::from_fn_with_state(Arc::clone(&app), observe))
        // The limit is our own: it says what to do.
        .layer(DefaultBodyLimit::disable())
        .with_state(app)
}

/// Counts, measures, and adds the headers that every answer carries.
async fn observe(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    let start = Instant::now();
    let route = request.extensions().get::<MatchedPath>().map_or("other", MatchedPath::as_str).to_owned();
    let mut response = next.run(request).await;
    for (name, value) in HEADERS {
        response.headers_mut().entry(name).or_insert(HeaderValue::from_static(value));
    }
    let caching = HeaderValue::from_static(if route.starts_with("/v1/") { "no-store" } else { "no-cache" });
    response.headers_mut().entry(header::CACHE_CONTROL).or_insert(caching);
    app.metrics.answered(&route, response.status().as_u16(), start.elapsed());
    response
}

/// Refuses work that a browser sends on behalf of another site's page.
async fn same_site(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    let headers = request.headers();
    let cross_site = headers.get("sec-fetch-site").is_some_and(|site| site == "cross-site");
    let allowed = headers.get(header::ORIGIN).is_some_and(|origin| app.allow_origins.contains(origin));
    if cross_site && !allowed {
        let message = "pages of other sites may not call this server";
        let hint = "start it with --allow-origin ORIGIN to let them";
        return ApiError::new(StatusCode::FORBIDDEN, "cross-site", message, hint).into_response();
    }
    next.run(request).await
}

fn panicked(_: Box<dyn Any + Send>) -> Response {
    ApiError::unexpected("the server failed at this request").into_response()
}

/// A page, or a part of one.
fn text(media_type: &'static str, text: &'static str) -> Response {
    ([(CONTENT_TYPE, HeaderValue::from_static(media_type))], text).into_response()
}

async fn unknown_route() -> ApiError {
    let hint = "GET /openapi.json lists what there is";
    ApiError::new(StatusCode::NOT_FOUND, "not-found", "there is nothing of that name here", hint)
}

async fn wrong_method() -> ApiError {
    let hint = "GET /openapi.json lists what there is";
    let message = "this cannot be done here";
    ApiError::new(StatusCode::METHOD_NOT_ALLOWED, "wrong-method", message, hint)
}

async fn model(State(app): State<Arc<App>>) -> Result<Response, ApiError> {
    Ok(json_answer(&app.model()?.card))
}

async fn ready(State(app): State<Arc<App>>) -> Result<String, ApiError> {
    let model = app.model()?;
    let trouble = app.served.trouble().map_or_else(String::new, |why| format!("but: {why}\n"));
    Ok(format!("{} is served\n{trouble}", model.label))
}

async fn metrics_text(State(app): State<Arc<App>>) -> Response {
    let taken = app.limits.requests_max.saturating_sub(app.requests.available_permits());
    app.metrics.requests_at_work.set(i64::try_from(taken).unwrap_or(i64::MAX));
    ([(CONTENT_TYPE, HeaderValue::from_static(metrics::CONTENT_TYPE))], app.metrics.text()).into_response()
}

/// The names of the built-in melodies.
async fn melodies(State(app): State<Arc<App>>) -> Response {
    json_answer(&json!({"melodies": app.melodies.iter().map(|(name, _)| *name).collect::<Vec<_>>()}))
}

async fn melody(
    State(app): State<Arc<App>>,
    axum::extract::Path(name): axum::extract::Path<String>,
) -> Result<Response, ApiError> {
    let bytes = built_in(&app, &name)?;
    Ok(([(CONTENT_TYPE, HeaderValue::from_static(accept::MUSICXML))], bytes).into_response())
}

/// A built-in melody, as MusicXML.
pub(crate) fn built_in(app: &App, name: &str) -> Result<&'static [u8], ApiError> {
    app.melodies.iter().find(|(known, _)| *known == name).map(|(_, bytes)| *bytes).ok_or_else(|| {
        let names: Vec<&str> = app.melodies.iter().map(|(name, _)| *name).collect();
        let message = format!("no built-in melody is called {name:?}");
        let hint = format!("built in are {}; send any other as MusicXML or MIDI", names.join(", "));
        ApiError::new(StatusCode::UNPROCESSABLE_ENTITY, "no-melody", message, hint)
    })
}

fn json_answer(value: &Value) -> Response {
    ([(CONTENT_TYPE, HeaderValue::from_static("application/json"))], value.to_string()).into_response()
}

/// One header as text; empty where there is none.
fn header_text<'a>(headers: &'a HeaderMap, name: &HeaderName) -> &'a str {
    headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
}
