//! A left operand that is packed, for a right operand that is used once.

use ndarray::{ArrayView2, Axis};

use super::super::micro_kernel::{Kernel, Left, Output, Product, STRIDE};
use super::{Rows, RowsMut, SEGMENT, Scratch};
use crate::scalar::Scalar;

/// Columns of a right operand that are packed before they are multiplied: rows of them are long enough to be read at the speed of memory.
pub(super) const BLOCK_COLS: usize = 512;

/// A left operand (k, n), packed, whose right operand comes in runs of rows and is used once: E times a part of a sequence.
#[derive(Clone, Debug)]
pub(crate) struct PackedLeft<A> {
    kernel: Kernel<A>,
    /// For every segment its k rows, at the distance `STRIDE`, up to a multiple of the kernel's rows.
    segments: Vec<A>,
    rows: usize,
    #[cfg(test)]
    len: usize,
}

impl<A: Scalar> Default for PackedLeft<A> {
    /// An empty operand, to be repacked.
    fn default() -> Self {
        Self::with_kernel(A::kernel(), &[])
    }
}

impl<A: Scalar> PackedLeft<A> {
    /// The matrices (k, n), one above the other, packed. Those with fewer columns than the first are continued by zeros.
    #[cfg(test)]
    pub(crate) fn new(matrices: &[ArrayView2<'_, A>]) -> Self {
        Self::with_kernel(A::kernel(), matrices)
    }

    pub(super) fn with_kernel(kernel: Kernel<A>, matrices: &[ArrayView2<'_, A>]) -> Self {
        let mut packed = Self {
            kernel,
            segments: Vec::new(),
            rows: 0,
            #[cfg(test)]
            len: 0,
        };
        packed.repack(matrices);
        packed
    }

    /// Replaces the operand by `matrices`, without allocating where the room suffices.
    pub(crate) fn repack(&mut self, matrices: &[ArrayView2<'_, A>]) {
        self.rows = matrices.iter().map(ArrayView2::nrows).sum();
        let len = matrices.first().map_or(0, ArrayView2::ncols);
        #[cfg(test)]
        {
            self.len = len;
        }
        // One row more, for runs that start inside the last segment.
        let needed = self.segment_len() * len.div_ceil(SEGMENT) + STRIDE;
        if self.segments.len() < needed {
            self.segments.resize(needed, A::zero());
        }
        let segment_len = self.segment_len();
        let mut first = 0;
        for matrix in matrices {
            for (i, row) in matrix.rows().into_iter().enumerate() {
                for (segment, from) in row.axis_chunks_iter(Axis(0), SEGMENT).enumerate() {
                    let place = segment * segment_len + (first + i) * STRIDE;
                    let to = &mut self.segments[place..][..from.len()];
                    match from.to_slice() {
                        Some(from) => to.copy_from_slice(from),
                        None => to.iter_mut().zip(from).for_each(|(to, &from)| *to = from),
                    }
                }
            }
            first += matrix.nrows();
        }
    }

    fn segment_len(&self) -> usize {
        self.rows.next_multiple_of(self.kernel.rows) * STRIDE
    }

    /// The dimensions (k, n) of the stacked operand.
    #[cfg(test)]
    pub(crate) fn dim(&self) -> (usize, usize) {
        (self.rows, self.len)
    }

    /// c ← c + left·x for the columns of `x` that [`pack_panels`] packed; `left` is one segment at most.
    pub(crate) fn accumulate_panels(&self, panels: &[A], inner: usize, cols: usize, c: RowsMut<'_, A>) {
        self.add_product(&self.segments, (panels, inner), cols, c);
    }

    /// c ← c + left·x for rows `left` of one segment and `inner` packed rows of `x`.
    fn add_product(&self, left: &[A], (panels, inner): (&[A], usize), cols: usize, c: RowsMut<'_, A>) {
        let product = Product {
            left: Left::Rows(left),
            rows: self.rows,
            panels,
            depth: inner,
            start: 0,
            inner,
            cols,
            output: Output::Add,
            stride: c.stride,
        };
        (self.kernel.run)(&product, c.data);
    }

    /// c ← c + left[:, start..start + count]·x for the first `cols` columns of `x` and `c`, where `count` is the number of rows of `x`.
    ///
    /// Columns can be split in any way, and positions at multiples of [`SEGMENT`], without changing a bit.
    pub(crate) fn accumulate(&self, start: usize, x: Rows<'_, A>, cols: usize, c: RowsMut<'_, A>, scratch: &mut Scratch<A>) {
        let mut done = 0;
        while done < x.count {
            let (segment, offset) = ((start + done) / SEGMENT, (start + done) % SEGMENT);
            let inner = (SEGMENT - offset).min(x.count - done);
            let left = &self.segments[segment * self.segment_len() + offset..];
            for first in (0..cols).step_by(BLOCK_COLS) {
                let cols = BLOCK_COLS.min(cols - first);
                let panels = scratch.panels.resize(inner * self.kernel.padded(cols));
                (self.kernel.pack)(&x.data[done * x.stride + first..], x.stride, inner, cols, panels);
                let to = RowsMut {
                    data: &mut c.data[first..],
                    stride: c.stride,
                };
                self.add_product(left, (panels, inner), cols, to);
            }
            done += inner;
        }
    }
}
