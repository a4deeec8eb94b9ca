//! One training update, written by hand: forward, loss, backward, clip and Adam over flat buffers.
//!
//! Everything is time-major: a window's position (t, b) is row t * B + b. The input projection of a layer is one
//! product over all T * B rows (for the first layer a table of V rows that tokens look up); in a step only the
//! recurrent product and the cell remain. Backward the same: a step's gradient of h by one product, then the
//! gradients of weights and inputs as one product each. All buffers are made once, in [`Update::new`].

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::config::{Architecture, GradClip, TrainConfig};
use crate::kernels::gemm::{Mat, product, transpose};
use crate::kernels::{adam, cell, dropout, loss, norm, sum};
use crate::philox::{Purpose, Stream};
use crate::weights::{Layout, Weights};

/// Recurrent state that goes from window to window: for each layer h and c, each [B, H].
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Carried {
    pub(crate) h: Vec<Vec<f32>>,
    pub(crate) c: Vec<Vec<f32>>,
}

impl Carried {
    pub(crate) fn zeros(layers: usize, len: usize) -> Self {
        Self { h: vec![vec![0.0; len]; layers], c: vec![vec![0.0; len]; layers] }
    }

    pub(crate) fn clear(&mut self) {
        for state in self.h.iter_mut().chain(&mut self.c) {
            state.fill(0.0);
        }
    }
}

/// Adam's memory.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Moments {
    pub(crate) first: Vec<f32>,
    pub(crate) second: Vec<f32>,
    /// Updates since the moments were zero.
    pub(crate) steps: u64,
}

impl Moments {
    pub(crate) fn zeros(len: usize) -> Self {
        Self { first: vec![0.0; len], second: vec![0.0; len], steps: 0 }
    }

    pub(crate) fn clear(&mut self) {
        self.first.fill(0.0);
        self.second.fill(0.0);
        self.steps = 0;
    }
}

/// A window's tokens, time-major, T * B each.
pub(crate) struct Window<'a> {
    pub(crate) inputs: &'a [u16],
    pub(crate) targets: &'a [u16],
}

/// One layer's buffers over a window.
struct LayerBuffers {
    /// [T, B, 4H]: sums, then activated gates, then gradients of the sums.
    z: Vec<f32>,
    /// [T + 1, B, H]; the first B rows are the state before the window.
    h: Vec<f32>,
    /// [T + 1, B, H]
    c: Vec<f32>,
    /// [T, B, H]
    tanh_c: Vec<f32>,
    /// [T, B, H]: after normalisation and dropout; empty where there is neither.
    y: Vec<f32>,
    /// [T, B, H]; empty without dropout.
    mask: Vec<u8>,
    /// [H, 4H]: the recurrent weights, turned for the forward product.
    weight_hh_t: Vec<f32>,
    norm: Option<norm::Statistics>,
}

impl LayerBuffers {
    /// What the next layer sees, [T, B, H].
    fn output(&self, state: usize) -> &[f32] {
        if self.y.is_empty() { &self.h[state..] } else { &self.y }
    }
}

/// The arena of a model's updates.
pub(crate) struct Update {
    architecture: Architecture,
    layout: Layout,
    steps: usize,
    rows: usize,
    drop: f64,
    clip: GradClip,
    seed: u64,
    replicate: u32,
    threads: usize,
    layers: Vec<LayerBuffers>,
    /// [V, 4H]: the first layer's input products by token, and their gradient.
    table: Vec<f32>,
    /// [T, B, V]: logits, then their gradient.
    logits: Vec<f32>,
    /// [T * B]
    nats: Vec<f64>,
    /// [T, B, H]: the gradient of the current layer's output.
    dy: Vec<f32>,
    /// [T, B, H]: the gradient of its input.
    dx: Vec<f32>,
    /// [B, H]
    dc: Vec<f32>,
    sums: Vec<f64>,
    run: Vec<f32>,
    pub(crate) gradient: Vec<f32>,
    /// Looked at in every time step.
    pub(crate) abandon: Arc<AtomicBool>,
}

/// Why an update came to nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Halt {
    /// The loss or the gradient was not a finite number.
    NotFinite,
    /// The flag was set: the carried state and the statistics are not to be used any more.
    Abandoned,
}

