//! Matrix products over row-major slices, by the `gemm` crate, with their bounds checked here.

use gemm::Parallelism;

/// A matrix in a slice: `rows` x `cols`, possibly transposed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Mat<'a> {
    data: &'a [f32],
    rows: usize,
    cols: usize,
    row_stride: usize,
    col_stride: usize,
}

impl<'a> Mat<'a> {
    /// A row-major matrix that fills `data`.
    pub(crate) fn new(data: &'a [f32], rows: usize, cols: usize) -> Self {
        assert_eq!(data.len(), rows * cols, "a {rows} x {cols} matrix");
        Self { data, rows, cols, row_stride: cols, col_stride: 1 }
    }

    /// The same numbers, transposed; nothing is moved.
    pub(crate) fn t(self) -> Self {
        Self {
            rows: self.cols,
            cols: self.rows,
            row_stride: self.col_stride,
            col_stride: self.row_stride,
            ..self
        }
    }
}

/// `target = left * right`, or `target += left * right` with `accumulate`; `target` is row-major.
///
/// The sum over the inner dimension runs in an order that depends on the shapes and on the processor's cache
/// sizes, and not on `threads`, which only deals out tiles of the target.
pub(crate) fn product(target: &mut [f32], accumulate: bool, left: Mat<'_>, right: Mat<'_>, threads: usize) {
    let (m, n, k) = (left.rows, right.cols, left.cols);
    assert_eq!(k, right.rows, "inner dimensions");
    assert_eq!(target.len(), m * n, "a {m} x {n} target");
    let parallelism = if threads > 1 { Parallelism::Rayon(threads) } else { Parallelism::None };
    let stride = |value: usize| isize::try_from(value).expect("a slice is shorter than isize::MAX");
    // SAFETY: `Mat::new` and `t` keep (rows - 1) * row_stride + (cols - 1) * col_stride within the slice, the target
    // has m * n elements with strides (n, 1), and it is borrowed mutably, so that it overlaps neither operand.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            target.as_mut_ptr(),
            1,
            stride(n),
            accumulate,
            left.data.as_ptr(),
            stride(left.col_stride),
            stride(left.row_stride),
            right.data.as_ptr(),
            stride(right.col_stride),
            stride(right.row_stride),
            1.0_f32,
            1.0_f32,
            false,
            false,
            false,
            parallelism,
        );
    }
}

/// `target [cols, rows]` = the transpose of `source [rows, cols]`, in blocks that stay in the cache.
pub(crate) fn transpose(target: &mut [f32], source: &[f32], rows: usize, cols: usize) {
    const BLOCK: usize = 16;
    assert!(source.len() == rows * cols && target.len() == rows * cols, "a {rows} x {cols} matrix");
    for row in (0..rows).step_by(BLOCK) {
        for col in (0..cols).step_by(BLOCK) {
            for c in col..cols.min(col + BLOCK) {
                for r in row..rows.min(row + BLOCK) {
                    target[c * rows + r] = source[r * cols + c];
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::philox::{Purpose, Stream, normals};

    fn numbers(layer: usize, count: usize) -> Vec<f32> {
        let stream = Stream::new(1, 0, Purpose::Bench, 0, layer);
        #[expect(clippy::cast_possible_truncation, reason = "test data")]
        let drawn = (0..).flat_map(|index| normals(stream.block(index))).map(|x| x as f32);
        drawn.take(count).collect()
    }

    #[test]
    fn products_equal_the_naive_triple_loop_and_do_not_depend_on_threads() {
        for (m, n, k) in
            [(1, 1, 1), (3, 5, 7), (50, 512, 128), (512, 33, 3200), (5, 108, 64), (300, 1024, 256)]
        {
            let (a, b, start) = (numbers(0, m * k), numbers(1, k * n), numbers(2, m * n));
            let mut naive: Vec<f64> = start.iter().map(|&x| f64::from(x)).collect();
            for row in 0..m {
                for inner in 0..k {
                    for col in 0..n {
                        naive[row * n + col] += f64::from(a[row * k + inner]) * f64::from(b[inner * n + col]);
                    }
                }
            }
            let mut transposed = vec![0.0; k * n];
            transpose(&mut transposed, &b, k, n);
            let mut results = Vec::new();
            for threads in [1, 2, 3] {
                let mut target = start.clone();
                product(&mut target, true, Mat::new(&a, m, k), Mat::new(&transposed, n, k).t(), threads);
                for (&got, &wanted) in target.iter().zip(&naive) {
                    assert!(
                        (f64::from(got) - wanted).abs()
                            < 1e-5 * f64::from(u32::try_from(k).expect("small")).max(8.0)
                    );
                }
                results.push(target);
            }
            assert!(results[0] == results[1] && results[0] == results[2], "{m} x {n} x {k}");
        }
    }
}
