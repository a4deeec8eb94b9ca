//! Sigmoid, tanh and e^x against f64, on a sample of all f32 and on every number near a special one. All 2^32, in a
//! few minutes, with the worst errors printed:
//!
//! `KAPELL_ACTIVATION_STRIDE=1 cargo test --release -p kapell-model activation -- --nocapture`

use std::ops::RangeInclusive;

use super::*;

/// Numbers that a kernel is given at once.
const BLOCK: usize = 4096;
type Block = [f32; BLOCK];
/// The bits of the largest NaN without its sign: all f32 that are not negative come before it.
const LAST: u32 = SIGN - 1;
/// A prime, so that the low bits of the numbers in the sample differ.
const STRIDE: u32 = if cfg!(miri) { 15_485_863 } else { 1_511 };
/// Every number within so many of a special one is tried, too.
const NEIGHBOURS: u32 = if cfg!(miri) { 8 } else { 1 << 13 };

/// How far a function that rises may fall below an earlier value, since its roundings are others at every number:
/// tanh by 3 units in the last place, the others by one.
const FALL_ULPS: f64 = 3.0;

/// Defines `$fused` and `$plain`, which apply the function to a block with and without fused products.
macro_rules! over_blocks {
    ($function:ident, $fused:ident, $plain:ident) => {
        fn $plain(x: &Block, y: &mut Block) {
            for (x, y) in x.iter().zip(y) {
                *y = $function::<false>(*x);
            }
        }

        fn $fused(x: &Block, y: &mut Block) {
            #[inline(always)]
            fn body(x: &Block, y: &mut Block) {
                for (x, y) in x.iter().zip(y) {
                    *y = $function::<true>(*x);
                }
            }
            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx2,fma")]
                fn wide(x: &Block, y: &mut Block) {
                    body(x, y);
                }
                if std::arch::is_x86_feature_detected!("avx2") && std::arch::is_x86_feature_detected!("fma") {
                    // SAFETY: both features that `wide` is compiled for have just been found.
                    return unsafe { wide(x, y) };
                }
            }
            body(x, y);
        }
    };
}

over_blocks!(sigmoid, sigmoid_fused, sigmoid_plain);
over_blocks!(tanh, tanh_fused, tanh_plain);
over_blocks!(exp_negative, exp_fused, exp_plain);

/// A function of this file, with and without fused products, and what is asked of it.
#[derive(Clone, Copy)]
struct Case {
    name: &'static str,
    functions: [fn(&Block, &mut Block); 2],
    truth: fn(f64) -> f64,
    /// Units in the last place.
    bound: f64,
    range: (f32, f32),
    odd: bool,
    /// The signs of the numbers to try; for what is found odd one is enough.
    signs: &'static [u32],
}

fn cases() -> [Case; 3] {
    // Written so that nothing is lost in f64 where the result is small.
    let sigmoid_truth = |x: f64| {
        let small = (-x.abs()).exp();
        if x < 0.0 { small / (1.0 + small) } else { 1.0 / (1.0 + small) }
    };
    let sigmoid = Case {
        name: "sigmoid",
        functions: [sigmoid_plain, sigmoid_fused],
        truth: sigmoid_truth,
        bound: 2.6,
        range: (0.0, 1.0),
        odd: false,
        signs: &[0, SIGN],
    };
    let tanh = Case {
        name: "tanh",
        functions: [tanh_plain, tanh_fused],
        truth: f64::tanh,
        range: (-1.0, 1.0),
        odd: true,
        signs: &[0],
        ..sigmoid
    };
    let functions = [exp_plain, exp_fused];
    let exp = Case { name: "exp", functions, truth: f64::exp, bound: 1.5, signs: &[SIGN], ..sigmoid };
    [sigmoid, tanh, exp]
}

/// The distance between the f32 around a number; that of denormals from the smallest normal number down.
fn ulp(value: f64) -> f64 {
    let exponent = ((value.to_bits() >> 52) & 0x7ff).max(1023 - 126);
    f64::from_bits((exponent - 23) << 52)
}

/// The largest error that has been seen, and the deepest fall below an earlier value of a function that rises.
#[derive(Debug, Clone, Copy, Default)]
struct Worst {
    ulps: f64,
    at: f32,
    fall_ulps: f64,
}

impl Worst {
    fn see(&mut self, ulps: f64, at: f32, fall_ulps: f64) {
        // An error that is NaN counts, too.
        if ulps.is_nan() || ulps > self.ulps {
            (self.ulps, self.at) = (ulps, at);
        }
        self.fall_ulps = self.fall_ulps.max(fall_ulps);
    }

    #[track_caller]
    fn check(&self, case: &Case, function: usize) {
        let name = case.name;
        assert!(self.ulps <= case.bound && self.fall_ulps <= FALL_ULPS, "{name} {function}: {self:?}");
    }
}

