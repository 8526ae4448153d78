//! The sums of keys or values.

use ndarray::{Array, Array3, Array4, Dimension, Ix3, Ix4, s};

use crate::error::{Result, checked_len};
use crate::scalar::Scalar;

#[derive(Clone, Debug)]
pub(super) struct Side<A> {
    /// Compression first: (batch, matrices, slots, dim). Weights first: (batch, compressed heads, slots, `head_dim`).
    pub(super) sums: Array4<A>,
    /// E·1 over the real positions, (batch, matrices, slots): what a bias before compression is multiplied by.
    pub(super) row_sums: Array3<A>,
}

impl<A: Scalar> Default for Side<A> {
    fn default() -> Self {
        Self {
            sums: Array4::zeros((0, 0, 0, 0)),
            row_sums: Array3::zeros((0, 0, 0)),
        }
    }
}

impl<A: Scalar> Side<A> {
    /// Empty sums of this shape, every one of them `start`.
    pub(super) fn reset(&mut self, shape: (usize, usize, usize, usize), matrices: usize, start: A) {
        refill(&mut self.sums, Ix4(shape.0, shape.1, shape.2, shape.3), start);
        refill(&mut self.row_sums, Ix3(shape.0, matrices, shape.2), A::zero());
    }

    pub(super) fn slots(&self) -> usize {
        self.sums.dim().2
    }

    /// Makes room for `slots` slots, the new ones empty.
    pub(super) fn grow(&mut self, slots: usize) -> Result<()> {
        let old = self.slots();
        let (batch, outer, _, width) = self.sums.dim();
        checked_len("Compressor", &[batch, outer, slots, width], size_of::<A>())?;
        let mut sums = Array4::zeros((batch, outer, slots, width));
        sums.slice_mut(s![.., .., ..old, ..]).assign(&self.sums);
        let mut row_sums = Array3::zeros((batch, self.row_sums.dim().1, slots));
        row_sums.slice_mut(s![.., .., ..old]).assign(&self.row_sums);
        *self = Self { sums, row_sums };
        Ok(())
    }

    /// All sums as slices, with or without those of E·1.
    pub(super) fn slices(&mut self, with_row_sums: bool) -> impl Iterator<Item = &mut [A]> {
        let row_sums = if with_row_sums {
            self.row_sums.as_slice_memory_order_mut()
        } else {
            None
        };
        self.sums.as_slice_memory_order_mut().into_iter().chain(row_sums)
    }

    /// Adds the sums of `other`, which has no more slots; or takes the larger ones.
    pub(super) fn merge(&mut self, other: &Self, takes_maximum: bool) {
        let mut sums = self.sums.slice_mut(s![.., .., ..other.slots(), ..]);
        if takes_maximum {
            sums.zip_mut_with(&other.sums, |sum, &other| *sum = larger(*sum, other));
        } else {
            sums += &other.sums;
        }
        let mut row_sums = self.row_sums.slice_mut(s![.., .., ..other.slots()]);
        row_sums += &other.row_sums;
    }
}

/// Gives `array` this shape, with `value` everywhere; without allocating where it was as large before.
pub(super) fn refill<T: Clone + Default, D: Dimension>(array: &mut Array<T, D>, shape: D, value: T) {
    if array.raw_dim() == shape {
        return array.fill(value);
    }
    let (mut data, _) = std::mem::take(array).into_raw_vec_and_offset();
    data.clear();
    data.resize(shape.size(), value);
    *array = Array::from_shape_vec(shape, data).expect("as many elements as the shape has");
}

/// The larger of two numbers; NaN where either is.
pub(super) fn larger<A: Scalar>(a: A, b: A) -> A {
    if b > a || b.is_nan() { b } else { a }
}
