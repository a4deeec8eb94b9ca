//! The rows of the batch that one thread computes with, through all time steps.
//!
//! Rows meet only in batch normalisation and in the gradients of weights, so that a strip runs through a layer without
//! a word to the others. Everything in it is time-major: step t's rows are a run of b rows, b being the strip's.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};

use super::packed::Packed;
use super::{Carried, Window};
use crate::config::TrainConfig;
use crate::kernels::aligned::Aligned;
use crate::kernels::matmul::{Into, product, product_before};
use crate::kernels::norm::Statistics;
use crate::kernels::{cell, dropout, loss};
use crate::philox::{Purpose, Stream};
use crate::weights::Weights;

/// What a pass over a window is told, the same for all strips.
pub(super) struct Pass<'a> {
    pub(super) weights: &'a Weights,
    pub(super) packed: &'a Packed,
    pub(super) window: &'a Window<'a>,
    /// One a layer; empty without batch normalisation.
    pub(super) norms: &'a [Statistics],
    /// Which update, for the dropout masks.
    pub(super) update: u64,
    pub(super) abandon: &'a AtomicBool,
}

/// One layer's buffers over a window.
struct Buffers {
    /// [T, b, 4H]: sums, then activated gates, then gradients of the sums.
    z: Aligned,
    /// [T + 1, b, H]; the first b rows are the state before the window.
    h: Aligned,
    /// [T + 1, b, H]
    c: Aligned,
    /// [T, b, H]
    tanh_c: Aligned,
    /// [T, b, H]: after normalisation and dropout; empty where there is neither.
    y: Aligned,
    /// [T, b, H]; empty without dropout.
    mask: Vec<u8>,
}

impl Buffers {
    /// h after each of some steps, [steps, b, H], a step's state having `state` numbers.
    fn h(&self, steps: &Range<usize>, state: usize) -> &[f32] {
        &self.h[places(&(steps.start + 1..steps.end + 1), state)]
    }

    /// What the next layer sees, [steps, b, H].
    fn output(&self, steps: &Range<usize>, state: usize) -> &[f32] {
        if self.y.is_empty() { self.h(steps, state) } else { &self.y[places(steps, state)] }
    }
}

pub(super) struct Strip {
    /// Of the batch.
    rows: Range<usize>,
    batch: usize,
    hidden: usize,
    vocabulary: usize,
    drop: f64,
    seed: u64,
    replicate: u32,
    layers: Vec<Buffers>,
    /// [chunk, b, V]: logits, then their gradient.
    logits: Aligned,
    /// [T, b]
    nats: Vec<f64>,
    /// [T, b, H]: the gradient of the current layer's output, and that of its input.
    dy: Aligned,
    dx: Aligned,
    /// [b, H]: gradients of the state that go from step to step.
    dh: Aligned,
    dc: Aligned,
}

impl Strip {
    /// Rows `rows` of the batch, with room for logits of `chunk` steps at a time.
    pub(super) fn new(config: &TrainConfig, vocabulary: usize, rows: Range<usize>, chunk: usize) -> Self {
        let (steps, hidden) = (config.seq_len, config.hidden);
        let state = rows.len() * hidden;
        let window = steps * state;
        let layer = || Buffers {
            z: Aligned::zeros(4 * window),
            h: Aligned::zeros(window + state),
            c: Aligned::zeros(window + state),
            tanh_c: Aligned::zeros(window),
            y: Aligned::zeros(if config.batch_norm || config.dropout > 0.0 { window } else { 0 }),
            mask: vec![0; if config.dropout > 0.0 { window } else { 0 }],
        };
        Self {
            batch: config.batch_size,
            hidden,
            vocabulary,
            drop: config.dropout,
            seed: config.seed,
            replicate: config.replicate,
            layers: (0..config.layers).map(|_| layer()).collect(),
            logits: Aligned::zeros(chunk * rows.len() * vocabulary),
            nats: vec![0.0; steps * rows.len()],
            dy: Aligned::zeros(window),
            dx: Aligned::zeros(window),
            dh: Aligned::zeros(state),
            dc: Aligned::zeros(state),
            rows,
        }
    }

