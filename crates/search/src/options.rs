//! The table of training options: names, types, bounds, defaults, and which of them change a tensor's shape.

use std::collections::BTreeMap;
use std::fmt;

use sha2::{Digest, Sha256};

/// A value of a training option.
#[derive(Debug, Clone, PartialEq)]
pub enum OptionValue {
    Int(i64),
    Float(f64),
    Bool(bool),
    Text(String),
}

/// What values an option takes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum OptionKind {
    /// Whole numbers, both bounds included.
    Int {
        min: i64,
        max: i64,
    },
    /// Finite numbers. `below` bounds them from above, itself excluded; `positive` excludes 0.
    Float {
        min: f64,
        below: f64,
        positive: bool,
    },
    Bool,
    /// One of these words.
    Choice(&'static [&'static str]),
}

/// One training option.
#[derive(Debug, Clone, Copy)]
pub struct OptionSpec {
    /// Dotted where the study file groups it: "lr_decay.every".
    pub name: &'static str,
    pub kind: OptionKind,
    pub default: Default,
    /// Trials that agree on all of these have tensors of the same shapes (see [`Config::shape_key`]).
    pub changes_shape: bool,
    /// Part of a trial's identity. Only `epochs` is not, so that a study can be extended.
    pub identity: bool,
    pub help: &'static str,
}

/// A default that can stand in a `const` table.
#[derive(Debug, Clone, Copy)]
pub enum Default {
    Int(i64),
    Float(f64),
    Bool(bool),
    Text(&'static str),
}

const fn int(
    name: &'static str,
    (min, max): (i64, i64),
    default: i64,
    shape: bool,
    help: &'static str,
) -> OptionSpec {
    OptionSpec {
        name,
        kind: OptionKind::Int { min, max },
        default: Default::Int(default),
        changes_shape: shape,
        identity: true,
        help,
    }
}

const fn float(name: &'static str, kind: OptionKind, default: f64, help: &'static str) -> OptionSpec {
    OptionSpec { name, kind, default: Default::Float(default), changes_shape: false, identity: true, help }
}

const POSITIVE: OptionKind = OptionKind::Float { min: 0.0, below: f64::INFINITY, positive: true };

/// Every training option, in the order in which they are shown. Defaults are BachBot's best (article, Table 1).
pub const OPTIONS: &[OptionSpec] = &[
    int("layers", (1, 16), 3, true, "LSTM layers"),
    int("hidden", (1, 8192), 256, true, "units of an LSTM layer"),
    int("embedding", (1, 4096), 32, true, "width of the token embedding"),
    int(
        "seq_len",
        (1, 65_536),
        128,
        true,
        "frames of back-propagation through time: positions before it is cut",
    ),
    float(
        "dropout",
        OptionKind::Float { min: 0.0, below: 1.0, positive: false },
        0.3,
        "share of units dropped after each layer",
    ),
    OptionSpec {
        name: "epochs",
        kind: OptionKind::Int { min: 1, max: 1_000_000 },
        default: Default::Int(30),
        changes_shape: false,
        identity: false,
        help: "passes over the training part",
    },
    int("batch_size", (1, 65_536), 50, true, "rows that the training stream is cut into"),
    float("learning_rate", POSITIVE, 2e-3, "Adam's step size at the start"),
    int("lr_decay.every", (1, 1_000_000), 5, false, "epochs between decays of the learning rate"),
    float(
        "lr_decay.factor",
        OptionKind::Float { min: 0.0, below: 1.000_001, positive: true },
        0.5,
        "what a decay multiplies the learning rate by",
    ),
    OptionSpec {
        name: "lr_decay.reset_moments",
        kind: OptionKind::Bool,
        default: Default::Bool(false),
        changes_shape: false,
        identity: true,
        help: "drop Adam's moments at each decay, as BachBot did",
    },
    OptionSpec {
        name: "grad_clip.kind",
        kind: OptionKind::Choice(&["norm", "value"]),
        default: Default::Text("norm"),
        changes_shape: false,
        identity: true,
        help: "clip the gradient's norm, or each of its elements",
    },
    float("grad_clip.max", POSITIVE, 5.0, "the largest norm, or absolute value, that is let through"),
    OptionSpec {
        name: "batch_norm",
        kind: OptionKind::Bool,
        default: Default::Bool(true),
        changes_shape: true,
        identity: true,
        help: "batch normalisation after each layer",
    },
    OptionSpec {
        name: "dtype",
        kind: OptionKind::Choice(&["f32"]),
        default: Default::Text("f32"),
        changes_shape: true,
        identity: true,
        help: "number format of the training arithmetic",
    },
    int("seed", (0, i64::MAX), 1, false, "of every random number of a trial, together with the replicate"),
];

/// The option of this name.
#[must_use]
pub fn find(name: &str) -> Option<&'static OptionSpec> {
    OPTIONS.iter().find(|o| o.name == name)
}

