//! The kind of arithmetic that this process computes with: equal kinds give equal bytes.

use std::sync::OnceLock;

use crate::checkpoint::digest;
use crate::kernels::gemm::{Mat, product};
use crate::kernels::has_avx2;
use crate::philox::{Purpose, Stream, unit};

/// For instance "cpu-avx2-5c1f09ab": the instruction set of the element-wise kernels, and a fingerprint of how
/// matrix products are summed, which depends on the processor's instruction set and on its cache sizes.
#[must_use]
pub fn numerics() -> String {
    static KIND: OnceLock<String> = OnceLock::new();
    KIND.get_or_init(|| {
        let kernels = if has_avx2() { "avx2" } else { "portable" };
        format!("cpu-{kernels}-{}", &product_fingerprint()[..8])
    })
    .clone()
}

/// A digest of the bits of a few products whose rounding shows the order of their sums.
fn product_fingerprint() -> String {
    let mut bytes = Vec::new();
    for (layer, (m, n, k)) in [(50, 64, 128), (64, 256, 3200), (16, 1024, 512)].into_iter().enumerate() {
        let left = numbers(2 * layer, m * k);
        let right = numbers(2 * layer + 1, k * n);
        let mut target = vec![0.0; m * n];
        product(&mut target, false, Mat::new(&left, m, k), Mat::new(&right, k, n), 1);
        bytes.extend(target.iter().flat_map(|value| value.to_le_bytes()));
    }
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
        assert_eq!(product_fingerprint(), product_fingerprint());
        assert!(numerics().starts_with("cpu-") && numerics() == numerics());
    }
}
