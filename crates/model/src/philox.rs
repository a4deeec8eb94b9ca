//! Philox 4x32-10: random numbers that depend on what they are for and not on what was drawn before.
//!
//! Salmon, Moraes, Dror, Shaw: "Parallel random numbers: as easy as 1, 2, 3" (SC 2011). The key is the seed; the
//! 128-bit counter holds (block, update, replicate, purpose, layer), so that no two draws of a training run share
//! one, and any of them can be made again by itself.

const ROUND_A: u32 = 0xD251_1F53;
const ROUND_B: u32 = 0xCD9E_8D57;
const WEYL_A: u32 = 0x9E37_79B9;
const WEYL_B: u32 = 0xBB67_AE85;

/// Blocks made at once by [`Stream::fill_from`]; a multiple of the widest vector.
const LANES: usize = 8;

/// What a number is drawn for. The values are part of every checkpoint's meaning: never change one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// First values of parameters; the layer is the tensor's place in the flat vector.
    Init = 0,
    /// Dropout masks of training; the layer is the LSTM layer.
    Dropout = 1,
    /// Tokens of a benchmark.
    Bench = 2,
    /// Choices while composing.
    Sample = 3,
}

/// The four words of one counter under one key.
#[must_use]
pub fn block(counter: [u32; 4], key: [u32; 2]) -> [u32; 4] {
    let lanes = rounds(counter.map(|word| [word]), key);
    lanes.map(|[word]| word)
}

#[inline(always)]
fn rounds<const N: usize>(counter: [[u32; N]; 4], key: [u32; 2]) -> [[u32; N]; 4] {
    let [mut c0, mut c1, mut c2, mut c3] = counter;
    let [mut k0, mut k1] = key;
    for _ in 0..10 {
        for lane in 0..N {
            let (low_a, high_a) = c0[lane].widening(ROUND_A);
            let (low_b, high_b) = c2[lane].widening(ROUND_B);
            c0[lane] = high_b ^ c1[lane] ^ k0;
            c2[lane] = high_a ^ c3[lane] ^ k1;
            c1[lane] = low_b;
            c3[lane] = low_a;
        }
        k0 = k0.wrapping_add(WEYL_A);
        k1 = k1.wrapping_add(WEYL_B);
    }
    [c0, c1, c2, c3]
}

trait Widening {
    /// The low and the high word of the product.
    fn widening(self, other: Self) -> (Self, Self)
    where
        Self: Sized;
}

impl Widening for u32 {
    #[inline(always)]
    #[expect(clippy::cast_possible_truncation, reason = "the two halves of a product are what is wanted")]
    fn widening(self, other: Self) -> (Self, Self) {
        let product = u64::from(self) * u64::from(other);
        (product as u32, (product >> 32) as u32)
    }
}

/// The numbers of one purpose, update and layer, by element.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stream {
    key: [u32; 2],
    /// The counter's three upper words.
    upper: [u32; 3],
}

impl Stream {
    /// `update` counts from 0 and must stay below 2^48, `layer` below 256.
    #[must_use]
    #[expect(clippy::cast_possible_truncation, reason = "words are cut out of wider numbers on purpose")]
    pub fn new(seed: u64, replicate: u32, purpose: Purpose, update: u64, layer: usize) -> Self {
        assert!(update < 1 << 48 && layer < 256, "a counter field is too small for its number");
        let tag = ((purpose as u32) << 24) | ((layer as u32) << 16) | (update >> 32) as u32;
        Self { key: [seed as u32, (seed >> 32) as u32], upper: [update as u32, replicate, tag] }
    }

    /// Elements `4 * index .. 4 * index + 4`.
    #[must_use]
    pub fn block(&self, index: u32) -> [u32; 4] {
        let [a, b, c] = self.upper;
        block([index, a, b, c], self.key)
    }

