//! Which instruction set the kernels use: found at run time, and lowered by `KAPELL_KERNELS`.

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

    /// The widest that is available, or the one that the environment variable `KAPELL_KERNELS` names where it is
    /// available, too. The same for the whole life of the process.
    #[must_use]
    pub(crate) fn chosen() -> Self {
        #[cfg(test)]
        if let Some(forced) = FORCED.get() {
            return forced;
        }
        static CHOSEN: OnceLock<Level> = OnceLock::new();
        *CHOSEN.get_or_init(|| {
            let wanted = std::env::var("KAPELL_KERNELS").unwrap_or_default();
            let named = Self::ALL.into_iter().find(|level| level.name() == wanted && level.available());
            named.or_else(|| Self::ALL.into_iter().rfind(|level| level.available())).unwrap_or(Self::Portable)
        })
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
    for level in Level::ALL.into_iter().filter(|level| level.available()) {
        FORCED.set(Some(level));
        body(level);
        FORCED.set(None);
    }
}
