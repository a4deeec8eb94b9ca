//! One training update, written by hand: forward, loss, backward, clip and Adam over flat buffers.
//!
//! Everything is time-major: a window's position (t, b) is row t * B + b. The batch is cut into strips of rows, one a
//! thread ([`strip`]); they meet where rows do, in batch normalisation and in the gradients of weights ([`outer`]),
//! whose outputs are then dealt out instead. The weights are packed once ([`packed`]). Time runs in chunks of a few
//! steps, so that what one loop leaves in the cache is there for the next: input products of a chunk (for the first
//! layer a table of V rows that tokens look up), then its recurrence; backward the recurrence first, then the
//! gradients of inputs and weights. All buffers are made once, in [`Update::new`].

mod outer;
pub(crate) mod packed;
pub(crate) mod strip;

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use self::outer::Outer;
use self::packed::Packed;
use self::strip::{Pass, Strip};
use crate::config::{Architecture, GradClip, TrainConfig};
use crate::kernels::aligned::Aligned;
use crate::kernels::cut::Cut;
use crate::kernels::matmul::{BLOCK, Into, Panels, Tiles, product, product_tiles};
use crate::kernels::norm::{Measure, Statistics};
use crate::kernels::team::Team;
use crate::kernels::{adam, sum};
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

/// The arena of a model's updates, and their threads.
pub(crate) struct Update {
    architecture: Architecture,
    layout: Layout,
    steps: usize,
    rows: usize,
    clip: GradClip,
    team: Team,
    packed: Packed,
    strips: Vec<Strip>,
    /// Gradients of a layer's weights, and of the last one's; some outputs a thread.
    outers: Vec<Outer>,
    head_outers: Vec<Outer>,
    /// One a layer; empty without batch normalisation. Some columns of each are measured by each thread.
    norms: Vec<Statistics>,
    measures: Vec<Measure>,
    /// The first layer's gradients by token: [V, 4H], packed as [4H, V], and its embedding as [V, E].
    table: Aligned,
    table_tiles: Tiles,
    embedding: Panels,
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
        let (steps, rows, hidden, layers) = (config.seq_len, config.batch_size, config.hidden, config.layers);
        let team = Team::new(config.threads);
        let chunk = chunk_steps(rows).min(steps);
        let strips = Cut::into(rows, team.threads().min(rows)).ranges();
        let part = |len: usize| Cut::into(len, team.threads().min(len)).ranges();
        let outer = |outputs| Outer::new(outputs, chunk * rows, hidden, layers > 1, vocabulary);
        let head_outer = |outputs| Outer::new(outputs, chunk * rows, hidden, false, 0);
        let norms = if config.batch_norm { layers } else { 0 };
        Self {
            architecture,
            steps,
            rows,
            clip: config.grad_clip,
            packed: Packed::new(&architecture, true),
            strips: strips.map(|rows| Strip::new(config, vocabulary, rows, chunk)).collect(),
            outers: part(4 * hidden).map(outer).collect(),
            head_outers: part(vocabulary).map(head_outer).collect(),
            norms: (0..norms).map(|_| Statistics::new(hidden)).collect(),
            measures: part(hidden).map(Measure::new).collect(),
            table: Aligned::zeros(vocabulary * 4 * hidden),
            table_tiles: Tiles::new(vocabulary, 4 * hidden),
            embedding: Panels::new(vocabulary, config.embedding),
            gradient: vec![0.0; layout.len],
            layout,
            team,
            abandon: Arc::default(),
        }
    }

    /// Bytes of the arena, weights, moments and carried state left out.
    pub(crate) fn bytes(&self) -> usize {
        let strips = self.strips.iter().map(Strip::bytes).sum::<usize>();
        let outers = self.outers.iter().chain(&self.head_outers).map(Outer::bytes).sum::<usize>();
        let table = self.table.bytes() + self.table_tiles.bytes() + self.embedding.bytes();
        self.packed.bytes() + strips + outers + table + size_of_val(&*self.gradient)
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
        self.backward(weights, window, update);
        if self.abandoned() {
            return Err(Halt::Abandoned);
        }
        self.apply(weights, moments, learning_rate)?;
        self.strips.iter().for_each(|strip| strip.store(carried));
        Ok(loss)
    }

    fn abandoned(&self) -> bool {
        self.abandon.load(Ordering::Relaxed)
    }

    /// The mean loss; leaves in the buffers all that the backward pass needs, and the gradient of the last layer's
    /// weights. Abandoned: NaN, and nothing of use.
    pub(crate) fn forward(
        &mut self,
        weights: &mut Weights,
        carried: &Carried,
        window: &Window<'_>,
        update: u64,
    ) -> f64 {
        self.packed.pack(weights, &mut self.team);
        self.strips.iter_mut().for_each(|strip| strip.load(carried));
        for layer in 0..self.architecture.layers {
            let (steps, rows) = (self.steps, self.rows);
            let Self { team, strips, packed, norms, abandon, .. } = self;
            let pass = Pass { weights, packed, window, norms, update, abandon };
            team.each(strips, |strip| strip.forward(layer, &pass, chunks(steps, rows)));
            if self.abandoned() {
                return f64::NAN;
            }
            self.measure(weights, layer);
        }
        weights.batches_tracked += 1;
        self.head(weights, window, update)
    }

    /// Batch normalisation's statistics of a layer.
    fn measure(&mut self, weights: &mut Weights, layer: usize) {
        let (steps, hidden) = (self.steps, self.architecture.hidden);
        let Some(norm) = self.norms.get_mut(layer) else { return };
        let strips = &self.strips;
        let pieces =
            || (0..steps).flat_map(|step| strips.iter().map(move |strip| strip.h(layer, step..step + 1)));
        let positions = steps * self.rows;
        self.team.each(&mut self.measures, |part| part.measure(positions, hidden, pieces));
        let weight = &weights.flat[self.layout.layers[layer].norm_weight.clone()];
        let running = &mut weights.running[layer];
        norm.settle(&self.measures, positions, weight, &mut running.mean, &mut running.var);
    }

    /// The mean loss, and the gradients of the last layer's weights and of its input.
    fn head(&mut self, weights: &Weights, window: &Window<'_>, update: u64) -> f64 {
        let Architecture { vocabulary, layers, .. } = self.architecture;
        let positions = self.steps * self.rows;
        let scale = reciprocal(positions);
        self.head_outers.iter_mut().for_each(Outer::begin);
        for steps in chunks(self.steps, self.rows) {
            let Self { team, strips, packed, norms, abandon, head_outers, .. } = self;
            let pass = Pass { weights, packed, window, norms, update, abandon };
            team.each(strips, |strip| strip.head(steps.clone(), &pass, scale));
            team.each(head_outers, |outer| outer.add_head(strips, layers - 1, &steps, vocabulary));
        }
        let (weight, bias) = (self.layout.linear_weight.clone(), self.layout.linear_bias.clone());
        let (d_weight, d_bias) = self.gradient[weight.start..bias.end].split_at_mut(weight.len());
        for outer in &mut self.head_outers {
            outer.finish(d_bias, d_weight, None);
        }
        let nats =
            (0..self.steps).flat_map(|step| self.strips.iter().flat_map(move |strip| strip.nats(step)));
        nats.sum::<f64>() / wide(positions)
    }

    /// The gradient of the mean loss, after [`Self::forward`] on the same window.
    pub(crate) fn backward(&mut self, weights: &Weights, window: &Window<'_>, update: u64) {
        for layer in (0..self.architecture.layers).rev() {
            self.measure_gradient(layer);
            self.recur_backward(weights, window, layer, update);
            if self.abandoned() {
                return;
            }
            self.collect(weights, layer);
            self.strips.iter_mut().for_each(Strip::descend);
        }
    }

    /// Batch normalisation's sums of the gradient, and the gradients of its weight and bias.
    fn measure_gradient(&mut self, layer: usize) {
        let (steps, hidden) = (self.steps, self.architecture.hidden);
        let Some(norm) = self.norms.get_mut(layer) else { return };
        self.team.each(&mut self.strips, |strip| strip.undrop(layer, 0..steps));
        let strips = &self.strips;
        let mean = norm.mean();
        self.team.each(&mut self.measures, |part| {
            let pieces = (0..steps).flat_map(|step| {
                let one = step..step + 1;
                strips.iter().map(move |strip| (strip.h(layer, one.clone()), strip.dy(one.clone())))
            });
            part.measure_gradient(hidden, mean, pieces);
        });
        let views = &self.layout.layers[layer];
        let gradient = &mut self.gradient[views.norm_weight.start..views.norm_bias.end];
        let (d_weight, d_bias) = gradient.split_at_mut(hidden);
        norm.settle_gradient(&self.measures, steps * self.rows, d_weight, d_bias);
    }

    /// Back through time, and the sums over positions that give the weights' gradients.
    fn recur_backward(&mut self, weights: &Weights, window: &Window<'_>, layer: usize, update: u64) {
        let gates = 4 * self.architecture.hidden;
        self.outers.iter_mut().for_each(Outer::begin);
        self.strips.iter_mut().for_each(Strip::begin_backward);
        for steps in chunks(self.steps, self.rows).rev() {
            let Self { team, strips, packed, norms, abandon, outers, .. } = self;
            let pass = Pass { weights, packed, window, norms, update, abandon };
            team.each(strips, |strip| strip.backward(layer, steps.clone(), &pass));
            if pass.abandon.load(Ordering::Relaxed) {
                return;
            }
            team.each(outers, |outer| outer.add_layer(strips, layer, &steps, gates, window.inputs));
        }
    }

    /// Puts together a layer's gradients.
    fn collect(&mut self, weights: &Weights, layer: usize) {
        let views = &self.layout.layers[layer];
        let gradient = &mut self.gradient[views.weight_ih.start..views.bias.end];
        let (d_input, rest) = gradient.split_at_mut(views.weight_ih.len());
        let (d_recurrent, d_bias) = rest.split_at_mut(views.weight_hh.len());
        for outer in &mut self.outers {
            outer.finish(d_bias, d_recurrent, (layer > 0).then_some(&mut *d_input));
        }
        if layer > 0 {
            return;
        }
        let gates = 4 * self.architecture.hidden;
        for outer in &self.outers {
            outer.collect_table(&mut self.table, gates);
        }
        self.table_tiles.pack_columns(0, &self.table, gates, 0);
        self.embedding.pack_rows(0, weights.embedding());
        product_tiles(d_input, Into::Set, &self.table_tiles, &self.embedding);
        if let Some((input_back, _)) = &self.packed.layers[0].back {
            let d_embedding = &mut self.gradient[self.layout.embedding.clone()];
            product(d_embedding, Into::Set, &self.table, input_back);
        }
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

/// Time steps that are computed together: few enough that their positions are one block of a product's inner
/// dimension.
fn chunk_steps(rows: usize) -> usize {
    (BLOCK / rows).max(1)
}

/// The window's steps in chunks.
fn chunks(steps: usize, rows: usize) -> impl DoubleEndedIterator<Item = Range<usize>> {
    let chunk = chunk_steps(rows);
    (0..steps.div_ceil(chunk)).map(move |at| at * chunk..steps.min((at + 1) * chunk))
}

#[expect(clippy::cast_precision_loss, reason = "positions of a window are far below 2^53")]
fn wide(positions: usize) -> f64 {
    positions as f64
}

#[expect(clippy::cast_possible_truncation, reason = "a factor of f32 arithmetic")]
fn reciprocal(positions: usize) -> f32 {
    (1.0 / wide(positions)) as f32
}