/// Of `candidates`, the one that is most like `word`, if one is like it at all.
#[must_use]
pub fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    candidates
        .into_iter()
        .map(|c| (strsim::jaro_winkler(&word.to_lowercase(), c), c))
        .filter(|(score, _)| *score > 0.7)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, c)| c)
}

impl From<Default> for OptionValue {
    fn from(d: Default) -> Self {
        match d {
            Default::Int(i) => Self::Int(i),
            Default::Float(f) => Self::Float(f),
            Default::Bool(b) => Self::Bool(b),
            Default::Text(t) => Self::Text(t.to_owned()),
        }
    }
}

impl fmt::Display for OptionValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Int(i) => write!(f, "{i}"),
            Self::Float(x) => write!(f, "{x:?}"),
            Self::Bool(b) => write!(f, "{b}"),
            Self::Text(t) => f.write_str(t),
        }
    }
}

impl OptionValue {
    /// As a JSON value.
    #[must_use]
    pub fn to_json(&self) -> serde_json::Value {
        match self {
            Self::Int(i) => (*i).into(),
            Self::Float(x) => (*x).into(),
            Self::Bool(b) => (*b).into(),
            Self::Text(t) => t.as_str().into(),
        }
    }

    /// A total order, for finding duplicates and sorting.
    #[must_use]
    pub fn canonical(&self) -> String {
        match self {
            Self::Int(i) => format!("i:{i}"),
            Self::Float(x) => format!("f:{:?}", if *x == 0.0 { 0.0 } else { *x }),
            Self::Bool(b) => format!("b:{b}"),
            Self::Text(t) => format!("s:{t}"),
        }
    }
}

impl OptionSpec {
    /// The value as this option's type, or what is wrong with it. A whole number serves as a float.
    ///
    /// # Errors
    /// A sentence naming the type or the bound that was missed.
    pub fn check(&self, value: OptionValue) -> Result<OptionValue, String> {
        match (self.kind, value) {
            (OptionKind::Int { min, max }, OptionValue::Int(i)) if (min..=max).contains(&i) => {
                Ok(OptionValue::Int(i))
            }
            (OptionKind::Int { min, max }, OptionValue::Int(i)) => {
                Err(format!("{i} is out of bounds: {} takes whole numbers from {min} to {max}", self.name))
            }
            #[expect(clippy::cast_precision_loss, reason = "a float option given as a whole number")]
            (OptionKind::Float { .. }, OptionValue::Int(i)) => self.check(OptionValue::Float(i as f64)),
            (OptionKind::Float { min, below, positive }, OptionValue::Float(x)) => {
                if x.is_finite() && x >= min && x < below && !(positive && x == 0.0) {
                    Ok(OptionValue::Float(if x == 0.0 { 0.0 } else { x }))
                } else {
                    let upper = if below.is_finite() { format!(" and below {below}") } else { String::new() };
                    let lower = if positive { "above" } else { "from" };
                    Err(format!("{x:?} is out of bounds: {} takes numbers {lower} {min}{upper}", self.name))
                }
            }
            (OptionKind::Bool, OptionValue::Bool(b)) => Ok(OptionValue::Bool(b)),
            (OptionKind::Choice(words), OptionValue::Text(t)) => {
                if words.contains(&t.as_str()) {
                    Ok(OptionValue::Text(t))
                } else {
                    Err(format!("\"{t}\" is not one of {}", words.join(", ")))
                }
            }
            (kind, value) => Err(format!("{} wants {}, not {}", self.name, kind.noun(), value.noun())),
        }
    }
}

