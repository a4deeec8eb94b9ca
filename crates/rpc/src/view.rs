//! The JSON of the command-line contract, made of the wire types. Field names are stable.

mod model;
mod study;
mod trial;

pub use model::{
    AliasChangeView, FileView, GateView, LineageView, ModelView, PreviousView, PromoteView, decision,
};
pub use study::{
    BestView, CountsView, CoverageView, DeviceView, EventView, FailureView, StudyView, WorkerView,
};
pub use trial::{AttemptView, CheckpointsView, DivergenceView, MeasurementView, TrialDetailView, TrialView};

use crate::convert::options_from_wire;
use crate::v1;

/// Milliseconds since 1970 as RFC 3339 in UTC; null outside the years that have one.
#[must_use]
pub fn instant(at_ms: i64) -> Option<String> {
    jiff::Timestamp::from_millisecond(at_ms).ok().map(|at| at.to_string())
}

/// A number that JSON can hold, or nothing.
fn finite(value: f64) -> Option<f64> {
    value.is_finite().then_some(value)
}

fn finite_of(value: Option<f64>) -> Option<f64> {
    value.and_then(finite)
}

/// "val_loss is NaN", for the first of these that is not finite.
fn why_null(values: &[(&str, Option<f64>)]) -> Option<String> {
    let bad = values.iter().find(|(_, value)| value.is_some_and(|v| !v.is_finite()))?;
    Some(format!("{} is {}", bad.0, bad.1.unwrap_or(f64::NAN)))
}

fn nonempty(text: &str) -> Option<String> {
    (!text.is_empty()).then(|| text.to_owned())
}

/// Options nested as a study file writes them; null where they cannot be read.
fn config_json(config: Option<&v1::Config>) -> serde_json::Value {
    config.and_then(|c| options_from_wire(c).ok()).map_or(serde_json::Value::Null, |c| c.to_json())
}
