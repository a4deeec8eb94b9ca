//! What the server counts, as Prometheus reads it. All names begin with `kapell_`.

use std::fmt;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

use crate::model::Loaded;

/// Media type of [`Metrics::text`].
pub(crate) const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Answer {
    route: String,
    code: u16,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Route {
    route: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ModelLabels {
    model: String,
    digest: String,
}

/// Counters, gauges and histograms. Names that a client could invent are no labels.
pub(crate) struct Metrics {
    registry: Registry,
    requests: Family<Answer, Counter>,
    seconds: Family<Route, Histogram>,
    /// Requests that wait for the engine.
    pub(crate) waiting: Gauge,
    /// Requests that the engine decodes.
    pub(crate) running: Gauge,
    /// Requests that nobody waits for any more.
    pub(crate) canceled: Counter,
    batch_rows: Histogram,
    /// Tokens fed to the model, over all rows.
    pub(crate) tokens: Counter,
    pub(crate) swaps: Counter,
    pub(crate) swap_failures: Counter,
    model: Family<ModelLabels, Gauge>,
    generation: Gauge<u64, AtomicU64>,
    source_up: Gauge,
    /// Requests that have a place: harmonising, composing, rendering.
    pub(crate) requests_at_work: Gauge,
    /// Connections that are open.
    pub(crate) connections: Gauge,
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

impl Metrics {
    pub(crate) fn new() -> Self {
        let mut metrics = Self {
            registry: Registry::with_prefix("kapell"),
            requests: Family::default(),
            // 1 ms to 131 s.
            seconds: Family::new_with_constructor(|| Histogram::new(exponential_buckets(0.001, 2.0, 18))),
            waiting: Gauge::default(),
            running: Gauge::default(),
            canceled: Counter::default(),
            batch_rows: Histogram::new(exponential_buckets(1.0, 2.0, 9)),
            tokens: Counter::default(),
            swaps: Counter::default(),
            swap_failures: Counter::default(),
            model: Family::default(),
            generation: Gauge::default(),
            source_up: Gauge::default(),
            requests_at_work: Gauge::default(),
            connections: Gauge::default(),
        };
        metrics.register();
        metrics
    }

    fn register(&mut self) {
        let registry = &mut self.registry;
        registry.register("http_requests", "Answers by route and status code", self.requests.clone());
        let seconds = "Seconds to an answer's first byte";
        registry.register("http_request_seconds", seconds, self.seconds.clone());
        registry.register("requests", "Requests that have a place", self.requests_at_work.clone());
        registry.register("connections", "Open connections", self.connections.clone());
        registry.register("jobs_waiting", "Requests that wait to be decoded", self.waiting.clone());
        registry.register("jobs_running", "Requests that are being decoded", self.running.clone());
        registry.register(
            "jobs_canceled",
            "Requests whose client had gone, or whose time was up",
            self.canceled.clone(),
        );
        registry.register("batch_rows", "Rows that go through the model at once", self.batch_rows.clone());
        registry.register("tokens", "Tokens fed to the model, over all rows", self.tokens.clone());
        registry.register("model_swaps", "Models that took the place of another", self.swaps.clone());
        let failures = "Offered models that could not be served";
        registry.register("model_swap_failures", failures, self.swap_failures.clone());
        registry.register("model", "1 for the model that is served", self.model.clone());
        registry.register("model_generation", "Generation of the alias", self.generation.clone());
        registry.register("model_source_up", "1 while the source of models answers", self.source_up.clone());
    }

    /// An answer was given.
    pub(crate) fn answered(&self, route: &str, code: u16, took: Duration) {
        self.requests.get_or_create(&Answer { route: route.to_owned(), code }).inc();
        self.seconds.get_or_create(&Route { route: route.to_owned() }).observe(took.as_secs_f64());
    }

    /// So many rows went through the model at once.
    pub(crate) fn stepped(&self, rows: usize) {
        self.batch_rows.observe(u32::try_from(rows).map_or(f64::INFINITY, f64::from));
    }

    /// This model is the one that new requests get.
    pub(crate) fn serving(&self, loaded: &Loaded) {
        let labels = ModelLabels { model: loaded.label.clone(), digest: loaded.digest.clone() };
        self.model.clear();
        self.model.get_or_create(&labels).set(1);
        self.generation.set(loaded.generation);
    }

    /// Whether the source of models answers.
    pub(crate) fn source_up(&self, up: bool) {
        self.source_up.set(i64::from(up));
    }

    /// All of it.
    pub(crate) fn text(&self) -> String {
        let mut text = String::new();
        // Writing into a string cannot fail; a half of it would be better than none anyway.
        let _ = encode(&mut text, &self.registry);
        text
    }
}
