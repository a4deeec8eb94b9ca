//! A few rows times a large fixed matrix, as decoding needs it: each row's numbers do not depend on the others.
//!
//! A general matrix product picks its order of summation by the shapes; here a row's sum runs over the inner
//! dimension from first to last whatever is beside it, so that decoding alone or in a batch gives the same tokens.

use super::{mul_add, vectorised};

/// Columns summed at once: eight registers of eight.
const WIDTH: usize = 64;

/// A matrix `[inner, cols]`, cut into panels of [`WIDTH`] columns; the last one is padded with zeros.
#[derive(Debug, Clone)]
pub(crate) struct Panels {
    /// [ceil(cols / WIDTH), inner, WIDTH]
    data: Vec<f32>,
    inner: usize,
    cols: usize,
}

impl Panels {
    /// The transpose of a row-major `weight [cols, inner]`, which is how PyTorch keeps its weights.
    pub(crate) fn transposed(weight: &[f32], cols: usize, inner: usize) -> Self {
        assert_eq!(weight.len(), cols * inner, "a {cols} x {inner} matrix");
        let mut data = vec![0.0; cols.div_ceil(WIDTH) * inner * WIDTH];
        for (col, row) in weight.chunks_exact(inner).enumerate() {
            let panel = &mut data[col / WIDTH * inner * WIDTH..][..inner * WIDTH];
            for (at, &value) in row.iter().enumerate() {
                panel[at * WIDTH + col % WIDTH] = value;
            }
        }
        Self { data, inner, cols }
    }
}

vectorised! {
    /// `target [rows, cols] += left [rows, inner] * right [inner, cols]`.
    fn add_product(target: &mut [f32], left: &[f32], right: &Panels) = add_product_body
}

#[inline(always)]
fn add_product_body<const FMA: bool>(target: &mut [f32], left: &[f32], right: &Panels) {
    let (inner, cols) = (right.inner, right.cols);
    assert_eq!(target.len() / cols, left.len() / inner, "rows");
    for (at, panel) in right.data.chunks_exact(inner * WIDTH).enumerate() {
        let first = at * WIDTH;
        let width = WIDTH.min(cols - first);
        for (target, left) in target.chunks_exact_mut(cols).zip(left.chunks_exact(inner)) {
            let mut sums = [0.0_f32; WIDTH];
            for (&x, weights) in left.iter().zip(panel.chunks_exact(WIDTH)) {
                for (sum, &weight) in sums.iter_mut().zip(weights) {
                    *sum = mul_add::<FMA>(x, weight, *sum);
                }
            }
            for (target, sum) in target[first..first + width].iter_mut().zip(sums) {
                *target += sum;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::philox::{Purpose, Stream, normals};

    fn numbers(layer: usize, count: usize) -> Vec<f32> {
        let stream = Stream::new(2, 0, Purpose::Bench, 0, layer);
        #[expect(clippy::cast_possible_truncation, reason = "test data")]
        let drawn = (0..).flat_map(|index| normals(stream.block(index))).map(|x| x as f32);
        drawn.take(count).collect()
    }

    #[test]
    fn products_equal_the_naive_triple_loop() {
        for (rows, cols, inner) in [(1, 1, 1), (3, 63, 5), (2, 64, 9), (5, 130, 31), (1, 1024, 256)] {
            let (left, weight, start) =
                (numbers(0, rows * inner), numbers(1, cols * inner), numbers(2, rows * cols));
            let mut got = start.clone();
            add_product(&mut got, &left, &Panels::transposed(&weight, cols, inner));
            for row in 0..rows {
                for col in 0..cols {
                    let dot =
                        |at: usize| f64::from(left[row * inner + at]) * f64::from(weight[col * inner + at]);
                    let wanted = f64::from(start[row * cols + col]) + (0..inner).map(dot).sum::<f64>();
                    assert!(
                        (f64::from(got[row * cols + col]) - wanted).abs() < 1e-4,
                        "{rows} {cols} {inner}"
                    );
                }
            }
        }
    }

    #[test]
    fn a_rows_product_is_the_same_alone_and_among_others() {
        let (left, weight) = (numbers(0, 5 * 37), numbers(1, 200 * 37));
        let panels = Panels::transposed(&weight, 200, 37);
        let mut together = vec![0.0; 5 * 200];
        add_product(&mut together, &left, &panels);
        for (row, left) in left.chunks_exact(37).enumerate() {
            let mut alone = vec![0.0; 200];
            add_product(&mut alone, left, &panels);
            assert_eq!(alone, together[row * 200..(row + 1) * 200]);
        }
    }
}
