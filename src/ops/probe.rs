//! Products as the layers make them, for the bench that watches the kernels' speed.

use ndarray::{Array2, ArrayView2};

use super::aligned::Aligned;
use super::packed::{Output, PackedColumns, PackedMatrix, Rows, RowsMut, multiply_panels, pack_panels, panels_len};
use super::tile::{Runs, Tile};
use crate::scalar::Scalar;

/// The left operand of a probed product.
#[derive(Clone, Copy, Debug)]
pub enum ProbeLeft {
    /// A tile of rows.
    Rows,
    /// A tile of rows; the products are added to the result.
    RowsAdded,
    /// A matrix that is read by its columns.
    Columns,
}

/// A product of at most one segment whose operands are packed already.
#[derive(Debug)]
pub struct KernelProbe<A> {
    left: ProbeLeft,
    rows: Tile<A>,
    columns: PackedColumns<A>,
    right: PackedMatrix<A>,
    panels: Vec<A>,
    result: Aligned<A>,
    cols: usize,
}

impl<A: Scalar> KernelProbe<A> {
    /// Creates the product of (`rows`, `inner`) and (`inner`, `cols`).
    pub fn new(left: ProbeLeft, rows: usize, inner: usize, cols: usize) -> Self {
        let numbers = |shape: (usize, usize)| Array2::from_shape_fn(shape, |(i, j)| A::cast(libm::sin((i * shape.1 + j) as f64 * 0.734)));
        let (a, b) = (numbers((rows, inner)), numbers((inner, cols)));
        let mut probe = Self {
            left,
            rows: Tile::default(),
            columns: PackedColumns::default(),
            right: PackedMatrix::new(b.view(), A::one()),
            panels: vec![A::zero(); panels_len::<A>(inner, cols)],
            result: Aligned::default(),
            cols,
        };
        probe.rows.fill(a.view(), Runs::of(inner));
        let transposed = Array2::from_shape_fn((inner, rows), |(p, i)| a[[i, p]]);
        probe.columns.repack(transposed.view());
        probe.pack(b.view());
        probe.result.resize(rows * cols);
        probe
    }

    fn pack(&mut self, b: ArrayView2<'_, A>) {
        let rows = Rows {
            data: b.to_slice().unwrap_or(&[]),
            stride: b.ncols(),
            count: b.nrows(),
        };
        pack_panels(rows, b.ncols(), &mut self.panels);
    }

    /// Computes it once.
    pub fn run(&mut self) {
        let to = RowsMut {
            data: self.result.as_mut_slice(),
            stride: self.cols,
        };
        match self.left {
            ProbeLeft::Rows => self.right.multiply_tile(self.rows.rows(), 0, 0..self.cols, Output::Set, to),
            ProbeLeft::RowsAdded => multiply_panels(self.rows.rows(), &self.panels, self.cols, Output::Add, to),
            ProbeLeft::Columns => self.right.multiply_columns(&self.columns, Output::Set, to),
        }
    }
}
