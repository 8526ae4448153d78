//! Rows that are pushed a few at a time and kept until their segment is complete.

use ndarray::{Array2, ArrayView2, ArrayView3, Axis, s};

use super::super::projection::ProjectionWeights;
use super::rows::RealRows;
use super::scratch::CompressionScratch;
use super::{Compressor, Order, SEGMENT};
use crate::scalar::Scalar;

/// The last rows that were pushed, less than a segment of them, position by position.
#[derive(Clone, Debug, Default)]
pub(super) struct Pending<A> {
    /// (positions, batch, dim)
    rows: Vec<A>,
    /// (positions, batch)
    real: Vec<bool>,
}

impl<A: Scalar> Pending<A> {
    /// Adds the rows of a chunk (batch, positions, dim), whose first is row `first` of `rows`.
    fn extend(&mut self, chunk: ArrayView3<'_, A>, first: usize, rows: &[RealRows<'_>]) {
        for (row, items) in chunk.axis_iter(Axis(1)).enumerate() {
            for values in items.rows() {
                match values.to_slice() {
                    Some(values) => self.rows.extend_from_slice(values),
                    None => self.rows.extend(values),
                }
            }
            self.real.extend(rows.iter().map(|rows| rows.is_real(first + row)));
        }
    }

    fn clear(&mut self) {
        self.rows.clear();
        self.real.clear();
    }
}

impl<A: Scalar> Compressor<'_, A> {
    /// Adds rows to the sums, or keeps them until their segment is complete: a product of a few rows takes many times as long per row.
    pub(super) fn add_or_keep(&mut self, chunk: ArrayView3<'_, A>, rows: &[RealRows<'_>], scratch: &mut CompressionScratch<A>) {
        let multiplies = self.order == Order::ProjectFirst || matches!(self.projections.key().weights, ProjectionWeights::Dense { .. });
        if !multiplies || self.batch == 0 {
            return self.add(chunk, self.next, rows, true, scratch);
        }
        let (start, length) = (self.next, chunk.dim().1);
        let mut from = 0;
        while from < length {
            let position = start + from;
            let whole = (length - from) / SEGMENT * SEGMENT;
            if whole > 0 && position.is_multiple_of(SEGMENT) {
                let range = from..from + whole;
                let rows: Vec<_> = rows.iter().map(|rows| rows.part(range.clone())).collect();
                self.add(chunk.slice(s![.., range, ..]), position, &rows, true, scratch);
                from += whole;
                continue;
            }
            let to = length.min(from + SEGMENT - position % SEGMENT);
            self.pending.extend(chunk.slice(s![.., from..to, ..]), from, rows);
            if (start + to).is_multiple_of(SEGMENT) {
                self.add_pending(start + to, scratch);
            }
            from = to;
        }
    }

    /// Adds the pending rows, the last of which is before position `end`.
    pub(super) fn add_pending(&mut self, end: usize, scratch: &mut CompressionScratch<A>) {
        let count = self.pending.real.len() / self.batch.max(1);
        if count == 0 {
            return;
        }
        let mut pending = std::mem::take(&mut self.pending);
        let dim = self.config.attention.dim;
        let x = ArrayView3::from_shape((count, self.batch, dim), &pending.rows).expect("all rows of each position");
        let real = ArrayView2::from_shape((count, self.batch), &pending.real).expect("a flag for each row");
        let real: Array2<bool> = real.t().as_standard_layout().into_owned();
        let rows: Vec<_> = real.outer_iter().map(RealRows::of_mask).collect();
        self.add(x.permuted_axes([1, 0, 2]), end - count, &rows, true, scratch);
        pending.clear();
        self.pending = pending;
    }

    /// Adds the pending rows, if there are any.
    pub(super) fn flush_pending(&mut self) {
        if !self.pending.real.is_empty() {
            self.add_pending(self.next, &mut CompressionScratch::default());
        }
    }
}
