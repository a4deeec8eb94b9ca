//! Batch normalisation over all rows of a window, with its backward pass.
//!
//! Ioffe and Szegedy (2015) with PyTorch's conventions: epsilon 1e-5, momentum 0.1, biased variance for the
//! normalisation and unbiased variance for the running statistics.

use super::sum::{columns, flush};
use super::{mul_add, vectorised};

pub(crate) const EPSILON: f64 = 1e-5;
pub(crate) const MOMENTUM: f64 = 0.1;

/// Rows added in f32 before they go into an f64 sum.
const RUN: usize = 32;

/// Statistics of a window for one layer, and scratch; every vector has H numbers.
#[derive(Debug, Clone)]
pub(crate) struct Statistics {
    pub(crate) mean: Vec<f32>,
    /// 1 / sqrt(variance + epsilon)
    pub(crate) inverse_std: Vec<f32>,
    sum: Vec<f64>,
    second: Vec<f64>,
    run: Vec<f32>,
    second_run: Vec<f32>,
    scale: Vec<f32>,
}

impl Statistics {
    pub(crate) fn new(hidden: usize) -> Self {
        let (zeros, wide) = (vec![0.0; hidden], vec![0.0; hidden]);
        Self {
            mean: zeros.clone(),
            inverse_std: zeros.clone(),
            sum: wide.clone(),
            second: wide,
            run: zeros.clone(),
            second_run: zeros.clone(),
            scale: zeros,
        }
    }

    /// Mean and spread of every column of `h [rows, H]`, folded into the running statistics.
    #[expect(clippy::cast_possible_truncation, reason = "f64 sums become f32 statistics")]
    pub(crate) fn measure(&mut self, h: &[f32], running_mean: &mut [f32], running_var: &mut [f32]) {
        let rows = count(h.len() / self.mean.len());
        self.sum.fill(0.0);
        columns(h, &mut self.run, &mut self.sum);
        for (mean, sum) in self.mean.iter_mut().zip(&self.sum) {
            *mean = (sum / rows) as f32;
        }
        self.second.fill(0.0);
        deviations(h, &self.mean, &mut self.run, &mut self.second);
        for unit in 0..self.mean.len() {
            // The rounding of the mean to f32 is taken back out of the sum of squares.
            let mean = self.sum[unit] / rows;
            let slip = mean - f64::from(self.mean[unit]);
            let squares = (self.second[unit] - rows * slip * slip).max(0.0);
            self.inverse_std[unit] = (1.0 / (squares / rows + EPSILON).sqrt()) as f32;
            let fold = |running: &mut f32, value: f64| {
                *running = (f64::from(*running) * (1.0 - MOMENTUM) + MOMENTUM * value) as f32;
            };
            fold(&mut running_mean[unit], mean);
            fold(&mut running_var[unit], squares / (rows - 1.0));
        }
    }

    /// y = (h - mean) / std * weight + bias, over [rows, H].
    pub(crate) fn normalise(&mut self, y: &mut [f32], h: &[f32], weight: &[f32], bias: &[f32]) {
        for ((scale, &inverse_std), &weight) in self.scale.iter_mut().zip(&self.inverse_std).zip(weight) {
            *scale = inverse_std * weight;
        }
        affine(y, h, &self.mean, &self.scale, bias);
    }

    /// From `dy [rows, H]`, the gradient of the normalised and scaled output, in place to the gradient of `h`; the
    /// gradients of weight and bias are set.
    #[expect(clippy::cast_possible_truncation, reason = "f64 sums become f32 gradients")]
    pub(crate) fn backward(
        &mut self,
        h: &[f32],
        dy: &mut [f32],
        weight: &[f32],
        d_weight: &mut [f32],
        d_bias: &mut [f32],
    ) {
        let rows = count(h.len() / self.mean.len());
        self.sum.fill(0.0);
        self.second.fill(0.0);
        let runs = (&mut self.run[..], &mut self.second_run[..]);
        gradient_sums(h, dy, &self.mean, runs, (&mut self.sum, &mut self.second));
        for unit in 0..self.mean.len() {
            let inverse_std = f64::from(self.inverse_std[unit]);
            let (sum, product) = (self.sum[unit], self.second[unit] * inverse_std);
            d_bias[unit] = sum as f32;
            d_weight[unit] = product as f32;
            self.run[unit] = (sum / rows) as f32;
            self.second_run[unit] = (product * inverse_std / rows) as f32;
            self.scale[unit] = weight[unit] * self.inverse_std[unit];
        }
        gradient(h, dy, &self.mean, &self.run, &self.second_run, &self.scale);
    }
}

