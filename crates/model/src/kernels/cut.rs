//! A length cut into parts of about the same size.

use std::ops::Range;

/// `len` cut into parts, the first `longer` of them one longer than `short`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Cut {
    pub(crate) parts: usize,
    pub(crate) longer: usize,
    pub(crate) short: usize,
}

impl Cut {
    /// As few parts of at most `max` as there can be; one empty part of nothing.
    pub(crate) fn at_most(len: usize, max: usize) -> Self {
        Self::into(len, len.div_ceil(max))
    }

    /// `parts` parts (at least one).
    pub(crate) fn into(len: usize, parts: usize) -> Self {
        let parts = parts.max(1);
        Self { parts, longer: len % parts, short: len / parts }
    }

    pub(crate) fn range(self, part: usize) -> Range<usize> {
        let start = part * self.short + part.min(self.longer);
        start..start + self.short + usize::from(part < self.longer)
    }

    pub(crate) fn ranges(self) -> impl Iterator<Item = Range<usize>> {
        (0..self.parts).map(move |part| self.range(part))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_follow_on_each_other_and_differ_by_one_at_most() {
        assert_eq!(
            Cut::at_most(50, 6).ranges().map(|part| part.len()).collect::<Vec<_>>(),
            [6, 6, 6, 6, 6, 5, 5, 5, 5]
        );
        assert_eq!(Cut::into(7, 3).ranges().collect::<Vec<_>>(), [0..3, 3..5, 5..7]);
        assert_eq!(Cut::at_most(0, 6), Cut { parts: 1, longer: 0, short: 0 });
    }
}
