//! Products of few rows, whose columns threads share.

use std::ops::Range;

use ndarray::{ArrayView1, ArrayViewMut1, ArrayViewMut2, ShapeBuilder};

use super::super::aligned::Aligned;
use super::{Output, PANEL_COLS, RowsMut};
use crate::parallel::{self, Parts, for_each_part};
use crate::scalar::Scalar;

/// Parts that a thread takes: it is rare that all threads begin at once.
const PARTS_A_THREAD: usize = 2;

/// Whether threads that have nothing else to do should take some columns of a product of so many rows, inner positions and columns.
pub(super) fn shares_columns((rows, inner, columns): (usize, usize, usize)) -> bool {
    columns > PANEL_COLS && parallel::finds_idle_threads(parallel::cost(&[rows, inner, columns]))
}

/// Calls `multiply` for some columns at a time. A product of `rows` rows and an inner dimension of `inner` comes out the same, bit for bit:
/// it is summed element by element.
pub(super) fn share_columns<A: Scalar>(
    (rows, inner): (usize, usize),
    columns: Range<usize>,
    output: Output<'_, A>,
    c: RowsMut<'_, A>,
    multiply: impl Fn(Range<usize>, Output<'_, A>, RowsMut<'_, A>) + Sync,
) {
    let cost = parallel::cost(&[rows, inner, columns.len()]);
    let size = columns
        .len()
        .div_ceil(PARTS_A_THREAD * parallel::threads())
        .next_multiple_of(PANEL_COLS);
    let view = ArrayViewMut2::from_shape((rows, columns.len()).strides((c.stride, 1)), c.data).expect("the result holds these rows");
    let parts = Parts { view, axis: 1, size };
    for_each_part(parts, cost, |index, part| {
        let first = index * size;
        let mut to = part.view;
        let width = to.ncols();
        // The rows of different parts lie between one another, so each is made in memory of its own.
        let mut own = Aligned::default();
        let own = own.resize(rows * width);
        if output.adds() {
            own.chunks_exact_mut(width)
                .zip(to.rows())
                .for_each(|(own, from)| ArrayViewMut1::from(own).assign(&from));
        }
        let start = columns.start + first;
        let result = RowsMut {
            data: &mut *own,
            stride: width,
        };
        multiply(start..start + width, output.at_columns(first, width), result);
        for (own, mut to) in own.chunks_exact(width).zip(to.rows_mut()) {
            to.assign(&ArrayView1::from(own));
        }
    });
}
