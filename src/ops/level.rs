//! The instruction levels that the kernels are compiled for, and the one that runs.
//!
//! The widest level of the processor runs, always the same one in a process. Only builds with the feature `_levels`, which the tests and
//! benches of this crate turn on, read the environment variable `LINFORMER_LEVEL` to run a narrower one: so a processor with AVX-512
//! tests and measures what others will run.

/// Defines a function that runs the expression of the level in use, compiled with that level's instructions.
///
/// Functions that the expressions call must be `#[inline(always)]` to be compiled with these instructions, too.
macro_rules! by_level {
    (
        fn $name:ident $(<$life:lifetime>)? ($($argument:ident: $type:ty),*) $(-> $result:ty)?;
        avx512: $avx512:expr, avx2: $avx2:expr, neon: $neon:expr, portable: $portable:expr
    ) => {
        #[allow(clippy::elidable_lifetime_names)] // `multiversion` names the lifetimes that it passes on
        fn $name $(<$life>)? ($($argument: $type),*) $(-> $result)? {
            #[multiversion::multiversion(targets("x86_64+avx512f+avx2+fma", "x86_64+avx2+fma", "aarch64+neon"))]
            #[allow(clippy::elidable_lifetime_names)]
            fn widest $(<$life>)? ($($argument: $type),*) $(-> $result)? {
                multiversion::target::match_target! {
                    "x86_64+avx512f" => $avx512,
                    "x86_64+avx2+fma" => $avx2,
                    "aarch64+neon" => $neon,
                    _ => $portable,
                }
            }
            #[cfg(feature = "_levels")]
            {
                #[multiversion::multiversion(targets("x86_64+avx2+fma"))]
                #[allow(clippy::elidable_lifetime_names)]
                fn without_avx512 $(<$life>)? ($($argument: $type),*) $(-> $result)? {
                    multiversion::target::match_target! {
                        "x86_64+avx2+fma" => $avx2,
                        _ => $portable,
                    }
                }
                match $crate::ops::level::forced() {
                    Some($crate::ops::level::Level::Avx2) => return without_avx512($($argument),*),
                    Some($crate::ops::level::Level::Portable) => return $portable,
                    _ => {}
                }
            }
            widest($($argument),*)
        }
    };
}
pub(super) use by_level;

#[cfg(feature = "_levels")]
pub use forcing::*;

#[cfg(feature = "_levels")]
#[allow(missing_docs, unreachable_pub)] // for this crate's tests and benches alone
mod forcing {
    use std::sync::OnceLock;

    /// An instruction level, from the narrowest on.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub enum Level {
        Portable,
        Neon,
        Avx2,
        Avx512,
    }

    impl Level {
        pub const ALL: [Self; 4] = [Self::Portable, Self::Neon, Self::Avx2, Self::Avx512];

        /// Returns its value of `LINFORMER_LEVEL`.
        pub fn name(self) -> &'static str {
            match self {
                Self::Portable => "portable",
                Self::Neon => "neon",
                Self::Avx2 => "avx2",
                Self::Avx512 => "avx512",
            }
        }

        /// Returns whether this processor can run it. On aarch64 every processor has NEON, and nothing narrower is compiled.
        pub fn is_available(self) -> bool {
            #[cfg(target_arch = "x86_64")]
            return match self {
                Self::Portable => true,
                Self::Neon => false,
                Self::Avx2 => is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma"),
                Self::Avx512 => is_x86_feature_detected!("avx512f"),
            };
            #[cfg(target_arch = "aarch64")]
            return self == Self::Neon;
            #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
            return self == Self::Portable;
        }

        /// Returns whether it multiplies and adds in one rounding.
        pub fn is_fused(self) -> bool {
            self != Self::Portable
        }

        /// Returns the level that this process runs.
        pub fn current() -> Self {
            let widest = Self::ALL.into_iter().rfind(|level| level.is_available());
            forced().or(widest).unwrap_or(Self::Portable)
        }
    }

    /// The level that `LINFORMER_LEVEL` names, if the processor has it; one that it does not have is not forced.
    pub(crate) fn forced() -> Option<Level> {
        static FORCED: OnceLock<Option<Level>> = OnceLock::new();
        *FORCED.get_or_init(|| {
            let name = std::env::var("LINFORMER_LEVEL").ok()?;
            Level::ALL.into_iter().find(|level| level.name() == name && level.is_available())
        })
    }
}
