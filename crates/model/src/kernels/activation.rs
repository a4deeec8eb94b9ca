//! Sigmoid and tanh as branch-free polynomials, within 4 units in the last place of the true value.

use super::mul_add;

/// The coefficients of (e^r - 1) / r by powers of r on |r| <= ln(2) / 2: a minimax fit in f64 (Lawson's iteration)
/// rounded to f32; relative error 2.5e-8.
const EXPM1: [f32; 6] = [1.0, 0.5, 0.166_665_05, 0.041_666_24, 0.008_369_158, 0.001_394_859_5];
/// Adding it rounds a small f32 to a whole number, which then stands in the low bits.
const ROUND: f32 = 12_582_912.0;
const LN2_HIGH: f32 = 0.693_359_4;
const LN2_LOW: f32 = -2.121_944_4e-4;

/// (2^n, e^r - 1) with x = n ln 2 + r and |r| <= ln(2) / 2, for |x| <= 87.
#[inline(always)]
fn split<const FMA: bool>(x: f32) -> (f32, f32) {
    let shifted = mul_add::<FMA>(x, std::f32::consts::LOG2_E, ROUND);
    let whole = shifted - ROUND;
    let r = mul_add::<FMA>(whole, -LN2_LOW, mul_add::<FMA>(whole, -LN2_HIGH, x));
    let mut poly = EXPM1[5];
    for power in (0..5).rev() {
        poly = mul_add::<FMA>(poly, r, EXPM1[power]);
    }
    let scale = f32::from_bits((shifted.to_bits() << 23).wrapping_add(0x3f80_0000));
    (scale, poly * r)
}

/// `x` kept within plus or minus `limit`; NaN stays NaN, which `f32::clamp` written with `min` would not do.
#[inline(always)]
fn within(x: f32, limit: f32) -> f32 {
    let x = if x > limit { limit } else { x };
    if x < -limit { -limit } else { x }
}

/// e^x for x <= 0; below -87 it is e^-87, about 1.6e-38.
#[inline(always)]
pub(crate) fn exp_negative<const FMA: bool>(x: f32) -> f32 {
    let (scale, expm1) = split::<FMA>(within(x, 87.0));
    mul_add::<FMA>(scale, expm1, scale)
}

/// 1 / (1 + e^-x).
#[inline(always)]
pub(crate) fn sigmoid<const FMA: bool>(x: f32) -> f32 {
    let (scale, expm1) = split::<FMA>(within(-x, 87.0));
    1.0 / (1.0 + mul_add::<FMA>(scale, expm1, scale))
}

/// The hyperbolic tangent, by e^2x - 1 so that small numbers keep their relative precision.
#[inline(always)]
pub(crate) fn tanh<const FMA: bool>(x: f32) -> f32 {
    let (scale, expm1) = split::<FMA>(within(2.0 * x, 20.0));
    let expm1 = mul_add::<FMA>(scale, expm1, scale - 1.0);
    expm1 / (expm1 + 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The largest relative error, in units of f32's epsilon, over every `step`-th bit pattern with |x| < limit.
    fn worst(f: impl Fn(f32) -> f32, truth: impl Fn(f64) -> f64, limit: f32) -> f64 {
        let mut worst = 0.0_f64;
        for bits in (0..=u32::MAX).step_by(1511) {
            let x = f32::from_bits(bits);
            if x.is_finite() && x.abs() < limit {
                let wanted = truth(f64::from(x));
                let error = (f64::from(f(x)) - wanted).abs() / wanted.abs().max(f64::from(f32::MIN_POSITIVE));
                worst = worst.max(error / f64::from(f32::EPSILON));
            }
        }
        worst
    }

    #[test]
    fn activations_are_within_four_ulps_with_and_without_fused_products() {
        let true_sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
        for (name, error) in [
            ("sigmoid", worst(sigmoid::<false>, true_sigmoid, 87.0)),
            ("fused sigmoid", worst(sigmoid::<true>, true_sigmoid, 87.0)),
            ("tanh", worst(tanh::<false>, f64::tanh, f32::INFINITY)),
            ("fused tanh", worst(tanh::<true>, f64::tanh, f32::INFINITY)),
        ] {
            assert!(error < 4.0, "{name}: {error} ulps");
        }
    }

    #[test]
    fn what_is_not_a_number_stays_so_and_extremes_saturate() {
        for f in [sigmoid::<true>, sigmoid::<false>, tanh::<true>, tanh::<false>, exp_negative::<true>] {
            assert!(f(f32::NAN).is_nan());
        }
        assert_eq!(tanh::<true>(f32::INFINITY), 1.0);
        assert_eq!(tanh::<true>(f32::NEG_INFINITY), -1.0);
        assert_eq!(sigmoid::<true>(f32::INFINITY), 1.0);
        assert!(sigmoid::<true>(f32::NEG_INFINITY) < 1e-37);
        assert!(exp_negative::<true>(f32::NEG_INFINITY) < 1e-37);
    }
}
