//! Softmax and cross-entropy of rows of logits, with the gradient left in their place.

use super::activation::exp_negative;
use super::vectorised;

vectorised! {
    /// For logits `x [rows, V]` without their bias `[V]`: `nats[row] = -ln softmax(x + bias)[target]`, and x becomes
    /// the gradient of `scale * sum(nats)`.
    fn cross_entropy(x: &mut [f32], bias: &[f32], targets: &[u16], scale: f32, nats: &mut [f64]) = cross_entropy_body
}

#[inline(always)]
fn cross_entropy_body<const FMA: bool>(
    x: &mut [f32],
    bias: &[f32],
    targets: &[u16],
    scale: f32,
    nats: &mut [f64],
) {
    for ((row, &target), nats) in x.chunks_exact_mut(bias.len()).zip(targets).zip(nats) {
        let target = usize::from(target);
        for (x, &bias) in row.iter_mut().zip(bias) {
            *x += bias;
        }
        let largest = largest(row);
        let chosen = row[target] - largest;
        for x in row.iter_mut() {
            *x = exp_negative::<FMA>(*x - largest);
        }
        let sum = total(row);
        *nats = libm::log(f64::from(sum)) - f64::from(chosen);
        let share = scale / sum;
        for x in row.iter_mut() {
            *x *= share;
        }
        row[target] -= scale;
    }
}

#[inline(always)]
fn largest(row: &[f32]) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; 8];
    let chunks = row.chunks_exact(8);
    for (lane, &x) in lanes.iter_mut().zip(chunks.remainder()) {
        *lane = x;
    }
    for chunk in chunks {
        for (lane, &x) in lanes.iter_mut().zip(chunk) {
            *lane = if x > *lane { x } else { *lane };
        }
    }
    lanes.into_iter().fold(f32::NEG_INFINITY, f32::max)
}

#[inline(always)]
fn total(row: &[f32]) -> f32 {
    let mut lanes = [0.0_f32; 8];
    let chunks = row.chunks_exact(8);
    for (lane, &x) in lanes.iter_mut().zip(chunks.remainder()) {
        *lane = x;
    }
    for chunk in chunks {
        for (lane, &x) in lanes.iter_mut().zip(chunk) {
            *lane += x;
        }
    }
    let [a, b, c, d, e, f, g, h] = lanes;
    ((a + b) + (c + d)) + ((e + f) + (g + h))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::level::at_each_level;

    #[test]
    fn cross_entropy_and_its_gradient_equal_their_definition() {
        let logits: Vec<f32> = (0..22_u16).map(|x| f32::from(x * 7 % 13) - 6.0).collect();
        let bias: Vec<f32> = (0..11_u16).map(|x| f32::from(x) / 10.0).collect();
        let (mut x, mut nats) = (logits.clone(), [0.0; 2]);
        cross_entropy(&mut x, &bias, &[3, 10], 0.5, &mut nats);
        for (row, target) in [(0, 3), (1, 10)] {
            let exps: Vec<f64> =
                (0..11).map(|v| (f64::from(logits[row * 11 + v]) + f64::from(bias[v])).exp()).collect();
            let sum: f64 = exps.iter().sum();
            assert!((nats[row] + (exps[target] / sum).ln()).abs() < 1e-6);
            for v in 0..11 {
                let wanted = 0.5 * (exps[v] / sum - if v == target { 1.0 } else { 0.0 });
                assert!((f64::from(x[row * 11 + v]) - wanted).abs() < 1e-7);
            }
        }
    }

    #[test]
    fn a_logit_that_is_not_a_number_makes_the_loss_not_a_number() {
        for place in 0..9 {
            let (mut x, mut nats) = (vec![0.25; 9], [0.0]);
            x[place] = f32::NAN;
            cross_entropy(&mut x, &[0.0; 9], &[1], 1.0, &mut nats);
            assert!(nats[0].is_nan(), "at {place}");
        }
    }

    #[test]
    fn every_level_equals_the_portable_code_within_rounding() {
        at_each_level(|_| {
            let logits: Vec<f32> = (0..109 * 4_u16).map(|x| f32::from(x * 37 % 101) / 10.0 - 5.0).collect();
            let (bias, targets) = (&logits[109..218], [0, 50, 104, 108]);
            let (mut fast, mut fast_nats) = (logits.clone(), [0.0; 4]);
            cross_entropy(&mut fast, bias, &targets, 0.25, &mut fast_nats);
            let (mut portable, mut portable_nats) = (logits.clone(), [0.0; 4]);
            cross_entropy_body::<false>(&mut portable, bias, &targets, 0.25, &mut portable_nats);
            assert!(fast_nats.iter().zip(&portable_nats).all(|(a, b)| (a - b).abs() < 1e-6 * b));
            assert!(fast.iter().zip(&portable).all(|(a, b)| (a - b).abs() < 1e-7));
        });
    }
}
