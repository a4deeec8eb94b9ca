//! A register of single-precision numbers: the one thing that the instruction sets' matrix kernels differ in.

/// `LANES` numbers that are computed with at once.
///
/// Each operation rounds every lane as the scalar operation does, so that the width changes no result.
///
/// # Safety
/// Every function may be called only where the processor has the implementor's instruction set; the pointers must be
/// valid for `LANES` numbers, with no alignment asked for.
pub(crate) trait Vector: Copy {
    const LANES: usize;

    unsafe fn splat(x: f32) -> Self;
    unsafe fn load(from: *const f32) -> Self;
    unsafe fn store(self, to: *mut f32);
    unsafe fn add(self, other: Self) -> Self;
    /// `self * factor + term`, in one rounding wherever the implementor has that.
    unsafe fn mul_add(self, factor: Self, term: Self) -> Self;
    /// Asks for a cache line that will be read soon; it may lie anywhere. Nothing where there is no such instruction.
    #[inline(always)]
    unsafe fn prefetch(_line: *const f32) {}
}

/// Plain Rust: eight numbers, which the compiler puts into whatever registers there are. With `FUSED` it rounds once
/// a product and sum, as the vector instructions do: only fast where the compiler may assume such an instruction.
#[derive(Clone, Copy)]
pub(crate) struct Portable<const FUSED: bool>([f32; 8]);

// SAFETY of the implementation: nothing here asks for more than the trait's contract on pointers.
impl<const FUSED: bool> Vector for Portable<FUSED> {
    const LANES: usize = 8;

    #[inline(always)]
    unsafe fn splat(x: f32) -> Self {
        Self([x; 8])
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: the caller's pointer is valid for eight numbers.
        Self(unsafe { from.cast::<[f32; 8]>().read_unaligned() })
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: the caller's pointer is valid for eight numbers.
        unsafe { to.cast::<[f32; 8]>().write_unaligned(self.0) }
    }

    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        Self(std::array::from_fn(|lane| self.0[lane] + other.0[lane]))
    }

    #[inline(always)]
    unsafe fn mul_add(self, factor: Self, term: Self) -> Self {
        let one = |lane| super::mul_add::<FUSED>(self.0[lane], factor.0[lane], term.0[lane]);
        Self(std::array::from_fn(one))
    }
}

/// Implements [`Vector`] by a register type's intrinsics.
#[cfg(target_arch = "x86_64")]
macro_rules! by_intrinsics {
    ($(#[$doc:meta])* $name:ident($register:ty) = $lanes:literal,
        $splat:ident, $load:ident, $store:ident, $add:ident, $mul_add:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy)]
        pub(crate) struct $name($register);

        impl Vector for $name {
            const LANES: usize = $lanes;

            #[inline(always)]
            unsafe fn splat(x: f32) -> Self {
                // SAFETY: the caller runs where the instruction set is.
                Self(unsafe { $splat(x) })
            }

            #[inline(always)]
            unsafe fn load(from: *const f32) -> Self {
                // SAFETY: as above, and the caller's pointer is valid for a register's numbers.
                Self(unsafe { $load(from) })
            }

            #[inline(always)]
            unsafe fn store(self, to: *mut f32) {
                // SAFETY: as above, and the caller's pointer is valid for a register's numbers.
                unsafe { $store(to, self.0) }
            }

            #[inline(always)]
            unsafe fn add(self, other: Self) -> Self {
                // SAFETY: the caller runs where the instruction set is.
                Self(unsafe { $add(self.0, other.0) })
            }

            #[inline(always)]
            unsafe fn mul_add(self, factor: Self, term: Self) -> Self {
                // SAFETY: the caller runs where the instruction set is.
                Self(unsafe { $mul_add(self.0, factor.0, term.0) })
            }

            #[inline(always)]
            unsafe fn prefetch(line: *const f32) {
                // SAFETY: a prefetch accesses nothing, whatever its address. Miri does not know it.
                #[cfg(not(miri))]
                unsafe {
                    _mm_prefetch::<_MM_HINT_T0>(line.cast());
                }
                #[cfg(miri)]
                let _ = line;
            }
        }
    };
}

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::*;

#[cfg(target_arch = "x86_64")]
by_intrinsics! {
    /// Needs AVX2 and FMA.
    Avx2(__m256) = 8, _mm256_set1_ps, _mm256_loadu_ps, _mm256_storeu_ps, _mm256_add_ps, _mm256_fmadd_ps
}

#[cfg(target_arch = "x86_64")]
by_intrinsics! {
    /// Needs AVX-512F.
    Avx512(__m512) = 16, _mm512_set1_ps, _mm512_loadu_ps, _mm512_storeu_ps, _mm512_add_ps, _mm512_fmadd_ps
}