impl Update {
    pub(crate) fn new(config: &TrainConfig, vocabulary: usize) -> Self {
        let architecture = config.architecture(vocabulary);
        let layout = Layout::new(&architecture);
        let (steps, rows, hidden) = (config.seq_len, config.batch_size, config.hidden);
        let window = steps * rows * hidden;
        let layer = || LayerBuffers {
            z: vec![0.0; 4 * window],
            h: vec![0.0; window + rows * hidden],
            c: vec![0.0; window + rows * hidden],
            tanh_c: vec![0.0; window],
            y: vec![0.0; if config.batch_norm || config.dropout > 0.0 { window } else { 0 }],
            mask: vec![0; if config.dropout > 0.0 { window } else { 0 }],
            weight_hh_t: vec![0.0; 4 * hidden * hidden],
            norm: config.batch_norm.then(|| norm::Statistics::new(hidden)),
        };
        let widest = (4 * hidden).max(vocabulary);
        Self {
            architecture,
            steps,
            rows,
            drop: config.dropout,
            clip: config.grad_clip,
            seed: config.seed,
            replicate: config.replicate,
            threads: config.threads,
            layers: (0..config.layers).map(|_| layer()).collect(),
            table: vec![0.0; vocabulary * 4 * hidden],
            logits: vec![0.0; steps * rows * vocabulary],
            nats: vec![0.0; steps * rows],
            dy: vec![0.0; window],
            dx: vec![0.0; window],
            dc: vec![0.0; rows * hidden],
            sums: vec![0.0; widest],
            run: vec![0.0; widest],
            gradient: vec![0.0; layout.len],
            layout,
            abandon: Arc::default(),
        }
    }

    /// Trains on one window: the mean loss in nats per token, before the update. `update` counts from 0 over the
    /// whole training and keys the dropout masks. Where the loss is not finite, nothing but the running statistics
    /// has changed.
    pub(crate) fn run(
        &mut self,
        weights: &mut Weights,
        moments: &mut Moments,
        carried: &mut Carried,
        window: &Window<'_>,
        learning_rate: f64,
        update: u64,
    ) -> Result<f64, Halt> {
        let loss = self.forward(weights, carried, window, update);
        if self.abandoned() {
            return Err(Halt::Abandoned);
        }
        if !loss.is_finite() {
            return Err(Halt::NotFinite);
        }
        self.backward(weights, window);
        if self.abandoned() {
            return Err(Halt::Abandoned);
        }
        self.apply(weights, moments, learning_rate)?;
        let state = self.state_len();
        let window = self.steps * state;
        for (layer, buffers) in self.layers.iter().enumerate() {
            carried.h[layer].copy_from_slice(&buffers.h[window..]);
            carried.c[layer].copy_from_slice(&buffers.c[window..]);
        }
        Ok(loss)
    }

    fn abandoned(&self) -> bool {
        self.abandon.load(Ordering::Relaxed)
    }

    fn state_len(&self) -> usize {
        self.rows * self.architecture.hidden
    }

    fn positions(&self) -> usize {
        self.steps * self.rows
    }

    /// The mean loss; leaves in the buffers all that the backward pass needs. Abandoned: NaN, and nothing of use.
    pub(crate) fn forward(
        &mut self,
        weights: &mut Weights,
        carried: &Carried,
        window: &Window<'_>,
        update: u64,
    ) -> f64 {
        let Architecture { vocabulary, hidden, .. } = self.architecture;
        let positions = self.positions();
        for layer in 0..self.layers.len() {
            self.project(weights, window, layer);
            self.recur(weights, carried, layer);
            if self.abandoned() {
                return f64::NAN;
            }
            self.regularise(weights, layer, update);
        }
        weights.batches_tracked += 1;
        let top = self.layers[self.layers.len() - 1].output(self.rows * hidden);
        let linear = Mat::new(weights.linear_weight(), vocabulary, hidden);
        product(&mut self.logits, false, Mat::new(top, positions, hidden), linear.t(), self.threads);
        let scale = reciprocal(positions);
        loss::cross_entropy(&mut self.logits, weights.linear_bias(), window.targets, scale, &mut self.nats);
        self.nats.iter().sum::<f64>() / wide(positions)
    }

    /// Input products of all steps of a layer, without its bias.
    fn project(&mut self, weights: &Weights, window: &Window<'_>, layer: usize) {
        let Architecture { vocabulary, hidden, embedding, .. } = self.architecture;
        let positions = self.steps * self.rows;
        let gates = 4 * hidden;
        if layer == 0 {
            let table = Mat::new(weights.embedding(), vocabulary, embedding);
            let input = Mat::new(weights.weight_ih(0), gates, embedding);
            product(&mut self.table, false, table, input.t(), self.threads);
            for (z, &token) in self.layers[0].z.chunks_exact_mut(gates).zip(window.inputs) {
                z.copy_from_slice(&self.table[usize::from(token) * gates..][..gates]);
            }
        } else {
            let (below, this) = self.layers.split_at_mut(layer);
            let x = Mat::new(below[layer - 1].output(self.rows * hidden), positions, hidden);
            let input = Mat::new(weights.weight_ih(layer), gates, hidden);
            product(&mut this[0].z, false, x, input.t(), self.threads);
        }
    }