impl OptionKind {
    fn noun(self) -> &'static str {
        match self {
            Self::Int { .. } => "a whole number",
            Self::Float { .. } => "a number",
            Self::Bool => "true or false",
            Self::Choice(_) => "a word in quotes",
        }
    }
}

impl OptionValue {
    fn noun(&self) -> String {
        match self {
            Self::Int(i) => format!("the whole number {i}"),
            Self::Float(x) => format!("the number {x:?}"),
            Self::Bool(b) => format!("{b}"),
            Self::Text(t) => format!("the text \"{t}\""),
        }
    }
}

/// The resolved options of a trial: a value for every option of [`OPTIONS`].
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Config {
    pub options: BTreeMap<String, OptionValue>,
}

impl Config {
    /// Every option at its default.
    #[must_use]
    pub fn defaults() -> Self {
        Self { options: OPTIONS.iter().map(|o| (o.name.to_owned(), o.default.into())).collect() }
    }

    /// The value of an option, or its default where the configuration was written before the option existed.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<OptionValue> {
        self.options.get(name).cloned().or_else(|| find(name).map(|o| o.default.into()))
    }

    /// A whole-number option.
    #[must_use]
    pub fn int(&self, name: &str) -> Option<i64> {
        if let Some(OptionValue::Int(i)) = self.get(name) { Some(i) } else { None }
    }

    /// A number option.
    #[must_use]
    pub fn float(&self, name: &str) -> Option<f64> {
        if let Some(OptionValue::Float(x)) = self.get(name) { Some(x) } else { None }
    }

    /// A true-or-false option.
    #[must_use]
    pub fn bool(&self, name: &str) -> Option<bool> {
        if let Some(OptionValue::Bool(b)) = self.get(name) { Some(b) } else { None }
    }

    /// A word option.
    #[must_use]
    pub fn text(&self, name: &str) -> Option<String> {
        if let Some(OptionValue::Text(t)) = self.get(name) { Some(t) } else { None }
    }

    /// Every option present, known and within its bounds; a missing one gets its default.
    ///
    /// # Errors
    /// A sentence for the first option that is unknown, of a wrong type or out of bounds.
    pub fn validate(mut self) -> Result<Self, String> {
        let mut checked = Self::defaults();
        for (name, value) in std::mem::take(&mut self.options) {
            let Some(spec) = find(&name) else { return Err(format!("unknown option \"{name}\"")) };
            checked.options.insert(name, spec.check(value)?);
        }
        Ok(checked)
    }

    /// Hex SHA-256 of the identity of a trial: its options but `epochs`, typed, with the digests of corpus and
    /// split. Replicates of one configuration share it.
    #[must_use]
    pub fn hash(&self, corpus_digest: &str, split_digest: &str) -> String {
        let mut text = Self::identity_head(corpus_digest, split_digest);
        for (name, value) in &self.options {
            if find(name).is_none_or(|o| o.identity) {
                text.push_str(&format!("{name}={}\n", value.canonical()));
            }
        }
        hex::encode(Sha256::digest(text.as_bytes()))
    }

    /// What the text of every trial's identity begins with.
    pub(crate) fn identity_head(corpus_digest: &str, split_digest: &str) -> String {
        format!("kapell-config-v1\ncorpus={corpus_digest}\nsplit={split_digest}\n")
    }

    /// Trials with the same key have tensors of the same shapes and can be trained as one batched model.
    #[must_use]
    pub fn shape_key(&self) -> String {
        let shaped = OPTIONS.iter().filter(|o| o.changes_shape);
        let parts: Vec<String> =
            shaped.filter_map(|o| self.get(o.name).map(|v| format!("{}={v}", o.name))).collect();
        parts.join(";")
    }

    /// Nested as a study file writes it: `{"layers": 3, "lr_decay": {"every": 5, ...}, ...}`, in table order.
    #[must_use]
    pub fn to_json(&self) -> serde_json::Value {
        let mut root = serde_json::Map::new();
        for spec in OPTIONS {
            let Some(value) = self.options.get(spec.name) else { continue };
            match spec.name.split_once('.') {
                None => {
                    root.insert(spec.name.to_owned(), value.to_json());
                }
                Some((group, key)) => {
                    let entry = root.entry(group).or_insert_with(|| serde_json::json!({}));
                    if let Some(map) = entry.as_object_mut() {
                        map.insert(key.to_owned(), value.to_json());
                    }
                }
            }
        }
        serde_json::Value::Object(root)
    }

    /// The inverse of [`Config::to_json`].
    ///
    /// # Errors
    /// A sentence naming the entry that is no option value.
    pub fn from_json(json: &serde_json::Value) -> Result<Self, String> {
        let mut options = BTreeMap::new();
        let root = json.as_object().ok_or("a configuration is a JSON object")?;
        for (name, value) in root {
            if let Some(group) = value.as_object() {
                for (key, value) in group {
                    let name = format!("{name}.{key}");
                    options.insert(name.clone(), value_from_json(&name, value)?);
                }
            } else {
                options.insert(name.clone(), value_from_json(name, value)?);
            }
        }
        Self { options }.validate()
    }
}

