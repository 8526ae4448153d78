//! Adding a chunk of positions to the sums.

use ndarray::{ArrayView2, ArrayView3, ArrayViewMut2, Axis, ShapeBuilder, s};

use super::super::projection::{Projection, ProjectionWeights};
use super::rows::RealRows;
use super::scratch::CompressionScratch;
use super::sums::PositionSums;
use super::{Compressor, Order, ProjectionKind, SEGMENT};
use crate::config::ConvolutionKernel;
use crate::error::Result;
use crate::ops::{add_scaled_widened, long_sum};
use crate::parallel::{self, Chunks, along, for_each_part};
use crate::scalar::Scalar;

/// Columns of the compressed input that one task sums up: wide, so that whole rows are read, but at least two tasks.
fn task_columns(dim: usize) -> usize {
    (dim / 2).next_multiple_of(32).clamp(64, 256)
}

/// The places of the windows of one item.
#[derive(Clone, Copy, Debug)]
pub(super) struct Windows {
    /// Equal windows over this length (pooling), or windows of a fixed stride.
    length: Option<usize>,
    /// The number of windows, or the stride.
    pub(super) size: usize,
}

impl Windows {
    pub(super) fn slot(self, position: usize) -> usize {
        match self.length {
            // The last window whose start ⌊slot·length/slots⌋ is not after the position.
            Some(length) => (((position as u128 + 1) * self.size as u128).div_ceil(length.max(1) as u128) - 1) as usize,
            None => position / self.size,
        }
    }

    pub(super) fn offset(self, position: usize) -> usize {
        position % self.size
    }
}

