//! A left operand whose columns come one by one: the transpose of rows.

use ndarray::ArrayView2;

use super::super::aligned::Aligned;
use super::super::micro_kernel::{Kernel, Left, Output, Product};
use super::RowsMut;
use crate::scalar::Scalar;

/// The transpose of a matrix (p, m) of contiguous rows, packed: a left operand (m, p) of one segment at most.
#[derive(Debug)]
pub(crate) struct PackedColumns<A> {
    kernel: Kernel<A>,
    panels: Aligned<A>,
    rows: usize,
    inner: usize,
}

impl<A: Scalar> Default for PackedColumns<A> {
    /// An empty operand, to be repacked.
    fn default() -> Self {
        Self::with_kernel(A::kernel())
    }
}

impl<A: Scalar> PackedColumns<A> {
    pub(super) fn with_kernel(kernel: Kernel<A>) -> Self {
        Self {
            kernel,
            panels: Aligned::default(),
            rows: 0,
            inner: 0,
        }
    }

    /// The columns of the operand.
    pub(crate) fn inner(&self) -> usize {
        self.inner
    }

    /// Replaces the operand by the transpose of `matrix`, without allocating where the room suffices.
    pub(crate) fn repack(&mut self, matrix: ArrayView2<'_, A>) {
        (self.inner, self.rows) = matrix.dim();
        let rows = self.kernel.rows;
        let panels = self.panels.resize(self.rows.next_multiple_of(rows) * self.inner);
        if panels.is_empty() {
            return;
        }
        for (p, column) in matrix.rows().into_iter().enumerate() {
            let column = column.to_slice().expect("rows of one array or of its columns");
            (self.kernel.pack_left)(column, self.inner, &mut panels[p * rows..]);
        }
    }

    /// c ← left·x, or what `output` says, for the columns of `x` that [`pack_panels`](super::pack_panels) packed.
    pub(crate) fn multiply_panels(&self, panels: &[A], cols: usize, output: Output<'_, A>, c: RowsMut<'_, A>) {
        let product = Product {
            left: Left::Panels(self.panels.as_slice()),
            rows: self.rows,
            panels,
            depth: self.inner,
            start: 0,
            inner: self.inner,
            cols,
            output,
            stride: c.stride,
        };
        (self.kernel.run)(&product, c.data);
    }
}
