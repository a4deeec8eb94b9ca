//! Held-out loss: every sequence from a zero state, every position predicted, running statistics, no dropout.

use std::sync::atomic::{AtomicBool, Ordering};

use kapell_music::corpus::{Corpus, PartOfSplit};
use serde::{Deserialize, Serialize};

use crate::config::Architecture;
use crate::data::{DataError, Sequence, held_out};
use crate::kernels::matmul::{Into, product};
use crate::kernels::team::Team;
use crate::kernels::{cell, loss, norm};
use crate::update::packed::Packed;
use crate::update::strip::around;
use crate::weights::Weights;

/// Sequences that run side by side.
const ROWS: usize = 64;
/// Positions whose input products are one product: few enough to stay in the cache until the recurrence reads them.
const POSITIONS: usize = 512;

/// The loss of one piece (or, by BachBot's protocol, of one row).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PieceLoss {
    pub piece: String,
    /// Predicted tokens.
    pub tokens: u64,
    /// Summed over them; divide for the loss per token.
    pub nats: f64,
}

/// A part's loss.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Evaluation {
    /// Nats per token over all predicted tokens of the part.
    pub loss: f64,
    /// Predicted tokens.
    pub tokens: u64,
    /// In the corpus' order.
    pub pieces: Vec<PieceLoss>,
}

/// The loss of a model on one part of a corpus. `seq_len` matters only to BachBot's protocol, whose rows are whole
/// windows of that length.
///
/// # Errors
/// A corpus without that part, or with tokens that the model does not know.
pub fn evaluate(
    weights: &Weights,
    corpus: &Corpus,
    part: PartOfSplit,
    seq_len: usize,
    threads: usize,
) -> Result<Evaluation, DataError> {
    let never = AtomicBool::new(false);
    evaluate_unless(&never, weights, corpus, part, seq_len, threads)
}

/// The same, given up soon after `abandon` is set: then the losses mean nothing.
pub(crate) fn evaluate_unless(
    abandon: &AtomicBool,
    weights: &Weights,
    corpus: &Corpus,
    part: PartOfSplit,
    seq_len: usize,
    threads: usize,
) -> Result<Evaluation, DataError> {
    let sequences = held_out(corpus, part, seq_len)?;
    let vocabulary = weights.architecture.vocabulary;
    for sequence in &sequences {
        if let Some(&token) = sequence.tokens.iter().find(|&&token| usize::from(token) >= vocabulary) {
            return Err(DataError::UnknownToken { piece: sequence.name.clone(), token, vocabulary });
        }
    }
    Ok(score(abandon, weights, &sequences, threads))
}

/// The nats of every token but the first of each stream, each stream from a zero state.
///
/// # Panics
/// If a token is not below the weights' V.
pub(crate) fn token_nats(weights: &Weights, streams: &[Vec<u16>], threads: usize) -> Vec<Vec<f64>> {
    let never = AtomicBool::new(false);
    let streams: Vec<&[u16]> = streams.iter().map(Vec::as_slice).collect();
    score_each(&never, weights, &streams, threads, Vec::new, |nats, one| nats.push(one))
}

