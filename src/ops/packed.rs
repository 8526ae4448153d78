//! Products with an operand that is packed once and used many times, for tiles that stay in cache; on the calling thread. Only
//! [`PackedMatrix::repack_spread`] packs by all threads.
//!
//! An element of a result is summed in the order of the inner index, in runs of [`SEGMENT`] positions whose sums are added in turn, and within
//! these in short chains where the inner index is the positions of a sequence (long tiles, packed columns). So its bits depend on the inner
//! dimension only: not on how rows and columns are split, nor on what lies next to it.
//!
//! Slices that are too short for what is asked of them panic, as indexing does.

mod columns;
mod once;
mod shared;

use std::ops::Range;

use ndarray::{ArrayView1, ArrayView2, ArrayViewMut2, Axis, s};

use super::aligned::Aligned;
use super::micro_kernel::{DEPTH, Kernel, Left, Product, STRIDE};
use super::tile::TileRows;
use crate::parallel::{self, Chunks, for_each_part};
use crate::scalar::Scalar;

pub(crate) use super::micro_kernel::Output;
pub(crate) use columns::PackedColumns;
pub(crate) use once::ProductScratch;
use shared::{share_columns, shares_columns};

/// Positions that are summed in one go: sequences that are cut at its multiples add up to the same bits.
pub(crate) const SEGMENT: usize = DEPTH;
/// A multiple of every kernel's panel width.
pub(crate) const PANEL_COLS: usize = 32;
/// The share of the second-level cache that a block of copied rows may take.
const BLOCK_BYTES: usize = 192 * STRIDE * 4;
/// Panels that one task packs, from rows that it reads along.
const PACK_PANELS: usize = 4;
/// Multiplications that moving a number costs, roughly.
const PACKING_COST: usize = 16;

/// A row-major operand: `count` rows, each `stride` after the one before.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rows<'a, A> {
    pub(crate) data: &'a [A],
    pub(crate) stride: usize,
    pub(crate) count: usize,
}

/// A row-major result. To write to later columns of a tile, pass the slice that starts at the first of them.
#[derive(Debug)]
pub(crate) struct RowsMut<'a, A> {
    pub(crate) data: &'a mut [A],
    pub(crate) stride: usize,
}

impl<'a, A> RowsMut<'a, A> {
    /// Contiguous rows.
    pub(crate) fn of(rows: ArrayViewMut2<'a, A>) -> Self {
        let stride = rows.ncols();
        let data = rows.into_slice().expect("tiles are made of contiguous arrays");
        Self { data, stride }
    }

    pub(crate) fn reborrow(&mut self) -> RowsMut<'_, A> {
        RowsMut {
            data: self.data,
            stride: self.stride,
        }
    }
}

/// A tile, and how its runs are read.
type TileLeft<'t, A> = (TileRows<'t, A>, fn(&'t [A]) -> Left<'t, A>);

/// Room that the products of one thread share; it grows to what the largest of them needs.
#[derive(Debug, Default)]
pub(crate) struct Scratch<A> {
    left: Vec<A>,
}

/// A right operand (p, n), packed into panels of as many columns as the kernel of this processor works on.
#[derive(Debug)]
pub(crate) struct PackedMatrix<A> {
    kernel: Kernel<A>,
    panels: Aligned<A>,
    inner: usize,
    cols: usize,
}

impl<A: Scalar> Default for PackedMatrix<A> {
    /// An empty matrix, to be repacked.
    fn default() -> Self {
        Self::with_kernel(A::kernel())
    }
}

impl<A: Scalar> PackedMatrix<A> {
    /// `scale`·`matrix`, packed. A transposed view is as good as any.
    pub(crate) fn new(matrix: ArrayView2<'_, A>, scale: A) -> Self {
        let mut packed = Self::default();
        packed.repack(matrix, scale);
        packed
    }

    fn with_kernel(kernel: Kernel<A>) -> Self {
        Self {
            kernel,
            panels: Aligned::default(),
            inner: 0,
            cols: 0,
        }
    }

    /// Replaces the matrix by `scale`·`matrix`, without allocating where the room suffices.
    pub(crate) fn repack(&mut self, matrix: ArrayView2<'_, A>, scale: A) {
        self.pack(matrix, scale, 0);
    }

