//! The kind of arithmetic that this process computes with: equal kinds give equal bytes.

use std::sync::OnceLock;

use crate::checkpoint::digest;
use crate::kernels::level::Level;
use crate::kernels::matmul::{Into, Panels, product};
use crate::kernels::{FUSED_BY_DEFAULT, cell};
use crate::philox::{Purpose, Stream, unit};

/// For instance "cpu-fused-5c1f09ab": whether products and sums round together, which all vector levels do alike, and
/// a fingerprint of the arithmetic, so that a build whose kernels compute otherwise is of another kind.
#[must_use]
pub fn numerics() -> String {
    static KIND: OnceLock<String> = OnceLock::new();
    KIND.get_or_init(|| {
        let fused = FUSED_BY_DEFAULT || Level::chosen() != Level::Portable;
        let rounding = if fused { "fused" } else { "separate" };
        format!("cpu-{rounding}-{}", &fingerprint()[..8])
    })
    .clone()
}

/// A digest of the bits of a product and of a cell's step, which show the order of sums and the activations.
fn fingerprint() -> String {
    let (m, n, k) = (7, 20, 600);
    let (left, right) = (numbers(0, m * k), numbers(1, n * k));
    let mut z = vec![0.0; m * n];
    product(&mut z, Into::Set, &left, &Panels::transposed(&right, n, k));
    let (bias, c_before) = (numbers(2, n), numbers(3, m * n / 4));
    let [mut c, mut tanh_c, mut h] = [(); 3].map(|()| vec![0.0; m * n / 4]);
    let mut step = cell::Forward {
        z: &mut z,
        bias: &bias,
        c_before: &c_before,
        c: &mut c,
        tanh_c: &mut tanh_c,
        h: &mut h,
    };
    cell::forward(&mut step, n / 4);
    let bytes: Vec<u8> = z.iter().chain(&c).chain(&h).flat_map(|value| value.to_le_bytes()).collect();
    digest(&bytes)["sha256:".len()..].to_owned()
}

#[expect(clippy::cast_possible_truncation, reason = "f64 draws become f32 factors")]
fn numbers(layer: usize, count: usize) -> Vec<f32> {
    let stream = Stream::new(0, 0, Purpose::Bench, 0, layer);
    let mut words = vec![0; count];
    stream.fill_from(0, &mut words);
    words.into_iter().map(|word| (unit(word) - 0.5) as f32).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kind_is_the_same_each_time_it_is_measured() {
        assert_eq!(fingerprint(), fingerprint());
        assert!(numerics().starts_with("cpu-") && numerics() == numerics());
    }
}
