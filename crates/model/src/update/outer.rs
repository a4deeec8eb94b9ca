//! Gradients of weights: sums over all positions of one row's gradient times another row, some outputs a thread.

use std::ops::Range;

use super::strip::Strip;
use crate::kernels::aligned::Aligned;
use crate::kernels::matmul::{Into, Panels, Tiles, product_tiles};
use crate::kernels::sum::{ColumnSums, add_by_token};

/// A thread's part of the outputs (gates of a layer, or tokens of the last one), with the gradients of their weights.
/// Positions come chunk by chunk and, within one, in order, whatever the number of strips.
pub(super) struct Outer {
    outputs: Range<usize>,
    /// [positions, outputs]: gradients of the outputs.
    tiles: Tiles,
    /// [positions, H]: what each of the weight matrices was multiplied with.
    states: Panels,
    inputs: Panels,
    /// Of the outputs' gradients: the gradient of the bias.
    bias: ColumnSums,
    /// [outputs, H], each.
    d_states: Aligned,
    d_inputs: Aligned,
    /// [V, outputs]: gradients by token, for the first layer.
    table: Aligned,
    /// No chunk has been added yet.
    empty: bool,
}

impl Outer {
    /// For chunks of up to `positions` positions. With `inputs`, for two matrices at once; with `tokens`, for a table.
    pub(super) fn new(
        outputs: Range<usize>,
        positions: usize,
        hidden: usize,
        inputs: bool,
        tokens: usize,
    ) -> Self {
        let count = outputs.len();
        Self {
            tiles: Tiles::new(positions, count),
            states: Panels::new(positions, hidden),
            inputs: Panels::new(if inputs { positions } else { 0 }, hidden),
            bias: ColumnSums::new(outputs.clone()),
            d_states: Aligned::zeros(count * hidden),
            d_inputs: Aligned::zeros(if inputs { count * hidden } else { 0 }),
            table: Aligned::zeros(tokens * count),
            empty: true,
            outputs,
        }
    }

    /// Bytes that it takes.
    pub(super) fn bytes(&self) -> usize {
        let sums = self.d_states.bytes() + self.d_inputs.bytes() + self.table.bytes();
        self.tiles.bytes() + self.states.bytes() + self.inputs.bytes() + sums
    }

    /// Before the first chunk of a layer.
    pub(super) fn begin(&mut self) {
        self.bias.clear();
        self.table.fill(0.0);
        self.empty = true;
    }

    /// A chunk of the last layer.
    pub(super) fn add_head(&mut self, strips: &[Strip], layer: usize, steps: &Range<usize>, stride: usize) {
        self.resize(strips, steps, layer);
        let mut first = 0;
        for step in steps.clone() {
            for strip in strips {
                let state = strip.output(layer, step..step + 1);
                let width = strip.rows() * stride;
                let gradient = &strip.d_logits(steps)[(step - steps.start) * width..][..width];
                self.tiles.pack_columns(first, gradient, stride, self.outputs.start);
                self.states.pack_rows(first, state);
                self.bias.add(gradient, stride);
                first += strip.rows();
            }
        }
        self.multiply();
    }

    /// A chunk of an LSTM layer: recurrent weights, and input weights or the table.
    pub(super) fn add_layer(
        &mut self,
        strips: &[Strip],
        layer: usize,
        steps: &Range<usize>,
        stride: usize,
        tokens: &[u16],
    ) {
        self.resize(strips, steps, layer);
        let mut first = 0;
        for step in steps.clone() {
            for strip in strips {
                let one = step..step + 1;
                let gradient = strip.dz(layer, one.clone());
                self.tiles.pack_columns(first, gradient, stride, self.outputs.start);
                self.states.pack_rows(first, strip.h_before(layer, one.clone()));
                self.bias.add(gradient, stride);
                if layer > 0 {
                    self.inputs.pack_rows(first, strip.output(layer - 1, one));
                } else {
                    let tokens = strip.tokens(tokens, step);
                    add_by_token(&mut self.table, gradient, stride, self.outputs.clone(), tokens);
                }
                first += strip.rows();
            }
        }
        let into = self.multiply();
        if layer > 0 {
            product_tiles(&mut self.d_inputs, into, &self.tiles, &self.inputs);
        }
    }

    fn resize(&mut self, strips: &[Strip], steps: &Range<usize>, layer: usize) {
        let positions = steps.len() * strips.iter().map(Strip::rows).sum::<usize>();
        self.tiles.set_inner(positions);
        self.states.set_inner(positions);
        if layer > 0 && !self.d_inputs.is_empty() {
            self.inputs.set_inner(positions);
        }
    }

    fn multiply(&mut self) -> Into {
        let into = if self.empty { Into::Set } else { Into::Add };
        product_tiles(&mut self.d_states, into, &self.tiles, &self.states);
        self.empty = false;
        into
    }

    /// After the last chunk: this part's rows of the gradients of bias `[outputs]`, of recurrent (or last) weights
    /// `[outputs, H]` and, unless it is the first layer, of input weights.
    #[expect(clippy::cast_possible_truncation, reason = "f64 sums become f32 gradients")]
    pub(super) fn finish(&mut self, d_bias: &mut [f32], d_states: &mut [f32], d_inputs: Option<&mut [f32]>) {
        let hidden = self.states.cols();
        let rows = self.outputs.start * hidden..self.outputs.end * hidden;
        self.bias.finish();
        for (to, &sum) in d_bias[self.outputs.clone()].iter_mut().zip(&self.bias.first) {
            *to = sum as f32;
        }
        d_states[rows.clone()].copy_from_slice(&self.d_states);
        if let Some(d_inputs) = d_inputs {
            d_inputs[rows].copy_from_slice(&self.d_inputs);
        }
    }

    /// This part's columns of the first layer's gradients by token, into `table [V, stride]`.
    pub(super) fn collect_table(&self, table: &mut [f32], stride: usize) {
        for (to, from) in table.chunks_exact_mut(stride).zip(self.table.chunks_exact(self.outputs.len())) {
            to[self.outputs.clone()].copy_from_slice(from);
        }
    }
}
