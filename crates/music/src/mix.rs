//! Numbers drawn by counting: the same words give the same number on every machine, in any order of asking.

/// A well-mixed 64-bit number of a sequence of words (each folded in by the finaliser of SplitMix64: Steele,
/// Lea and Flood, "Fast splittable pseudorandom number generators", 2014).
pub(crate) fn mix(words: &[u64]) -> u64 {
    words.iter().fold(0x9E37_79B9_7F4A_7C15, |state, &word| finalise(state ^ finalise(word)))
}

/// A number below `bound` (0 where the bound is 0), by multiplication: the bias is below `bound` / 2^64.
pub(crate) fn below(words: &[u64], bound: u64) -> u64 {
    u64::try_from((u128::from(mix(words)) * u128::from(bound)) >> 64).unwrap_or(0)
}

/// The hash of a text.
pub(crate) fn mix_text(seed: u64, text: &str) -> u64 {
    text.bytes().fold(mix(&[seed]), |state, byte| finalise(state ^ u64::from(byte)))
}

fn finalise(word: u64) -> u64 {
    let mut z = word.wrapping_add(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}
