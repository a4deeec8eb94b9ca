//! A trained model at work: reads a model's folder and steps rows of tokens, one token at a time.
//!
//! Single precision, batch normalisation with its running statistics, no dropout. The state is carried from step to
//! step, so that a token costs the same wherever it stands.

use std::fs;
use std::path::{Path, PathBuf};

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

/// Where rows of tokens stand. Cloning it branches off.
#[derive(Debug, Clone)]
pub struct State {
    rows: usize,
    layers: Vec<LayerState>,
    /// Scratch: gates [rows, 4H]; the layer's input, its squashed cells and its next cells, [rows, H] each.
    gates: Vec<f32>,
    input: Vec<f32>,
    squashed: Vec<f32>,
    cells: Vec<f32>,
}

/// Both [rows, H].
#[derive(Debug, Clone)]
struct LayerState {
    h: Vec<f32>,
    c: Vec<f32>,
}

impl State {
    /// Number of rows that step together.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.rows
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

    /// The state before a piece, for so many rows.
    #[must_use]
    pub fn state(&self, rows: usize) -> State {
        let size = rows * self.architecture.hidden;
        let layer = LayerState { h: vec![0.0; size], c: vec![0.0; size] };
        State {
            rows,
            layers: vec![layer; self.layers.len()],
            gates: vec![0.0; 4 * size],
            input: vec![0.0; size],
            squashed: vec![0.0; size],
            cells: vec![0.0; size],
        }
    }

    /// Feeds one token to every row; `logits [rows, V]` become the scores of the token after it.
    ///
    /// A row's numbers do not depend on the other rows.
    ///
    /// # Panics
    /// If `tokens` or `logits` do not have the state's number of rows, or a token is not below V.
    pub fn step(&self, state: &mut State, tokens: &[u16], logits: &mut [f32]) {
        let Architecture { vocabulary: v, hidden, .. } = self.architecture;
        assert_eq!(tokens.len(), state.rows, "one token a row");
        assert_eq!(logits.len(), state.rows * v, "one score a row and token");
        for (gates, &token) in state.gates.chunks_exact_mut(4 * hidden).zip(tokens) {
            gates.copy_from_slice(&self.first[usize::from(token) * 4 * hidden..][..4 * hidden]);
        }
        for (layer, before) in self.layers.iter().zip(&mut state.layers) {
            if let Some(weights) = &layer.input {
                product(&mut state.gates, Into::Set, &state.input, weights);
            }
            product(&mut state.gates, Into::Add, &before.h, &layer.recurrent);
            let mut step = cell::Forward {
                z: &mut state.gates,
                bias: &layer.bias,
                c_before: &before.c,
                c: &mut state.cells,
                tanh_c: &mut state.squashed,
                h: &mut before.h,
            };
            cell::forward(&mut step, hidden);
            std::mem::swap(&mut before.c, &mut state.cells);
            match &layer.norm {
                Some(norm) => affine(&mut state.input, &before.h, norm),
                None => state.input.copy_from_slice(&before.h),
            }
        }
        for row in logits.chunks_exact_mut(v) {
            row.copy_from_slice(&self.linear_bias);
        }
        product(logits, Into::Add, &state.input, &self.linear);
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
