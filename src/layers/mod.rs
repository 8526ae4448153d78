//! What owns parameters and is no attention.

mod embedding;
mod feed_forward;
mod layer_norm;
mod linear;
mod position;

pub use embedding::Embedding;
pub use feed_forward::{FeedForward, FeedForwardCache};
pub use layer_norm::LayerNorm;
pub use linear::Linear;
pub use position::Position;

pub(crate) use feed_forward::FeedForwardScratch;
pub(crate) use linear::{bias_gradient, input_gradient, weight_gradient};
pub(crate) use position::{Padding, Start};

use std::ops::Range;

use ndarray::{Array, Array2, Array3, ArrayRef3, ArrayView2, ArrayViewMut2, ArrayViewMut3, Axis, Dimension, Ix2, Ix3, s};

use crate::error::{Error, Result, checked_len};
use crate::ops::Dropout;
use crate::parallel::{self, Chunks, Parts, Pool, for_each_part};
use crate::scalar::Scalar;

/// Rows of a sequence that go through a chain of products together. It depends on nothing, so that results do not either.
pub(crate) const TILE: usize = 264;

/// Rows of the tiles that a sequence of `length` is cut into: even ones, as many as all threads have work with. Only for what computes
/// every row in the same way, whatever the size of its tile: so results do not depend on the number of threads.
pub(crate) fn tile_rows(length: usize) -> usize {
    even_tiles(length, parallel::threads())
}

/// Rows of even tiles, as many as a number of `threads` can share.
fn even_tiles(length: usize, threads: usize) -> usize {
    /// Rows below which the products of a tile slow down.
    const FEW: usize = 48;
    /// A multiple of the rows that the kernels work on.
    const ROWS: usize = 12;
    let needed = length.div_ceil(TILE).max(1);
    let count = needed.next_multiple_of(threads).min((length / FEW).max(1));
    length.div_ceil(count).next_multiple_of(ROWS).max(ROWS)
}

/// An error unless the last axis of the sequence `x` is `dim` wide, and x is small enough to be copied: a broadcast view need not be.
pub(crate) fn check_width<A>(operation: &'static str, argument: &'static str, x: &ArrayRef3<A>, dim: usize) -> Result<()> {
    if x.dim().2 == dim {
        return checked_len(operation, x.shape(), size_of::<A>()).map(drop);
    }
    Err(Error::shape(
        operation,
        argument,
        format!("(any batch, any length, {dim})"),
        x.shape(),
    ))
}

/// A few threads, as many as can share the tiles of [`map_tiles`]. Some products are chosen by the rows of a tile, which must not depend on
/// how many threads there are.
const SHARERS: usize = 4;

/// A new (batch, length, width) array whose tiles of rows `work` fills from the same rows of `x`, spread over threads; a row takes
/// about `cost_per_row` multiplications.
pub(crate) fn map_tiles<A: Scalar, S: Default + Send>(
    operation: &'static str,
    x: &ArrayRef3<A>,
    width: usize,
    cost_per_row: usize,
    work: impl Fn(&mut S, usize, ArrayView2<'_, A>, ArrayViewMut2<'_, A>) + Sync,
) -> Result<Array3<A>> {
    let (batch, length, _) = x.dim();
    checked_len(operation, &[batch, length, width], size_of::<A>())?;
    let mut output = Array3::zeros((batch, length, width));
    let mut pool = Pool::default();
    pool.prepare();
    let cost = parallel::cost(&[batch, length, cost_per_row]);
    for_each_tile(output.view_mut(), even_tiles(length, SHARERS), cost, |item, rows, out| {
        pool.with(|scratch| work(scratch, item, x.slice(s![item, rows, ..]), out));
    });
    Ok(output)
}

/// Calls `work` for tiles of `size` rows of every item, told the item and which rows these are; `cost` is that of all together.
pub(crate) fn for_each_tile<A: Scalar>(
    stream: ArrayViewMut3<'_, A>,
    size: usize,
    cost: usize,
    work: impl Fn(usize, Range<usize>, ArrayViewMut2<'_, A>) + Sync,
) {
    let items = Parts {
        view: stream,
        axis: 0,
        size: 1,
    };
    for_each_part(items, cost, |item, part| {
        for_each_part(rows_of(part, size), cost, |tile, part| {
            let start = tile * size;
            work(item, start..start + part.view.nrows(), part.view);
        });
    });
}

/// The one item of a part, to be cut into tiles.
fn rows_of<A>(item: Parts<'_, A, Ix3>, size: usize) -> Parts<'_, A, Ix2> {
    Parts {
        view: item.view.index_axis_move(Axis(0), 0),
        axis: 0,
        size,
    }
}

/// (batch, length, width) as rows.
pub(crate) fn rows<A: Scalar>(x: &ArrayRef3<A>) -> ArrayView2<'_, A> {
    let (batch, length, width) = x.dim();
    x.view()
        .into_shape_with_order((batch * length, width))
        .expect("training keeps its sequences contiguous")
}

/// Rows as (batch, length, width).
pub(crate) fn sequence<A: Scalar>(rows: Array2<A>, batch: usize, length: usize) -> Array3<A> {
    let width = rows.ncols();
    rows.into_shape_with_order((batch, length, width))
        .expect("there are batch · length rows")
}

/// (batch, length, width) turned into rows.
pub(crate) fn flat<A: Scalar>(x: Array3<A>) -> Array2<A> {
    let (batch, length, width) = x.dim();
    x.into_shape_with_order((batch * length, width))
        .expect("training keeps its sequences contiguous")
}

/// Elements that one task drops out of, or adds.
const TASK_ELEMENTS: usize = 1 << 15;

/// `sum` += `x`, two contiguous arrays of one shape.
pub(crate) fn add<A: Scalar, D: Dimension>(sum: &mut Array<A, D>, x: &Array<A, D>) {
    let (Some(sum), Some(x)) = (sum.as_slice_mut(), x.as_slice()) else {
        unreachable!("training keeps its sequences contiguous");
    };
    let cost = parallel::cost(&[x.len(), 4]);
    let parts = Chunks {
        slice: sum,
        size: TASK_ELEMENTS,
    };
    for_each_part(parts, cost, |task, part| {
        let x = &x[task * TASK_ELEMENTS..];
        part.slice.iter_mut().zip(x).for_each(|(sum, &x)| *sum += x);
    });
}

/// Drops out of a contiguous array, or of its gradient.
pub(crate) fn drop_out<A: Scalar, D: Dimension>(x: &mut Array<A, D>, dropout: Option<Dropout<A>>) {
    let (Some(dropout), Some(x)) = (dropout, x.as_slice_mut()) else {
        return;
    };
    let cost = parallel::cost(&[x.len(), 4]);
    let parts = Chunks {
        slice: x,
        size: TASK_ELEMENTS,
    };
    for_each_part(parts, cost, |task, part| dropout.apply(part.slice, (task * TASK_ELEMENTS) as u64));
}
