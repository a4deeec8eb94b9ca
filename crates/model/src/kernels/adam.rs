//! Clipping and Adam in one pass over the flat vectors.
//!
//! Kingma and Ba (2015), in PyTorch's form: p -= lr / (1 - b1^n) * m / (sqrt(v) / sqrt(1 - b2^n) + 1e-8).

use super::{mul_add, vectorised};

const BETA1: f64 = 0.9;
const BETA2: f64 = 0.999;
const EPSILON: f32 = 1e-8;

/// What is the same for all elements in one update.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Factors {
    /// Multiplies the gradient: below 1 where its norm is clipped.
    pub(crate) scale: f32,
    /// Bounds the scaled gradient's elements; infinity where they are not.
    pub(crate) limit: f32,
    step_size: f32,
    inverse_root: f32,
}

impl Factors {
    /// For the optimiser's `step`-th update, counted from 1.
    #[expect(clippy::cast_possible_truncation, reason = "f64 factors of f32 arithmetic")]
    pub(crate) fn new(scale: f64, limit: f64, learning_rate: f64, step: u64) -> Self {
        Self {
            scale: scale as f32,
            limit: limit as f32,
            step_size: (learning_rate / (1.0 - power(BETA1, step))) as f32,
            inverse_root: (1.0 / (1.0 - power(BETA2, step)).sqrt()) as f32,
        }
    }
}

/// `base` to the `exponent` by repeated squaring: the same bits everywhere, which `powf` does not promise.
pub(crate) fn power(base: f64, exponent: u64) -> f64 {
    let (mut result, mut square, mut left) = (1.0, base, exponent);
    while left > 0 {
        if left & 1 == 1 {
            result *= square;
        }
        square *= square;
        left >>= 1;
    }
    result
}

vectorised! {
    /// Updates parameters and both moments from the gradient.
    fn update(parameters: &mut [f32], gradient: &[f32], first: &mut [f32], second: &mut [f32], factors: Factors) =
        update_body
}

#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "constants of f32 arithmetic")]
fn update_body<const FMA: bool>(
    parameters: &mut [f32],
    gradient: &[f32],
    first: &mut [f32],
    second: &mut [f32],
    factors: Factors,
) {
    let (beta1, rest1) = (BETA1 as f32, (1.0 - BETA1) as f32);
    let (beta2, rest2) = (BETA2 as f32, (1.0 - BETA2) as f32);
    let elements = parameters.iter_mut().zip(gradient).zip(first.iter_mut().zip(second));
    for ((parameter, &gradient), (first, second)) in elements {
        let scaled = gradient * factors.scale;
        let scaled = if scaled > factors.limit { factors.limit } else { scaled };
        let scaled = if scaled < -factors.limit { -factors.limit } else { scaled };
        *first = mul_add::<FMA>(beta1, *first, rest1 * scaled);
        *second = mul_add::<FMA>(beta2, *second, rest2 * scaled * scaled);
        let root = mul_add::<FMA>(second.sqrt(), factors.inverse_root, EPSILON);
        *parameter -= factors.step_size * (*first / root);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::level::at_each_level;

    #[test]
    fn the_first_update_moves_every_parameter_by_the_learning_rate_against_its_gradient() {
        let (mut p, mut m, mut v) = (vec![1.0; 11], vec![0.0; 11], vec![0.0; 11]);
        let g: Vec<f32> = (0..11_i16).map(|x| f32::from(x - 5) * 0.01).collect();
        update(&mut p, &g, &mut m, &mut v, Factors::new(1.0, f64::INFINITY, 0.002, 1));
        for (p, g) in p.iter().zip(&g) {
            let sign = if *g == 0.0 { 0.0 } else { g.signum() };
            assert!((p - (1.0 - 0.002 * sign)).abs() < 1e-6, "{p} {g}");
        }
        let (mut p, mut m, mut v) = (vec![1.0], vec![0.0], vec![0.0]);
        update(&mut p, &[-80.0], &mut m, &mut v, Factors::new(0.5, 5.0, 0.002, 1));
        assert!((m[0] + 0.5).abs() < 1e-6 && (v[0] - 0.025).abs() < 1e-6);
    }

    #[test]
    fn powers_equal_repeated_products() {
        assert_eq!(power(0.5, 10), 1.0 / 1024.0);
        assert!((power(0.999, 1000) - 0.367_695_424_770_964).abs() < 1e-13);
        assert_eq!(power(0.9, 0), 1.0);
    }

    #[test]
    fn every_level_equals_the_portable_code_within_rounding() {
        at_each_level(|_| {
            let make = |scale: f32| {
                (0..43_u16).map(|x| (f32::from(x * 37 % 101) - 50.0) * scale).collect::<Vec<f32>>()
            };
            let factors = Factors::new(0.7, 0.2, 0.002, 5);
            let run = |fast: bool| {
                let (mut p, g, mut m) = (make(0.1), make(0.01), make(0.001));
                let mut v: Vec<f32> = make(0.02).iter().map(|x| x * x).collect();
                if fast {
                    update(&mut p, &g, &mut m, &mut v, factors);
                } else {
                    update_body::<false>(&mut p, &g, &mut m, &mut v, factors);
                }
                [p, m, v].concat()
            };
            assert!(run(true).iter().zip(run(false)).all(|(a, b)| (a - b).abs() <= 1e-6 * b.abs().max(1e-3)));
        });
    }
}