    /// Replaces the matrix, which all threads pack.
    pub(crate) fn repack_spread(&mut self, matrix: ArrayView2<'_, A>) {
        self.pack(matrix, A::one(), parallel::cost(&[matrix.len(), PACKING_COST]));
    }

    fn pack(&mut self, matrix: ArrayView2<'_, A>, scale: A, cost: usize) {
        (self.inner, self.cols) = matrix.dim();
        let Self { kernel, inner, cols, .. } = *self;
        let whole = matrix.to_slice().filter(|_| scale == A::one());
        let panel_len = (kernel.cols * inner).max(1);
        let panels = Chunks {
            slice: self.panels.resize(kernel.padded(cols) * inner),
            size: PACK_PANELS * panel_len,
        };
        for_each_part(panels, cost, |index, part| {
            let first = index * PACK_PANELS * kernel.cols;
            if let Some(rows) = whole {
                let count = (PACK_PANELS * kernel.cols).min(cols - first);
                return (kernel.pack)(&rows[first..], cols, inner, count, part.slice);
            }
            for (index, panel) in part.slice.chunks_mut(panel_len).enumerate() {
                let first = first + index * kernel.cols;
                let count = kernel.cols.min(cols - first);
                pack_panel(matrix.slice(s![.., first..first + count]), scale, kernel.padded(count), panel);
            }
        });
    }

    /// The matrix's dimensions (p, n).
    pub(crate) fn dim(&self) -> (usize, usize) {
        (self.inner, self.cols)
    }

    /// The product of rows start.. of this matrix and a tile with as many columns, into columns `columns` of the product's.
    ///
    /// The first of `columns` is a multiple of [`PANEL_COLS`]; a bias starts with it.
    /// Where the tile is the only one, threads share its columns.
    pub(crate) fn multiply_tile(&self, a: TileRows<'_, A>, start: usize, columns: Range<usize>, output: Output<'_, A>, c: RowsMut<'_, A>) {
        self.multiply_runs((a, Left::Rows), start, columns, output, c);
    }

    /// [`multiply_tile`](Self::multiply_tile) where the inner index is the positions of a sequence: roundings do not add up.
    pub(crate) fn multiply_long_tile(&self, a: TileRows<'_, A>, columns: Range<usize>, output: Output<'_, A>, c: RowsMut<'_, A>) {
        self.multiply_runs((a, Left::LongRows), 0, columns, output, c);
    }

    /// [`multiply_long_tile`](Self::multiply_long_tile) with rows start.. of this matrix, as many as the tile has columns.
    pub(crate) fn multiply_long_rows(
        &self,
        a: TileRows<'_, A>,
        start: usize,
        columns: Range<usize>,
        output: Output<'_, A>,
        c: RowsMut<'_, A>,
    ) {
        self.multiply_runs((a, Left::LongRows), start, columns, output, c);
    }

    fn multiply_runs(&self, a: TileLeft<'_, A>, start: usize, columns: Range<usize>, output: Output<'_, A>, c: RowsMut<'_, A>) {
        let (rows, inner) = (a.0.rows, a.0.runs.width());
        if !shares_columns((rows, inner, columns.len())) {
            return self.multiply_runs_alone(a, start, columns, output, c);
        }
        share_columns((rows, inner), columns, output, c, |columns, output, c| {
            self.multiply_runs_alone(a, start, columns, output, c);
        });
    }

    fn multiply_runs_alone(
        &self,
        (a, left): TileLeft<'_, A>,
        start: usize,
        columns: Range<usize>,
        output: Output<'_, A>,
        c: RowsMut<'_, A>,
    ) {
        for index in 0..a.runs.count() {
            let range = a.runs.range(index);
            let product = Product {
                left: left(&a.data[index * a.run_len..]),
                rows: a.rows,
                panels: &self.panels.as_slice()[columns.start * self.inner..],
                depth: self.inner,
                start: start + range.start,
                inner: range.len(),
                cols: columns.len(),
                output: if index == 0 { output } else { Output::Add },
                stride: c.stride,
            };
            (self.kernel.run)(&product, c.data);
        }
    }

