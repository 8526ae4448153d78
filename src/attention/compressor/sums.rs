//! The sums over positions, in the element type or in `f64`.

use std::ops::Range;

use ndarray::{Array, Array3, Array4, Axis, Dimension, Ix3, Ix4, Slice, s};

use crate::error::{Result, checked_len};
use crate::ops::{add_sums, add_widened};
use crate::parallel::{self, Chunks, for_each_part};
use crate::scalar::Scalar;

/// PositionSums that one task moves.
const TASK_SUMS: usize = 1 << 14;

/// The precision that the sums are held in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Precision {
    /// In the element type: too few for their roundings to show.
    #[default]
    Short,
    /// The last few in the element type, all before them in `f64`, whose roundings do not show after millions of terms.
    Long,
    /// Rounded for good, with those of E·1.
    Rounded,
}

/// The sums of keys, of values, or of both where they are the same.
#[derive(Clone, Debug, Default)]
pub(super) struct PositionSums<A> {
    /// Compression first: (batch, matrices, slots, dim). Weights first: (batch, compressed heads, slots, `head_dim`).
    pub(super) values: Array4<A>,
    /// E·1 over the real positions, (batch, matrices, slots): what a bias before compression is multiplied by. Made by [`round`](Self::round).
    pub(super) row_sums: Array3<A>,
    /// To be added to the values where there are many terms; otherwise of any shape.
    long_values: Array4<f64>,
    precision: Precision,
    /// E·1 so far.
    pub(super) long_row_sums: Array3<f64>,
}

impl<A: Scalar> PositionSums<A> {
    /// Empty sums of this shape, every one of them `start`.
    pub(super) fn reset(&mut self, shape: (usize, usize, usize, usize), matrices: usize, start: A) {
        refill(&mut self.values, Ix4(shape.0, shape.1, shape.2, shape.3), start);
        refill(&mut self.row_sums, Ix3(shape.0, matrices, shape.2), A::zero());
        refill(&mut self.long_row_sums, Ix3(shape.0, matrices, shape.2), 0.0);
        self.precision = Precision::Short;
    }

    pub(super) fn slots(&self) -> usize {
        self.values.dim().2
    }

    /// The sums where [`lengthen`](Self::lengthen) was called.
    pub(super) fn long(&mut self) -> Option<&mut Array4<f64>> {
        (self.precision == Precision::Long).then_some(&mut self.long_values)
    }

    /// Allocates the sums in `f64`.
    pub(super) fn lengthen(&mut self) {
        if self.precision != Precision::Long {
            refill(&mut self.long_values, self.values.raw_dim(), 0.0);
            self.precision = Precision::Long;
        }
    }

    /// Moves the sums of some items to those in `f64`.
    pub(super) fn fold(&mut self, items: Range<usize>) {
        let items = s![items, .., .., ..];
        let (mut long, mut sums) = (self.long_values.slice_mut(items), self.values.slice_mut(items));
        let (Some(long), Some(sums)) = (long.as_slice_mut(), sums.as_slice_mut()) else {
            return;
        };
        let cost = parallel::cost(&[sums.len(), 8]);
        let parts = (
            Chunks {
                slice: long,
                size: TASK_SUMS,
            },
            Chunks {
                slice: sums,
                size: TASK_SUMS,
            },
        );
        for_each_part(parts, cost, |_, (long, sums)| {
            add_widened(long.slice, sums.slice);
            sums.slice.fill(A::zero());
        });
    }

    /// Rounds all sums to the element type, once.
    pub(super) fn round(&mut self) {
        if let (Precision::Long, Some(long), Some(sums)) = (self.precision, self.long_values.as_slice(), self.values.as_slice_mut()) {
            add_sums(long, sums);
        }
        if self.precision != Precision::Rounded {
            let rounded = self.row_sums.iter_mut().zip(&self.long_row_sums);
            rounded.for_each(|(sum, &long)| *sum = A::cast(long));
        }
        self.precision = Precision::Rounded;
    }

    /// Gives up memory that rounded sums have no use for.
    pub(super) fn shrink(&mut self) {
        self.long_values = Array4::zeros((0, 0, 0, 0));
    }

    /// Enlarges the sums to `slots` slots, the new ones empty.
    pub(super) fn grow(&mut self, slots: usize) -> Result<()> {
        let (batch, outer, _, width) = self.values.dim();
        checked_len("Compressor", &[batch, outer, slots, width], size_of::<f64>())?;
        if self.precision == Precision::Long {
            self.long_values = with_slots(&self.long_values, slots);
        }
        self.values = with_slots(&self.values, slots);
        self.row_sums = with_slots(&self.row_sums, slots);
        self.long_row_sums = with_slots(&self.long_row_sums, slots);
        Ok(())
    }

    /// All sums as slices, with or without those of E·1; they must be [rounded](Self::round).
    pub(super) fn slices(&mut self, with_row_sums: bool) -> impl Iterator<Item = &mut [A]> {
        let row_sums = if with_row_sums {
            self.row_sums.as_slice_memory_order_mut()
        } else {
            None
        };
        self.values.as_slice_memory_order_mut().into_iter().chain(row_sums)
    }

    /// Adds the sums of `other`, which has no more slots; or takes the larger ones.
    pub(super) fn merge(&mut self, other: &Self, takes_maximum: bool) {
        let slots = other.slots();
        if takes_maximum {
            let mut sums = self.values.slice_mut(s![.., .., ..slots, ..]);
            sums.zip_mut_with(&other.values, |sum, &other| *sum = larger(*sum, other));
        } else {
            self.lengthen();
            // Pushes that continue behind the other part may never reach the place where they would do so.
            self.fold(0..self.values.dim().0);
            let mut sums = self.long_values.slice_mut(s![.., .., ..slots, ..]);
            sums.zip_mut_with(&other.values, |sum, other| *sum += other.widen());
            if other.precision == Precision::Long {
                sums += &other.long_values;
            }
        }
        let mut row_sums = self.long_row_sums.slice_mut(s![.., .., ..slots]);
        row_sums += &other.long_row_sums;
    }
}

/// `array` with `slots` places along its third axis, the new ones 0.
fn with_slots<T: Clone + Default, D: Dimension>(array: &Array<T, D>, slots: usize) -> Array<T, D> {
    let mut shape = array.raw_dim();
    shape[2] = slots;
    let mut larger = Array::from_elem(shape, T::default());
    let old = Slice::from(..array.len_of(Axis(2)));
    larger.slice_axis_mut(Axis(2), old).assign(array);
    larger
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
