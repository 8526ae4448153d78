//! The innermost loops of the packed products: plain arrays that stay in vector registers, compiled once per processor level.
//!
//! A block of MR rows and NR columns of the result is summed in registers over the whole inner range, or chain by chain of it, in the order of
//! the inner index. So an element's bits do not depend on which block it falls into, how wide that is, or what lies next to it.

mod block;
mod pack;

use super::level::by_level;
use crate::scalar::Scalar;
use block::{CHAIN, NEAR, NEXT_PARTS, Place, block, block_of_chains, block_of_panels};
use pack::{pack_column, pack_rows};

/// Positions of the inner dimension that one block of a left operand spans.
pub(crate) const DEPTH: usize = 512;
/// The distance of its rows. It is a constant, so that all rows are addressed from one register, and no multiple of 4096 bytes, so that
/// they fall into different sets of the cache.
pub(crate) const STRIDE: usize = DEPTH + 16;

/// How the old values of the result are treated.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Output<'a, A> {
    /// c ← a·b
    Set,
    /// c ← a·b + bias, the same row added to every row
    SetWithBias(&'a [A]),
    /// c ← c + a·b
    Add,
    /// c ← c + a·b + bias
    AddWithBias(&'a [A]),
}

impl<'a, A> Output<'a, A> {
    /// The treatment by the first of several parts of the inner dimension; all later ones are added.
    pub(crate) fn set(bias: Option<&'a [A]>) -> Self {
        bias.map_or(Self::Set, Self::SetWithBias)
    }

    /// The same on top of what is there.
    pub(crate) fn add(bias: Option<&'a [A]>) -> Self {
        bias.map_or(Self::Add, Self::AddWithBias)
    }

    /// Whether the old values count.
    pub(crate) fn adds(&self) -> bool {
        matches!(self, Self::Add | Self::AddWithBias(_))
    }

    /// The same for `width` columns from `first` on.
    pub(crate) fn at_columns(self, first: usize, width: usize) -> Self {
        match self {
            Self::SetWithBias(bias) => Self::SetWithBias(&bias[first..first + width]),
            Self::AddWithBias(bias) => Self::AddWithBias(&bias[first..first + width]),
            Self::Set | Self::Add => self,
        }
    }
}

/// The left operand of a product, up to a multiple of the kernel's rows; those that do not count may hold anything.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Left<'a, A> {
    /// Rows at the distance `STRIDE`.
    Rows(&'a [A]),
    /// The same, with positions of a sequence as the inner index: summed in short chains, as all panels are.
    LongRows(&'a [A]),
    /// Panels of `Kernel::rows` rows, each column by column.
    Panels(&'a [A]),
}

/// c ← left·panels for one block of the inner dimension.
#[derive(Debug)]
pub(crate) struct Product<'a, A> {
    /// The left operand.
    pub(crate) left: Left<'a, A>,
    /// The rows that count.
    pub(crate) rows: usize,
    /// The right operand's panels, each `depth` rows of `Kernel::width` elements.
    pub(crate) panels: &'a [A],
    /// The inner dimension of the panels.
    pub(crate) depth: usize,
    /// The first panel row that takes part.
    pub(crate) start: usize,
    /// How many take part, `DEPTH` at most.
    pub(crate) inner: usize,
    /// The columns of the result.
    pub(crate) cols: usize,
    /// How the old values are treated.
    pub(crate) output: Output<'a, A>,
    /// The distance of the result's rows.
    pub(crate) stride: usize,
}

/// The loops of one processor level, and the block that they work on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Kernel<A> {
    /// Rows of a block.
    pub(crate) rows: usize,
    /// Columns of a panel. A last panel with no more than half of that is stored half as wide.
    pub(crate) cols: usize,
    /// Computes a product.
    pub(crate) run: fn(&Product<'_, A>, &mut [A]),
    /// Copies `inner` rows of `cols` elements, the first argument's at the distance of the second, into panels.
    pub(crate) pack: fn(&[A], usize, usize, usize, &mut [A]),
    /// Copies one column of a left operand into its panels, which have as many columns as the second argument says, from the first of them on.
    pub(crate) pack_left: fn(&[A], usize, &mut [A]),
}

impl<A> Kernel<A> {
    /// How many columns the panels of `cols` columns have.
    pub(crate) fn padded(&self, cols: usize) -> usize {
        let rest = cols % self.cols;
        let last = if rest == 0 {
            0
        } else if rest * 2 <= self.cols {
            self.cols / 2
        } else {
            self.cols
        };
        cols - rest + last
    }

    /// How far a left operand of `rows` rows is read.
    pub(crate) fn reach(&self, rows: usize) -> usize {
        (rows.next_multiple_of(self.rows) + 1) * STRIDE
    }
}

/// The kernels of one element type.
pub(crate) trait PackedKernels: Sized {
    /// The fastest kernel of this processor: the same one in every call.
    fn kernel() -> Kernel<Self>;
    /// The kernel for any processor.
    #[cfg(test)]
    fn portable() -> Kernel<Self>;
}

/// Defines the kernel of one element type, given the rows and columns of a block at each processor level.
macro_rules! kernel {
    ($t:ty, avx512: $avx512:tt, fma: $fma:tt, portable: $portable:tt) => {
        impl PackedKernels for $t {
            fn kernel() -> Kernel<$t> {
                by_level! {
                    fn block() -> (usize, usize);
                    avx512: $avx512, avx2: $fma, neon: $fma, portable: $portable
                }
                by_level! {
                    fn run<'p>(product: &Product<'p, $t>, c: &mut [$t]);
                    avx512: multiply!($t, true, true, $avx512, product, c),
                    avx2: multiply!($t, true, false, $fma, product, c),
                    neon: multiply!($t, true, false, $fma, product, c),
                    portable: multiply!($t, false, false, $portable, product, c)
                }
                by_level! {
                    fn pack(rows: &[$t], ld: usize, inner: usize, cols: usize, panels: &mut [$t]);
                    avx512: copy!($t, $avx512, rows, ld, inner, cols, panels),
                    avx2: copy!($t, $fma, rows, ld, inner, cols, panels),
                    neon: copy!($t, $fma, rows, ld, inner, cols, panels),
                    portable: copy!($t, $portable, rows, ld, inner, cols, panels)
                }
                by_level! {
                    fn pack_left(column: &[$t], inner: usize, panels: &mut [$t]);
                    avx512: copy_column!($t, $avx512, column, inner, panels),
                    avx2: copy_column!($t, $fma, column, inner, panels),
                    neon: copy_column!($t, $fma, column, inner, panels),
                    portable: copy_column!($t, $portable, column, inner, panels)
                }
                let (rows, cols) = block();
                Kernel {
                    rows,
                    cols,
                    run,
                    pack,
                    pack_left,
                }
            }

            #[cfg(test)]
            fn portable() -> Kernel<$t> {
                fn run(product: &Product<'_, $t>, c: &mut [$t]) {
                    multiply!($t, false, false, $portable, product, c);
                }
                fn pack(rows: &[$t], ld: usize, inner: usize, cols: usize, panels: &mut [$t]) {
                    copy!($t, $portable, rows, ld, inner, cols, panels);
                }
                fn pack_left(column: &[$t], inner: usize, panels: &mut [$t]) {
                    copy_column!($t, $portable, column, inner, panels);
                }
                let (rows, cols) = $portable;
                Kernel {
                    rows,
                    cols,
                    run,
                    pack,
                    pack_left,
                }
            }
        }
    };
}

macro_rules! multiply {
    ($t:ty, $fma:literal, $paired:literal, ($mr:literal, $nr:literal), $product:expr, $c:expr) => {
        panels::<$t, $fma, $paired, $mr, { $mr / 2 }, { $mr / 4 }, $nr, { $nr / 2 }>($product, $c)
    };
}

macro_rules! copy {
    ($t:ty, ($mr:literal, $nr:literal), $($argument:expr),*) => {
        pack_rows::<$t, $nr, { $nr / 2 }>($($argument),*)
    };
}

macro_rules! copy_column {
    ($t:ty, ($mr:literal, $nr:literal), $($argument:expr),*) => {
        pack_column::<$t, $mr>($($argument),*)
    };
}

kernel!(f32, avx512: (12, 32), fma: (6, 16), portable: (4, 8));
kernel!(f64, avx512: (12, 16), fma: (6, 8), portable: (4, 4));

#[inline(always)]
fn panels<
    A: Scalar,
    const FMA: bool,
    const PAIRED: bool,
    const MR: usize,
    const MID: usize,
    const LOW: usize,
    const NR: usize,
    const HALF: usize,
>(
    product: &Product<'_, A>,
    c: &mut [A],
) {
    for first in (0..product.cols).step_by(NR) {
        let width = NR.min(product.cols - first);
        if width > HALF {
            // The panels of a single segment of a sequence were packed a moment ago.
            let is_near = product.inner < NEAR || matches!(product.left, Left::LongRows(_)) && product.depth == product.inner;
            let has_next = !is_near && first + 2 * NR <= product.cols;
            let next = if has_next { rows_of_panel(product, first + NR) } else { &[] };
            column::<A, FMA, PAIRED, MR, MID, LOW, NR>(product, (rows_of_panel(product, first), next), (first, width), c);
        } else {
            column::<A, FMA, false, MR, MID, LOW, HALF>(product, (rows_of_panel(product, first), &[]), (first, width), c);
        }
    }
}

/// The rows that take part of the panel of the columns from `first` on.
#[inline(always)]
fn rows_of_panel<'p, A, const NR: usize>(product: &Product<'p, A>, first: usize) -> &'p [[A; NR]] {
    let panel = &product.panels[first * product.depth + product.start * NR..];
    panel[..product.inner * NR].as_chunks::<NR>().0
}

