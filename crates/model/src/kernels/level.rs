//! Which instruction set the kernels use: the widest that is found at run time, or one that is asked for.

use std::sync::OnceLock;

/// Instruction sets, from the one that everything has to the widest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Level {
    /// What the compiler makes of plain Rust for the target's baseline.
    Portable,
    /// AVX2 and FMA.
    Avx2,
    /// AVX-512 F, BW, DQ and VL.
    Avx512,
}

impl Level {
    pub(crate) const ALL: [Self; 3] = [Self::Portable, Self::Avx2, Self::Avx512];

    #[must_use]
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Portable => "portable",
            Self::Avx2 => "avx2",
            Self::Avx512 => "avx512",
        }
    }

    /// Whether this processor (and its operating system) has it.
    #[must_use]
    pub(crate) fn available(self) -> bool {
        #[cfg(target_arch = "x86_64")]
        {
            use std::arch::is_x86_feature_detected as has;
            match self {
                Self::Portable => true,
                Self::Avx2 => has!("avx2") && has!("fma"),
                Self::Avx512 => {
                    Self::Avx2.available()
                        && has!("avx512f")
                        && has!("avx512bw")
                        && has!("avx512dq")
                        && has!("avx512vl")
                }
            }
        }
        #[cfg(not(target_arch = "x86_64"))]
        {
            self == Self::Portable
        }
    }

    /// The widest that is available, or what [`select_kernels`] asked for. The same for the life of the process.
    #[must_use]
    pub(crate) fn chosen() -> Self {
        #[cfg(test)]
        if let Some(forced) = FORCED.get() {
            return forced;
        }
        *CHOSEN.get_or_init(|| available().last().unwrap_or(Self::Portable))
    }
}

static CHOSEN: OnceLock<Level> = OnceLock::new();

/// From the narrowest to the widest.
fn available() -> impl Iterator<Item = Level> {
    Level::ALL.into_iter().filter(|level| level.available())
}

/// Kernels that cannot be had.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no {wanted} kernels here; there are: auto, {available}")]
pub struct KernelsError {
    pub wanted: String,
    pub available: String,
}

/// Has this process compute with the kernels named `wanted` (`portable`, `avx2`, `avx512`, or `auto` for the widest),
/// whatever wider ones there are. All but `portable` give the same bytes. To be called before anything is computed.
///
/// # Errors
/// A name that there is none of, an instruction set that the processor lacks, or a choice that comes too late.
pub fn select_kernels(wanted: &str) -> Result<(), KernelsError> {
    let named = available().filter(|level| wanted == "auto" || level.name() == wanted).last();
    match named {
        Some(level) if *CHOSEN.get_or_init(|| level) == level => Ok(()),
        _ => {
            let names: Vec<&str> = available().map(Level::name).collect();
            Err(KernelsError { wanted: wanted.to_owned(), available: names.join(", ") })
        }
    }
}

#[cfg(test)]
thread_local! {
    static FORCED: std::cell::Cell<Option<Level>> = const { std::cell::Cell::new(None) };
}

/// Runs `body` once with each available level forced on this thread: every path is tested on whatever machine there
/// is.
#[cfg(test)]
pub(crate) fn at_each_level(mut body: impl FnMut(Level)) {
    for level in available() {
        FORCED.set(Some(level));
        body(level);
        FORCED.set(None);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernels_that_are_not_there_are_refused_with_those_that_are() {
        let error = select_kernels("sse9").expect_err("no such kernels");
        assert!(error.to_string().starts_with("no sse9 kernels here; there are: auto, portable"), "{error}");
        assert_eq!(select_kernels("auto"), Ok(()));
    }
}
