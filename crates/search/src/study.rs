//! A study file: what is searched, on which corpus, how long, and how failures are met.

mod parse;
mod schema;
mod set;
mod written;

pub use parse::{SpecError, SpecErrors, parse_duration};
pub use schema::schema_toml;
pub use set::{SetError, apply_overrides};
pub use written::{Pen, Written};

use std::collections::BTreeMap;
use std::time::Duration;

use crate::options::{Config, OptionValue};
use crate::space::Space;

/// A study, validated: every option has a value within its bounds, the space has a size that can be expanded.
#[derive(Debug, Clone, PartialEq)]
pub struct StudySpec {
    pub name: String,
    pub corpus: String,
    pub objective: Objective,
    pub sampler: Sampler,
    pub pruner: Pruner,
    /// Seeds per configuration.
    pub replicates: u32,
    /// Share of the workers beside other studies.
    pub weight: f64,
    pub retry: Retry,
    pub limits: Limits,
    pub checkpoint: Checkpointing,
    pub require: Require,
    pub tags: BTreeMap<String, String>,
    pub space: Space,
    /// What is not searched (and, for what is, a default that no trial uses).
    pub train: Config,
}

/// What ranks the trials.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Objective {
    pub metric: Metric,
    pub at: At,
    pub direction: Direction,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Metric {
    ValLoss,
    TrainLoss,
}

/// Of which epoch: the best of the trial's, or its last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum At {
    Best,
    Last,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    Minimize,
    Maximize,
}

/// What to try next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sampler {
    /// Every point of the space, in order.
    Grid,
}

/// What to stop early.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pruner {
    None,
}

/// How often a trial is tried again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retry {
    /// Attempts that may fail by the trial's own fault before it is FAILED.
    pub max_attempts: u32,
    /// Attempts that may be lost with their worker before it is FAILED.
    pub max_lost: u32,
}

/// When a study stops by itself.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Limits {
    /// Hours that the study was ACTIVE.
    pub max_hours: Option<f64>,
    /// An objective at least this good ends the study.
    pub target: Option<f64>,
}

/// How often a running trial's state goes to the coordinator, and what is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Checkpointing {
    pub every: Duration,
    pub keep: Keep,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keep {
    Best,
    Last,
    BestAndLast,
}

/// What a worker must be to get a trial of this study.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Require {
    /// "cpu" | "cuda"; `None`: anything.
    pub device: Option<String>,
}

impl Sampler {
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Grid => "grid",
        }
    }
}

impl Pruner {
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "none",
        }
    }
}

impl Objective {
    /// Is `a` the better of two objective values?
    #[must_use]
    pub fn better(&self, a: f64, b: f64) -> bool {
        match self.direction {
            Direction::Minimize => a < b,
            Direction::Maximize => a > b,
        }
    }
}

impl Keep {
    #[must_use]
    pub fn best(self) -> bool {
        self != Self::Last
    }

    #[must_use]
    pub fn last(self) -> bool {
        self != Self::Best
    }
}

/// One trial as the space gives it, before it has an id.
#[derive(Debug, Clone, PartialEq)]
pub struct Planned {
    /// From 1.
    pub number: u32,
    pub config: Config,
    /// From 0.
    pub replicate: u32,
}

impl StudySpec {
    /// Reads a study file.
    ///
    /// # Errors
    /// Everything that is wrong with it, each with line, column and what to do.
    pub fn parse(text: &str) -> Result<Self, SpecErrors> {
        parse::parse(text)
    }

    /// Trials in all: configurations times replicates. At most [`crate::space::MAX_TRIALS`], as parsing made sure.
    #[must_use]
    pub fn trials(&self) -> u64 {
        self.space.size().unwrap_or(u64::MAX).saturating_mul(u64::from(self.replicates))
    }

