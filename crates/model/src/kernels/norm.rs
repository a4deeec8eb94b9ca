//! Batch normalisation over all rows of a window, with its backward pass.
//!
//! Ioffe and Szegedy (2015) with PyTorch's conventions: epsilon 1e-5, momentum 0.1, biased variance for the
//! normalisation and unbiased variance for the running statistics. Sums over rows are those of
//! [`ColumnSums`], some columns a thread.

use super::sum::ColumnSums;
use super::{mul_add, vectorised};

pub(crate) const EPSILON: f64 = 1e-5;
pub(crate) const MOMENTUM: f64 = 0.1;

/// A window's statistics of one layer, and what its passes multiply with; every vector has H numbers.
#[derive(Debug, Clone)]
pub(crate) struct Statistics {
    mean: Vec<f32>,
    /// 1 / sqrt(variance + epsilon)
    inverse_std: Vec<f32>,
    /// Weight times `inverse_std`.
    scale: Vec<f32>,
    /// The mean gradient, and that of its product with the deviation, for the backward pass.
    centre: Vec<f32>,
    slope: Vec<f32>,
}

/// One thread's part of measuring a layer.
#[derive(Debug, Clone)]
pub(crate) struct Measure {
    pub(crate) sums: ColumnSums,
    /// Of these columns, in f64 and rounded.
    exact: Vec<f64>,
    mean: Vec<f32>,
}

impl Measure {
    pub(crate) fn new(columns: std::ops::Range<usize>) -> Self {
        let len = columns.len();
        Self { sums: ColumnSums::new(columns), exact: vec![0.0; len], mean: vec![0.0; len] }
    }

    /// Mean and squared deviations of columns over all rows, which are handed out by `pieces` as often as asked, in
    /// the same order, each `[_, stride]`.
    #[expect(clippy::cast_possible_truncation, reason = "f64 sums become f32 statistics")]
    pub(crate) fn measure<'a, I: Iterator<Item = &'a [f32]>>(
        &mut self,
        rows: usize,
        stride: usize,
        pieces: impl Fn() -> I,
    ) {
        self.sums.clear();
        pieces().for_each(|piece| self.sums.add(piece, stride));
        self.sums.finish();
        for ((exact, mean), sum) in self.exact.iter_mut().zip(&mut self.mean).zip(&self.sums.first) {
            *exact = sum / count(rows);
            *mean = *exact as f32;
        }
        self.sums.clear();
        pieces().for_each(|piece| self.sums.add_deviations(piece, stride, &self.mean));
        self.sums.finish();
    }

    /// Sums of the output's gradient, of which the pieces come with those of h.
    pub(crate) fn measure_gradient<'a>(
        &mut self,
        stride: usize,
        mean: &[f32],
        pieces: impl Iterator<Item = (&'a [f32], &'a [f32])>,
    ) {
        let mean = &mean[self.sums.columns.clone()];
        self.sums.clear();
        pieces.for_each(|(h, dy)| self.sums.add_gradient(h, dy, stride, mean));
        self.sums.finish();
    }
}

impl Statistics {
    pub(crate) fn new(hidden: usize) -> Self {
        let zeros = || vec![0.0; hidden];
        Self { mean: zeros(), inverse_std: zeros(), scale: zeros(), centre: zeros(), slope: zeros() }
    }

    pub(crate) fn mean(&self) -> &[f32] {
        &self.mean
    }

