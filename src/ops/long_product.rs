//! Sums of outer products over a long sequence: gradients of weights.

use ndarray::{Array2, ArrayView2, ArrayViewMut2, Axis, s};

use super::aligned::Aligned;
use super::idle::{idle_rows, without_idle};
use super::long_sum::{add_block, add_sums};
use super::packed::{Output, PANEL_COLS, PackedColumns, Rows, RowsMut, SEGMENT, pack_panels, panels_len};
use crate::parallel::{self, Chunks, Parts, for_each_part};
use crate::scalar::Scalar;

/// Segments that are packed before they are multiplied, where that takes no more than `PANEL_BYTES`.
const TOGETHER: usize = 4;
/// Packed panels that all tasks go over: they should stay in the third-level cache.
const PANEL_BYTES: usize = 4 << 20;
/// Columns that one task packs.
const PACK_COLS: usize = 4 * PANEL_COLS;
/// Rows of the sum that one task has, a few blocks of the kernels.
const TASK_ROWS: usize = 132;
/// Rows whose segments may be added one after the other in the element type: more would show in `f32`.
pub(crate) const ROUNDED_ROWS: usize = 16 * SEGMENT;

/// `sum` += Σₜ aₜᵀ·xₜ of the rows of `a` and `x`, all three of them contiguous.
///
/// Where a row of `a` is 0, that of `x` may hold anything. A task has some rows of the sum and goes over all rows of `x`, which is packed
/// once for all of them, so that nothing is left to be added up.
pub(crate) fn add_long_product<A: Scalar>(a: ArrayView2<'_, A>, x: ArrayView2<'_, A>, mut sum: ArrayViewMut2<'_, A>) {
    if a.nrows() > ROUNDED_ROWS {
        let mut long = Array2::zeros(sum.dim());
        add_product_to_long(a, x, long.view_mut());
        return add_rounded(&long, sum);
    }
    for_each_group(a, x, sum.view_mut(), |lefts, panels, size, part| {
        multiply(lefts, panels, size, RowsMut::of(part));
    });
}

/// [`add_long_product`] to a sum in `f64`, for more rows than are added in one call.
pub(crate) fn add_product_to_long<A: Scalar>(a: ArrayView2<'_, A>, x: ArrayView2<'_, A>, long: ArrayViewMut2<'_, f64>) {
    for_each_group(a, x, long, |lefts, panels, size, mut part| {
        let mut product = [A::zero(); TASK_ROWS * PANEL_COLS];
        let (rows, width) = part.dim();
        let sums = part.as_slice_mut().expect("rows of contiguous sums are contiguous");
        for first in (0..width).step_by(PANEL_COLS) {
            let cols = PANEL_COLS.min(width - first);
            for (index, (left, panels)) in lefts.iter().zip(panels.chunks(size)).enumerate() {
                let output = if index == 0 { Output::Set } else { Output::Add };
                let to = RowsMut {
                    data: &mut product[..],
                    stride: cols,
                };
                left.multiply_panels(&panels[panels_len::<A>(left.inner(), first)..], cols, output, to);
            }
            add_block(&mut sums[first..], width, &product[..rows * cols], cols);
        }
    });
}

/// `sum` += `long`, rounded once.
pub(crate) fn add_rounded<A: Scalar>(long: &Array2<f64>, sum: ArrayViewMut2<'_, A>) {
    let (width, cost) = (long.ncols().max(1), parallel::cost(&[long.len(), 4]));
    let long = long.as_slice().expect("sums are contiguous");
    let parts = Chunks {
        slice: RowsMut::of(sum).data,
        size: TASK_ROWS * width,
    };
    for_each_part(parts, cost, |task, part| add_sums(&long[task * TASK_ROWS * width..], part.slice));
}