impl<A: Scalar> Compressor<'_, A> {
    /// Enlarges the sums to the windows of rows that start at position `start`.
    pub(super) fn make_room(&mut self, start: usize, rows: &[RealRows<'_>]) -> Result<()> {
        let Some(stride) = self.config.stride() else {
            return Ok(());
        };
        let end = rows.iter().map(|rows| rows.end).max().unwrap_or(0);
        // Padding and nothing at all need no windows, however far behind they are.
        if end == 0 {
            return Ok(());
        }
        self.grow((start + end).div_ceil(stride))
    }

    /// Counts new rows, which start at position `start`, in everything but the sums of products.
    pub(super) fn count(&mut self, start: usize, rows: &[RealRows<'_>]) -> Result<()> {
        self.make_room(start, rows)?;
        self.count_tokens(start, rows);
        for index in 0..self.totals.sums.len() {
            if self.needs_row_sums(index) {
                let (projection, _) = self.sources(index);
                for (item, rows) in rows.iter().enumerate() {
                    let windows = self.windows(item);
                    let sums = self.totals.sums[index].long_row_sums.index_axis_mut(Axis(0), item);
                    add_row_sums(projection, sums, start, rows, windows);
                }
            }
        }
        Ok(())
    }

    /// Adds `chunk`, which starts at `start`, to the sums; `is_new` where these positions were not counted before.
    pub(super) fn add(
        &mut self,
        chunk: ArrayView3<'_, A>,
        start: usize,
        rows: &[RealRows<'_>],
        is_new: bool,
        scratch: &mut CompressionScratch<A>,
    ) {
        if self.config.projection.pools_by_attention() {
            return self.pool_rows(chunk, start, rows, &mut scratch.segments);
        }
        if self.order == Order::CompressFirst && matches!(self.projections.key().weights, ProjectionWeights::Dense { .. }) {
            return self.compress_dense(chunk, start, rows, scratch);
        }
        let (one, many);
        let windows: &[Windows] = if self.batch == 1 {
            one = [self.windows(0)];
            &one
        } else {
            many = (0..self.batch).map(|item| self.windows(item)).collect::<Vec<_>>();
            &many
        };
        if self.config.projection.kind != ProjectionKind::MaxPooling {
            self.totals.sums.iter_mut().for_each(PositionSums::lengthen);
        }
        match self.order {
            Order::CompressFirst => self.compress_inputs(chunk, start, rows, windows),
            Order::ProjectFirst => self.compress_features(chunk, start, rows, windows, is_new, &mut scratch.segments),
        }
    }

    pub(super) fn windows(&self, item: usize) -> Windows {
        if let Some(stride) = self.config.stride() {
            return Windows {
                length: None,
                size: stride,
            };
        }
        let length = self.totals.lengths.as_ref().map_or(0, |lengths| lengths[item]);
        Windows {
            length: Some(length),
            size: self.config.slots_of(length),
        }
    }

    fn count_tokens(&mut self, start: usize, rows: &[RealRows<'_>]) {
        if self.totals.tokens.ncols() == 0 {
            return;
        }
        for (item, rows) in rows.iter().enumerate() {
            let windows = self.windows(item);
            for row in (0..rows.end).filter(|&row| rows.is_real(row)) {
                self.totals.tokens[[item, windows.slot(start + row)]] += 1;
            }
        }
    }

    /// sums += E·X, column block by column block.
    fn compress_inputs(&mut self, chunk: ArrayView3<'_, A>, start: usize, rows: &[RealRows<'_>], windows: &[Windows]) {
        let (_, length, dim) = chunk.dim();
        let cost = parallel::cost(&[self.batch, length, dim, self.totals.sums.len()]);
        let width = task_columns(dim);
        let projections = [self.projections.key(), self.projections.value()];
        let parts = Chunks {
            slice: &mut self.totals.sums,
            size: 1,
        };
        for_each_part(parts, cost, |index, part| {
            let projection = projections[index];
            let Some(sums) = part.slice[0].long() else { return };
            for_each_part(along(sums.view_mut(), 0, 1), cost, |item, part| {
                for_each_part(along(part.view, 1, 1), cost, |matrix, part| {
                    for_each_part(along(part.view, 3, width), cost, |block, mut part| {
                        let mut sums = part.view.slice_mut(s![0, 0, .., ..]);
                        let columns = block * width..block * width + sums.ncols();
                        for (from, to) in segments(start, rows[item].end) {
                            let x = chunk.slice(s![item, from..to, columns.clone()]);
                            add_segment(projection, matrix, x, start, from, &rows[item], windows[item], &mut sums);
                        }
                    });
                });
            });
        });
    }
}

/// The rows from..to of a chunk starting at `start` that fall in one segment each, up to row `end`.
pub(super) fn segments(start: usize, end: usize) -> impl Iterator<Item = (usize, usize)> {
    let mut from = 0;
    std::iter::from_fn(move || {
        let to = end.min(from + SEGMENT - (start + from) % SEGMENT);
        let segment = (from, to);
        from = to;
        (segment.0 < segment.1).then_some(segment)
    })
}

/// Adds the rows `x` of one segment, whose first is row `from` of a chunk that starts at `start`, to the (slots, columns) sums, one by one:
/// for all forms that add up and do not multiply them by a matrix.
#[allow(clippy::too_many_arguments)] // all of them vary independently
pub(super) fn add_segment<A: Scalar>(
    projection: &Projection<A>,
    matrix: usize,
    x: ArrayView2<'_, A>,
    start: usize,
    from: usize,
    rows: &RealRows<'_>,
    windows: Windows,
    sums: &mut ArrayViewMut2<'_, f64>,
) {
    let position = start + from;
    for (row, values) in x.outer_iter().enumerate().filter(|&(row, _)| rows.is_real(from + row)) {
        let mut sum = sums.row_mut(windows.slot(position + row));
        let sum = sum.as_slice_mut().expect("rows of sums are contiguous");
        match &projection.weights {
            ProjectionWeights::Convolution {
                kernel,
                shape: ConvolutionKernel::Scalar,
            } => add_scaled_widened(sum, kernel[[matrix, 0, 0, windows.offset(position + row)]].widen(), values),
            ProjectionWeights::Convolution { kernel, .. } => {
                let weights = kernel.slice(s![matrix, .., 0, windows.offset(position + row)]);
                let products = values.iter().zip(weights).map(|(value, weight)| value.widen() * weight.widen());
                sum.iter_mut().zip(products).for_each(|(sum, product)| *sum += product);
            }
            ProjectionWeights::Dense { .. } | ProjectionWeights::Mean | ProjectionWeights::Max | ProjectionWeights::Attention { .. } => {
                add_scaled_widened(sum, 1.0, values);
            }
        }
    }
}

/// row sums (matrices, slots) += E·1 over the real positions of an item, segment by segment.
fn add_row_sums<A: Scalar>(
    projection: &Projection<A>,
    mut sums: ArrayViewMut2<'_, f64>,
    start: usize,
    rows: &RealRows<'_>,
    windows: Windows,
) {
    for (matrix, mut sums) in sums.outer_iter_mut().enumerate() {
        for (from, to) in segments(start, rows.end) {
            if let ProjectionWeights::Dense { matrix: weights, .. } = &projection.weights {
                let weights = weights.slice(s![matrix, .., start + from..start + to]);
                for (sum, weights) in sums.iter_mut().zip(weights.rows()) {
                    *sum += if rows.holes.is_none() {
                        long_sum(weights)
                    } else {
                        let real = weights.iter().enumerate().filter(|&(row, _)| rows.is_real(from + row));
                        real.map(|(_, weight)| weight.widen()).sum::<f64>()
                    };
                }
            } else {
                let one = A::one();
                let ones = ArrayView2::from_shape((to - from, 1).strides((0, 0)), std::slice::from_ref(&one));
                let ones = ones.expect("one number, read again and again");
                let mut sums = sums.view_mut().insert_axis(Axis(1));
                add_segment(projection, matrix, ones, start, from, rows, windows, &mut sums);
            }
        }
    }
}
