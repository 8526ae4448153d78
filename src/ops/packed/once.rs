//! Products whose operands are both used once: they are packed block by block.

use std::ops::Range;

use ndarray::{ArrayView1, ArrayView2, ArrayViewMut2, Axis, s};

use super::super::aligned::Aligned;
use super::super::long_sum::add_widened;
use super::super::micro_kernel::STRIDE;
use super::super::tile::{Runs, Tile};
use super::{Output, PackedColumns, PackedMatrix, RowsMut, SEGMENT};
use crate::scalar::Scalar;

/// Columns of a block of the right operand: with [`SEGMENT`] rows, what stays in the second-level cache.
const COLS: usize = 512;
/// Rows of a block of the left operand.
const ROWS: usize = 192;

/// Room that the products of one thread share.
#[derive(Debug)]
pub(crate) struct ProductScratch<A> {
    rows: Tile<A>,
    columns: PackedColumns<A>,
    right: PackedMatrix<A>,
    sums: Aligned<A>,
    product: Aligned<A>,
}

impl<A: Scalar> Default for ProductScratch<A> {
    fn default() -> Self {
        Self {
            rows: Tile::default(),
            columns: PackedColumns::default(),
            right: PackedMatrix::default(),
            sums: Aligned::default(),
            product: Aligned::default(),
        }
    }
}

impl<A: Scalar> ProductScratch<A> {
    /// c ← alpha·a·b, added to what is there where `add` says so; for views of any strides, none of them empty.
    pub(crate) fn multiply(&mut self, alpha: A, a: ArrayView2<'_, A>, b: ArrayView2<'_, A>, add: bool, c: &mut ArrayViewMut2<'_, A>) {
        let ((m, inner), n) = (a.dim(), b.ncols());
        for columns in ranges(n, COLS) {
            for positions in ranges(inner, SEGMENT) {
                self.right.repack(b.slice(s![positions.clone(), columns.clone()]), alpha);
                let add = add || positions.start > 0;
                for rows in ranges(m, ROWS) {
                    let by_columns = self.take_left(a.slice(s![rows.clone(), positions.clone()]));
                    match c.as_slice_mut() {
                        Some(c) => self.multiply_block(by_columns, add, &mut c[rows.start * n + columns.start..], n),
                        None => self.multiply_apart(by_columns, add, c.slice_mut(s![rows, columns.clone()])),
                    }
                }
            }
        }
    }

    /// sums ← sums + a·b, whose inner index is a segment of positions at most.
    pub(crate) fn add_long(&mut self, a: ArrayView2<'_, A>, b: ArrayView2<'_, A>, sums: &mut ArrayViewMut2<'_, f64>) {
        let mut product = std::mem::take(&mut self.product);
        let (rows, cols) = sums.dim();
        let data = product.resize(rows * cols);
        if let Ok(mut product) = ArrayViewMut2::from_shape((rows, cols), &mut *data) {
            self.multiply(A::one(), a, b, false, &mut product);
        }
        for (mut sums, product) in sums.rows_mut().into_iter().zip(data.chunks(cols.max(1))) {
            add_widened(sums.as_slice_mut().expect("rows of sums are contiguous"), product);
        }
        self.product = product;
    }

    /// Packs a block of the left operand; whether by columns.
    fn take_left(&mut self, a: ArrayView2<'_, A>) -> bool {
        let by_columns = a.stride_of(Axis(0)) == 1;
        if by_columns {
            self.columns.repack(a.reversed_axes());
        } else {
            self.rows.fill(a, Runs::of(a.ncols()));
        }
        by_columns
    }

    fn multiply_block(&self, by_columns: bool, add: bool, data: &mut [A], stride: usize) {
        let output = if add { Output::Add } else { Output::Set };
        let c = RowsMut { data, stride };
        if by_columns {
            self.right.multiply_columns(&self.columns, output, c);
        } else {
            let (_, cols) = self.right.dim();
            self.right.multiply_long_tile(self.rows.rows(), 0..cols, output, c);
        }
    }

    /// For a result whose rows are not at one distance of a slice.
    fn multiply_apart(&mut self, by_columns: bool, add: bool, mut c: ArrayViewMut2<'_, A>) {
        let mut sums = std::mem::take(&mut self.sums);
        let rows = sums.resize(ROWS * STRIDE);
        self.multiply_block(by_columns, false, rows, STRIDE);
        for (mut c, row) in c.rows_mut().into_iter().zip(rows.chunks_exact(STRIDE)) {
            let sums = ArrayView1::from(&row[..c.len()]);
            if add {
                c += &sums;
            } else {
                c.assign(&sums);
            }
        }
        self.sums = sums;
    }
}

/// 0..`len` in ranges of `size`.
fn ranges(len: usize, size: usize) -> impl Iterator<Item = Range<usize>> {
    (0..len).step_by(size).map(move |start| start..len.min(start + size))
}
