//! The arithmetic of an update over flat buffers, and the only `unsafe` of the workspace.
//!
//! Every element-wise kernel is plain Rust in an always-inlined body, compiled twice: once as it is, and once with
//! AVX2 and FMA switched on, where the compiler turns its loops into vector code. Which one runs is decided at run
//! time; `--cfg` flags and `target-cpu` are not needed. Sums have a fixed order whatever the number of threads.
#![expect(
    unsafe_code,
    reason = "calls into gemm, and into functions compiled for a detected instruction set"
)]

pub(crate) mod activation;
pub(crate) mod adam;
pub(crate) mod cell;
pub(crate) mod dropout;
pub(crate) mod gemm;
pub(crate) mod loss;
pub(crate) mod norm;
pub(crate) mod rows;
pub(crate) mod sum;

/// `a * b + c`, in one rounding where the instruction exists, in two where it would be a slow library call.
#[inline(always)]
pub(crate) fn mul_add<const FMA: bool>(a: f32, b: f32, c: f32) -> f32 {
    if FMA { a.mul_add(b, c) } else { a * b + c }
}

/// Whether the code compiled for AVX2 and FMA may run here.
pub(crate) fn has_avx2() -> bool {
    #[cfg(target_arch = "x86_64")]
    {
        std::arch::is_x86_feature_detected!("avx2") && std::arch::is_x86_feature_detected!("fma")
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        false
    }
}

/// Defines `$name`, which runs `$body::<true>` compiled for AVX2 and FMA where the processor has them, and
/// `$body::<false>` elsewhere.
macro_rules! vectorised {
    ($(#[$doc:meta])* fn $name:ident($($arg:ident: $type:ty),* $(,)?) $(-> $result:ty)? = $body:ident) => {
        $(#[$doc])*
        pub(crate) fn $name($($arg: $type),*) $(-> $result)? {
            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx2,fma")]
                fn wide($($arg: $type),*) $(-> $result)? {
                    $body::<true>($($arg),*)
                }
                if $crate::kernels::has_avx2() {
                    // SAFETY: `has_avx2` has found both features that `wide` is compiled for.
                    return unsafe { wide($($arg),*) };
                }
            }
            $body::<false>($($arg),*)
        }
    };
}
pub(crate) use vectorised;