fn score(abandon: &AtomicBool, weights: &Weights, sequences: &[Sequence<'_>], threads: usize) -> Evaluation {
    let streams: Vec<&[u16]> = sequences.iter().map(|sequence| &*sequence.tokens).collect();
    let nats = score_each(abandon, weights, &streams, threads, || 0.0, |total: &mut f64, one| *total += one);
    let losses = sequences.iter().zip(nats).map(|(sequence, nats)| PieceLoss {
        piece: sequence.name.clone(),
        tokens: sequence.tokens.len() as u64 - 1,
        nats,
    });
    let pieces: Vec<PieceLoss> = losses.collect();
    let tokens = pieces.iter().map(|piece| piece.tokens).sum();
    let total: f64 = pieces.iter().map(|piece| piece.nats).sum();
    Evaluation { loss: total / wide(tokens), tokens, pieces }
}

/// Feeds each sequence's nats, position by position, to its own sum of any kind.
fn score_each<N: Send>(
    abandon: &AtomicBool,
    weights: &Weights,
    sequences: &[&[u16]],
    threads: usize,
    empty: impl Fn() -> N + Sync,
    add: impl Fn(&mut N, f64) + Sync,
) -> Vec<N> {
    let mut order: Vec<usize> = (0..sequences.len()).collect();
    order.sort_by_key(|&place| (std::cmp::Reverse(sequences[place].len()), place));
    let mut team = Team::new(threads.min(sequences.len()).max(1));
    let mut packed = Packed::new(&weights.architecture, false);
    packed.pack(weights, &mut team);
    // A sequence's numbers do not depend on the rows beside it, so that threads may deal them out as they like.
    let share = |thread| order.iter().skip(thread).step_by(team.threads()).copied().collect::<Vec<usize>>();
    let mut shares: Vec<(Vec<usize>, Vec<N>)> =
        (0..team.threads()).map(|thread| (share(thread), Vec::new())).collect();
    team.each(&mut shares, |(places, nats)| {
        let mut scorer = Scorer::new(abandon, weights, &packed, places.len().min(ROWS));
        for group in places.chunks(ROWS) {
            let tokens: Vec<&[u16]> = group.iter().map(|&place| sequences[place]).collect();
            let mut sums: Vec<N> = group.iter().map(|_| empty()).collect();
            scorer.score(&tokens, |row, one| add(&mut sums[row], one));
            nats.extend(sums);
        }
    });
    let mut nats: Vec<Option<N>> = sequences.iter().map(|_| None).collect();
    for (place, sum) in shares.into_iter().flat_map(|(places, nats)| places.into_iter().zip(nats)) {
        nats[place] = Some(sum);
    }
    nats.into_iter().map(|sum| sum.unwrap_or_else(&empty)).collect()
}

#[expect(clippy::cast_precision_loss, reason = "token counts are far below 2^53")]
fn wide(tokens: u64) -> f64 {
    tokens as f64
}

/// Runs a model over up to `rows` sequences at once, longest first, so that those still running are the first rows.
struct Scorer<'a> {
    abandon: &'a AtomicBool,
    weights: &'a Weights,
    packed: &'a Packed,
    /// Batch normalisation's scale and offset a layer, [H] each.
    norms: Vec<(Vec<f32>, Vec<f32>)>,
    /// [rows, H] a layer: h and c.
    states: Vec<(Vec<f32>, Vec<f32>)>,
    /// [steps, rows, 4H]
    z: Vec<f32>,
    /// [steps + 1, rows, H]
    h: Vec<f32>,
    c: Vec<f32>,
    tanh_c: Vec<f32>,
    /// [steps, rows, H]
    x: Vec<f32>,
    /// [steps, rows, V]
    logits: Vec<f32>,
    nats: Vec<f64>,
}

impl<'a> Scorer<'a> {
    fn new(abandon: &'a AtomicBool, weights: &'a Weights, packed: &'a Packed, rows: usize) -> Self {
        let Architecture { vocabulary, layers, hidden, .. } = weights.architecture;
        let state = rows * hidden;
        let positions = POSITIONS.max(rows);
        Self {
            abandon,
            weights,
            packed,
            norms: (0..layers).filter_map(|layer| weights.frozen_norm(layer)).collect(),
            states: vec![(vec![0.0; state], vec![0.0; state]); layers],
            z: vec![0.0; positions * 4 * hidden],
            h: vec![0.0; (positions + rows) * hidden],
            c: vec![0.0; (positions + rows) * hidden],
            tanh_c: vec![0.0; state],
            x: vec![0.0; positions * hidden],
            logits: vec![0.0; positions * vocabulary],
            nats: vec![0.0; positions],
        }
    }

