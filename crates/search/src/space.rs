//! A search space: the axes that a study varies, its size, and the configuration at each of its points.

use crate::options::{Config, OptionValue};

/// Trials a study may have, replicates included. A larger grid is refused before anything is expanded.
pub const MAX_TRIALS: u64 = 1_000_000;

/// One searched option and the values it takes, in the order of the study file.
#[derive(Debug, Clone, PartialEq)]
pub struct Axis {
    pub name: String,
    pub values: Vec<OptionValue>,
}

/// A grid: the product of its axes. The first axis varies slowest.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Space {
    pub axes: Vec<Axis>,
}

impl Space {
    /// Number of configurations, or `None` where it does not fit 64 bits. A space without axes has one.
    #[must_use]
    pub fn size(&self) -> Option<u64> {
        self.axes.iter().try_fold(1_u64, |n, axis| n.checked_mul(u64::try_from(axis.values.len()).ok()?))
    }

    /// The configuration at `index` (below [`Space::size`]), over `base` for what is not searched.
    #[must_use]
    pub fn config(&self, base: &Config, mut index: u64) -> Config {
        let mut config = base.clone();
        for axis in self.axes.iter().rev() {
            let n = axis.values.len() as u64;
            let at = usize::try_from(index % n).unwrap_or(0);
            config.options.insert(axis.name.clone(), axis.values[at].clone());
            index /= n;
        }
        config
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    fn axis(name: &str, values: &[i64]) -> Axis {
        Axis { name: name.into(), values: values.iter().map(|v| OptionValue::Int(*v)).collect() }
    }

    #[test]
    fn every_point_of_a_grid_comes_once_and_the_last_axis_varies_fastest() {
        let space = Space { axes: vec![axis("layers", &[1, 2]), axis("hidden", &[8, 16, 32])] };
        let base = Config::defaults();
        let got: Vec<_> =
            (0..6).map(|i| space.config(&base, i)).map(|c| (c.int("layers"), c.int("hidden"))).collect();
        assert_eq!(got[0], (Some(1), Some(8)));
        assert_eq!(got[1], (Some(1), Some(16)));
        assert_eq!(got.iter().collect::<BTreeSet<_>>().len(), 6);
    }

    #[test]
    fn the_size_of_a_space_too_large_for_64_bits_is_none() {
        let many: Vec<i64> = (1..=10_000).collect();
        let space = Space { axes: (0..5).map(|i| axis(&format!("a{i}"), &many)).collect() };
        assert_eq!(space.size(), None);
        assert_eq!(Space::default().size(), Some(1));
    }
}
