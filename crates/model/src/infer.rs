//! A trained model at work: reads a model's folder and steps rows of tokens, one token at a time.
//!
//! Single precision, batch normalisation with its running statistics, no dropout. The state is carried from step to
//! step, so that a token costs the same wherever it stands. A row's state is a value of its own ([`Row`]): rows of
//! many pieces step together ([`Stepper`]), branch by being cloned, and come and go.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::checkpoint::{self, CheckpointError};
use crate::config::Architecture;
use crate::kernels::cell;
use crate::kernels::matmul::{Into, Panels, product};
use crate::weights::{Layout, Weights};

/// Bytes that `model.safetensors` may have beyond the parameters: its header, and second biases and statistics.
const SLACK_BYTES: u64 = 64 << 20;

/// Why a model's folder could not be read.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    #[error("{} has {bytes} bytes, but the model that config.json describes has {wanted}", path.display())]
    Size { path: PathBuf, bytes: u64, wanted: u64 },
    #[error("the model's weights hold a number that is not finite")]
    NotFinite,
}

/// Weights in the order that stepping wants them.
#[derive(Debug)]
pub struct Model {
    architecture: Architecture,
    vocabulary: Vec<String>,
    /// The first layer's input product of every token, [V, 4H].
    first: Vec<f32>,
    layers: Vec<Layer>,
    /// [H, V]
    linear: Panels,
    /// [V]
    linear_bias: Vec<f32>,
}

#[derive(Debug)]
struct Layer {
    /// [H, 4H]; the first layer has its table in place of it.
    input: Option<Panels>,
    /// [H, 4H]
    recurrent: Panels,
    /// [4H]
    bias: Vec<f32>,
    /// Batch normalisation with fixed statistics, h * scale + offset; both [H].
    norm: Option<(Vec<f32>, Vec<f32>)>,
}

/// Where one row of tokens stands: h and c of every layer, [L, 2, H]. Cloning it branches off.
#[derive(Debug, Clone, PartialEq)]
pub struct Row(Vec<f32>);

/// A model that steps rows together, with the buffers that it needs for it.
#[derive(Debug, Clone)]
pub struct Stepper {
    model: Arc<Model>,
    batch: Batch,
}

/// Rows side by side, as the products want them.
#[derive(Debug, Clone, Default)]
struct Batch {
    /// Of each layer: h and c, both [rows, H].
    layers: Vec<(Vec<f32>, Vec<f32>)>,
    /// Scratch: gates [rows, 4H]; the layer's input, its squashed cells and its next cells, [rows, H] each.
    gates: Vec<f32>,
    input: Vec<f32>,
    squashed: Vec<f32>,
    cells: Vec<f32>,
}

impl Batch {
    fn resize(&mut self, layers: usize, rows: usize, hidden: usize) {
        let size = rows * hidden;
        self.layers.resize_with(layers, Default::default);
        for (h, c) in &mut self.layers {
            h.resize(size, 0.0);
            c.resize(size, 0.0);
        }
        self.gates.resize(4 * size, 0.0);
        for buffer in [&mut self.input, &mut self.squashed, &mut self.cells] {
            buffer.resize(size, 0.0);
        }
    }
}

impl Stepper {
    /// For a model that may serve others, too.
    #[must_use]
    pub fn new(model: Arc<Model>) -> Self {
        Self { model, batch: Batch::default() }
    }

    /// The model that steps.
    #[must_use]
    pub fn model(&self) -> &Arc<Model> {
        &self.model
    }

    /// Feeds one token to every row; `logits [rows, V]` become the scores of the token after it.
    ///
    /// A row's numbers do not depend on the other rows.
    ///
    /// # Panics
    /// If `tokens` or `logits` do not have the number of rows, or a token is not below V, or a row is another model's.
    pub fn step(&mut self, rows: &mut [&mut Row], tokens: &[u16], logits: &mut [f32]) {
        let Architecture { layers, hidden, .. } = self.model.architecture;
        self.batch.resize(layers, rows.len(), hidden);
        for (at, row) in rows.iter().enumerate() {
            let place = at * hidden..(at + 1) * hidden;
            for ((h, c), state) in self.batch.layers.iter_mut().zip(row.0.chunks_exact(2 * hidden)) {
                h[place.clone()].copy_from_slice(&state[..hidden]);
                c[place.clone()].copy_from_slice(&state[hidden..]);
            }
        }
        self.model.step(&mut self.batch, tokens, logits);
        for (at, row) in rows.iter_mut().enumerate() {
            let place = at * hidden..(at + 1) * hidden;
            for ((h, c), state) in self.batch.layers.iter().zip(row.0.chunks_exact_mut(2 * hidden)) {
                state[..hidden].copy_from_slice(&h[place.clone()]);
                state[hidden..].copy_from_slice(&c[place.clone()]);
            }
        }
    }
}

