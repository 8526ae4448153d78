//! The gradients of a sequence and of the matrices that weigh its positions.

use ndarray::{Array3, ArrayView3, ArrayViewMut2, Axis, s};

use super::super::rows::{RealRows, copied, matrix_of};
use super::SumGradients;
use crate::layers::{for_each_tile, tile_rows};
use crate::ops::{Aligned, Output, PackedMatrix, RowsMut, Runs, StagedSum, Tile};
use crate::parallel::{Parts, Pool, for_each_part};
use crate::scalar::Scalar;

/// Scratch space for one tile of positions.
#[derive(Debug)]
struct DenseScratch<A> {
    copy: Vec<A>,
    left: Tile<A>,
    product: Aligned<A>,
}

impl<A: Scalar> Default for DenseScratch<A> {
    fn default() -> Self {
        Self {
            copy: Vec::new(),
            left: Tile::default(),
            product: Aligned::default(),
        }
    }
}

impl<A: Scalar> DenseScratch<A> {
    /// The copy, the tile, and zeros of the size of its product.
    fn zeros(&mut self, rows: usize, cols: usize) -> (&mut Vec<A>, &mut Tile<A>, RowsMut<'_, A>) {
        let data = self.product.resize(rows * cols);
        data.fill(A::zero());
        let product = RowsMut { data, stride: cols };
        (&mut self.copy, &mut self.left, product)
    }
}

/// dX += Eᵀ·d(E·X) for the real rows.
pub(super) fn spread<A: Scalar>(matrices: &Array3<A>, dsums: &SumGradients<A>, rows: &[RealRows<'_>], dx: &mut Array3<A>, cost: usize) {
    let dim = dx.dim().2;
    let size = tile_rows(dx.dim().1);
    let mut pool = Pool::<DenseScratch<A>>::default();
    pool.prepare();
    for (matrix, sums) in matrices.outer_iter().zip(dsums.values.axis_iter(Axis(1))) {
        let packed: Vec<_> = sums.outer_iter().map(|sums| PackedMatrix::new(sums, A::one())).collect();
        for_each_tile(dx.view_mut(), size, cost, |item, range, mut dx| {
            let rows = &rows[item];
            let count = rows.end.min(range.end).saturating_sub(range.start);
            if count == 0 {
                return;
            }
            pool.with(|space| {
                let weights = matrix.slice(s![.., range.start..range.start + count]);
                space.left.fill_transposed(weights);
                if rows.holes.is_none() {
                    return packed[item].multiply_tile(space.left.rows(), 0, 0..dim, Output::Add, RowsMut::of(dx));
                }
                let (_, left, mut product) = space.zeros(count, dim);
                packed[item].multiply_tile(left.rows(), 0, 0..dim, Output::Set, product.reborrow());
                let products = product.data.chunks(dim).zip(dx.outer_iter_mut()).enumerate();
                for (_, (product, mut dx)) in products.filter(|&(row, _)| rows.is_real(range.start + row)) {
                    dx.iter_mut().zip(product).for_each(|(dx, &product)| *dx += product);
                }
            });
        });
    }
}

/// dE += d(E·X)·Xᵀ + d(E·1)·1ᵀ over the real rows: a task has some positions, and adds up item after item.
pub(super) fn collect<A: Scalar>(grad: &mut Array3<A>, dsums: &SumGradients<A>, x: ArrayView3<'_, A>, rows: &[RealRows<'_>], cost: usize) {
    let size = tile_rows(grad.dim().2);
    let mut pool = Pool::<DenseScratch<A>>::default();
    pool.prepare();
    for (matrix, view) in grad.outer_iter_mut().enumerate() {
        let sums = dsums.values.index_axis(Axis(1), matrix);
        let packed: Vec<_> = sums.outer_iter().map(|sums| PackedMatrix::new(sums.t(), A::one())).collect();
        for_each_part(Parts { view, axis: 1, size }, cost, |tile, part| {
            let start = tile * size;
            pool.with(|space| {
                let (slots, count) = part.view.dim();
                let (copy, left, mut product) = space.zeros(count, slots);
                let mut staged = StagedSum::default();
                for (item, (rows, packed)) in rows.iter().zip(&packed).enumerate() {
                    let end = rows.end.min(start + count);
                    if end <= start {
                        continue;
                    }
                    let x = matrix_of(copied(x.slice(s![item, start..end, ..]), start, rows, copy));
                    left.fill(x, Runs::of(x.ncols()));
                    packed.multiply_tile(left.rows(), 0, 0..slots, Output::Add, product.reborrow());
                    let row_sums = dsums.row_sums.slice(s![item, matrix, ..]);
                    let products = product.data.chunks_mut(slots).take(end - start).enumerate();
                    for (_, product) in products.filter(|&(row, _)| rows.is_real(start + row)) {
                        product.iter_mut().zip(row_sums).for_each(|(product, &sum)| *product += sum);
                    }
                    staged.added(product.data);
                }
                staged.finish(product.data);
                add_transposed(part.view, product.data);
            });
        });
    }
}

/// `sum` += the transpose of contiguous rows.
fn add_transposed<A: Scalar>(mut sum: ArrayViewMut2<'_, A>, rows: &[A]) {
    let width = sum.nrows();
    for (slot, mut sum) in sum.outer_iter_mut().enumerate() {
        let column = rows[slot.min(rows.len())..].iter().step_by(width);
        sum.iter_mut().zip(column).for_each(|(sum, &value)| *sum += value);
    }
}