    /// Bytes that it takes.
    pub(super) fn bytes(&self) -> usize {
        let floats = |buffers: &[&Aligned]| buffers.iter().map(|buffer| buffer.bytes()).sum::<usize>();
        let layers = self
            .layers
            .iter()
            .map(|layer| floats(&[&layer.z, &layer.h, &layer.c, &layer.tanh_c, &layer.y]) + layer.mask.len());
        let own = floats(&[&self.logits, &self.dy, &self.dx, &self.dh, &self.dc]);
        layers.sum::<usize>() + own + size_of_val(&*self.nats)
    }

    /// How many rows of the batch.
    pub(super) fn rows(&self) -> usize {
        self.rows.len()
    }

    /// Numbers of one step's state.
    fn state(&self) -> usize {
        self.rows.len() * self.hidden
    }

    /// Takes over this strip's rows of the carried state.
    pub(super) fn load(&mut self, carried: &Carried) {
        let part = self.rows.start * self.hidden..self.rows.end * self.hidden;
        for (layer, buffers) in self.layers.iter_mut().enumerate() {
            buffers.h[..part.len()].copy_from_slice(&carried.h[layer][part.clone()]);
            buffers.c[..part.len()].copy_from_slice(&carried.c[layer][part.clone()]);
        }
    }

    /// Gives back the state after the window.
    pub(super) fn store(&self, carried: &mut Carried) {
        let part = self.rows.start * self.hidden..self.rows.end * self.hidden;
        for (layer, buffers) in self.layers.iter().enumerate() {
            let last = buffers.h.len() - part.len();
            carried.h[layer][part.clone()].copy_from_slice(&buffers.h[last..]);
            carried.c[layer][part.clone()].copy_from_slice(&buffers.c[last..]);
        }
    }

    /// A layer's h after each of some steps, [steps, b, H].
    pub(super) fn h(&self, layer: usize, steps: Range<usize>) -> &[f32] {
        self.layers[layer].h(&steps, self.state())
    }

    /// A layer's h before each of some steps, [steps, b, H].
    pub(super) fn h_before(&self, layer: usize, steps: Range<usize>) -> &[f32] {
        &self.layers[layer].h[places(&steps, self.state())]
    }

    /// What the next layer sees, [steps, b, H].
    pub(super) fn output(&self, layer: usize, steps: Range<usize>) -> &[f32] {
        let y = &self.layers[layer].y;
        if y.is_empty() {
            self.h(layer, steps)
        } else {
            &y[steps.start * self.state()..steps.end * self.state()]
        }
    }

    /// After [`Self::backward`]: the gradient of the gates' sums, [steps, b, 4H].
    pub(super) fn dz(&self, layer: usize, steps: Range<usize>) -> &[f32] {
        &self.layers[layer].z[places(&steps, 4 * self.state())]
    }

    /// The gradient of the current layer's output, [steps, b, H].
    pub(super) fn dy(&self, steps: Range<usize>) -> &[f32] {
        &self.dy[places(&steps, self.state())]
    }

    /// After [`Self::head`]: the gradient of the logits, [steps, b, V].
    pub(super) fn d_logits(&self, steps: &Range<usize>) -> &[f32] {
        &self.logits[..steps.len() * self.rows.len() * self.vocabulary]
    }

    /// The loss of a step's rows, b numbers.
    pub(super) fn nats(&self, step: usize) -> &[f64] {
        &self.nats[step * self.rows.len()..][..self.rows.len()]
    }