impl Model {
    /// Reads `model.safetensors`, `config.json` and `vocab.json` of a folder.
    ///
    /// # Errors
    /// What cannot be read, or does not fit the rest. Nothing is believed: the file's size is checked against the
    /// configuration before anything is allocated for it, and then every name, type and shape.
    pub fn load(dir: &Path) -> Result<Self, LoadError> {
        let architecture = checkpoint::read_config(dir)?.architecture;
        let path = dir.join(checkpoint::MODEL_FILE);
        let metadata = fs::metadata(&path);
        let bytes = metadata.map_err(|source| CheckpointError::Io { path: path.clone(), source })?.len();
        let wanted = 4 * Layout::new(&architecture).len as u64;
        if !(wanted..=wanted.saturating_add(SLACK_BYTES)).contains(&bytes) {
            return Err(LoadError::Size { path, bytes, wanted });
        }
        let checkpoint = checkpoint::load(dir)?;
        Self::new(&checkpoint.weights, checkpoint.vocabulary)
    }

    /// From weights in memory and every token's spelling.
    ///
    /// # Errors
    /// If a weight is not finite.
    ///
    /// # Panics
    /// If the vocabulary is not as long as the weights' architecture says.
    pub fn new(weights: &Weights, vocabulary: Vec<String>) -> Result<Self, LoadError> {
        let Architecture { vocabulary: v, layers, hidden: h, embedding: e, .. } = weights.architecture;
        assert_eq!(vocabulary.len(), v, "one spelling a token");
        let norms: Vec<_> = (0..layers).map(|layer| weights.frozen_norm(layer)).collect();
        let frozen = norms.iter().flatten().flat_map(|(scale, offset)| scale.iter().chain(offset));
        if weights.flat.iter().chain(frozen).any(|value| !value.is_finite()) {
            return Err(LoadError::NotFinite);
        }
        let mut first = vec![0.0; v * 4 * h];
        product(
            &mut first,
            Into::Set,
            weights.embedding(),
            &Panels::transposed(weights.weight_ih(0), 4 * h, e),
        );
        let layer = |(layer, norm): (usize, _)| Layer {
            input: (layer > 0).then(|| Panels::transposed(weights.weight_ih(layer), 4 * h, h)),
            recurrent: Panels::transposed(weights.weight_hh(layer), 4 * h, h),
            bias: weights.bias(layer).to_vec(),
            norm,
        };
        Ok(Self {
            architecture: weights.architecture,
            vocabulary,
            first,
            layers: norms.into_iter().enumerate().map(layer).collect(),
            linear: Panels::transposed(weights.linear_weight(), v, h),
            linear_bias: weights.linear_bias().to_vec(),
        })
    }

    /// The model's shapes.
    #[must_use]
    pub fn architecture(&self) -> Architecture {
        self.architecture
    }

    /// Every token's spelling, by id.
    #[must_use]
    pub fn vocabulary(&self) -> &[String] {
        &self.vocabulary
    }

    /// The state before a piece.
    #[must_use]
    pub fn start(&self) -> Row {
        Row(vec![0.0; 2 * self.layers.len() * self.architecture.hidden])
    }

    fn step(&self, batch: &mut Batch, tokens: &[u16], logits: &mut [f32]) {
        let Architecture { vocabulary: v, hidden, .. } = self.architecture;
        assert_eq!(tokens.len() * hidden, batch.input.len(), "one token a row");
        assert_eq!(logits.len(), tokens.len() * v, "one score a row and token");
        for (gates, &token) in batch.gates.chunks_exact_mut(4 * hidden).zip(tokens) {
            gates.copy_from_slice(&self.first[usize::from(token) * 4 * hidden..][..4 * hidden]);
        }
        for (layer, (h, c)) in self.layers.iter().zip(&mut batch.layers) {
            if let Some(weights) = &layer.input {
                product(&mut batch.gates, Into::Set, &batch.input, weights);
            }
            product(&mut batch.gates, Into::Add, h, &layer.recurrent);
            let mut step = cell::Forward {
                z: &mut batch.gates,
                bias: &layer.bias,
                c_before: c,
                c: &mut batch.cells,
                tanh_c: &mut batch.squashed,
                h,
            };
            cell::forward(&mut step, hidden);
            std::mem::swap(c, &mut batch.cells);
            match &layer.norm {
                Some(norm) => affine(&mut batch.input, h, norm),
                None => batch.input.copy_from_slice(h),
            }
        }
        for row in logits.chunks_exact_mut(v) {
            row.copy_from_slice(&self.linear_bias);
        }
        product(logits, Into::Add, &batch.input, &self.linear);
    }
}

/// y = h * scale + offset for every row; y and h are [rows, H].
fn affine(y: &mut [f32], h: &[f32], (scale, offset): &(Vec<f32>, Vec<f32>)) {
    let width = scale.len();
    for (y, h) in y.chunks_exact_mut(width).zip(h.chunks_exact(width)) {
        for (((y, h), scale), offset) in y.iter_mut().zip(h).zip(scale).zip(offset) {
            *y = h * scale + offset;
        }
    }
}

#[cfg(test)]
mod tests;
