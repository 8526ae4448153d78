//! The real rows of a chunk.

use std::ops::Range;

use ndarray::{ArrayView1, ArrayView2, s};

use super::super::mask::{PaddingMask, one_past_last};
use super::super::weights::tile;
use super::Compressor;
use crate::error::{Error, Result};
use crate::ops::Rows;
use crate::scalar::Scalar;

/// The rows of one item in a chunk that are real.
#[derive(Clone, Copy, Debug)]
pub(super) struct RealRows<'m> {
    /// One past the last.
    pub(super) end: usize,
    /// The item's mask, where there are holes before the end.
    pub(super) holes: Option<ArrayView1<'m, bool>>,
}

impl<'m> RealRows<'m> {
    /// The real rows of a mask.
    pub(super) fn of_mask(real: ArrayView1<'m, bool>) -> Self {
        let end = one_past_last(real);
        let holes = real.iter().take(end).any(|&real| !real).then_some(real);
        Self { end, holes }
    }

    /// Those of some of the rows.
    pub(super) fn part(&self, range: Range<usize>) -> Self {
        Self {
            end: self.end.clamp(range.start, range.end) - range.start,
            holes: self.holes.map(|real| real.slice_move(s![range])),
        }
    }

    pub(super) fn is_real(&self, row: usize) -> bool {
        row < self.end && self.holes.is_none_or(|real| real[row])
    }
}

impl<A: Scalar> Compressor<'_, A> {
    /// Which rows of a chunk of `length` positions are real.
    pub(super) fn real_rows<'m>(&self, length: usize, mask: Option<&'m PaddingMask>) -> Result<Vec<RealRows<'m>>> {
        (0..self.batch)
            .map(|item| self.real_rows_of(item, length, mask.map(|mask| mask.item(item))))
            .collect()
    }

    /// Which of an item's next `length` rows are real, given what its mask says of them.
    pub(super) fn real_rows_of<'m>(&self, item: usize, length: usize, real: Option<ArrayView1<'m, bool>>) -> Result<RealRows<'m>> {
        let known = self
            .totals
            .lengths
            .as_ref()
            .map(|lengths| lengths[item].saturating_sub(self.next).min(length));
        let Some(real) = real else {
            let end = known.unwrap_or(length);
            return Ok(RealRows { end, holes: None });
        };
        let rows = RealRows::of_mask(real);
        if known.is_some_and(|known| rows.end > known) {
            return Err(Error::argument(
                "Compressor::push",
                format!("item {item} has a real position beyond its length; mask that position, or set a larger length"),
            ));
        }
        Ok(rows)
    }
}

/// The rows of a segment in memory of their own, with zeros in place of those that are not real; contiguous ones that are all real as they are.
pub(super) fn copied<'c, A: Scalar>(x: ArrayView2<'c, A>, from: usize, rows: &RealRows<'_>, copy: &'c mut Vec<A>) -> Rows<'c, A> {
    let (count, stride) = x.dim();
    if rows.holes.is_none()
        && let Some(data) = x.to_slice()
    {
        return Rows { data, stride, count };
    }
    let mut to = tile(copy, count, stride);
    for (row, (mut to, x)) in to.outer_iter_mut().zip(x.outer_iter()).enumerate() {
        if rows.is_real(from + row) {
            to.assign(&x);
        } else {
            to.fill(A::zero());
        }
    }
    Rows {
        data: &copy[..count * stride],
        stride,
        count,
    }
}

/// Rows as a matrix.
pub(super) fn matrix_of<A>(rows: Rows<'_, A>) -> ArrayView2<'_, A> {
    ArrayView2::from_shape((rows.count, rows.stride), rows.data).expect("contiguous rows")
}