/// Calls `add` for groups of segments and some rows of the sum `to`: with the packed columns of `a`, the packed rows of `x`, and how many
/// numbers a segment of these takes.
fn for_each_group<A: Scalar, T: Send + Sync>(
    a: ArrayView2<'_, A>,
    x: ArrayView2<'_, A>,
    mut to: ArrayViewMut2<'_, T>,
    add: impl Fn(&[PackedColumns<A>], &[A], usize, ArrayViewMut2<'_, T>) + Sync,
) {
    let x = without_idle(x, &idle_rows(a));
    let (length, cols) = x.dim();
    let cost = parallel::cost(&[length, to.len()]);
    let size = panels_len::<A>(SEGMENT, cols);
    let together = (PANEL_BYTES / (size * size_of::<A>()).max(1)).clamp(1, TOGETHER);
    let needed = size * together.min(length.div_ceil(SEGMENT));
    let keeps = needed * size_of::<A>() <= PANEL_BYTES;
    let mut space = if keeps { A::kept_panels().take() } else { Aligned::default() };
    let panels = space.resize(needed);
    for first in (0..length).step_by(together * SEGMENT) {
        let rows = first..length.min(first + together * SEGMENT);
        pack(x.slice(s![rows.clone(), ..]), size, panels, cost);
        let a = a.slice(s![rows, ..]);
        let parts = Parts {
            view: to.view_mut(),
            axis: 0,
            size: TASK_ROWS,
        };
        for_each_part(parts, cost, |block, part| {
            let features = block * TASK_ROWS..block * TASK_ROWS + part.view.nrows();
            let mut lefts = A::kept_lefts().take();
            lefts.resize_with(together.max(lefts.len()), PackedColumns::default);
            let segments = a.axis_chunks_iter(Axis(0), SEGMENT);
            let count = segments.len();
            for (left, a) in lefts.iter_mut().zip(segments) {
                left.repack(a.slice(s![.., features.clone()]));
            }
            add(&lefts[..count], panels, size, part.view);
            A::kept_lefts().set(lefts);
        });
    }
    if keeps {
        A::kept_panels().set(space);
    }
}

/// `sum` += the products of segments: all of them for some columns of the sum, which stay in cache meanwhile.
fn multiply<A: Scalar>(lefts: &[PackedColumns<A>], panels: &[A], size: usize, sum: RowsMut<'_, A>) {
    let cols = sum.stride;
    for first in (0..cols).step_by(PANEL_COLS) {
        for (left, panels) in lefts.iter().zip(panels.chunks(size)) {
            let sum = RowsMut {
                data: &mut sum.data[first..],
                stride: sum.stride,
            };
            left.multiply_panels(
                &panels[panels_len::<A>(left.inner(), first)..],
                PANEL_COLS.min(cols - first),
                Output::Add,
                sum,
            );
        }
    }
}

/// Packs the segments of `x`, each into `size` numbers.
fn pack<A: Scalar>(x: ArrayView2<'_, A>, size: usize, panels: &mut [A], cost: usize) {
    let (length, cols) = x.dim();
    let data = x.to_slice().expect("training keeps its sequences contiguous");
    let segments = Chunks { slice: panels, size };
    for_each_part(segments, cost, |segment, part| {
        let x = Rows {
            data: &data[(segment * SEGMENT * cols).min(data.len())..],
            stride: cols,
            count: SEGMENT.min(length.saturating_sub(segment * SEGMENT)),
        };
        pack_segment(x, cols, part.slice, cost);
    });
}

/// Packs the first `cols` columns of at most a segment of rows, some of them a task; `cost` is that of all that is packed together.
pub(crate) fn pack_segment<A: Scalar>(x: Rows<'_, A>, cols: usize, panels: &mut [A], cost: usize) {
    let blocks = Chunks {
        slice: &mut panels[..panels_len::<A>(x.count, cols)],
        size: (PACK_COLS * x.count).max(1),
    };
    for_each_part(blocks, cost, |block, part| {
        let first = block * PACK_COLS;
        let x = Rows {
            data: &x.data[first..],
            ..x
        };
        pack_panels(x, PACK_COLS.min(cols - first), part.slice);
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::Array2;

    /// Segments and groups of them, whole and not, against the definition; what was in the sum stays in it.
    #[test]
    fn any_length_is_the_definition() {
        for length in [
            0,
            1,
            SEGMENT - 1,
            SEGMENT,
            SEGMENT + 1,
            TOGETHER * SEGMENT,
            TOGETHER * SEGMENT + 530,
            ROUNDED_ROWS + 1,
        ] {
            for (rows, cols) in [(1, 1), (50, 150), (TASK_ROWS, PACK_COLS)] {
                let matrix =
                    |width: usize, factor: f64| Array2::from_shape_fn((length, width), |(t, i)| ((t * width + i) as f64 * factor).sin());
                let (a, x) = (matrix(rows, 0.7), matrix(cols, 0.3));
                let mut sum = Array2::from_elem((rows, cols), 2.0);
                add_long_product(a.view(), x.view(), sum.view_mut());
                let expected = a.t().dot(&x) + 2.0;
                assert!(sum.iter().zip(&expected).all(|(sum, expected)| (sum - expected).abs() < 1e-10));
            }
        }
    }
}