    /// The trial of this number (1..=[`StudySpec::trials`]): replicates of a configuration stand together.
    #[must_use]
    pub fn planned(&self, number: u32) -> Planned {
        let index = u64::from(number.saturating_sub(1));
        let replicates = u64::from(self.replicates.max(1));
        Planned {
            number,
            config: self.space.config(&self.train, index / replicates),
            replicate: u32::try_from(index % replicates).unwrap_or(0),
        }
    }

    /// Every trial, in order of number.
    pub fn expand(&self) -> impl Iterator<Item = Planned> + '_ {
        (1..=u32::try_from(self.trials()).unwrap_or(u32::MAX)).map(|n| self.planned(n))
    }

    /// The values of the searched options of `config`, for a table: `layers=2 hidden=128`.
    #[must_use]
    pub fn searched(&self, config: &Config) -> Vec<(String, OptionValue)> {
        self.space.axes.iter().filter_map(|a| config.get(&a.name).map(|v| (a.name.clone(), v))).collect()
    }

    /// What differs from `other`, a line each (`train.epochs: 30 -> 20`); tags do not count. Empty: the same study.
    #[must_use]
    pub fn difference(&self, other: &Self) -> Vec<String> {
        let (a, b) = (self.flat(), other.flat());
        let keys: std::collections::BTreeSet<&String> = a.keys().chain(b.keys()).collect();
        let none = "(not given)".to_owned();
        keys.into_iter()
            .filter(|k| a.get(*k) != b.get(*k))
            .map(|k| {
                let (old, new) = (a.get(k).unwrap_or(&none), b.get(k).unwrap_or(&none));
                let same = old.chars().zip(new.chars()).take_while(|(a, b)| a == b).count();
                format!("{k}: {} -> {}", excerpt(old, same), excerpt(new, same))
            })
            .collect()
    }

    fn flat(&self) -> BTreeMap<String, String> {
        let mut flat = BTreeMap::new();
        let mut put = |k: &str, v: String| flat.insert(k.to_owned(), v);
        put("name", self.name.clone());
        put("corpus", self.corpus.clone());
        put("objective", format!("{:?}", self.objective));
        put("sampler", self.sampler.name().to_owned());
        put("pruner", self.pruner.name().to_owned());
        put("replicates", self.replicates.to_string());
        put("weight", format!("{:?}", self.weight));
        put("retry.max_attempts", self.retry.max_attempts.to_string());
        put("retry.max_lost", self.retry.max_lost.to_string());
        put("limits.max_hours", format!("{:?}", self.limits.max_hours));
        put("limits.target", format!("{:?}", self.limits.target));
        put("checkpoint.every", format!("{:?}", self.checkpoint.every));
        put("checkpoint.keep", format!("{:?}", self.checkpoint.keep));
        put("require.device", format!("{:?}", self.require.device));
        for axis in &self.space.axes {
            let values: Vec<String> = axis.values.iter().map(ToString::to_string).collect();
            put(&format!("space.{}", axis.name), format!("[{}]", values.join(", ")));
        }
        let order: Vec<&str> = self.space.axes.iter().map(|a| a.name.as_str()).collect();
        put("space (order)", order.join(", "));
        for (name, value) in &self.train.options {
            if !order.contains(&name.as_str()) {
                put(&format!("train.{name}"), value.to_string());
            }
        }
        flat
    }
}

/// Characters of a value that a difference shows at most.
const EXCERPT_MAX: usize = 160;

/// A text; of a long one what is at the character `at`.
fn excerpt(text: &str, at: usize) -> String {
    let length = text.chars().count();
    if length <= EXCERPT_MAX {
        return text.to_owned();
    }
    let start = at.saturating_sub(EXCERPT_MAX / 4).min(length - EXCERPT_MAX);
    let part: String = text.chars().skip(start).take(EXCERPT_MAX).collect();
    let before = if start == 0 { "" } else { "..." };
    let after = if start + EXCERPT_MAX == length { "" } else { "..." };
    format!("{before}{part}{after} ({length} characters)")
}
