//! How fast whole training updates run: forward, loss, backward, clip and optimiser, on random tokens.

mod kernels;

use std::time::Instant;

use serde::Serialize;

use crate::config::{ConfigError, TrainConfig};
use crate::kernels::cut::Cut;
use crate::kernels::level::Level;
use crate::kernels::matmul::{Into, Panels, product};
use crate::kernels::team::Team;
use crate::philox::{Purpose, Stream};
use crate::update::{Carried, Moments, Update, Window};
use crate::weights::Weights;

pub use self::kernels::{KernelBench, kernels};

/// Tokens of the benchmark's vocabulary.
pub const VOCABULARY: usize = 110;
/// Side of the square product whose speed is called the peak.
const PEAK_SIDE: usize = 1536;

/// What `kapell bench train` prints.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TrainBench {
    /// By the median step.
    pub tokens_per_s: f64,
    pub ms_per_step: Spread,
    /// Of the update's products, by the median step; the element-wise work is not counted.
    pub gflops: f64,
    /// Of a large square product with the same threads.
    pub peak_gflops: f64,
    /// Bytes of one trial's training: weights, moments, carried state, gradients and all buffers; the corpus, which
    /// trials of a process share, is left out.
    pub memory_bytes: usize,
    /// The instruction set of the kernels: `portable`, `avx2` or `avx512`.
    pub kernels: &'static str,
}

/// Of the measured steps.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Spread {
    pub min: f64,
    pub median: f64,
    pub max: f64,
}

/// Times `steps` updates (at least one), after two that warm up.
///
/// # Errors
/// Options outside their limits.
pub fn train(config: &TrainConfig, steps: usize) -> Result<TrainBench, ConfigError> {
    config.validate()?;
    let mut weights = Weights::initial(config, VOCABULARY);
    let mut moments = Moments::zeros(weights.flat.len());
    let mut carried = Carried::zeros(config.layers, config.batch_size * config.hidden);
    let mut engine = Update::new(config, VOCABULARY);
    let positions = config.seq_len * config.batch_size;
    let mut ms = Vec::new();
    for update in 0..steps.max(1) as u64 + 2 {
        let (inputs, targets) =
            (tokens(config, 2 * update, positions), tokens(config, 2 * update + 1, positions));
        let window = Window { inputs: &inputs, targets: &targets };
        let started = Instant::now();
        // Random tokens at any allowed rate may diverge; the time of an update does not depend on it.
        let _ = engine.run(&mut weights, &mut moments, &mut carried, &window, config.learning_rate, update);
        if update >= 2 {
            ms.push(started.elapsed().as_secs_f64() * 1e3);
        }
    }
    let ms_per_step = spread(ms);
    let tokens_per_s = wide(positions) / ms_per_step.median * 1e3;
    let gflops = tokens_per_s * flops_per_token(config, VOCABULARY) / 1e9;
    Ok(TrainBench {
        tokens_per_s,
        ms_per_step,
        gflops,
        peak_gflops: peak_gflops(config.threads),
        memory_bytes: bytes(&engine, config, weights.flat.len()),
        kernels: Level::chosen().name(),
    })
}

/// Bytes that training with these options takes, as [`TrainBench::memory_bytes`]. The buffers are asked for and given
/// back, not touched.
#[must_use]
pub fn memory_bytes(config: &TrainConfig, vocabulary: usize) -> usize {
    let engine = Update::new(config, vocabulary);
    bytes(&engine, config, engine.gradient.len())
}

/// Beside the engine's buffers, three numbers a parameter (weight and both moments), and h and c of each layer.
fn bytes(engine: &Update, config: &TrainConfig, parameters: usize) -> usize {
    let carried = 2 * config.layers * config.batch_size * config.hidden;
    engine.bytes() + (3 * parameters + carried) * size_of::<f32>()
}

/// Floating-point operations of a token's update in matrix products: three times those of its forward pass.
#[must_use]
pub fn flops_per_token(config: &TrainConfig, vocabulary: usize) -> f64 {
    let (l, h, e, v) = (wide(config.layers), wide(config.hidden), wide(config.embedding), wide(vocabulary));
    3.0 * (l * 8.0 * h * h + 8.0 * h * e + (l - 1.0) * 8.0 * h * h + 2.0 * h * v)
}

/// The best of several large square products, in GFLOP/s; the rows are dealt out to the threads.
fn peak_gflops(threads: usize) -> f64 {
    let side = PEAK_SIDE;
    let mut right = Panels::new(side, side);
    right.pack_rows(0, &vec![0.25; side * side]);
    let mut team = Team::new(threads);
    let part = |rows: std::ops::Range<usize>| (vec![0.5; rows.len() * side], vec![0.0; rows.len() * side]);
    let mut parts: Vec<_> = Cut::into(side, team.threads()).ranges().map(part).collect();
    let mut best = f64::INFINITY;
    for _ in 0..5 {
        let started = Instant::now();
        team.each(&mut parts, |(left, target)| product(target, Into::Set, left, &right));
        best = best.min(started.elapsed().as_secs_f64());
    }
    2.0 * wide(side).powi(3) / best / 1e9
}

fn tokens(config: &TrainConfig, update: u64, count: usize) -> Vec<u16> {
    tokens_of(&Stream::new(config.seed, config.replicate, Purpose::Bench, update, 0), count)
}

#[expect(clippy::cast_possible_truncation, reason = "a remainder below the vocabulary")]
fn tokens_of(stream: &Stream, count: usize) -> Vec<u16> {
    let mut words = vec![0; count];
    stream.fill_from(0, &mut words);
    words.into_iter().map(|word| (word % VOCABULARY as u32) as u16).collect()
}

fn spread(mut ms: Vec<f64>) -> Spread {
    ms.sort_by(f64::total_cmp);
    let middle = ms.len() / 2;
    let median = if ms.len() % 2 == 1 { ms[middle] } else { f64::midpoint(ms[middle - 1], ms[middle]) };
    Spread { min: ms[0], median, max: ms[ms.len() - 1] }
}

#[expect(clippy::cast_precision_loss, reason = "shapes are far below 2^53")]
fn wide(value: usize) -> f64 {
    value as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_of_an_even_number_of_steps_lies_between_the_middle_two() {
        assert_eq!(spread(vec![4.0, 1.0, 3.0, 10.0]), Spread { min: 1.0, median: 3.5, max: 10.0 });
        assert_eq!(spread(vec![4.0, 1.0, 3.0]), Spread { min: 1.0, median: 3.0, max: 4.0 });
    }

    #[test]
    fn a_benchmark_of_a_small_shape_reports_finite_speeds() {
        let config =
            TrainConfig { layers: 2, hidden: 16, embedding: 8, seq_len: 8, ..TrainConfig::default() };
        let bench = train(&config, 3).expect("valid options");
        assert!(bench.tokens_per_s.is_finite() && bench.tokens_per_s > 0.0 && bench.peak_gflops > 0.1);
        assert!(bench.ms_per_step.min <= bench.ms_per_step.median);
        // 3 * (2 * 8 * 256 + 8 * 16 * 8 + 8 * 256 + 2 * 16 * 110)
        assert!((flops_per_token(&config, VOCABULARY) - 32_064.0).abs() < 0.5);
    }
}
