//! How fast each kernel runs at the shapes of BachBot's winner, products beside their definition as a plain loop.

use std::hint::black_box;
use std::time::{Duration, Instant};

use super::{tokens_of, wide};
use crate::kernels::level::Level;
use crate::kernels::matmul::{Into, Panels, Tiles, product, product_tiles};
use crate::kernels::{adam, cell, dropout, loss};
use crate::philox::{Purpose, Stream};

/// Rows of a batch, positions of a chunk of steps, units of a layer, tokens.
const ROWS: usize = 50;
const POSITIONS: usize = 250;
const HIDDEN: usize = 256;
const VOCABULARY: usize = 110;
/// How long each measurement goes on.
const PATIENCE: Duration = Duration::from_millis(150);

/// A kernel's speed.
#[derive(Debug, Clone, PartialEq)]
pub struct KernelBench {
    pub name: &'static str,
    pub shape: String,
    /// The best of many calls.
    pub us: f64,
    /// By what the call must compute or move: see `unit`.
    pub speed: f64,
    /// GFLOP/s for products; for the others GB/s, every operand counted once.
    pub unit: &'static str,
    /// Microseconds of the definition as a loop, where there is one here.
    pub naive_us: Option<f64>,
}

/// The instruction set in use, and every kernel's speed with it.
#[must_use]
pub fn kernels() -> (&'static str, Vec<KernelBench>) {
    let mut all = products();
    all.extend(element_wise());
    (Level::chosen().name(), all)
}

fn products() -> Vec<KernelBench> {
    let gates = 4 * HIDDEN;
    let mut all = Vec::new();
    for (name, m, k, n) in [
        ("state to gates, a step", ROWS, HIDDEN, gates),
        ("gates to state, a step", ROWS, gates, HIDDEN),
        ("input to gates, a chunk", POSITIONS, HIDDEN, gates),
        ("logits, a chunk", POSITIONS, HIDDEN, VOCABULARY),
    ] {
        let (left, right, mut target) = (vec![0.5; m * k], vec![0.25; k * n], vec![0.0; m * n]);
        let panels = Panels::transposed(&right, n, k);
        let us = best_us(|| product(&mut target, Into::Set, black_box(&left), &panels));
        let naive_us = best_us(|| naive(black_box(&mut target), &left, &right, k));
        all.push(product_bench(name, (m, k, n), us, Some(naive_us)));
    }
    let (m, k, n) = (gates, POSITIONS, HIDDEN);
    let (left, right, mut target) = (vec![0.5; k * m], vec![0.25; k * n], vec![0.0; m * n]);
    let (mut tiles, mut panels) = (Tiles::new(k, m), Panels::new(k, n));
    let us = best_us(|| {
        tiles.pack_columns(0, black_box(&left), m, 0);
        panels.pack_rows(0, black_box(&right));
        product_tiles(&mut target, Into::Add, &tiles, &panels);
    });
    all.push(product_bench("gradient of weights, a chunk, with packing", (m, k, n), us, None));
    all
}

/// Three loops, the innermost along both right side and target.
fn naive(target: &mut [f32], left: &[f32], right: &[f32], k: usize) {
    let n = right.len() / k;
    target.fill(0.0);
    for (target, left) in target.chunks_exact_mut(n).zip(left.chunks_exact(k)) {
        for (&a, right) in left.iter().zip(right.chunks_exact(n)) {
            for (target, &b) in target.iter_mut().zip(right) {
                *target += a * b;
            }
        }
    }
}

fn product_bench(
    name: &'static str,
    (m, k, n): (usize, usize, usize),
    us: f64,
    naive_us: Option<f64>,
) -> KernelBench {
    let speed = 2.0 * wide(m * k * n) / us / 1e3;
    KernelBench { name, shape: format!("{m} x {k} x {n}"), us, speed, unit: "GFLOP/s", naive_us }
}

fn element_wise() -> Vec<KernelBench> {
    let state = ROWS * HIDDEN;
    let (mut z, bias) = (vec![0.3; 4 * state], vec![0.1; 4 * HIDDEN]);
    let [mut a, mut b, mut c, d] = [(); 4].map(|()| vec![0.2_f32; state]);
    let forward = best_us(|| {
        z.fill(0.3);
        let (c_before, c, tanh_c, h) = (&d, &mut a, &mut b, &mut c);
        let mut step = cell::Forward { z: &mut z, bias: &bias, c_before, c, tanh_c, h };
        cell::forward(&mut step, HIDDEN);
    });
    let backward = best_us(|| {
        let (c_before, tanh_c, dy, dh, dc) = (&a, &b, &d, &d, &mut c);
        let mut step = cell::Backward { z: &mut z, c_before, tanh_c, dy, dh, dc };
        cell::backward(&mut step, HIDDEN);
    });
    let mut mask = vec![0_u8; state];
    let stream = Stream::new(1, 0, Purpose::Bench, 0, 0);
    let fill = best_us(|| dropout::fill_mask(black_box(&mut mask), 0, &stream, dropout::threshold(0.3)));
    let apply = best_us(|| dropout::apply(&mut a, black_box(&mask), 1.0));
    let (mut logits, mut nats) = (vec![0.4; POSITIONS * VOCABULARY], vec![0.0; POSITIONS]);
    let targets = tokens_of(&stream, POSITIONS);
    let head = best_us(|| {
        loss::cross_entropy(&mut logits, &bias[..VOCABULARY], &targets, 1.0, black_box(&mut nats))
    });
    let parameters = 1_000_000;
    let [mut p, g, mut m, mut v] = [(); 4].map(|()| vec![0.01_f32; parameters]);
    let factors = adam::Factors::new(1.0, f64::INFINITY, 1e-3, 5);
    let optimiser = best_us(|| adam::update(&mut p, black_box(&g), &mut m, &mut v, factors));
    let shape = || format!("{ROWS} x {HIDDEN}");
    let bench = |name, shape, bytes: usize, us: f64| {
        let speed = wide(bytes) / us / 1e3;
        KernelBench { name, shape, us, speed, unit: "GB/s", naive_us: None }
    };
    vec![
        bench("cell, forward", shape(), 12 * 4 * state, forward),
        bench("cell, backward", shape(), 14 * 4 * state, backward),
        bench("dropout mask", shape(), state, fill),
        bench("dropout", shape(), 9 * state, apply),
        bench("cross-entropy", format!("{POSITIONS} x {VOCABULARY}"), 8 * POSITIONS * VOCABULARY, head),
        bench("clip and Adam", format!("{parameters}"), 28 * parameters, optimiser),
    ]
}

/// Microseconds of the fastest call.
fn best_us(mut call: impl FnMut()) -> f64 {
    let (begun, mut best) = (Instant::now(), f64::INFINITY);
    while begun.elapsed() < PATIENCE || best.is_infinite() {
        let started = Instant::now();
        call();
        best = best.min(started.elapsed().as_secs_f64());
    }
    best * 1e6
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kernel_has_a_speed() {
        let (level, all) = kernels();
        assert_eq!(level, Level::chosen().name());
        assert!(all.len() > 9 && all.iter().all(|bench| bench.us > 0.0 && bench.speed > 0.001), "{all:?}");
    }
}