/// One panel against all rows: the panel stays in the nearest cache. `next` is prefetched meanwhile.
#[inline(always)]
fn column<A: Scalar, const FMA: bool, const PAIRED: bool, const MR: usize, const MID: usize, const LOW: usize, const NR: usize>(
    product: &Product<'_, A>,
    (panel, next): (&[[A; NR]], &[[A; NR]]),
    (first, width): (usize, usize),
    c: &mut [A],
) {
    // Each of the first blocks brings a part of the next panel near.
    let share = if next.is_empty() {
        0
    } else {
        next.len().div_ceil(product.rows.div_ceil(MR).min(NEXT_PARTS))
    };
    for row in (0..product.rows).step_by(MR) {
        let c = &mut c[row * product.stride + first..];
        let rows = MR.min(product.rows - row);
        let place = Place {
            rows,
            width,
            first,
            output: product.output,
            stride: product.stride,
        };
        let next = next.get(row / MR * share..).unwrap_or(&[]);
        let next = &next[..share.min(next.len())];
        match product.left {
            Left::LongRows(left) if product.inner > CHAIN => {
                let (left, _) = left[row * STRIDE..].as_chunks::<STRIDE>();
                if rows > MID {
                    block_of_chains::<A, FMA, MR, NR, PAIRED>(left, panel, next, place, c);
                } else if rows > LOW {
                    block_of_chains::<A, FMA, MID, NR, false>(left, panel, next, place, c);
                } else {
                    block_of_chains::<A, FMA, LOW, NR, false>(left, panel, next, place, c);
                }
            }
            Left::Rows(left) | Left::LongRows(left) => {
                let (left, _) = left[row * STRIDE..].as_chunks::<STRIDE>();
                if rows > MID {
                    block::<A, FMA, MR, NR, PAIRED>(left, panel, next, place, c);
                } else if rows > LOW {
                    block::<A, FMA, MID, NR, false>(left, panel, next, place, c);
                } else {
                    block::<A, FMA, LOW, NR, false>(left, panel, next, place, c);
                }
            }
            Left::Panels(left) => {
                let (left, _) = left[row * product.inner..][..MR * product.inner].as_chunks::<MR>();
                if rows > MID {
                    block_of_panels::<A, FMA, MR, MID, 2, NR>(left, panel, next, place, c);
                } else {
                    block_of_panels::<A, FMA, MR, MID, 1, NR>(left, panel, next, place, c);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::level::Level;
    use super::*;

    /// A level that is left out costs half of the speed and no other test notices: `multiversion` 0.9 does so with AVX-512.
    #[test]
    fn the_kernel_is_the_one_of_the_level() {
        let expected = match Level::current() {
            Level::Avx512 => (12, 32),
            Level::Avx2 | Level::Neon => (6, 16),
            Level::Portable => (4, 8),
        };
        let kernel = <f32 as PackedKernels>::kernel();
        assert_eq!((kernel.rows, kernel.cols), expected);
    }
}