    /// The recurrence of a layer over the window.
    fn recur(&mut self, weights: &Weights, carried: &Carried, layer: usize) {
        let hidden = self.architecture.hidden;
        let state = self.rows * hidden;
        let buffers = &mut self.layers[layer];
        transpose(&mut buffers.weight_hh_t, weights.weight_hh(layer), 4 * hidden, hidden);
        buffers.h[..state].copy_from_slice(&carried.h[layer]);
        buffers.c[..state].copy_from_slice(&carried.c[layer]);
        for step in 0..self.steps {
            if self.abandon.load(Ordering::Relaxed) {
                return;
            }
            let z = &mut buffers.z[step * 4 * state..][..4 * state];
            let (h_before, h) = around(&mut buffers.h, step, state);
            let (c_before, c) = around(&mut buffers.c, step, state);
            let recurrent = Mat::new(&buffers.weight_hh_t, hidden, 4 * hidden);
            product(z, true, Mat::new(h_before, self.rows, hidden), recurrent, self.threads);
            let tanh_c = &mut buffers.tanh_c[step * state..][..state];
            let mut step = cell::Forward { z, bias: weights.bias(layer), c_before, c, tanh_c, h };
            cell::forward(&mut step, hidden);
        }
    }

    /// Batch normalisation and dropout of a layer's output.
    fn regularise(&mut self, weights: &mut Weights, layer: usize, update: u64) {
        let state = self.rows * self.architecture.hidden;
        let views = &self.layout.layers[layer];
        let buffers = &mut self.layers[layer];
        let h = &buffers.h[state..];
        if let Some(statistics) = &mut buffers.norm {
            let running = &mut weights.running[layer];
            statistics.measure(h, &mut running.mean, &mut running.var);
            let (weight, bias) = (views.norm_weight.clone(), views.norm_bias.clone());
            statistics.normalise(&mut buffers.y, h, &weights.flat[weight], &weights.flat[bias]);
        } else if !buffers.y.is_empty() {
            buffers.y.copy_from_slice(h);
        }
        if self.drop > 0.0 {
            let stream = Stream::new(self.seed, self.replicate, Purpose::Dropout, update, layer);
            dropout::fill_mask(&mut buffers.mask, &stream, dropout::threshold(self.drop));
            dropout::apply(&mut buffers.y, &buffers.mask, keep_scale(self.drop));
        }
    }

    /// The gradient of the mean loss, after [`Self::forward`] on the same window.
    pub(crate) fn backward(&mut self, weights: &Weights, window: &Window<'_>) {
        let Architecture { vocabulary, hidden, .. } = self.architecture;
        let (positions, state) = (self.positions(), self.state_len());
        let top = Mat::new(self.layers[self.layers.len() - 1].output(state), positions, hidden);
        let d_logits = Mat::new(&self.logits, positions, vocabulary);
        let d_linear = &mut self.gradient[self.layout.linear_weight.clone()];
        product(d_linear, false, d_logits.t(), top, self.threads);
        let linear = Mat::new(weights.linear_weight(), vocabulary, hidden);
        product(&mut self.dy, false, d_logits, linear, self.threads);
        let d_bias = &mut self.gradient[self.layout.linear_bias.clone()];
        column_sums(&self.logits, &mut self.run, &mut self.sums[..vocabulary], d_bias);
        for layer in (0..self.layers.len()).rev() {
            self.regularise_backward(weights, layer);
            self.recur_backward(weights, layer);
            if self.abandoned() {
                return;
            }
            self.project_backward(weights, window, layer);
            std::mem::swap(&mut self.dy, &mut self.dx);
        }
    }

    /// `dy` from the gradient of a layer's output to that of its h.
    fn regularise_backward(&mut self, weights: &Weights, layer: usize) {
        let state = self.state_len();
        let views = &self.layout.layers[layer];
        let buffers = &mut self.layers[layer];
        if self.drop > 0.0 {
            dropout::apply(&mut self.dy, &buffers.mask, keep_scale(self.drop));
        }
        if let Some(statistics) = &mut buffers.norm {
            let gradient = &mut self.gradient[views.norm_weight.start..views.norm_bias.end];
            let (d_weight, d_bias) = gradient.split_at_mut(self.architecture.hidden);
            let weight = weights.norm_weight(layer);
            statistics.backward(&buffers.h[state..], &mut self.dy, weight, d_weight, d_bias);
        }
    }

