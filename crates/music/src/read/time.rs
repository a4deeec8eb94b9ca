//! Exact time inside a measure: fractions of a quarter note, every operation checked.

use crate::score::TICKS_PER_QUARTER;

/// Quarter notes as a fraction in lowest terms, not negative.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Quarters {
    numerator: i64,
    /// Above 0.
    denominator: i64,
}

impl Quarters {
    pub(super) const SIXTEEN: Self = Self { numerator: 16, denominator: 1 };
    pub(super) const SIXTY_FOUR: Self = Self { numerator: 64, denominator: 1 };
    pub(super) const ZERO: Self = Self { numerator: 0, denominator: 1 };
    pub(super) const ONE: Self = Self { numerator: 1, denominator: 1 };

    /// None where it does not fit, is negative or has no denominator.
    pub(super) fn new(numerator: i128, denominator: i128) -> Option<Self> {
        if numerator < 0 || denominator <= 0 {
            return None;
        }
        let divisor = greatest_common_divisor(numerator, denominator);
        Some(Self {
            numerator: i64::try_from(numerator / divisor).ok()?,
            denominator: i64::try_from(denominator / divisor).ok()?,
        })
    }

    fn parts(self) -> (i128, i128) {
        (i128::from(self.numerator), i128::from(self.denominator))
    }

    /// A MusicXML number: digits, with up to nine decimals.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let (whole, decimals) = text.split_once('.').unwrap_or((text, ""));
        let whole = whole.strip_prefix('+').unwrap_or(whole);
        let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
        if whole.is_empty() && decimals.is_empty()
            || !digits(whole)
            || !digits(decimals)
            || decimals.len() > 9
        {
            return None;
        }
        let numerator = format!("{whole}{decimals}").parse::<i64>().ok()?;
        let denominator = 10_i64.checked_pow(u32::try_from(decimals.len()).ok()?)?;
        Self::new(i128::from(numerator), i128::from(denominator))
    }

    pub(super) fn is_zero(self) -> bool {
        self.numerator == 0
    }

    pub(super) fn plus(self, other: Self) -> Option<Self> {
        let ((a, b), (c, d)) = (self.parts(), other.parts());
        Self::new(a * d + c * b, b * d)
    }

    /// Never below zero.
    pub(super) fn minus(self, other: Self) -> Option<Self> {
        let ((a, b), (c, d)) = (self.parts(), other.parts());
        Self::new((a * d - c * b).max(0), b * d)
    }

    pub(super) fn over(self, other: Self) -> Option<Self> {
        let ((a, b), (c, d)) = (self.parts(), other.parts());
        Self::new(a * d, b * c)
    }

    /// To the nearest tick.
    pub(super) fn ticks(self) -> Option<i64> {
        let (numerator, denominator) = self.parts();
        let ticks = (2 * numerator * i128::from(TICKS_PER_QUARTER) + denominator) / (2 * denominator);
        i64::try_from(ticks).ok()
    }
}

impl PartialOrd for Quarters {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Quarters {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        let ((a, b), (c, d)) = (self.parts(), other.parts());
        (a * d).cmp(&(c * b))
    }
}

fn greatest_common_divisor(mut a: i128, mut b: i128) -> i128 {
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a.max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn quarters(text: &str) -> Quarters {
        Quarters::parse(text).unwrap_or(Quarters::ZERO)
    }

    #[test]
    fn triplets_and_septuplets_are_exact() {
        let third = quarters("1").over(quarters("3"));
        assert_eq!(third.and_then(Quarters::ticks), Some(3360));
        let mut sum = Some(Quarters::ZERO);
        for _ in 0..7 {
            sum = sum.zip(quarters("2").over(quarters("7"))).and_then(|(sum, next)| sum.plus(next));
        }
        assert_eq!(sum, Some(quarters("2")));
    }

    #[test]
    fn decimals_are_read_and_nonsense_is_not() {
        assert_eq!(quarters("2.50"), Quarters { numerator: 5, denominator: 2 });
        for text in ["", ".", "-1", "1e3", "0x10", "1.2.3", "99999999999999999999", "1.0000000001"] {
            assert_eq!(Quarters::parse(text), None, "{text:?}");
        }
    }

    #[test]
    fn overflow_is_none_and_going_back_stops_at_zero() {
        let huge = Quarters { numerator: i64::MAX, denominator: 1 };
        assert_eq!(huge.plus(huge), None);
        assert_eq!(huge.ticks(), None);
        assert_eq!(quarters("1").minus(quarters("2")), Some(Quarters::ZERO));
        assert_eq!(quarters("1").over(Quarters::ZERO), None);
    }
}