fn value_from_json(name: &str, value: &serde_json::Value) -> Result<OptionValue, String> {
    match value {
        serde_json::Value::Bool(b) => Ok(OptionValue::Bool(*b)),
        serde_json::Value::String(s) => Ok(OptionValue::Text(s.clone())),
        serde_json::Value::Number(n) => n
            .as_i64()
            .map(OptionValue::Int)
            .or_else(|| n.as_f64().map(OptionValue::Float))
            .ok_or_else(|| format!("{name}: not a number")),
        _ => Err(format!("{name}: {value} is not an option value")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn epochs_are_no_part_of_a_trials_identity_and_everything_else_is() {
        let base = Config::defaults();
        for spec in OPTIONS {
            let mut other = base.clone();
            let value = match spec.default {
                Default::Int(i) => OptionValue::Int(i + 1),
                Default::Float(x) => OptionValue::Float(x / 2.0),
                Default::Bool(b) => OptionValue::Bool(!b),
                Default::Text(t) => OptionValue::Text(format!("{t}2")),
            };
            other.options.insert(spec.name.to_owned(), value);
            let same = base.hash("c", "s") == other.hash("c", "s");
            assert_eq!(same, spec.name == "epochs", "{}", spec.name);
        }
        assert_ne!(base.hash("c", "s"), base.hash("c2", "s"));
        assert_ne!(base.hash("c", "s"), base.hash("c", "s2"));
    }

    #[test]
    fn the_hash_of_the_default_configuration_never_changes() {
        let hash = Config::defaults().hash("sha256:corpus", "sha256:split");
        assert_eq!(hash, "fa1903fa2f4e41d1066ceab898c4a1a22456220fed029737a3815583cdc1be16");
    }

    #[test]
    fn dropout_changes_no_shape_and_hidden_does() {
        let base = Config::defaults();
        let mut dropout = base.clone();
        dropout.options.insert("dropout".into(), OptionValue::Float(0.5));
        let mut hidden = base.clone();
        hidden.options.insert("hidden".into(), OptionValue::Int(128));
        assert_eq!(base.shape_key(), dropout.shape_key());
        assert_ne!(base.shape_key(), hidden.shape_key());
    }

    #[test]
    fn json_gives_back_the_same_configuration() {
        let base = Config::defaults();
        assert_eq!(Config::from_json(&base.to_json()), Ok(base));
    }

    #[test]
    fn an_option_out_of_bounds_is_told_with_its_bounds() {
        let dropout = find("dropout").unwrap();
        assert!(dropout.check(OptionValue::Float(1.0)).unwrap_err().contains("below 1"));
        assert!(find("hidden").unwrap().check(OptionValue::Int(0)).unwrap_err().contains("from 1"));
        assert!(find("hidden").unwrap().check(OptionValue::Float(1.5)).unwrap_err().contains("whole number"));
        assert_eq!(dropout.check(OptionValue::Int(0)), Ok(OptionValue::Float(0.0)));
    }
}