/// Tries every `stride`-th number of a range of bit patterns, from small to large, with the sign on or off; what was
/// found without and with fused products.
fn try_range(case: &Case, range: RangeInclusive<u32>, stride: u32, sign: u32) -> [Worst; 2] {
    let mut worst = [Worst::default(); 2];
    let (mut x, mut y, mut mirrored) = ([0.0; BLOCK], [0.0; BLOCK], [0.0; BLOCK]);
    let mut truth = [0.0; BLOCK];
    // All of them rise with x, so they fall on the way from -0 down.
    let rises = sign == 0;
    let mut extreme = [f32::NAN; 2];
    let mut bits = *range.start();
    while bits <= *range.end() {
        let left = (range.end() - bits) / stride + 1;
        let count = usize::try_from(left).map_or(BLOCK, |left| left.min(BLOCK));
        for ((x, truth), step) in x[..count].iter_mut().zip(&mut truth).zip(0..) {
            *x = f32::from_bits((bits + step * stride) | sign);
            *truth = (case.truth)(f64::from(*x));
        }
        for ((f, worst), extreme) in case.functions.iter().zip(&mut worst).zip(&mut extreme) {
            f(&x, &mut y);
            if case.odd {
                f(&x.map(|x| -x), &mut mirrored);
            }
            for (((&x, &y), &mirrored), &truth) in x[..count].iter().zip(&y).zip(&mirrored).zip(&truth) {
                if x.is_nan() {
                    assert!(y.is_nan(), "{}({x}) is {y}", case.name);
                    continue;
                }
                assert!((case.range.0..=case.range.1).contains(&y), "{}({x:e}) is {y}", case.name);
                assert!(
                    !case.odd || (-mirrored).to_bits() == y.to_bits(),
                    "{} is not odd at {x:e}",
                    case.name
                );
                let further = if rises { y - *extreme } else { *extreme - y };
                if further.is_nan() || further >= 0.0 {
                    *extreme = y;
                }
                let unit = ulp(truth);
                worst.see((f64::from(y) - truth).abs() / unit, x, f64::from(-further) / unit);
            }
        }
        // Past the last number there is room: none has its sign yet.
        bits += u32::try_from(count).unwrap() * stride;
    }
    worst
}

/// Tries a case on one sign's numbers, by as many threads as there are cores; neighbouring parts share a number, so
/// that a fall between them is seen.
fn try_all(case: &Case, stride: u32, sign: u32) -> [Worst; 2] {
    let parts = std::thread::available_parallelism().map_or(1, |n| u32::try_from(n.get()).unwrap_or(1));
    let steps = LAST / stride;
    let bits = |part: u32| steps / parts * part * stride;
    let found: Vec<[Worst; 2]> = std::thread::scope(|scope| {
        let parts = (0..parts).map(|part| {
            let end = if part + 1 == parts { LAST } else { bits(part + 1) };
            scope.spawn(move || try_range(case, bits(part)..=end, stride, sign))
        });
        let running: Vec<_> = parts.collect();
        running.into_iter().map(|part| part.join().unwrap()).collect()
    });
    let mut worst = [Worst::default(); 2];
    for part in found {
        for (worst, part) in worst.iter_mut().zip(part) {
            worst.see(part.ulps, part.at, part.fall_ulps);
        }
    }
    worst
}

#[test]
#[expect(clippy::print_stdout, reason = "who tries all numbers wants to see the worst one")]
fn a_sample_of_all_numbers_is_within_the_bound_and_in_range_and_rises() {
    let stride = std::env::var("KAPELL_ACTIVATION_STRIDE").map_or(STRIDE, |text| text.parse().unwrap());
    for case in cases() {
        for &sign in case.signs {
            for (function, worst) in try_all(&case, stride, sign).iter().enumerate() {
                let side = if sign == 0 { "x >= 0" } else { "x <= 0" };
                let kind = ["plain", "fused"][function];
                println!(
                    "{:7} {kind} {side}: {:.3} ulps at most, at {:e}; falls by {} ulps at most",
                    case.name, worst.ulps, worst.at, worst.fall_ulps
                );
                worst.check(&case, function);
            }
        }
    }
}

#[test]
fn every_number_near_a_special_one_is_within_the_bound() {
    let special = [
        0.0,
        f32::MIN_POSITIVE,
        f32::EPSILON,
        std::f32::consts::LN_2 / 2.0,
        1.0,
        10.0,
        20.0,
        40.0,
        // Where e^-x turns denormal, e^x overflows, and e^-x becomes zero.
        87.336_55,
        88.722_84,
        103.972_08,
        VANISHES,
        f32::MAX,
    ];
    for case in cases() {
        for (centre, &sign) in special.iter().flat_map(|x| case.signs.iter().map(|sign| (x.to_bits(), sign)))
        {
            let near = centre.saturating_sub(NEIGHBOURS)..=(centre + NEIGHBOURS);
            for (function, worst) in try_range(&case, near, 1, sign).iter().enumerate() {
                worst.check(&case, function);
            }
        }
    }
}

#[test]
fn the_ends_are_exact() {
    for (low, zero, high) in [
        (sigmoid::<true>(f32::NEG_INFINITY), sigmoid::<true>(0.0), sigmoid::<true>(f32::INFINITY)),
        (sigmoid::<false>(f32::NEG_INFINITY), sigmoid::<false>(-0.0), sigmoid::<false>(f32::INFINITY)),
    ] {
        assert_eq!((low, zero, high), (0.0, 0.5, 1.0));
    }
    for tanh in [tanh::<true>, tanh::<false>] {
        assert_eq!((tanh(f32::NEG_INFINITY), tanh(f32::INFINITY)), (-1.0, 1.0));
        for exact in [0.0, -0.0, f32::from_bits(1), -f32::from_bits(1), f32::MIN_POSITIVE] {
            assert_eq!(tanh(exact).to_bits(), exact.to_bits());
        }
    }
    for exp in [exp_negative::<true>, exp_negative::<false>] {
        assert_eq!((exp(f32::NEG_INFINITY), exp(0.0), exp(-0.0)), (0.0, 1.0, 1.0));
    }
}
