//! The options of one training run, their limits, and the number of parameters they give.

use serde::{Deserialize, Serialize};

/// The shapes of a model; all that is needed to read its weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Architecture {
    /// Number of tokens, V.
    pub vocabulary: usize,
    /// Number of LSTM layers, L.
    pub layers: usize,
    /// Units a layer, H.
    pub hidden: usize,
    /// Width of the embedding, E.
    pub embedding: usize,
    /// Whether each LSTM layer is followed by batch normalisation.
    pub batch_norm: bool,
}

/// The learning rate is multiplied by `factor` at the start of every `every`-th epoch but the first.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct LrDecay {
    pub every: u32,
    pub factor: f64,
    /// Whether Adam's moments and step count are dropped at each decay, as BachBot's training did.
    pub reset_moments: bool,
}

/// How gradients are kept in bounds before the optimiser sees them.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", content = "max", rename_all = "lowercase")]
pub enum GradClip {
    /// The gradient of all parameters as one vector is scaled to at most this Euclidean norm.
    Norm(f64),
    /// Every element is clamped to plus or minus this value.
    Value(f64),
}

/// Everything that decides a training run's numbers, and `threads`, which does not.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TrainConfig {
    pub layers: usize,
    pub hidden: usize,
    pub embedding: usize,
    /// Tokens before back-propagation through time is cut, T.
    pub seq_len: usize,
    /// Rows that the training stream is cut into, B.
    pub batch_size: usize,
    /// Probability of dropping a unit after each LSTM layer, in [0, 1).
    pub dropout: f64,
    pub batch_norm: bool,
    /// Of Adam (beta 0.9 and 0.999, epsilon 1e-8).
    pub learning_rate: f64,
    pub lr_decay: LrDecay,
    pub grad_clip: GradClip,
    pub epochs: u32,
    pub seed: u64,
    /// Which of a configuration's repetitions this is; part of every random number's key.
    pub replicate: u32,
    /// Threads of training and evaluation. Changes no result.
    #[serde(skip, default = "one_thread")]
    pub threads: usize,
}

fn one_thread() -> usize {
    1
}

/// An option outside its limits.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field} must be {wanted}, not {got}")]
pub struct ConfigError {
    pub field: &'static str,
    pub wanted: &'static str,
    pub got: String,
}

impl Default for TrainConfig {
    /// The options that a study file leaves out; shapes are the source's best ones.
    fn default() -> Self {
        Self {
            layers: 3,
            hidden: 256,
            embedding: 32,
            seq_len: 128,
            batch_size: 50,
            dropout: 0.3,
            batch_norm: true,
            learning_rate: 2e-3,
            lr_decay: LrDecay { every: 5, factor: 0.5, reset_moments: false },
            grad_clip: GradClip::Norm(5.0),
            epochs: 30,
            seed: 1,
            replicate: 0,
            threads: 1,
        }
    }
}

impl TrainConfig {
    /// Whether every option lies within its limits.
    ///
    /// # Errors
    /// The first option that does not, with what it must be.
    pub fn validate(&self) -> Result<(), ConfigError> {
        size("layers", self.layers, 32, "from 1 to 32")?;
        size("hidden", self.hidden, 16_384, "from 1 to 16384")?;
        size("embedding", self.embedding, 16_384, "from 1 to 16384")?;
        size("seq_len", self.seq_len, 16_384, "from 1 to 16384")?;
        size("batch_size", self.batch_size, 16_384, "from 1 to 16384")?;
        size("threads", self.threads, 1024, "from 1 to 1024")?;
        let positive =
            |field, value: f64| check(value.is_finite() && value > 0.0, field, "a number above 0", value);
        check((0.0..1.0).contains(&self.dropout), "dropout", "at least 0 and below 1", self.dropout)?;
        positive("learning_rate", self.learning_rate)?;
        check(self.lr_decay.every > 0, "lr_decay.every", "at least 1", self.lr_decay.every)?;
        let factor = self.lr_decay.factor;
        check(factor > 0.0 && factor <= 1.0, "lr_decay.factor", "above 0 and at most 1", factor)?;
        match self.grad_clip {
            GradClip::Norm(max) | GradClip::Value(max) => positive("grad_clip.max", max)?,
        }
        check((1..=1_000_000).contains(&self.epochs), "epochs", "from 1 to 1000000", self.epochs)?;
        check(
            !self.batch_norm || self.seq_len * self.batch_size > 1,
            "batch_size",
            "above 1 for batch normalisation over windows of one token",
            self.batch_size,
        )
    }

    /// The shapes that these options give on a vocabulary.
    #[must_use]
    pub fn architecture(&self, vocabulary: usize) -> Architecture {
        Architecture {
            vocabulary,
            layers: self.layers,
            hidden: self.hidden,
            embedding: self.embedding,
            batch_norm: self.batch_norm,
        }
    }
}

fn size(field: &'static str, value: usize, max: usize, wanted: &'static str) -> Result<(), ConfigError> {
    check((1..=max).contains(&value), field, wanted, value)
}

fn check(
    holds: bool,
    field: &'static str,
    wanted: &'static str,
    got: impl ToString,
) -> Result<(), ConfigError> {
    if holds { Ok(()) } else { Err(ConfigError { field, wanted, got: got.to_string() }) }
}

/// The number of trained numbers: one bias a gate, batch normalisation's weight and bias included.
#[must_use]
pub fn parameter_count(config: &TrainConfig, vocabulary: usize) -> u64 {
    let wide = |value: usize| value as u64;
    let (v, h, e) = (wide(vocabulary), wide(config.hidden), wide(config.embedding));
    let layer = |input: u64| 4 * h * (input + h + 1) + if config.batch_norm { 2 * h } else { 0 };
    v * e + layer(e) + wide(config.layers).saturating_sub(1) * layer(h) + v * h + v
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bachbots_best_model_has_the_published_number_of_parameters() {
        assert_eq!(parameter_count(&TrainConfig::default(), 108), 1_379_308);
    }

    #[test]
    fn options_outside_their_limits_are_refused_by_name() {
        let base = TrainConfig::default();
        assert_eq!(base.validate(), Ok(()));
        let cases: [(TrainConfig, &str); 8] = [
            (TrainConfig { hidden: 0, ..base.clone() }, "hidden must be from 1 to 16384, not 0"),
            (TrainConfig { layers: 33, ..base.clone() }, "layers must be from 1 to 32, not 33"),
            (TrainConfig { dropout: 1.0, ..base.clone() }, "dropout must be at least 0 and below 1, not 1"),
            (
                TrainConfig { dropout: f64::NAN, ..base.clone() },
                "dropout must be at least 0 and below 1, not NaN",
            ),
            (
                TrainConfig { learning_rate: 0.0, ..base.clone() },
                "learning_rate must be a number above 0, not 0",
            ),
            (
                TrainConfig { grad_clip: GradClip::Value(f64::INFINITY), ..base.clone() },
                "grad_clip.max must be a number above 0, not inf",
            ),
            (TrainConfig { epochs: 0, ..base.clone() }, "epochs must be from 1 to 1000000, not 0"),
            (
                TrainConfig { seq_len: 1, batch_size: 1, ..base },
                "batch_size must be above 1 for batch normalisation over windows of one token, not 1",
            ),
        ];
        for (config, message) in cases {
            assert_eq!(config.validate().map_err(|e| e.to_string()), Err(message.to_owned()));
        }
    }
}
