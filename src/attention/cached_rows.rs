//! The keys and values of a growing sequence.

use ndarray::{Array3, ArrayView1, s};

use super::heads::ItemKeyValues;
use crate::scalar::Scalar;

/// Rows (heads, rows, `head_dim`) of keys and of values, of which the first are filled.
#[derive(Clone, Debug)]
pub(super) struct CachedRows<A> {
    pub(super) keys: Array3<A>,
    pub(super) values: Array3<A>,
    pub(super) filled: usize,
}

impl<A: Scalar> CachedRows<A> {
    pub(super) fn new(heads: usize, head_dim: usize) -> Self {
        let none = || Array3::zeros((heads, 0, head_dim));
        Self {
            keys: none(),
            values: none(),
            filled: 0,
        }
    }

    /// Reserves memory for `more` rows after those that are filled, but for no more than `most` in total.
    pub(super) fn reserve(&mut self, more: usize, most: usize) {
        let (heads, capacity, head_dim) = self.keys.dim();
        let needed = self.filled + more;
        if needed <= capacity {
            return;
        }
        let larger = needed.max(2 * capacity).min(most.max(needed));
        for rows in [&mut self.keys, &mut self.values] {
            let mut copy = Array3::zeros((heads, larger, head_dim));
            copy.slice_mut(s![.., ..self.filled, ..])
                .assign(&rows.slice(s![.., ..self.filled, ..]));
            *rows = copy;
        }
    }

    /// Writes row `place` of every head.
    pub(super) fn write(&mut self, place: usize, (keys, values): (ArrayView1<'_, A>, ArrayView1<'_, A>)) {
        let head_dim = self.keys.dim().2;
        for (rows, from) in [(&mut self.keys, keys), (&mut self.values, values)] {
            for (head, mut rows) in rows.outer_iter_mut().enumerate() {
                rows.row_mut(place).assign(&from.slice(s![head * head_dim..(head + 1) * head_dim]));
            }
        }
        self.filled = self.filled.max(place + 1);
    }

    pub(super) fn view(&self) -> ItemKeyValues<'_, A> {
        ItemKeyValues {
            keys: self.keys.view(),
            values: self.values.view(),
            count: self.filled,
        }
    }

    /// Removes the first `count` rows.
    pub(super) fn remove_first(&mut self, count: usize) {
        let (_, rows, head_dim) = self.keys.dim();
        for numbers in [&mut self.keys, &mut self.values] {
            let heads = numbers.as_slice_mut().expect("the rows are made here, in order");
            for head in heads.chunks_exact_mut((rows * head_dim).max(1)) {
                head.copy_within(count * head_dim..self.filled * head_dim, 0);
            }
        }
        self.filled -= count;
    }
}
