//! Sums over rows in a fixed order: runs of rows in f32, the runs in f64.

use std::ops::Range;

use super::{mul_add, vectorised};

/// Rows added in f32 before they go into the f64 sum.
const RUN: usize = 32;

/// Two sums for each of some columns of a matrix of which the rows come piece by piece. How the rows are cut into
/// pieces changes no bit, and neither does how the columns are dealt out.
#[derive(Debug, Clone)]
pub(crate) struct ColumnSums {
    pub(crate) columns: Range<usize>,
    pub(crate) first: Vec<f64>,
    pub(crate) second: Vec<f64>,
    run: Vec<f32>,
    second_run: Vec<f32>,
    /// Rows in the current run.
    counted: usize,
}

impl ColumnSums {
    pub(crate) fn new(columns: Range<usize>) -> Self {
        let len = columns.len();
        Self {
            columns,
            first: vec![0.0; len],
            second: vec![0.0; len],
            run: vec![0.0; len],
            second_run: vec![0.0; len],
            counted: 0,
        }
    }

    /// Forgets all rows.
    pub(crate) fn clear(&mut self) {
        self.first.fill(0.0);
        self.second.fill(0.0);
        self.run.fill(0.0);
        self.second_run.fill(0.0);
        self.counted = 0;
    }

    /// First sum: of x, over rows `[_, stride]`.
    pub(crate) fn add(&mut self, x: &[f32], stride: usize) {
        let start = self.columns.start;
        self.in_runs(x.len() / stride, |sums, rows| {
            plain(&x[rows.start * stride..rows.end * stride], stride, start, &mut sums.run);
        });
    }

    /// First sum: of (x - mean)^2, `mean` being that of these columns alone.
    pub(crate) fn add_deviations(&mut self, x: &[f32], stride: usize, mean: &[f32]) {
        let start = self.columns.start;
        self.in_runs(x.len() / stride, |sums, rows| {
            deviations(&x[rows.start * stride..rows.end * stride], stride, start, mean, &mut sums.run);
        });
    }

    /// First sum: of dy; second: of dy * (h - mean), `mean` being that of these columns alone.
    pub(crate) fn add_gradient(&mut self, h: &[f32], dy: &[f32], stride: usize, mean: &[f32]) {
        let start = self.columns.start;
        self.in_runs(h.len() / stride, |sums, rows| {
            let (h, dy) =
                (&h[rows.start * stride..rows.end * stride], &dy[rows.start * stride..rows.end * stride]);
            gradient(h, dy, stride, start, mean, (&mut sums.run, &mut sums.second_run));
        });
    }

    /// Adds the last, unfinished run.
    pub(crate) fn finish(&mut self) {
        flush(&mut self.run, &mut self.first);
        flush(&mut self.second_run, &mut self.second);
        self.counted = 0;
    }

    fn in_runs(&mut self, rows: usize, mut add: impl FnMut(&mut Self, Range<usize>)) {
        let mut done = 0;
        while done < rows {
            let count = (RUN - self.counted).min(rows - done);
            add(self, done..done + count);
            done += count;
            self.counted += count;
            if self.counted == RUN {
                self.finish();
            }
        }
    }
}

#[inline(always)]
fn flush(run: &mut [f32], total: &mut [f64]) {
    for (total, run) in total.iter_mut().zip(run) {
        *total += f64::from(*run);
        *run = 0.0;
    }
}

vectorised! {
    fn plain(x: &[f32], stride: usize, start: usize, run: &mut [f32]) = plain_body
}

#[inline(always)]
fn plain_body<const FMA: bool>(x: &[f32], stride: usize, start: usize, run: &mut [f32]) {
    for row in x.chunks_exact(stride) {
        for (run, &x) in run.iter_mut().zip(&row[start..]) {
            *run += x;
        }
    }
}

vectorised! {
    fn deviations(x: &[f32], stride: usize, start: usize, mean: &[f32], run: &mut [f32]) = deviations_body
}

#[inline(always)]
fn deviations_body<const FMA: bool>(x: &[f32], stride: usize, start: usize, mean: &[f32], run: &mut [f32]) {
    for row in x.chunks_exact(stride) {
        for ((run, &x), &mean) in run.iter_mut().zip(&row[start..]).zip(mean) {
            let apart = x - mean;
            *run = mul_add::<FMA>(apart, apart, *run);
        }
    }
}