/// The running statistics as a fixed scale and offset a column, for evaluation: y = h * scale + offset.
#[expect(clippy::cast_possible_truncation, reason = "f64 intermediates become f32 factors")]
pub(crate) fn frozen(weight: &[f32], bias: &[f32], mean: &[f32], var: &[f32]) -> (Vec<f32>, Vec<f32>) {
    let scale = |unit: usize| f64::from(weight[unit]) / (f64::from(var[unit]) + EPSILON).sqrt();
    let offset = |unit: usize| f64::from(bias[unit]) - f64::from(mean[unit]) * scale(unit);
    let units = 0..weight.len();
    (units.clone().map(|unit| scale(unit) as f32).collect(), units.map(|unit| offset(unit) as f32).collect())
}

#[expect(clippy::cast_precision_loss, reason = "far below 2^53 rows")]
fn count(rows: usize) -> f64 {
    rows as f64
}

vectorised! {
    /// `total[c] +=` the sum over rows of (x - mean)^2.
    fn deviations(x: &[f32], mean: &[f32], run: &mut [f32], total: &mut [f64]) = deviations_body
}

#[inline(always)]
fn deviations_body<const FMA: bool>(x: &[f32], mean: &[f32], run: &mut [f32], total: &mut [f64]) {
    let cols = total.len();
    for rows in x.chunks(RUN * cols) {
        run.fill(0.0);
        for row in rows.chunks_exact(cols) {
            for ((run, &x), &mean) in run.iter_mut().zip(row).zip(mean) {
                let apart = x - mean;
                *run = mul_add::<FMA>(apart, apart, *run);
            }
        }
        flush(run, total);
    }
}

vectorised! {
    /// y = (h - mean) * scale + bias by columns.
    fn affine(y: &mut [f32], h: &[f32], mean: &[f32], scale: &[f32], bias: &[f32]) = affine_body
}

#[inline(always)]
fn affine_body<const FMA: bool>(y: &mut [f32], h: &[f32], mean: &[f32], scale: &[f32], bias: &[f32]) {
    let n = mean.len();
    let (scale, bias) = (&scale[..n], &bias[..n]);
    for (y, h) in y.chunks_exact_mut(n).zip(h.chunks_exact(n)) {
        for unit in 0..n {
            y[unit] = mul_add::<FMA>(h[unit] - mean[unit], scale[unit], bias[unit]);
        }
    }
}

vectorised! {
    /// y = h * scale + offset by columns: normalisation by frozen statistics.
    fn scale_and_shift(y: &mut [f32], h: &[f32], scale: &[f32], offset: &[f32]) = scale_and_shift_body
}

#[inline(always)]
fn scale_and_shift_body<const FMA: bool>(y: &mut [f32], h: &[f32], scale: &[f32], offset: &[f32]) {
    let n = scale.len();
    let offset = &offset[..n];
    for (y, h) in y.chunks_exact_mut(n).zip(h.chunks_exact(n)) {
        for unit in 0..n {
            y[unit] = mul_add::<FMA>(h[unit], scale[unit], offset[unit]);
        }
    }
}

vectorised! {
    /// `totals.0[c] +=` the sum of dy, `totals.1[c] +=` that of dy * (h - mean).
    fn gradient_sums(
        h: &[f32],
        dy: &[f32],
        mean: &[f32],
        runs: (&mut [f32], &mut [f32]),
        totals: (&mut [f64], &mut [f64]),
    ) = gradient_sums_body
}

#[inline(always)]
fn gradient_sums_body<const FMA: bool>(
    h: &[f32],
    dy: &[f32],
    mean: &[f32],
    runs: (&mut [f32], &mut [f32]),
    totals: (&mut [f64], &mut [f64]),
) {
    let n = mean.len();
    let (plain, product) = (&mut runs.0[..n], &mut runs.1[..n]);
    for (h, dy) in h.chunks(RUN * n).zip(dy.chunks(RUN * n)) {
        plain.fill(0.0);
        product.fill(0.0);
        for (h, dy) in h.chunks_exact(n).zip(dy.chunks_exact(n)) {
            for unit in 0..n {
                plain[unit] += dy[unit];
                product[unit] = mul_add::<FMA>(dy[unit], h[unit] - mean[unit], product[unit]);
            }
        }
        flush(plain, totals.0);
        flush(product, totals.1);
    }
}