    /// This strip's part of a step of the window.
    pub(super) fn tokens<'a>(&self, window: &'a [u16], step: usize) -> &'a [u16] {
        &window[step * self.batch..][self.rows.clone()]
    }

    /// A layer over all steps, chunk by chunk, so that what one loop leaves is in the cache for the next.
    pub(super) fn forward(
        &mut self,
        layer: usize,
        pass: &Pass<'_>,
        chunks: impl Iterator<Item = Range<usize>>,
    ) {
        for chunk in chunks {
            if layer > 0 {
                self.regularise(layer - 1, chunk.clone(), pass);
            }
            self.project(layer, chunk.clone(), pass);
            for step in chunk {
                if pass.abandon.load(Ordering::Relaxed) {
                    return;
                }
                self.step(layer, step, pass);
            }
        }
    }

    /// Batch normalisation and dropout of a layer's output.
    fn regularise(&mut self, layer: usize, steps: Range<usize>, pass: &Pass<'_>) {
        let state = self.state();
        let buffers = &mut self.layers[layer];
        if buffers.y.is_empty() {
            return;
        }
        let h = &buffers.h[places(&(steps.start + 1..steps.end + 1), state)];
        let y = &mut buffers.y[places(&steps, state)];
        match pass.norms.get(layer) {
            Some(norm) => norm.normalise(y, h, pass.weights.norm_bias(layer)),
            None => y.copy_from_slice(h),
        }
        if self.drop > 0.0 {
            let stream = Stream::new(self.seed, self.replicate, Purpose::Dropout, pass.update, layer);
            let threshold = dropout::threshold(self.drop);
            for step in steps.clone() {
                let first = (step * self.batch + self.rows.start) * self.hidden;
                dropout::fill_mask(&mut buffers.mask[step * state..][..state], first, &stream, threshold);
            }
            dropout::apply(y, &buffers.mask[places(&steps, state)], keep_scale(self.drop));
        }
    }

    /// Input products of some steps, without the bias.
    fn project(&mut self, layer: usize, steps: Range<usize>, pass: &Pass<'_>) {
        let (state, gates) = (self.state(), 4 * self.hidden);
        let z = places(&steps, 4 * state);
        if layer > 0 {
            let (below, this) = self.layers.split_at_mut(layer);
            let x = below[layer - 1].output(&steps, state);
            product(&mut this[0].z[z], Into::Set, x, &pass.packed.layers[layer].input);
            return;
        }
        let rows = self.layers[0].z[z].chunks_exact_mut(gates);
        let tokens = steps.flat_map(|step| &pass.window.inputs[step * self.batch..][self.rows.clone()]);
        for (z, &token) in rows.zip(tokens) {
            z.copy_from_slice(&pass.packed.table[usize::from(token) * gates..][..gates]);
        }
    }

    fn step(&mut self, layer: usize, step: usize, pass: &Pass<'_>) {
        let (state, hidden) = (self.state(), self.hidden);
        let buffers = &mut self.layers[layer];
        let z = &mut buffers.z[step * 4 * state..][..4 * state];
        let (h_before, h) = around(&mut buffers.h, step, state);
        let (c_before, c) = around(&mut buffers.c, step, state);
        product(z, Into::Add, h_before, &pass.packed.layers[layer].recurrent);
        let tanh_c = &mut buffers.tanh_c[step * state..][..state];
        let mut step = cell::Forward { z, bias: pass.weights.bias(layer), c_before, c, tanh_c, h };
        cell::forward(&mut step, hidden);
    }

    /// The loss of some steps, its gradient by the logits, and by the last layer's output.
    pub(super) fn head(&mut self, steps: Range<usize>, pass: &Pass<'_>, scale: f32) {
        let top = self.layers.len() - 1;
        let (rows, state) = (self.rows.len(), self.state());
        self.regularise(top, steps.clone(), pass);
        let mut logits = std::mem::replace(&mut self.logits, Aligned::zeros(0));
        let part = &mut logits[..steps.len() * rows * self.vocabulary];
        product(part, Into::Set, self.output(top, steps.clone()), &pass.packed.linear);
        for (logits, step) in part.chunks_exact_mut(rows * self.vocabulary).zip(steps.clone()) {
            let targets = &pass.window.targets[step * self.batch..][self.rows.clone()];
            let nats = &mut self.nats[step * rows..][..rows];
            loss::cross_entropy(logits, pass.weights.linear_bias(), targets, scale, nats);
        }
        if let Some(linear_back) = &pass.packed.linear_back {
            product(&mut self.dy[places(&steps, state)], Into::Set, part, linear_back);
        }
        self.logits = logits;
    }

    /// Takes the dropout back out of the gradient of a layer's output.
    pub(super) fn undrop(&mut self, layer: usize, steps: Range<usize>) {
        if self.drop > 0.0 {
            let places = steps.start * self.state()..steps.end * self.state();
            dropout::apply(
                &mut self.dy[places.clone()],
                &self.layers[layer].mask[places],
                keep_scale(self.drop),
            );
        }
    }

    /// Before a layer's first [`Self::backward`].
    pub(super) fn begin_backward(&mut self) {
        self.dh.fill(0.0);
        self.dc.fill(0.0);
    }

    /// Back through some steps: the gates' values become the gradients of their sums, and for all but the first layer
    /// the gradient of the input is computed. Later steps go first.
    pub(super) fn backward(&mut self, layer: usize, steps: Range<usize>, pass: &Pass<'_>) {
        let (state, hidden) = (self.state(), self.hidden);
        let Some((input_back, recurrent_back)) = &pass.packed.layers[layer].back else { return };
        match pass.norms.get(layer) {
            Some(norm) => {
                let h = self.layers[layer].h(&steps, state);
                norm.backward(h, &mut self.dy[places(&steps, state)]);
            }
            None => self.undrop(layer, steps.clone()),
        }
        let buffers = &mut self.layers[layer];
        for step in steps.clone().rev() {
            if pass.abandon.load(Ordering::Relaxed) {
                return;
            }
            let (earlier, z) = buffers.z.split_at_mut(step * 4 * state);
            let z = &mut z[..4 * state];
            let mut backward = cell::Backward {
                z: &mut *z,
                c_before: &buffers.c[step * state..][..state],
                tanh_c: &buffers.tanh_c[step * state..][..state],
                dy: &self.dy[step * state..][..state],
                dh: &self.dh,
                dc: &mut self.dc,
            };
            cell::backward(&mut backward, hidden);
            if step > 0 {
                // What the step before is computed from was last seen in the forward pass: far from any cache.
                let before = places(&(step - 1..step), state);
                let soon = [
                    &earlier[places(&(step - 1..step), 4 * state)],
                    &buffers.c[before.clone()],
                    &buffers.tanh_c[before.clone()],
                    &self.dy[before],
                ];
                product_before(&mut self.dh, Into::Set, z, recurrent_back, &soon);
            }
        }
        if layer > 0 {
            let dz = &buffers.z[places(&steps, 4 * state)];
            product(&mut self.dx[places(&steps, state)], Into::Set, dz, input_back);
        }
    }

    /// A layer is done: the gradient of its input is that of the output of the layer below.
    pub(super) fn descend(&mut self) {
        std::mem::swap(&mut self.dy, &mut self.dx);
    }
}

/// Where some steps of a buffer lie that has `len` numbers a step.
fn places(steps: &Range<usize>, len: usize) -> Range<usize> {
    steps.start * len..steps.end * len
}

/// Step `step`'s state before (read) and after (written), each of `len` numbers.
pub(crate) fn around(states: &mut [f32], step: usize, len: usize) -> (&[f32], &mut [f32]) {
    let (before, after) = states.split_at_mut((step + 1) * len);
    (&before[step * len..], &mut after[..len])
}

#[expect(clippy::cast_possible_truncation, reason = "a factor of f32 arithmetic")]
fn keep_scale(dropout: f64) -> f32 {
    (1.0 / (1.0 - dropout)) as f32
}