vectorised! {
    fn gradient(h: &[f32], dy: &[f32], stride: usize, start: usize, mean: &[f32], runs: (&mut [f32], &mut [f32])) =
        gradient_body
}

#[inline(always)]
fn gradient_body<const FMA: bool>(
    h: &[f32],
    dy: &[f32],
    stride: usize,
    start: usize,
    mean: &[f32],
    runs: (&mut [f32], &mut [f32]),
) {
    let n = mean.len();
    let (plain, product) = (&mut runs.0[..n], &mut runs.1[..n]);
    for (h, dy) in h.chunks_exact(stride).zip(dy.chunks_exact(stride)) {
        let (h, dy) = (&h[start..start + n], &dy[start..start + n]);
        for unit in 0..n {
            plain[unit] += dy[unit];
            product[unit] = mul_add::<FMA>(dy[unit], h[unit] - mean[unit], product[unit]);
        }
    }
}

vectorised! {
    /// `table[token] +=` the columns `columns` of each row of `x [rows, stride]`, by the row's token.
    fn add_by_token(table: &mut [f32], x: &[f32], stride: usize, columns: Range<usize>, tokens: &[u16]) =
        add_by_token_body
}

#[inline(always)]
fn add_by_token_body<const FMA: bool>(
    table: &mut [f32],
    x: &[f32],
    stride: usize,
    columns: Range<usize>,
    tokens: &[u16],
) {
    let width = columns.len();
    for (row, &token) in x.chunks_exact(stride).zip(tokens) {
        let sums = &mut table[usize::from(token) * width..][..width];
        for (sum, x) in sums.iter_mut().zip(&row[columns.clone()]) {
            *sum += x;
        }
    }
}

vectorised! {
    /// The sum of squares, in f64 over eight interleaved lanes.
    fn squares(x: &[f32]) -> f64 = squares_body
}

#[inline(always)]
fn squares_body<const FMA: bool>(x: &[f32]) -> f64 {
    let mut lanes = [0.0_f64; 8];
    let chunks = x.chunks_exact(8);
    let rest = chunks.remainder();
    for chunk in chunks {
        for (lane, &x) in lanes.iter_mut().zip(chunk) {
            *lane += f64::from(x) * f64::from(x);
        }
    }
    for (lane, &x) in lanes.iter_mut().zip(rest) {
        *lane += f64::from(x) * f64::from(x);
    }
    lanes.iter().sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::level::at_each_level;

    #[test]
    fn sums_are_exact_on_small_whole_numbers() {
        let x: Vec<f32> = (0..70_u8).flat_map(|row| [f32::from(row), 1.0, -f32::from(row)]).collect();
        at_each_level(|_| {
            let mut sums = ColumnSums::new(0..3);
            sums.add(&x, 3);
            sums.finish();
            assert_eq!(sums.first, [2415.0, 70.0, -2415.0]);
            sums.clear();
            sums.add_deviations(&x, 3, &[0.0, 3.0, 0.0]);
            sums.finish();
            assert_eq!(sums.first, [111_895.0, 280.0, 111_895.0]);
            sums.clear();
            sums.add_gradient(&x, &x, 3, &[1.0, 0.0, 0.0]);
            sums.finish();
            assert_eq!((sums.first[0], sums.second[0]), (2415.0, 111_895.0 - 2415.0));
            assert_eq!(squares(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0, 11.0]), 506.0);
        });
    }

    #[test]
    fn neither_pieces_nor_columns_nor_the_instruction_set_change_a_sums_bits() {
        const N: usize = 37;
        let number = |place: u32| f32::from(u16::try_from(place * 37 % 1009).expect("small")) / 7.0;
        let x: Vec<f32> = (0..131 * 37).map(number).collect();
        let mut whole = ColumnSums::new(0..N);
        whole.add(&x, N);
        whole.finish();
        at_each_level(|level| {
            for columns in [0..N, 0..5, 5..36, 36..37] {
                let mut part = ColumnSums::new(columns.clone());
                for piece in [0..50, 50..51, 51..131] {
                    part.add(&x[piece.start * N..piece.end * N], N);
                }
                part.finish();
                assert_eq!(part.first, whole.first[columns], "{level:?}");
            }
            assert_eq!(squares(&x).to_bits(), squares_body::<false>(&x).to_bits(), "{level:?}");
        });
    }
}