    /// Hands out the nats of each sequence (row), position by position; they are sorted by length, the longest first.
    fn score(&mut self, sequences: &[&[u16]], mut each: impl FnMut(usize, f64)) {
        for (h, c) in &mut self.states {
            h.fill(0.0);
            c.fill(0.0);
        }
        let longest = sequences.first().map_or(0, |tokens| tokens.len() - 1);
        let mut start = 0;
        while start < longest {
            let running = sequences.iter().take_while(|tokens| tokens.len() - 1 > start).count();
            let steps = (POSITIONS / running).max(1).min(longest - start);
            // Rows that end within the chunk go on with token 0; their further positions are not counted.
            let token = |step: usize, row: usize| sequences[row].get(start + step).copied();
            let positions = |ahead: usize| {
                let all = (0..steps).flat_map(move |step| (0..running).map(move |row| (step + ahead, row)));
                all.map(|(step, row)| token(step, row).unwrap_or(0)).collect::<Vec<u16>>()
            };
            let (inputs, targets) = (positions(0), positions(1));
            for layer in 0..self.states.len() {
                if self.abandon.load(Ordering::Relaxed) {
                    return;
                }
                self.layer(layer, steps, running, &inputs);
            }
            self.loss(steps, running, &targets);
            for (place, &nats) in self.nats[..steps * running].iter().enumerate() {
                let (step, row) = (place / running, place % running);
                if token(step + 1, row).is_some() {
                    each(row, nats);
                }
            }
            start += steps;
        }
    }

    /// A layer over `steps` steps of the first `rows` rows; its output goes to `x`.
    fn layer(&mut self, layer: usize, steps: usize, rows: usize, inputs: &[u16]) {
        let hidden = self.weights.architecture.hidden;
        let (state, gates) = (rows * hidden, 4 * hidden);
        let z = &mut self.z[..steps * rows * gates];
        if layer == 0 {
            for (z, &token) in z.chunks_exact_mut(gates).zip(inputs) {
                z.copy_from_slice(&self.packed.table[usize::from(token) * gates..][..gates]);
            }
        } else {
            product(z, Into::Set, &self.x[..steps * state], &self.packed.layers[layer].input);
        }
        let (carried_h, carried_c) = &mut self.states[layer];
        self.h[..state].copy_from_slice(&carried_h[..state]);
        self.c[..state].copy_from_slice(&carried_c[..state]);
        let recurrent = &self.packed.layers[layer].recurrent;
        for step in 0..steps {
            let z = &mut z[step * rows * gates..][..rows * gates];
            let (h_before, h) = around(&mut self.h, step, state);
            let (c_before, c) = around(&mut self.c, step, state);
            product(z, Into::Add, h_before, recurrent);
            let (bias, tanh_c) = (self.weights.bias(layer), &mut self.tanh_c[..state]);
            let mut step = cell::Forward { z, bias, c_before, c, tanh_c, h };
            cell::forward(&mut step, hidden);
        }
        carried_h[..state].copy_from_slice(&self.h[steps * state..][..state]);
        carried_c[..state].copy_from_slice(&self.c[steps * state..][..state]);
        let (x, h) = (&mut self.x[..steps * state], &self.h[state..][..steps * state]);
        match self.norms.get(layer) {
            Some((scale, offset)) => norm::scale_and_shift(x, h, scale, offset),
            None => x.copy_from_slice(h),
        }
    }

    fn loss(&mut self, steps: usize, rows: usize, targets: &[u16]) {
        let Architecture { vocabulary, hidden, .. } = self.weights.architecture;
        let positions = steps * rows;
        let logits = &mut self.logits[..positions * vocabulary];
        product(logits, Into::Set, &self.x[..positions * hidden], &self.packed.linear);
        let nats = &mut self.nats[..positions];
        loss::cross_entropy(logits, self.weights.linear_bias(), targets, 1.0, nats);
    }
}

#[cfg(test)]
mod tests;