vectorised! {
    /// dy = scale * (dy - centre - (h - mean) * slope) by columns.
    fn gradient(h: &[f32], dy: &mut [f32], mean: &[f32], centre: &[f32], slope: &[f32], scale: &[f32]) = gradient_body
}

#[inline(always)]
fn gradient_body<const FMA: bool>(
    h: &[f32],
    dy: &mut [f32],
    mean: &[f32],
    centre: &[f32],
    slope: &[f32],
    scale: &[f32],
) {
    let n = mean.len();
    let (centre, slope, scale) = (&centre[..n], &slope[..n], &scale[..n]);
    for (h, dy) in h.chunks_exact(n).zip(dy.chunks_exact_mut(n)) {
        for unit in 0..n {
            let left = mul_add::<FMA>(mean[unit] - h[unit], slope[unit], dy[unit] - centre[unit]);
            dy[unit] = scale[unit] * left;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_normalised_window_has_mean_bias_and_spread_weight() {
        let h: Vec<f32> = (0..200_u16).flat_map(|row| [f32::from(row) / 10.0, f32::from(row % 7)]).collect();
        let mut statistics = Statistics::new(2);
        let (mut mean, mut var) = (vec![0.0; 2], vec![1.0; 2]);
        statistics.measure(&h, &mut mean, &mut var);
        let mut y = vec![0.0; 400];
        statistics.normalise(&mut y, &h, &[2.0, 0.5], &[1.0, -1.0]);
        let column = |unit: usize| y.iter().skip(unit).step_by(2).map(|&x| f64::from(x)).collect::<Vec<_>>();
        for (unit, weight, bias) in [(0, 2.0, 1.0), (1, 0.5, -1.0)] {
            let column = column(unit);
            let centre = column.iter().sum::<f64>() / 200.0;
            let spread = (column.iter().map(|x| (x - centre).powi(2)).sum::<f64>() / 200.0).sqrt();
            assert!((centre - bias).abs() < 1e-5 && (spread - weight).abs() < 1e-4, "{centre} {spread}");
        }
        // Of 0.0, 0.1, ..., 19.9: mean 9.95, unbiased variance 33.5.
        assert!((mean[0] - 0.995).abs() < 1e-6 && (var[0] - (0.9 + 3.35)).abs() < 1e-5);
        let (scale, offset) = frozen(&[2.0], &[1.0], &[3.0], &[4.0 - 1e-5]);
        assert!((scale[0] - 1.0).abs() < 1e-6 && (offset[0] + 2.0).abs() < 1e-5);
    }

    #[test]
    fn the_vector_code_equals_the_portable_code_within_rounding() {
        const N: usize = 13;
        let make = |seed: usize, count: usize| {
            let number = |place: usize| {
                f32::from(u16::try_from((place + seed) * 37 % 101).expect("small")) / 25.0 - 2.0
            };
            (0..count).map(number).collect::<Vec<f32>>()
        };
        let (h, dy, mean, scale, bias) =
            (make(1, 70 * N), make(2, 70 * N), make(3, N), make(4, N), make(5, N));
        let run = |fast: bool| {
            let (mut y, mut frozen, mut dh) = (vec![0.0; 70 * N], vec![0.0; 70 * N], dy.clone());
            let (mut run, mut second) = (vec![0.0; N], vec![0.0; N]);
            let mut totals = [vec![0.0; N], vec![0.0; N], vec![0.0; N]];
            let [apart, plain, product] = &mut totals;
            if fast {
                affine(&mut y, &h, &mean, &scale, &bias);
                scale_and_shift(&mut frozen, &h, &scale, &bias);
                deviations(&h, &mean, &mut run, apart);
                gradient_sums(&h, &dy, &mean, (&mut run, &mut second), (plain, product));
                gradient(&h, &mut dh, &mean, &bias, &mean, &scale);
            } else {
                affine_body::<false>(&mut y, &h, &mean, &scale, &bias);
                scale_and_shift_body::<false>(&mut frozen, &h, &scale, &bias);
                deviations_body::<false>(&h, &mean, &mut run, apart);
                gradient_sums_body::<false>(&h, &dy, &mean, (&mut run, &mut second), (plain, product));
                gradient_body::<false>(&h, &mut dh, &mean, &bias, &mean, &scale);
            }
            let single = [y, frozen, dh].concat().into_iter().map(f64::from);
            single.chain(totals.concat()).collect::<Vec<f64>>()
        };
        for (fast, portable) in run(true).into_iter().zip(run(false)) {
            assert!((fast - portable).abs() <= 1e-5 * portable.abs().max(1.0), "{fast} {portable}");
        }
    }
}
