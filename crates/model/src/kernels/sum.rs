//! Sums of rows in a fixed order: short runs in f32, runs in f64.

use super::vectorised;

/// Rows added in f32 before they go into the f64 sum.
const RUN: usize = 32;

vectorised! {
    /// `total[c] +=` the sum over rows of `x [rows, cols]`; `run` is scratch of `cols` numbers.
    fn columns(x: &[f32], run: &mut [f32], total: &mut [f64]) = columns_body
}

#[inline(always)]
fn columns_body<const FMA: bool>(x: &[f32], run: &mut [f32], total: &mut [f64]) {
    let cols = total.len();
    let run = &mut run[..cols];
    for rows in x.chunks(RUN * cols) {
        run.fill(0.0);
        for row in rows.chunks_exact(cols) {
            for (run, &x) in run.iter_mut().zip(row) {
                *run += x;
            }
        }
        flush(run, total);
    }
}

/// Adds a finished run to the sum.
#[inline(always)]
pub(crate) fn flush(run: &[f32], total: &mut [f64]) {
    for (total, &run) in total.iter_mut().zip(run) {
        *total += f64::from(run);
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

    #[test]
    fn sums_are_exact_on_small_whole_numbers() {
        let x: Vec<f32> = (0..70_u8).flat_map(|row| [f32::from(row), 1.0, -f32::from(row)]).collect();
        let mut total = vec![0.5; 3];
        columns(&x, &mut [9.0; 4], &mut total);
        assert_eq!(total, [2415.5, 70.5, -2414.5]);
        assert_eq!(squares(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0, 11.0]), 506.0);
    }

    #[test]
    fn the_vector_code_adds_in_the_order_of_the_portable_code() {
        let x: Vec<f32> = (0..1001_u16).map(|x| f32::from(x * 37 % 1009) / 7.0).collect();
        assert_eq!(squares(&x).to_bits(), squares_body::<false>(&x).to_bits());
        let (mut fast, mut portable) = (vec![0.0; 11], vec![0.0; 11]);
        columns(&x, &mut [0.0; 11], &mut fast);
        columns_body::<false>(&x, &mut [0.0; 11], &mut portable);
        assert_eq!(fast, portable);
    }
}
