//! The arithmetic of an update over flat buffers, and the only `unsafe` of the workspace.
//!
//! Every element-wise kernel is plain Rust in an always-inlined body, compiled three times: as it is, with AVX2 and FMA
//! switched on, and with AVX-512, where the compiler turns its loops into vector code. Matrix products are written by
//! registers ([`vector`], [`matmul`]). What runs is decided at run time ([`level`]); `target-cpu` is not needed. Sums
//! have a fixed order whatever the instruction set and the number of threads.
#![expect(
    unsafe_code,
    reason = "register tiles over raw pointers, functions compiled for a detected instruction set, and the team"
)]

pub(crate) mod activation;
pub(crate) mod adam;
pub(crate) mod aligned;
pub(crate) mod cell;
pub(crate) mod cut;
pub(crate) mod dropout;
pub(crate) mod level;
pub(crate) mod loss;
pub(crate) mod matmul;
pub(crate) mod norm;
pub(crate) mod sum;
pub(crate) mod team;
mod vector;

/// `a * b + c`, in one rounding where the instruction exists, in two where it would be a slow library call.
#[inline(always)]
pub(crate) fn mul_add<const FMA: bool>(a: f32, b: f32, c: f32) -> f32 {
    if FMA { a.mul_add(b, c) } else { a * b + c }
}

/// Whether plain code rounds a product and sum once: where the compiler may assume the instruction, or calls it at no
/// great cost.
pub(crate) const FUSED_BY_DEFAULT: bool = cfg!(any(target_feature = "fma", target_arch = "aarch64"));

/// Defines `$name`, which runs `$body::<true>` compiled for the instruction set of [`level::Level::chosen`], or
/// `$body` as it is. The two vector levels give the same bytes: the compiler does not reorder sums of floats.
macro_rules! vectorised {
    ($(#[$doc:meta])* fn $name:ident($($arg:ident: $type:ty),* $(,)?) $(-> $result:ty)? = $body:ident) => {
        $(#[$doc])*
        pub(crate) fn $name($($arg: $type),*) $(-> $result)? {
            #[cfg(target_arch = "x86_64")]
            {
                use $crate::kernels::level::Level;
                #[target_feature(enable = "avx2,fma")]
                fn avx2($($arg: $type),*) $(-> $result)? {
                    $body::<true>($($arg),*)
                }
                #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
                fn avx512($($arg: $type),*) $(-> $result)? {
                    $body::<true>($($arg),*)
                }
                match Level::chosen() {
                    // SAFETY: only levels are chosen whose features the processor has.
                    Level::Avx2 => return unsafe { avx2($($arg),*) },
                    // SAFETY: as above.
                    Level::Avx512 => return unsafe { avx512($($arg),*) },
                    Level::Portable => {}
                }
            }
            $body::<{ $crate::kernels::FUSED_BY_DEFAULT }>($($arg),*)
        }
    };
}
pub(crate) use vectorised;
