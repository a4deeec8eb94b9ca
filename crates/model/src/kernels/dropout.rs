//! Inverted dropout: masks from Philox, and their application, which is its own backward pass.

use super::vectorised;
use crate::philox::Stream;

/// Elements drawn at a time; a multiple of four.
const CHUNK: usize = 1024;

/// A word below this drops its element: the probability in units of 2^-32, rounded.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "dropout is validated to [0, 1)")]
pub(crate) fn threshold(dropout: f64) -> u32 {
    (dropout * 4_294_967_296.0).round().min(4_294_967_295.0) as u32
}

vectorised! {
    /// Sets `mask[e]` to 1 where element `first + e` is kept and to 0 where it is dropped.
    fn fill_mask(mask: &mut [u8], first: usize, stream: &Stream, threshold: u32) = fill_mask_body
}

#[inline(always)]
fn fill_mask_body<const FMA: bool>(mask: &mut [u8], first: usize, stream: &Stream, threshold: u32) {
    let mut words = [0_u32; CHUNK];
    let (mut block, mut skipped, mut mask) = (first / 4, first % 4, mask);
    while !mask.is_empty() {
        let (now, later) = mask.split_at_mut(mask.len().min(CHUNK - skipped));
        let words = &mut words[..skipped + now.len()];
        stream.fill_from(block, words);
        for (mask, &word) in now.iter_mut().zip(&words[skipped..]) {
            *mask = u8::from(word >= threshold);
        }
        (block, skipped, mask) = (block + CHUNK / 4, 0, later);
    }
}

vectorised! {
    /// x = x * scale where the mask is 1, and 0 elsewhere.
    fn apply(x: &mut [f32], mask: &[u8], scale: f32) = apply_body
}

#[inline(always)]
fn apply_body<const FMA: bool>(x: &mut [f32], mask: &[u8], scale: f32) {
    for (x, &mask) in x.iter_mut().zip(mask) {
        *x *= f32::from(mask) * scale;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::philox::Purpose;

    #[test]
    fn a_mask_is_made_of_its_streams_words_and_keeps_the_wanted_share() {
        let stream = Stream::new(3, 0, Purpose::Dropout, 17, 1);
        let mut mask = vec![9; 100_003];
        fill_mask(&mut mask, 0, &stream, threshold(0.3));
        for element in [0, 1, 1023, 1024, 5000, 100_002] {
            let word = stream.block(u32::try_from(element / 4).expect("small"))[element % 4];
            assert_eq!(mask[element], u8::from(word >= 1_288_490_189), "element {element}");
        }
        let kept = mask.iter().filter(|&&mask| mask == 1).count();
        assert!((69_500..70_500).contains(&kept), "{kept}");
        let mut portable = vec![9; 100_003];
        fill_mask_body::<false>(&mut portable, 0, &stream, threshold(0.3));
        assert!(mask == portable);
        for (first, len) in [(1, 3), (2, 1), (5, 3000), (1023, 1025), (4096, 1)] {
            let mut part = vec![9; len];
            fill_mask(&mut part, first, &stream, threshold(0.3));
            assert!(part == mask[first..first + len], "{len} from {first}");
        }
    }
}
