//! What owns parameters and is no attention.

mod embedding;
mod feed_forward;
mod layer_norm;
mod linear;
mod position;

pub use embedding::Embedding;
pub use feed_forward::{FeedForward, FeedForwardCache};

pub(crate) use feed_forward::FeedForwardScratch;
pub use layer_norm::LayerNorm;
pub use linear::Linear;
pub use position::Position;

pub(crate) use linear::{input_gradient, weight_gradient};

use ndarray::{Array, Array2, Array3, ArrayRef3, ArrayView2, ArrayViewMut2, Axis, Dimension, s};

use crate::error::{Error, Result, checked_len};
use crate::ops::Dropout;
use crate::parallel;
use crate::scalar::Scalar;
use crate::views::{outer, split};

/// Rows of a sequence that go through a chain of products together. It depends on nothing, so that results do not either.
pub(crate) const TILE: usize = 192;

/// An error unless the last axis of the sequence `x` is `dim` wide.
pub(crate) fn check_width<A>(operation: &'static str, argument: &'static str, x: &ArrayRef3<A>, dim: usize) -> Result<()> {
    if x.dim().2 == dim {
        return Ok(());
    }
    Err(Error::shape(
        operation,
        argument,
        format!("(any batch, any length, {dim})"),
        x.shape(),
    ))
}

/// A new (batch, length, width) array whose tiles of rows `work` fills from the same rows of `x`, spread over threads; a row takes
/// about `cost_per_row` multiplications.
pub(crate) fn map_tiles<A: Scalar, S>(
    operation: &'static str,
    x: &ArrayRef3<A>,
    width: usize,
    cost_per_row: usize,
    scratch: impl Fn() -> S + Send + Sync,
    work: impl Fn(&mut S, usize, ArrayView2<'_, A>, ArrayViewMut2<'_, A>) + Send + Sync,
) -> Result<Array3<A>> {
    let (batch, length, _) = x.dim();
    checked_len(operation, &[batch, length, width], size_of::<A>())?;
    let mut output = Array3::zeros((batch, length, width));
    let mut tasks = Vec::new();
    for (item, rows) in outer(output.view_mut()).into_iter().enumerate() {
        for (tile, rows) in split(rows, Axis(0), TILE).into_iter().enumerate() {
            tasks.push((item, tile * TILE, rows));
        }
    }
    let cost = parallel::cost(&[batch, length, cost_per_row]);
    parallel::for_each_init(tasks, cost, scratch, |scratch, (item, start, rows)| {
        let end = start + rows.nrows();
        work(scratch, item, x.slice(s![item, start..end, ..]), rows);
    });
    Ok(output)
}

/// (batch, length, width) as rows.
pub(crate) fn rows<A: Scalar>(x: &Array3<A>) -> ArrayView2<'_, A> {
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

/// Elements that one task drops out of.
const DROPOUT_ELEMENTS: usize = 1 << 15;

/// Drops out of a contiguous array, or of its gradient.
pub(crate) fn drop_out<A: Scalar, D: Dimension>(x: &mut Array<A, D>, dropout: Option<Dropout<A>>) {
    let (Some(dropout), Some(x)) = (dropout, x.as_slice_mut()) else {
        return;
    };
    let cost = parallel::cost(&[x.len(), 4]);
    let tasks = x.chunks_mut(DROPOUT_ELEMENTS).enumerate().collect();
    parallel::for_each(tasks, cost, |(task, part): (usize, &mut [A])| {
        dropout.apply(part, (task * DROPOUT_ELEMENTS) as u64);
    });
}
