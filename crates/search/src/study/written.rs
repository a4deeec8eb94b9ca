//! Trials of a study as a store keeps them, many of them fast: what all of them have in common is written once.

use serde_json::Value;
use sha2::{Digest, Sha256};

use super::StudySpec;
use crate::options::{Config, OPTIONS, OptionValue, find};
use crate::space::Axis;

/// A trial, written out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Written {
    /// From 1.
    pub number: u32,
    /// From 0.
    pub replicate: u32,
    /// Epochs that it is to run.
    pub epochs: i64,
    /// [`Config::to_json`], as text.
    pub config: String,
    /// [`Config::hash`].
    pub hash: String,
    /// [`Config::shape_key`].
    pub shape_key: String,
}

/// Writes a study's trials, each exactly as its configuration would be written for itself.
#[derive(Debug, Clone)]
pub struct Pen {
    replicates: u64,
    /// Values of each axis, the slowest first.
    sizes: Vec<u64>,
    /// Of every trial: they cannot be searched.
    epochs: i64,
    json: Template,
    identity: Template,
    shape: Template,
}

/// A text with the places where an axis has its value.
#[derive(Debug, Clone, Default)]
struct Template {
    /// What comes before the first place.
    head: String,
    /// An axis, what it says with each of its values, and what follows.
    places: Vec<(usize, Vec<String>, String)>,
}

impl Template {
    fn text(&mut self, text: &str) {
        self.places.last_mut().map_or(&mut self.head, |place| &mut place.2).push_str(text);
    }

    /// A value: that of an axis, where one has this name.
    fn value(&mut self, axes: &[Axis], name: &str, value: &str, say: impl Fn(&OptionValue) -> String) {
        match axes.iter().position(|axis| axis.name == name) {
            Some(axis) => {
                let values = axes.get(axis).map(|axis| axis.values.iter().map(say).collect());
                self.places.push((axis, values.unwrap_or_default(), String::new()));
            }
            None => self.text(value),
        }
    }

    fn json(&mut self, axes: &[Axis], path: &str, value: &Value) {
        let Some(map) = value.as_object() else {
            return self.value(axes, path, &value.to_string(), |v| v.to_json().to_string());
        };
        for (n, (key, value)) in map.iter().enumerate() {
            let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
            self.text(if n == 0 { "{" } else { "," });
            self.text(&Value::String(key.clone()).to_string());
            self.text(":");
            self.json(axes, &path, value);
        }
        self.text(if map.is_empty() { "{}" } else { "}" });
    }

    /// What follows the head, piece by piece, at a point of the space.
    fn rest<'a>(&'a self, at: &'a [usize]) -> impl Iterator<Item = &'a str> {
        self.places.iter().flat_map(|(axis, values, after)| {
            let value = at.get(*axis).and_then(|at| values.get(*at)).map_or("", String::as_str);
            [value, after.as_str()]
        })
    }

    fn write(&self, at: &[usize]) -> String {
        let mut text = String::with_capacity(self.head.len() * 2 + self.places.len() * 32);
        text.push_str(&self.head);
        self.rest(at).for_each(|piece| text.push_str(piece));
        text
    }
}

impl StudySpec {
    /// What writes the trials of this study over a corpus and a split.
    #[must_use]
    pub fn pen(&self, corpus_digest: &str, split_digest: &str) -> Pen {
        let (axes, config) = (&self.space.axes, self.planned(1).config);
        let (mut json, mut identity, mut shape) =
            (Template::default(), Template::default(), Template::default());
        json.json(axes, "", &config.to_json());
        identity.text(&Config::identity_head(corpus_digest, split_digest));
        for (name, value) in &config.options {
            if find(name).is_none_or(|o| o.identity) {
                identity.text(&format!("{name}="));
                identity.value(axes, name, &value.canonical(), OptionValue::canonical);
                identity.text("\n");
            }
        }
        let shaped = OPTIONS.iter().filter(|o| o.changes_shape);
        for (n, (name, value)) in shaped.filter_map(|o| Some((o.name, config.get(o.name)?))).enumerate() {
            shape.text(&format!("{}{name}=", if n == 0 { "" } else { ";" }));
            shape.value(axes, name, &value.to_string(), ToString::to_string);
        }
        let sizes = axes.iter().map(|axis| axis.values.len() as u64).collect();
        Pen {
            replicates: u64::from(self.replicates.max(1)),
            sizes,
            epochs: config.int("epochs").unwrap_or(1),
            json,
            identity,
            shape,
        }
    }
}

impl Pen {
    /// Writes the trial of this number (see [`StudySpec::planned`]).
    #[must_use]
    pub fn write(&self, number: u32) -> Written {
        let index = u64::from(number.saturating_sub(1));
        let (mut point, replicate) = (index / self.replicates, index % self.replicates);
        let mut at = vec![0; self.sizes.len()];
        for (at, size) in at.iter_mut().zip(&self.sizes).rev() {
            *at = usize::try_from(point % size).unwrap_or(0);
            point /= size;
        }
        let mut hash = Sha256::new_with_prefix(self.identity.head.as_bytes());
        self.identity.rest(&at).for_each(|piece| hash.update(piece.as_bytes()));
        Written {
            number,
            replicate: u32::try_from(replicate).unwrap_or(0),
            epochs: self.epochs,
            config: self.json.write(&at),
            hash: hex::encode(hash.finalize()),
            shape_key: self.shape.write(&at),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn as_written_for_itself(spec: &StudySpec) {
        let pen = spec.pen("sha256:c", "sha256:s");
        for planned in spec.expand() {
            let written = Written {
                number: planned.number,
                replicate: planned.replicate,
                epochs: planned.config.int("epochs").unwrap(),
                config: planned.config.to_json().to_string(),
                hash: planned.config.hash("sha256:c", "sha256:s"),
                shape_key: planned.config.shape_key(),
            };
            assert_eq!(pen.write(planned.number), written);
        }
    }

    #[test]
    fn a_trial_is_written_as_its_configuration_would_be() {
        let spaces = [
            "hidden = [8, 16]\nlayers = [1, 2, 3]\ndropout = [0.0, 0.1]\nlearning_rate = [1e-3, 0.25]",
            "\"lr_decay.every\" = [1, 5]\nbatch_norm = [true, false]",
            "seed = [1]",
        ];
        for (n, space) in spaces.into_iter().enumerate() {
            let replicates = n + 1;
            let text = format!("name = \"s\"\ncorpus = \"c\"\nreplicates = {replicates}\n[space]\n{space}\n");
            match StudySpec::parse(&text) {
                Ok(spec) => as_written_for_itself(&spec),
                Err(error) => panic!("{text}: {error}"),
            }
        }
    }
}
