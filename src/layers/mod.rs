//! What owns parameters and is no attention.

mod embedding;
mod feed_forward;
mod layer_norm;
mod linear;
mod position;

pub use embedding::Embedding;
pub use feed_forward::FeedForward;
pub use layer_norm::LayerNorm;
pub use linear::Linear;
pub use position::Position;

use ndarray::{Array3, ArrayRef3, ArrayView2, ArrayViewMut2, Axis, s};

use crate::error::{Error, Result, checked_len};
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
