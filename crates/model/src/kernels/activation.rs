//! Sigmoid, tanh and e^x as branch-free polynomials, within 2.6 units in the last place of the true value for every
//! f32, denormals and infinities included. `tests.rs` can try all 2^32 of them.

use super::mul_add;

#[cfg(test)]
mod tests;

/// The coefficients of (e^r - 1) / r by powers of r on |r| <= ln(2) / 2: a minimax fit in f64 (Lawson's iteration)
/// rounded to f32; relative error 2.5e-8.
const EXPM1: [f32; 6] = [1.0, 0.5, 0.166_665_05, 0.041_666_24, 0.008_369_158, 0.001_394_859_5];
/// Adding it rounds a small f32 to a whole number, which then stands in the low bits.
const ROUND: f32 = 12_582_912.0;
/// ln 2 in two pieces, the first of so few bits that its product with a whole number here is exact.
const LN2_HIGH: f32 = 0.693_359_4;
const LN2_LOW: f32 = -2.121_944_4e-4;
/// The bias of an f32's exponent.
const BIAS: u32 = 127;
/// What is added to a power of two's exponent on the way, so that a result down to the smallest denormal is rounded
/// only once, at the end. 2^-64 and 2^64 undo it.
const LIFT: u32 = 64;
const UNLIFT: f32 = f32::from_bits((BIAS - LIFT) << 23);
/// e^-104 is less than half of the smallest denormal, so it rounds to zero.
const VANISHES: f32 = 104.0;
const SIGN: u32 = 1 << 31;

/// (2^n, e^r - 1) with x = n ln 2 + r and |r| <= ln(2) / 2; the power has `bias` in its exponent's place, which must keep
/// it within f32's normal numbers. With `NEAR`, for |x| <= 20 only, ln 2 needs no second piece where products are fused.
#[inline(always)]
fn split<const FMA: bool, const NEAR: bool>(x: f32, bias: u32) -> (f32, f32) {
    let shifted = mul_add::<FMA>(x, std::f32::consts::LOG2_E, ROUND);
    let whole = shifted - ROUND;
    let r = if FMA && NEAR {
        mul_add::<FMA>(whole, -std::f32::consts::LN_2, x)
    } else {
        mul_add::<FMA>(whole, -LN2_LOW, mul_add::<FMA>(whole, -LN2_HIGH, x))
    };
    let mut poly = EXPM1[5];
    for power in (0..5).rev() {
        poly = mul_add::<FMA>(poly, r, EXPM1[power]);
    }
    let scale = f32::from_bits((shifted.to_bits() << 23).wrapping_add(bias << 23));
    (scale, poly * r)
}

/// `x`, and `limit` where it is less; NaN stays NaN, which `f32::max` would not do.
#[inline(always)]
fn at_least(x: f32, limit: f32) -> f32 {
    if x < limit { limit } else { x }
}

/// `x`, and `limit` where it is more; NaN stays NaN.
#[inline(always)]
fn at_most(x: f32, limit: f32) -> f32 {
    if x > limit { limit } else { x }
}

/// e^x for x <= 0.
#[inline(always)]
pub(crate) fn exp_negative<const FMA: bool>(x: f32) -> f32 {
    let (scale, expm1) = split::<FMA, false>(at_least(x, -VANISHES), BIAS + LIFT);
    mul_add::<FMA>(scale, expm1, scale) * UNLIFT
}

/// 1 / (1 + e^-x). Above and below the line stands 2^-64 times that, so that neither is infinite where the result is a
/// denormal. Above 40, e^-x is nothing beside 1.
#[inline(always)]
pub(crate) fn sigmoid<const FMA: bool>(x: f32) -> f32 {
    let x = at_least(at_most(x, 40.0), -VANISHES);
    let (scale, expm1) = split::<FMA, false>(-x, BIAS - LIFT);
    UNLIFT / (UNLIFT + mul_add::<FMA>(scale, expm1, scale))
}

/// The hyperbolic tangent: d / (2 - d) with d = 1 - e^-2|x|, so that small numbers keep their relative precision, and
/// with the sign of x, so that it is odd. Beyond 10 it is 1 to the last bit.
#[inline(always)]
pub(crate) fn tanh<const FMA: bool>(x: f32) -> f32 {
    let size = at_most(x.abs(), 10.0);
    let (scale, expm1) = split::<FMA, true>(-(size + size), BIAS);
    let d = mul_add::<FMA>(-scale, expm1, 1.0 - scale);
    f32::from_bits((d / (2.0 - d)).to_bits() | (x.to_bits() & SIGN))
}
