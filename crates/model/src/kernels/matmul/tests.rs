//! Products against their definition: the same bits at every level, shape and packing, and near the true value.

use super::*;
use crate::kernels::level::at_each_level;
use crate::kernels::{FUSED_BY_DEFAULT, mul_add};
use crate::philox::{Purpose, Stream, normals};

/// Of a sum of k products of standard normal numbers, against f64: k roundings of numbers up to about sqrt(k).
const TOLERANCE: f64 = 1e-6;

fn numbers(layer: usize, count: usize) -> Vec<f32> {
    let stream = Stream::new(1, 0, Purpose::Bench, 0, layer);
    #[expect(clippy::cast_possible_truncation, reason = "test data")]
    let drawn = (0..).flat_map(|index| normals(stream.block(index))).map(|x| x as f32);
    drawn.take(count).collect()
}

/// The definition: three loops, the inner dimension in the blocks and order that this module promises; and in f64.
fn naive<const FUSED: bool>(
    start: &[f32],
    left: &[f32],
    right: &[f32],
    k: usize,
    n: usize,
) -> (Vec<f32>, Vec<f64>) {
    let (mut target, mut wide) = (start.to_vec(), Vec::new());
    for (place, target) in target.iter_mut().enumerate() {
        let (row, col) = (place / n, place % n);
        let mut exact = f64::from(*target);
        for block in Cut::at_most(k, BLOCK).ranges() {
            let mut sum = 0.0;
            for inner in block {
                let (a, b) = (left[row * k + inner], right[inner * n + col]);
                sum = mul_add::<FUSED>(a, b, sum);
                exact += f64::from(a) * f64::from(b);
            }
            *target += sum;
        }
        wide.push(exact);
    }
    (target, wide)
}

fn transpose(x: &[f32], rows: usize, cols: usize) -> Vec<f32> {
    (0..rows * cols).map(|place| x[place % rows * cols + place / rows]).collect()
}

#[test]
fn products_equal_their_definition_to_the_bit_at_every_level_and_shape() {
    let shapes: &[(usize, usize, usize)] = if cfg!(miri) {
        &[(1, 1, 1), (15, 3, 33), (3, 258, 2)]
    } else {
        &[
            (1, 1, 1),
            (3, 7, 5),
            (13, 21, 84),
            (14, 64, 32),
            (29, 255, 15),
            (50, 256, 110),
            (51, 257, 17),
            (300, 600, 40),
        ]
    };
    for &(m, k, n) in shapes {
        let (left, right, start) = (numbers(0, m * k), numbers(1, k * n), numbers(2, m * n));
        let (fused, exact) = naive::<true>(&start, &left, &right, k, n);
        let (separate, _) = naive::<false>(&start, &left, &right, k, n);
        at_each_level(|level| {
            let mut panels = Panels::new(k, n);
            panels.pack_rows(0, &right);
            let mut target = start.clone();
            product(&mut target, Into::Add, &left, &panels);
            let wanted = if level == Level::Portable && !FUSED_BY_DEFAULT { &separate } else { &fused };
            assert!(target == *wanted, "{m} x {k} x {n} at {level:?}");
            let bound = TOLERANCE * f64::from(u32::try_from(k).expect("small")).max(8.0);
            assert!(target.iter().zip(&exact).all(|(&a, b)| (f64::from(a) - b).abs() < bound));

            let mut tiles = Tiles::new(k, m);
            let columns = transpose(&left, m, k);
            let middle = k / 2 * m;
            tiles.pack_columns(0, &columns[..middle], m, 0);
            tiles.pack_columns(k / 2, &columns[middle..], m, 0);
            let mut target = start.clone();
            product_tiles(&mut target, Into::Add, &tiles, &panels);
            assert!(target == *wanted, "{m} x {k} x {n} by tiles at {level:?}");
            product_tiles(
                &mut target,
                Into::Set,
                &tiles,
                &Panels::transposed(&transpose(&right, k, n), n, k),
            );
            let mut again = vec![f32::NAN; m * n];
            product(&mut again, Into::Set, &left, &panels);
            assert!(target == again, "{m} x {k} x {n} set at {level:?}");
        });
    }
}

#[test]
fn a_part_of_a_matrix_gives_the_rows_that_the_whole_gives() {
    let (m, k, n) = (50, 40, 24);
    let (columns, right) = (numbers(3, m * k), numbers(4, k * n));
    at_each_level(|level| {
        let mut panels = Panels::new(k, n);
        panels.pack_rows(0, &right);
        let [mut whole, mut part] = [vec![0.0; m * n], vec![0.0; 17 * n]];
        let mut tiles = Tiles::new(k, m);
        tiles.pack_columns(0, &columns, m, 0);
        product_tiles(&mut whole, Into::Set, &tiles, &panels);
        let mut tiles = Tiles::new(k + 5, 17);
        tiles.set_inner(k);
        tiles.pack_columns(0, &columns, m, 20);
        product_tiles(&mut part, Into::Set, &tiles, &panels);
        assert!(part == whole[20 * n..37 * n], "{level:?}");
    });
}
