//! Which rows of a chunk are real.

use std::ops::Range;

use ndarray::{ArrayView1, s};

use super::super::mask::{PaddingMask, one_past_last};
use super::Compressor;
use crate::error::{Error, Result};
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
            .extent
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
                format!("item {item} has a real position beyond its extent; mask that position, or set a larger extent"),
            ));
        }
        Ok(rows)
    }
}