    /// Fills `words` with the elements from `4 * first_block` on.
    #[inline(always)]
    #[expect(
        clippy::cast_possible_truncation,
        reason = "a stream has 2^32 blocks, more than any window has elements"
    )]
    pub fn fill_from(&self, first_block: usize, words: &mut [u32]) {
        let [a, b, c] = self.upper;
        let mut first = first_block as u32;
        for chunk in words.chunks_mut(4 * LANES) {
            let mut index = [0_u32; LANES];
            for (index, lane) in index.iter_mut().zip(0..) {
                *index = first.wrapping_add(lane);
            }
            let made = rounds([index, [a; LANES], [b; LANES], [c; LANES]], self.key);
            for (block, words) in chunk.chunks_mut(4).enumerate() {
                for (word, made) in words.iter_mut().zip(&made) {
                    *word = made[block];
                }
            }
            first = first.wrapping_add(LANES as u32);
        }
    }
}

/// `word` as a number in the open interval (0, 1).
#[must_use]
pub fn unit(word: u32) -> f64 {
    (f64::from(word) + 0.5) / 4_294_967_296.0
}

/// Four standard normal numbers from a block (Box and Muller), the same on every platform: the logarithm and the
/// circular functions are those of the `libm` crate, not of the system.
#[must_use]
pub fn normals(block: [u32; 4]) -> [f64; 4] {
    let pair = |radius: u32, angle: u32| {
        let radius = (-2.0 * libm::log(unit(radius))).sqrt();
        let (sin, cos) = libm::sincos(std::f64::consts::TAU * unit(angle));
        (radius * cos, radius * sin)
    };
    let (a, b) = pair(block[0], block[1]);
    let (c, d) = pair(block[2], block[3]);
    [a, b, c, d]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_equal_the_known_answers_of_random123() {
        let cases = [
            ([0; 4], [0; 2], [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]),
            ([u32::MAX; 4], [u32::MAX; 2], [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]),
            (
                [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344],
                [0xa409_3822, 0x299f_31d0],
                [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1],
            ),
        ];
        for (counter, key, expected) in cases {
            assert_eq!(block(counter, key), expected);
        }
    }

    #[test]
    fn filling_gives_the_same_elements_as_blocks_one_by_one() {
        let stream = Stream::new(7, 3, Purpose::Dropout, 1 << 33, 2);
        let mut words = vec![0; 83];
        stream.fill_from(5, &mut words);
        for (element, &word) in words.iter().enumerate() {
            let index = u32::try_from(5 + element / 4).expect("small");
            assert_eq!(stream.block(index)[element % 4], word, "element {element}");
        }
    }

    #[test]
    fn every_part_of_the_key_changes_the_numbers() {
        let all = [
            Stream::new(1, 0, Purpose::Init, 0, 0),
            Stream::new(1 << 32, 0, Purpose::Init, 0, 0),
            Stream::new(1, 1, Purpose::Init, 0, 0),
            Stream::new(1, 0, Purpose::Dropout, 0, 0),
            Stream::new(1, 0, Purpose::Init, 1, 0),
            Stream::new(1, 0, Purpose::Init, 1 << 32, 0),
            Stream::new(1, 0, Purpose::Init, 0, 1),
        ];
        for (place, stream) in all.iter().enumerate() {
            for other in &all[place + 1..] {
                assert_ne!(stream.block(0), other.block(0));
            }
        }
    }

    #[test]
    fn normal_numbers_have_mean_zero_and_variance_one() {
        let stream = Stream::new(5, 0, Purpose::Init, 0, 0);
        let drawn: Vec<f64> = (0..25_000).flat_map(|index| normals(stream.block(index))).collect();
        let count = 100_000.0;
        let mean = drawn.iter().sum::<f64>() / count;
        let variance = drawn.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / count;
        let fourth = drawn.iter().map(|x| (x - mean).powi(4)).sum::<f64>() / count;
        assert!(mean.abs() < 0.013 && (variance - 1.0).abs() < 0.018 && (fourth - 3.0).abs() < 0.15);
    }
}