    /// Takes over what was measured over `rows` rows, folds it into the running statistics, and makes ready for
    /// [`Self::normalise`] with `weight [H]`.
    #[expect(clippy::cast_possible_truncation, reason = "f64 sums become f32 statistics")]
    pub(crate) fn settle(
        &mut self,
        measured: &[Measure],
        rows: usize,
        weight: &[f32],
        running_mean: &mut [f32],
        running_var: &mut [f32],
    ) {
        let rows = count(rows);
        for part in measured {
            for (at, unit) in part.sums.columns.clone().enumerate() {
                // The rounding of the mean to f32 is taken back out of the sum of squares.
                let slip = part.exact[at] - f64::from(part.mean[at]);
                let squares = (part.sums.first[at] - rows * slip * slip).max(0.0);
                self.mean[unit] = part.mean[at];
                self.inverse_std[unit] = (1.0 / (squares / rows + EPSILON).sqrt()) as f32;
                self.scale[unit] = self.inverse_std[unit] * weight[unit];
                let fold = |running: &mut f32, value: f64| {
                    *running = (f64::from(*running) * (1.0 - MOMENTUM) + MOMENTUM * value) as f32;
                };
                fold(&mut running_mean[unit], part.exact[at]);
                fold(&mut running_var[unit], squares / (rows - 1.0));
            }
        }
    }

    /// y = (h - mean) / std * weight + bias, over [rows, H].
    pub(crate) fn normalise(&self, y: &mut [f32], h: &[f32], bias: &[f32]) {
        affine(y, h, &self.mean, &self.scale, bias);
    }

    /// The gradients of weight and bias from the sums over `rows` rows; makes ready for [`Self::backward`].
    #[expect(clippy::cast_possible_truncation, reason = "f64 sums become f32 gradients")]
    pub(crate) fn settle_gradient(
        &mut self,
        measured: &[Measure],
        rows: usize,
        d_weight: &mut [f32],
        d_bias: &mut [f32],
    ) {
        let rows = count(rows);
        for part in measured {
            for (at, unit) in part.sums.columns.clone().enumerate() {
                let inverse_std = f64::from(self.inverse_std[unit]);
                let (sum, product) = (part.sums.first[at], part.sums.second[at] * inverse_std);
                d_bias[unit] = sum as f32;
                d_weight[unit] = product as f32;
                self.centre[unit] = (sum / rows) as f32;
                self.slope[unit] = (product * inverse_std / rows) as f32;
            }
        }
    }

    /// From `dy [rows, H]`, the gradient of the normalised and scaled output, in place to that of `h`.
    pub(crate) fn backward(&self, h: &[f32], dy: &mut [f32]) {
        gradient(h, dy, &self.mean, &self.centre, &self.slope, &self.scale);
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
    use crate::kernels::level::at_each_level;

    #[test]
    fn a_normalised_window_has_mean_bias_and_spread_weight() {
        let h: Vec<f32> = (0..200_u16).flat_map(|row| [f32::from(row) / 10.0, f32::from(row % 7)]).collect();
        let mut statistics = Statistics::new(2);
        let mut measured = [Measure::new(0..1), Measure::new(1..2)];
        let (mut mean, mut var) = (vec![0.0; 2], vec![1.0; 2]);
        measured.iter_mut().for_each(|part| part.measure(200, 2, || h.chunks(14)));
        statistics.settle(&measured, 200, &[2.0, 0.5], &mut mean, &mut var);
        let mut y = vec![0.0; 400];
        statistics.normalise(&mut y, &h, &[1.0, -1.0]);
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
    fn every_level_equals_the_portable_code_within_rounding() {
        at_each_level(|_| {
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
                if fast {
                    affine(&mut y, &h, &mean, &scale, &bias);
                    scale_and_shift(&mut frozen, &h, &scale, &bias);
                    gradient(&h, &mut dh, &mean, &bias, &mean, &scale);
                } else {
                    affine_body::<false>(&mut y, &h, &mean, &scale, &bias);
                    scale_and_shift_body::<false>(&mut frozen, &h, &scale, &bias);
                    gradient_body::<false>(&h, &mut dh, &mean, &bias, &mean, &scale);
                }
                [y, frozen, dh].concat()
            };
            for (fast, portable) in run(true).into_iter().zip(run(false)) {
                assert!((fast - portable).abs() <= 1e-5 * portable.abs().max(1.0), "{fast} {portable}");
            }
        });
    }
}
