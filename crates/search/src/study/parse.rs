//! Reads a study file: walks the TOML with its positions, so that every complaint says where and what to do.

mod fields;

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::time::Duration;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::{
    At, Checkpointing, Direction, Keep, Limits, Metric, Objective, Pruner, Require, Retry, Sampler, StudySpec,
};
use crate::options::{self, Config, OptionValue};
use crate::space::{Axis, MAX_TRIALS, Space};

/// One thing that is wrong with a study file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpecError {
    /// From 1; 0 where the whole file is meant.
    pub line: usize,
    pub column: usize,
    pub message: String,
}

/// Everything that is wrong with a study file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct SpecErrors(pub Vec<SpecError>);

impl fmt::Display for SpecErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, e) in self.0.iter().enumerate() {
            let sep = if i == 0 { "" } else { "\n" };
            if e.line == 0 {
                write!(f, "{sep}{}", e.message)?;
            } else {
                write!(f, "{sep}line {}, column {}: {}", e.line, e.column, e.message)?;
            }
        }
        Ok(())
    }
}

/// A duration as people type it: `30s`, `1m`, `12h`, `90d`, `500ms`; a bare number is seconds.
#[must_use]
pub fn parse_duration(text: &str) -> Option<Duration> {
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let number: f64 = text[..digits].parse().ok()?;
    let unit = match text[digits..].trim() {
        "ms" => 1e-3,
        "" | "s" => 1.0,
        "m" | "min" => 60.0,
        "h" => 3600.0,
        "d" => 86_400.0,
        _ => return None,
    };
    Duration::try_from_secs_f64(number * unit).ok()
}

type Table<'i> = DeTable<'i>;
type Value<'i> = Spanned<DeValue<'i>>;

struct Reader<'t> {
    text: &'t str,
    errors: Vec<SpecError>,
}

const TOP: &[&str] = &[
    "name",
    "corpus",
    "objective",
    "sampler",
    "pruner",
    "replicates",
    "weight",
    "retry",
    "limits",
    "checkpoint",
    "require",
    "tags",
    "space",
    "train",
];

pub(super) fn parse(text: &str) -> Result<StudySpec, SpecErrors> {
    let mut r = Reader { text, errors: Vec::new() };
    let root = match DeTable::parse(text) {
        Ok(root) => root,
        Err(e) => {
            r.at(e.span().unwrap_or(0..0), format!("not TOML: {}", e.message()));
            return Err(SpecErrors(r.errors));
        }
    };
    let spec = r.study(root.get_ref());
    if r.errors.is_empty() { Ok(spec) } else { Err(SpecErrors(r.errors)) }
}

