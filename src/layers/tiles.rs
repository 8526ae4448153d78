//! Sequences cut into tiles of rows.

use std::ops::Range;

use ndarray::{Array3, ArrayRef3, ArrayView2, ArrayViewMut2, ArrayViewMut3, Axis, Ix2, Ix3, s};

use crate::error::{Result, checked_len};
use crate::parallel::{self, Parts, Pool, for_each_part};
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
    const FEW: usize = 32;
    /// A multiple of the rows of a block of the kernels, or of half of them.
    const ROWS: usize = 6;
    let needed = length.div_ceil(TILE).max(1);
    let count = needed.next_multiple_of(threads).min((length / FEW).max(1));
    length.div_ceil(count).next_multiple_of(ROWS).max(ROWS)
}

/// The rows of each of several sequences, of these lengths, one after the other.
pub(crate) fn row_ranges(lengths: &[usize]) -> impl Iterator<Item = Range<usize>> {
    lengths.iter().scan(0, |end, &length| {
        let start = *end;
        *end += length;
        Some(start..*end)
    })
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

/// Calls `work` for tiles of `size` rows of every item, with the item and the range of the rows; `cost` is that of all together.
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
