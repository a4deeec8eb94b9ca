//! The logs of the daemons: text for people, or a JSON object a line, with study, trial and attempt wherever a line
//! concerns one.

use std::fmt;

use serde_json::{Map, Value, json};
use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::{JsonFields, Writer};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields, FormattedFields, MakeWriter};
use tracing_subscriber::registry::LookupSpan;

use crate::error::{CliError, file_error};
use crate::output;

/// How the log is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum LogFormat {
    Text,
    Json,
}

impl LogFormat {
    /// As the flag spells it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Json => "json",
        }
    }
}

/// What a line is about, in front where machines look for it.
const SUBJECT: [&str; 4] = ["study", "trial", "attempt", "worker"];

/// Logs go to standard error; RUST_LOG says which, `info` without it.
pub(crate) fn to_stderr(format: LogFormat) {
    start(format, std::io::stderr, output::interactive());
}

/// Logs go to the end of this file: the terminal is for progress.
pub(crate) fn to_file(path: &std::path::Path, format: LogFormat) -> Result<(), CliError> {
    let file = std::fs::File::options().create(true).append(true).open(path);
    start(format, file.map_err(|e| file_error(path, "write", &e))?, false);
    Ok(())
}

fn start<W>(format: LogFormat, writer: W, colours: bool)
where
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info,sqlx=warn"));
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(writer).with_target(false);
    match format {
        LogFormat::Text => builder.with_ansi(colours).init(),
        LogFormat::Json => builder.fmt_fields(JsonFields::new()).event_format(Json).init(),
    }
}

/// `{"timestamp","level","study","trial","attempt","worker","fields":{"message",...},"span":{...},"spans":[{"name",...}]}`,
/// without what a line does not have.
struct Json;

impl<S, N> FormatEvent<S, N> for Json
where
    S: Subscriber + for<'s> LookupSpan<'s>,
    N: for<'f> FormatFields<'f> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut fields = Fields::default();
        event.record(&mut fields);
        let mut spans = Vec::new();
        for span in context.event_scope().into_iter().flat_map(|scope| scope.from_root()) {
            let extensions = span.extensions();
            let text = extensions.get::<FormattedFields<N>>().map_or("", |f| f.fields.as_str());
            let mut of_span: Map<String, Value> = serde_json::from_str(text).unwrap_or_default();
            of_span.insert("name".into(), span.name().into());
            spans.push(of_span);
        }
        writeln!(writer, "{}", line(event.metadata().level().as_str(), fields.0, spans))
    }
}

fn line(level: &str, fields: Map<String, Value>, spans: Vec<Map<String, Value>>) -> Value {
    let mut line = Map::new();
    line.insert("timestamp".into(), jiff::Timestamp::now().to_string().into());
    line.insert("level".into(), level.into());
    for name in SUBJECT {
        let value = fields.get(name).or_else(|| spans.iter().rev().find_map(|span| span.get(name)));
        if let Some(value) = value {
            line.insert(name.into(), value.clone());
        }
    }
    line.insert("fields".into(), Value::Object(fields));
    if let Some(innermost) = spans.last() {
        line.insert("span".into(), json!(innermost));
        line.insert("spans".into(), json!(spans));
    }
    Value::Object(line)
}

/// The fields of an event.
#[derive(Default)]
struct Fields(Map<String, Value>);

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.0.insert(field.name().into(), format!("{value:?}").into());
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.0.insert(field.name().into(), value.into());
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.0.insert(field.name().into(), value.into());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.0.insert(field.name().into(), value.into());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.0.insert(field.name().into(), value.into());
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.0.insert(field.name().into(), value.into());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_in_front_what_it_is_about_from_its_fields_or_else_its_innermost_span() {
        let object = |value: Value| value.as_object().cloned().unwrap_or_default();
        let spans =
            vec![object(json!({"name": "outer", "study": "a", "trial": 1})), object(json!({"study": "b"}))];
        let line = line("INFO", object(json!({"message": "hello", "attempt": 3})), spans);
        assert_eq!(
            (&line["study"], &line["trial"], &line["attempt"], &line["fields"]["message"]),
            (&json!("b"), &json!(1), &json!(3), &json!("hello"))
        );
        assert!(line.get("worker").is_none());
    }
}