impl Reader<'_> {
    fn study(&mut self, root: &Table<'_>) -> StudySpec {
        self.known_keys(root, "", TOP);
        let name = self.name(root);
        let corpus = self.string(root, "corpus").unwrap_or_else(|| "chorales".into());
        let objective = self.objective(root);
        self.kind(root, "sampler", "grid", &["random", "sobol", "tpe"], &["kind", "max_trials", "seed"]);
        self.kind(root, "pruner", "none", &["median", "asha", "patience"], &["kind"]);
        let replicates = self.whole_number(root, "replicates", 1, 1, 1_000_000);
        let weight = self.number(root, "weight").unwrap_or(1.0);
        if !(weight > 0.0 && weight.is_finite()) {
            self.key_error(root, "weight", "weight is a number above 0");
        }
        let retry = self.retry(root);
        let limits = self.limits(root);
        let checkpoint = self.checkpoint(root);
        let require = self.require(root);
        let tags = self.tags(root);
        let train = self.train(root);
        let space = self.space(root);
        self.size(&space, replicates);
        StudySpec {
            name,
            corpus,
            objective,
            sampler: Sampler::Grid,
            pruner: Pruner::None,
            replicates,
            weight,
            retry,
            limits,
            checkpoint,
            require,
            tags,
            space,
            train,
        }
    }

    fn name(&mut self, root: &Table<'_>) -> String {
        let Some(name) = self.string(root, "name") else {
            if root.get("name").is_none() {
                self.whole("the study has no name; add a line such as: name = \"my-first-grid\"");
            }
            return String::new();
        };
        let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        let starts = name.starts_with(|c: char| c.is_ascii_alphanumeric());
        if name.len() > 100 || !starts || !name.chars().all(fits) {
            let rule =
                "a name is 1 to 100 letters, digits, '-', '_' and '.', and starts with a letter or digit";
            self.key_error(root, "name", rule);
        }
        name
    }

    fn objective(&mut self, root: &Table<'_>) -> Objective {
        let mut objective =
            Objective { metric: Metric::ValLoss, at: At::Best, direction: Direction::Minimize };
        let Some(t) = self.table(root, "objective", &["metric", "at", "direction"]) else { return objective };
        let metrics = [("val_loss", Metric::ValLoss), ("train_loss", Metric::TrainLoss)];
        objective.metric = self.choice(t, "metric", &metrics).unwrap_or(objective.metric);
        objective.at =
            self.choice(t, "at", &[("best", At::Best), ("last", At::Last)]).unwrap_or(objective.at);
        let directions = [("minimize", Direction::Minimize), ("maximize", Direction::Maximize)];
        objective.direction = self.choice(t, "direction", &directions).unwrap_or(objective.direction);
        objective
    }

    /// A `{ kind = ... }` table of which this version knows one kind.
    fn kind(&mut self, root: &Table<'_>, key: &str, only: &str, planned: &[&str], keys: &[&str]) {
        let Some(t) = self.table(root, key, keys) else { return };
        let Some(kind) = self.string(t, "kind") else {
            if t.get("kind").is_none() {
                self.key_error(
                    root,
                    key,
                    format!("{key} has no kind; write {key} = {{ kind = \"{only}\" }}"),
                );
            }
            return;
        };
        if kind == only {
            if let Some((extra, _)) = t.iter().find(|(k, _)| k.get_ref().as_ref() != "kind") {
                self.at(extra.span(), format!("{key} \"{only}\" takes no \"{}\"", extra.get_ref()));
            }
        } else if planned.contains(&kind.as_str()) {
            self.key_error(t, "kind", format!("{key} \"{kind}\" is not in this version; use \"{only}\""));
        } else {
            self.key_error(t, "kind", format!("\"{kind}\" is no {key}; use \"{only}\""));
        }
    }

    fn retry(&mut self, root: &Table<'_>) -> Retry {
        match self.table(root, "retry", &["max_attempts", "max_lost"]) {
            Some(t) => Retry {
                max_attempts: self.whole_number(t, "max_attempts", 3, 1, 1000),
                max_lost: self.whole_number(t, "max_lost", 20, 0, 1_000_000),
            },
            None => Retry { max_attempts: 3, max_lost: 20 },
        }
    }

    fn limits(&mut self, root: &Table<'_>) -> Limits {
        let Some(t) = self.table(root, "limits", &["max_hours", "target"]) else { return Limits::default() };
        let limits = Limits { max_hours: self.number(t, "max_hours"), target: self.number(t, "target") };
        if limits.max_hours.is_some_and(|h| !(h > 0.0 && h.is_finite())) {
            self.key_error(t, "max_hours", "max_hours is a number above 0");
        }
        if limits.target.is_some_and(|x| !x.is_finite()) {
            self.key_error(t, "target", "target is a finite number");
        }
        limits
    }

    fn checkpoint(&mut self, root: &Table<'_>) -> Checkpointing {
        let mut checkpoint = Checkpointing { every: Duration::from_secs(60), keep: Keep::BestAndLast };
        let Some(t) = self.table(root, "checkpoint", &["every", "keep"]) else { return checkpoint };
        if let Some(text) = self.string(t, "every") {
            match parse_duration(&text).filter(|d| *d >= Duration::from_secs(1)) {
                Some(every) => checkpoint.every = every,
                None => self.key_error(
                    t,
                    "every",
                    format!(
                        "\"{text}\" is no duration of at least a second; write \"30s\", \"1m\" or \"2h\""
                    ),
                ),
            }
        }
        let keeps = [("best+last", Keep::BestAndLast), ("best", Keep::Best), ("last", Keep::Last)];
        checkpoint.keep = self.choice(t, "keep", &keeps).unwrap_or(checkpoint.keep);
        checkpoint
    }

    fn require(&mut self, root: &Table<'_>) -> Require {
        let Some(t) = self.table(root, "require", &["device"]) else { return Require::default() };
        let devices = [("cpu", "cpu"), ("cuda", "cuda")];
        Require { device: self.choice(t, "device", &devices).map(ToOwned::to_owned) }
    }

    fn tags(&mut self, root: &Table<'_>) -> BTreeMap<String, String> {
        let mut tags = BTreeMap::new();
        let Some(value) = root.get("tags") else { return tags };
        let Some(table) = value.get_ref().as_table() else {
            self.at(value.span(), "tags is a table of texts: tags = { git_sha = \"...\" }");
            return tags;
        };
        for (key, value) in table {
            match value.get_ref().as_str() {
                Some(text) => {
                    tags.insert(key.get_ref().to_string(), text.to_owned());
                }
                None => {
                    self.at(value.span(), format!("the tag \"{}\" is not a text in quotes", key.get_ref()))
                }
            }
        }
        tags
    }

    /// Walks a table of options, groups such as `lr_decay = { ... }` included, and hands each to `take`.
    fn options(
        &mut self,
        table: &Table<'_>,
        take: &mut dyn FnMut(&mut Self, &'static options::OptionSpec, &Value<'_>),
    ) {
        for (key, value) in table {
            let word = key.get_ref().as_ref();
            let is_group =
                options::OPTIONS.iter().any(|o| o.name.split_once('.').is_some_and(|(g, _)| g == word));
            match (options::find(word), value.get_ref().as_table()) {
                (Some(spec), _) => take(self, spec, value),
                (None, Some(group)) if is_group => {
                    for (inner, value) in group {
                        let name = format!("{word}.{}", inner.get_ref());
                        match options::find(&name) {
                            Some(spec) => take(self, spec, value),
                            None => self.unknown_option(inner.span(), &name),
                        }
                    }
                }
                (None, _) if is_group => {
                    self.at(value.span(), format!("{word} is a table; see `kapell study schema`"))
                }
                (None, _) => self.unknown_option(key.span(), word),
            }
        }
    }

    fn unknown_option(&mut self, span: Range<usize>, name: &str) {
        let names = options::OPTIONS.iter().map(|o| o.name);
        let hint = match options::nearest(name, names) {
            Some(near) => format!("did you mean \"{near}\"?"),
            None => "`kapell study schema` prints all".into(),
        };
        self.at(span, format!("unknown option \"{name}\"; {hint}"));
    }

    fn train(&mut self, root: &Table<'_>) -> Config {
        let mut config = Config::defaults();
        let Some(table) = self.any_table(root, "train") else { return config };
        self.options(table, &mut |r, spec, value| {
            if let Some(v) = r.option_value(spec, value) {
                config.options.insert(spec.name.to_owned(), v);
            }
        });
        config
    }

    fn space(&mut self, root: &Table<'_>) -> Space {
        let mut space = Space::default();
        let Some(table) = self.any_table(root, "space") else { return space };
        let train = root.get("train").and_then(|v| v.get_ref().as_table());
        self.options(table, &mut |r, spec, value| {
            if train.is_some_and(|t| names_option(t, spec.name)) {
                r.at(value.span(), format!("{} stands in [space] and in [train]; keep one", spec.name));
            }
            if let Some(axis) = r.axis(spec, value) {
                space.axes.push(axis);
            }
        });
        space
    }

    fn axis(&mut self, spec: &'static options::OptionSpec, value: &Value<'_>) -> Option<Axis> {
        if value.get_ref().is_table() {
            let message = "a range needs the sampler random, sobol or tpe, which this version does not have; list its values: [...]";
            self.at(value.span(), format!("{}: {message}", spec.name));
            return None;
        }
        let Some(items) = value.get_ref().as_array() else {
            self.at(
                value.span(),
                format!(
                    "{} in [space] wants a list of values: [...]; a fixed value stands in [train]",
                    spec.name
                ),
            );
            return None;
        };
        if items.is_empty() {
            self.at(
                value.span(),
                format!("the axis {} is empty; give it at least one value or leave it out", spec.name),
            );
            return None;
        }
        let mut seen = std::collections::HashMap::new();
        let mut values = Vec::new();
        for item in items {
            let Some(v) = self.option_value(spec, item) else { continue };
            if seen.insert(v.canonical(), ()).is_some() {
                self.at(item.span(), format!("the axis {} names {v} twice; each value once", spec.name));
            }
            values.push(v);
        }
        if !spec.identity && values.len() > 1 {
            let why = "trials that differ in nothing else are one trial, which can be extended";
            self.at(value.span(), format!("{} cannot be searched ({why}); fix it in [train]", spec.name));
        }
        Some(Axis { name: spec.name.to_owned(), values })
    }

    fn size(&mut self, space: &Space, replicates: u32) {
        let size = space.size().and_then(|n| n.checked_mul(u64::from(replicates)));
        if size.is_none_or(|n| n > MAX_TRIALS) {
            let count = size.map_or("more than 2^64".to_owned(), |n| n.to_string());
            let axes: Vec<String> =
                space.axes.iter().map(|a| format!("{} {}", a.values.len(), a.name)).collect();
            self.whole(format!(
                "the grid has {count} trials ({} x {replicates} replicates), and at most {MAX_TRIALS} are taken; search fewer values",
                axes.join(" x ")
            ));
        }
    }

    fn option_value(&mut self, spec: &options::OptionSpec, value: &Value<'_>) -> Option<OptionValue> {
        let read = match value.get_ref() {
            DeValue::Integer(i) => match i64::from_str_radix(&i.as_str().replace('_', ""), i.radix()) {
                Ok(n) => Some(OptionValue::Int(n)),
                Err(_) => {
                    self.at(value.span(), format!("{}: {} does not fit 64 bits", spec.name, i.as_str()));
                    return None;
                }
            },
            DeValue::Float(x) => x.as_str().replace('_', "").parse().ok().map(OptionValue::Float),
            DeValue::Boolean(b) => Some(OptionValue::Bool(*b)),
            DeValue::String(s) => Some(OptionValue::Text(s.to_string())),
            _ => None,
        };
        let checked = match read {
            Some(v) => spec.check(v),
            None => Err(format!("{} wants one value, not {}", spec.name, value.get_ref().type_str())),
        };
        checked.map_err(|message| self.at(value.span(), message)).ok()
    }
}

/// Does this table of options give `name`, dotted names within their group?
fn names_option(table: &Table<'_>, name: &str) -> bool {
    match name.split_once('.') {
        None => table.get(name).is_some(),
        Some((group, key)) => {
            table.get(group).and_then(|v| v.get_ref().as_table()).is_some_and(|t| t.get(key).is_some())
        }
    }
}