    /// Back through time: `z` from activated gates to the gradient of their sums.
    fn recur_backward(&mut self, weights: &Weights, layer: usize) {
        let hidden = self.architecture.hidden;
        let (rows, state) = (self.rows, self.state_len());
        let buffers = &mut self.layers[layer];
        let recurrent = Mat::new(weights.weight_hh(layer), 4 * hidden, hidden);
        self.dc.fill(0.0);
        for step in (0..self.steps).rev() {
            if self.abandon.load(Ordering::Relaxed) {
                return;
            }
            let z = &mut buffers.z[step * 4 * state..][..4 * state];
            let (before, dh) = self.dy[..(step + 1) * state].split_at_mut(step * state);
            let mut backward = cell::Backward {
                z: &mut *z,
                c_before: &buffers.c[step * state..][..state],
                tanh_c: &buffers.tanh_c[step * state..][..state],
                dh,
                dc: &mut self.dc,
            };
            cell::backward(&mut backward, hidden);
            if step > 0 {
                let dh_before = &mut before[(step - 1) * state..];
                product(dh_before, true, Mat::new(z, rows, 4 * hidden), recurrent, self.threads);
            }
        }
        let positions = self.steps * rows;
        let dz = Mat::new(&buffers.z, positions, 4 * hidden);
        let h_before = Mat::new(&buffers.h[..self.steps * state], positions, hidden);
        let views = &self.layout.layers[layer];
        product(&mut self.gradient[views.weight_hh.clone()], false, dz.t(), h_before, self.threads);
        let d_bias = &mut self.gradient[views.bias.clone()];
        column_sums(&buffers.z, &mut self.run, &mut self.sums[..4 * hidden], d_bias);
    }

    /// The gradients of a layer's input weights and, in `dx`, of its input; for the first layer, of the embedding.
    fn project_backward(&mut self, weights: &Weights, window: &Window<'_>, layer: usize) {
        let Architecture { vocabulary, hidden, embedding, .. } = self.architecture;
        let (positions, state, gates) = (self.positions(), self.state_len(), 4 * hidden);
        let d_input = self.layout.layers[layer].weight_ih.clone();
        if layer > 0 {
            let (below, this) = self.layers.split_at(layer);
            let dz = Mat::new(&this[0].z, positions, gates);
            let x = Mat::new(below[layer - 1].output(state), positions, hidden);
            product(&mut self.gradient[d_input], false, dz.t(), x, self.threads);
            let input = Mat::new(weights.weight_ih(layer), gates, hidden);
            product(&mut self.dx, false, dz, input, self.threads);
            return;
        }
        self.table.fill(0.0);
        for (dz, &token) in self.layers[0].z.chunks_exact(gates).zip(window.inputs) {
            let row = &mut self.table[usize::from(token) * gates..][..gates];
            for (row, dz) in row.iter_mut().zip(dz) {
                *row += dz;
            }
        }
        let table = Mat::new(&self.table, vocabulary, gates);
        let embedded = Mat::new(weights.embedding(), vocabulary, embedding);
        product(&mut self.gradient[d_input], false, table.t(), embedded, self.threads);
        let input = Mat::new(weights.weight_ih(0), gates, embedding);
        product(&mut self.gradient[self.layout.embedding.clone()], false, table, input, self.threads);
    }

    /// Clips and applies the gradient.
    pub(crate) fn apply(
        &mut self,
        weights: &mut Weights,
        moments: &mut Moments,
        learning_rate: f64,
    ) -> Result<(), Halt> {
        let norm = sum::squares(&self.gradient).sqrt();
        if !norm.is_finite() {
            return Err(Halt::NotFinite);
        }
        let (scale, limit) = match self.clip {
            GradClip::Norm(max) => ((max / (norm + 1e-6)).min(1.0), f64::INFINITY),
            GradClip::Value(max) => (1.0, max),
        };
        moments.steps += 1;
        let factors = adam::Factors::new(scale, limit, learning_rate, moments.steps);
        adam::update(&mut weights.flat, &self.gradient, &mut moments.first, &mut moments.second, factors);
        Ok(())
    }
}

/// Step `step`'s state before (read) and after (written), each of `len` numbers.
fn around(states: &mut [f32], step: usize, len: usize) -> (&[f32], &mut [f32]) {
    let (before, after) = states.split_at_mut((step + 1) * len);
    (&before[step * len..], &mut after[..len])
}

#[expect(clippy::cast_possible_truncation, reason = "f64 sums become f32 gradients")]
fn column_sums(x: &[f32], run: &mut [f32], sums: &mut [f64], target: &mut [f32]) {
    sums.fill(0.0);
    sum::columns(x, run, sums);
    for (target, &sum) in target.iter_mut().zip(sums.iter()) {
        *target = sum as f32;
    }
}

#[expect(clippy::cast_precision_loss, reason = "positions of a window are far below 2^53")]
fn wide(positions: usize) -> f64 {
    positions as f64
}

#[expect(clippy::cast_possible_truncation, reason = "a factor of f32 arithmetic")]
fn reciprocal(positions: usize) -> f32 {
    (1.0 / wide(positions)) as f32
}

#[expect(clippy::cast_possible_truncation, reason = "a factor of f32 arithmetic")]
fn keep_scale(dropout: f64) -> f32 {
    (1.0 / (1.0 - dropout)) as f32
}