    /// The product of a left operand of one segment and this matrix of as many rows.
    pub(crate) fn multiply_columns(&self, a: &PackedColumns<A>, output: Output<'_, A>, c: RowsMut<'_, A>) {
        a.multiply_panels(self.panels.as_slice(), self.cols, output, c);
    }

    /// The product of the first p columns of `a` with this matrix, into the first n columns of `c`.
    pub(crate) fn multiply(&self, a: Rows<'_, A>, output: Output<'_, A>, c: RowsMut<'_, A>, scratch: &mut Scratch<A>) {
        self.multiply_rows((a.count, false), output, c, scratch, |row, start, to| {
            to.copy_from_slice(&a.data[row * a.stride + start..][..to.len()]);
        });
    }

    /// [`PackedMatrix::multiply`] for a left operand (m, p) of any strides.
    pub(crate) fn multiply_view(&self, a: ArrayView2<'_, A>, output: Output<'_, A>, c: RowsMut<'_, A>, scratch: &mut Scratch<A>) {
        self.multiply_rows((a.nrows(), false), output, c, scratch, |row, start, to| {
            copy_columns(a.row(row), start, to);
        });
    }

    /// [`multiply_view`](Self::multiply_view) where the inner index may be the positions of a sequence: roundings do not add up.
    pub(crate) fn multiply_long_view(&self, a: ArrayView2<'_, A>, output: Output<'_, A>, c: RowsMut<'_, A>, scratch: &mut Scratch<A>) {
        self.multiply_rows((a.nrows(), true), output, c, scratch, |row, start, to| {
            copy_columns(a.row(row), start, to);
        });
    }

    /// The product of a left operand whose rows `copy` copies: it fills its slice from a row and a position on.
    fn multiply_rows(
        &self,
        (rows, is_long): (usize, bool),
        output: Output<'_, A>,
        c: RowsMut<'_, A>,
        scratch: &mut Scratch<A>,
        copy: impl Fn(usize, usize, &mut [A]) + Sync,
    ) {
        if !shares_columns((rows, self.inner, self.cols)) {
            return self.blocks((rows, is_long), 0..self.cols, output, c, scratch, copy);
        }
        share_columns((rows, self.inner), 0..self.cols, output, c, |columns, output, c| {
            self.blocks((rows, is_long), columns, output, c, &mut Scratch::default(), &copy);
        });
    }

    /// Some columns of the product, in blocks of rows, and of the inner dimension within them.
    fn blocks(
        &self,
        (rows, is_long): (usize, bool),
        columns: Range<usize>,
        output: Output<'_, A>,
        c: RowsMut<'_, A>,
        scratch: &mut Scratch<A>,
        copy: impl Fn(usize, usize, &mut [A]),
    ) {
        let count = rows.div_ceil(BLOCK_BYTES / (STRIDE * size_of::<A>())).max(1);
        let block = rows.div_ceil(count).next_multiple_of(self.kernel.rows).max(1);
        let needed = self.kernel.reach(block);
        if scratch.left.len() < needed {
            scratch.left.resize(needed, A::zero());
        }
        for first in (0..rows).step_by(block) {
            let rows = block.min(rows - first);
            // Once even where the sums are empty: they still overwrite c or add the bias.
            for start in (0..self.inner.max(1)).step_by(DEPTH) {
                let inner = DEPTH.min(self.inner - start);
                for (row, to) in scratch.left.chunks_exact_mut(STRIDE).take(rows).enumerate() {
                    copy(first + row, start, &mut to[..inner]);
                }
                let product = Product {
                    left: if is_long {
                        Left::LongRows(&scratch.left)
                    } else {
                        Left::Rows(&scratch.left)
                    },
                    rows,
                    panels: &self.panels.as_slice()[columns.start * self.inner..],
                    depth: self.inner,
                    start,
                    inner,
                    cols: columns.len(),
                    output: if start == 0 { output } else { Output::Add },
                    stride: c.stride,
                };
                (self.kernel.run)(&product, &mut c.data[first * c.stride..]);
            }
        }
    }
}

/// Fills `to` with the elements of `row` from `start` on.
fn copy_columns<A: Scalar>(row: ArrayView1<'_, A>, start: usize, to: &mut [A]) {
    match row.to_slice() {
        Some(from) => to.copy_from_slice(&from[start..start + to.len()]),
        None => to.iter_mut().zip(row.slice(s![start..])).for_each(|(to, &from)| *to = from),
    }
}

/// Copies `columns`, times `scale`, to a panel `width` wide. Zeros fill the columns that are missing; their results are dropped.
fn pack_panel<A: Scalar>(columns: ArrayView2<'_, A>, scale: A, width: usize, panel: &mut [A]) {
    if columns.ncols() < width {
        panel.fill(A::zero());
    }
    if columns.stride_of(Axis(1)) == 1 {
        for (to, from) in panel.chunks_exact_mut(width).zip(columns.rows()) {
            to.iter_mut().zip(from).for_each(|(to, &from)| *to = scale * from);
        }
    } else {
        transpose(columns.t(), width, panel);
        if scale != A::one() {
            for value in panel {
                *value = scale * *value;
            }
        }
    }
}

/// The columns of `x` as rows at the distance `stride`; fast if the rows of `x` are contiguous.
pub(super) fn transpose<A: Scalar>(x: ArrayView2<'_, A>, stride: usize, to: &mut [A]) {
    const BLOCK: usize = 8;
    let rows = match x.stride_of(Axis(1)) {
        1 => x.nrows() - x.nrows() % BLOCK,
        _ => 0,
    };
    for first in (0..rows).step_by(BLOCK) {
        let lines: [&[A]; BLOCK] = std::array::from_fn(|p| x.row(first + p).to_slice().unwrap_or(&[]));
        let to = &mut to[first..];
        let lines = lines.map(|line| line.as_chunks::<BLOCK>());
        for chunk in 0..lines[0].0.len() {
            let block: [[A; BLOCK]; BLOCK] = std::array::from_fn(|p| lines[p].0[chunk]);
            for i in 0..BLOCK {
                let to = &mut to[(chunk * BLOCK + i) * stride..][..BLOCK];
                let column: [A; BLOCK] = std::array::from_fn(|p| block[p][i]);
                to.copy_from_slice(&column);
            }
        }
        let done = lines[0].0.len() * BLOCK;
        for i in 0..lines[0].1.len() {
            let to = &mut to[(done + i) * stride..][..BLOCK];
            let column: [A; BLOCK] = std::array::from_fn(|p| lines[p].1[i]);
            to.copy_from_slice(&column);
        }
    }
    for (p, row) in x.rows().into_iter().enumerate().skip(rows) {
        to[p..].iter_mut().step_by(stride).zip(row).for_each(|(to, &from)| *to = from);
    }
}

/// The length of `cols` packed columns of `inner` rows.
pub(crate) fn panels_len<A: Scalar>(inner: usize, cols: usize) -> usize {
    A::kernel().padded(cols) * inner
}

/// Packs the first `cols` columns of `x` for [`multiply_panels`] and [`PackedColumns::multiply_panels`].
///
/// Blocks of columns can be packed apart, one after the other, if all but the last have a multiple of [`PANEL_COLS`] columns.
pub(crate) fn pack_panels<A: Scalar>(x: Rows<'_, A>, cols: usize, panels: &mut [A]) {
    (A::kernel().pack)(x.data, x.stride, x.count, cols, panels);
}

/// c ← left·x, or what `output` says, for a tile of one run and the first `cols` columns of as many rows `x`, which [`pack_panels`] packed.
pub(crate) fn multiply_panels<A: Scalar>(left: TileRows<'_, A>, panels: &[A], cols: usize, output: Output<'_, A>, c: RowsMut<'_, A>) {
    multiply_by(A::kernel(), left, panels, cols, output, c);
}

fn multiply_by<A: Scalar>(kernel: Kernel<A>, left: TileRows<'_, A>, panels: &[A], cols: usize, output: Output<'_, A>, c: RowsMut<'_, A>) {
    debug_assert!(left.runs.count() <= 1, "panels have the rows of one run");
    let inner = left.runs.range(0).len();
    let product = Product {
        left: Left::LongRows(left.data),
        rows: left.rows,
        panels,
        depth: inner,
        start: 0,
        inner,
        cols,
        output,
        stride: c.stride,
    };
    (kernel.run)(&product, c.data);
}

#[cfg(test)]
mod tests;
