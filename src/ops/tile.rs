//! Rows that packed products read and write in place, from one product to the next.

use std::ops::Range;

use ndarray::{ArrayView1, ArrayView2, ArrayViewMut2, s};

use super::aligned::Aligned;
use super::micro_kernel::STRIDE;
use super::packed::{PANEL_COLS, RowsMut, SEGMENT, transpose};
use crate::scalar::Scalar;

/// How columns are cut into runs, each short enough for the kernel to read it in one go.
///
/// Columns come in units (heads, or halves of a feed-forward). As many units as fit go into one run; a unit that is too long for
/// one has runs of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Runs {
    unit: usize,
    units: usize,
    /// Units in a run.
    group: usize,
}

impl Runs {
    /// Columns that nothing divides.
    pub(crate) fn of(cols: usize) -> Self {
        Self::separate(1, cols)
    }

    /// Units that are read one by one.
    pub(crate) fn of_units(units: usize, unit: usize) -> Self {
        let group = (SEGMENT / unit.max(1)).clamp(1, units.max(1));
        Self { unit, units, group }
    }

    /// Units of which no two share a run.
    pub(crate) fn separate(units: usize, unit: usize) -> Self {
        Self { unit, units, group: 1 }
    }

    fn one(self) -> Self {
        Self::of(self.unit)
    }

    /// All columns.
    pub(crate) fn width(self) -> usize {
        self.units * self.unit
    }

    /// Runs that a unit takes.
    fn parts(self) -> usize {
        self.unit.div_ceil(SEGMENT).max(1)
    }

    /// The number of runs.
    pub(crate) fn count(self) -> usize {
        if self.group >= self.units {
            return if self.units == 0 { 0 } else { self.parts() };
        }
        self.units.div_ceil(self.group) * self.parts()
    }

    /// The columns of run `index`.
    pub(crate) fn range(self, index: usize) -> Range<usize> {
        let parts = self.parts();
        if parts > 1 {
            let (unit, part) = (index / parts, index % parts);
            let start = unit * self.unit;
            return start + part * SEGMENT..start + self.unit.min((part + 1) * SEGMENT);
        }
        let width = self.group * self.unit;
        index * width..((index + 1) * width).min(self.units * self.unit)
    }

    /// Whether every run starts where a panel of the kernels does.
    pub(crate) fn start_with_panels(self) -> bool {
        (0..self.count()).all(|index| self.range(index).start.is_multiple_of(PANEL_COLS))
    }

    /// The first run of a unit, and where in it the unit starts.
    fn place(self, unit: usize) -> (usize, usize) {
        if self.parts() > 1 {
            return (unit * self.parts(), 0);
        }
        (unit / self.group, unit % self.group * self.unit)
    }
}

/// A few rows, run by run.
#[derive(Debug)]
pub(crate) struct Tile<A> {
    data: Aligned<A>,
    rows: usize,
    runs: Runs,
    run_len: usize,
}

/// A tile, or one of its units, to be read.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TileRows<'t, A> {
    pub(super) data: &'t [A],
    pub(super) rows: usize,
    pub(super) runs: Runs,
    pub(super) run_len: usize,
}

impl<'t, A> TileRows<'t, A> {
    pub(crate) fn nrows(&self) -> usize {
        self.rows
    }

    /// One row of a tile of one run.
    pub(crate) fn row(self, row: usize) -> &'t [A] {
        debug_assert!(self.runs.count() <= 1, "the row of one run");
        &self.data[row * STRIDE..][..self.runs.width()]
    }

    /// Some columns of a tile of one run.
    pub(crate) fn columns(self, columns: Range<usize>) -> Self {
        debug_assert!(self.runs.count() <= 1, "columns of one run");
        Self {
            data: &self.data[columns.start..],
            runs: Runs::of(columns.len()),
            ..self
        }
    }
}

impl<A: Scalar> Default for Tile<A> {
    /// An empty tile, to be reshaped.
    fn default() -> Self {
        Self {
            data: Aligned::default(),
            rows: 0,
            runs: Runs::of(0),
            run_len: 0,
        }
    }
}

impl<A: Scalar> Tile<A> {
    /// Makes room for `rows` rows, with numbers of any value, without allocating where there was as much before.
    pub(crate) fn reshape(&mut self, rows: usize, runs: Runs) {
        (self.rows, self.runs) = (rows, runs);
        self.run_len = A::kernel().reach(rows);
        self.data.resize(self.run_len * runs.count());
    }

    /// Takes over `rows`, whose columns `runs` cuts.
    pub(crate) fn fill(&mut self, rows: ArrayView2<'_, A>, runs: Runs) {
        self.fill_rows(rows.nrows(), runs, |row| rows.row(row));
    }

    /// Takes over `count` rows, whose columns `runs` cuts.
    pub(crate) fn fill_rows<'r>(&mut self, count: usize, runs: Runs, row: impl Fn(usize) -> ArrayView1<'r, A>) {
        self.reshape(count, runs);
        for index in 0..self.runs.count() {
            let range = self.runs.range(index);
            let run = &mut self.data.as_mut_slice()[index * self.run_len..];
            for (to, from) in run.chunks_exact_mut(STRIDE).zip((0..count).map(&row)) {
                let to = &mut to[..range.len()];
                match from.to_slice() {
                    Some(from) => to.copy_from_slice(&from[range.clone()]),
                    None => to.iter_mut().zip(from.slice(s![range.clone()])).for_each(|(to, &from)| *to = from),
                }
            }
        }
    }

    /// Becomes a matrix with `blocks`, of one shape and no more than a run wide together, along its diagonal and zeros elsewhere.
    pub(crate) fn fill_diagonal<'b>(&mut self, count: usize, block: impl Fn(usize) -> ArrayView2<'b, A>) {
        let (height, width) = block(0).dim();
        let (rows, cols) = (count * height, count * width);
        self.reshape(rows, Runs::of(cols));
        let mut lines = self.data.as_mut_slice().chunks_exact_mut(STRIDE);
        for index in 0..count {
            for (from, to) in block(index).rows().into_iter().zip(lines.by_ref()) {
                to[..cols].fill(A::zero());
                to[index * width..][..width].iter_mut().zip(from).for_each(|(to, &from)| *to = from);
            }
        }
    }

    /// Takes over the columns of `matrix`, whose rows are contiguous, as rows.
    pub(crate) fn fill_transposed(&mut self, matrix: ArrayView2<'_, A>) {
        self.reshape(matrix.ncols(), Runs::of(matrix.nrows()));
        for index in 0..self.runs.count() {
            let rows = matrix.slice(s![self.runs.range(index), ..]);
            transpose(rows, STRIDE, &mut self.data.as_mut_slice()[index * self.run_len..]);
        }
    }

    /// Takes over some rows of one unit of `other`.
    pub(crate) fn fill_from_unit(&mut self, other: &Self, unit: usize, rows: Range<usize>) {
        let from = other.unit(unit);
        self.reshape(rows.len(), from.runs);
        for index in 0..from.runs.count() {
            let width = from.runs.range(index).len();
            let (from, to) = (
                &from.data[index * from.run_len + rows.start * STRIDE..],
                &mut self.data.as_mut_slice()[index * self.run_len..],
            );
            for (to, from) in to.chunks_exact_mut(STRIDE).zip(from.chunks(STRIDE)).take(rows.len()) {
                to[..width].copy_from_slice(&from[..width]);
            }
        }
    }

    /// Fills `rows` with what the tile holds.
    pub(crate) fn copy_to(&self, rows: &mut ArrayViewMut2<'_, A>) {
        for index in 0..self.runs.count() {
            let range = self.runs.range(index);
            let run = &self.data.as_slice()[index * self.run_len..];
            for (from, mut to) in run.chunks_exact(STRIDE).zip(rows.slice_mut(s![.., range]).rows_mut()) {
                to.iter_mut().zip(from).for_each(|(to, &from)| *to = from);
            }
        }
    }

    /// Fills `rows`, each of them contiguous, with the columns of one unit.
    pub(crate) fn copy_unit_to(&self, unit: usize, rows: &mut ArrayViewMut2<'_, A>) {
        let from = self.unit(unit);
        for index in 0..from.runs.count() {
            let range = from.runs.range(index);
            for (from, mut to) in from.data[index * from.run_len..].chunks(STRIDE).zip(rows.rows_mut()) {
                let to = to.as_slice_mut().expect("contiguous rows");
                to[range.clone()].copy_from_slice(&from[..range.len()]);
            }
        }
    }

    pub(crate) fn nrows(&self) -> usize {
        self.rows
    }

    /// How its columns are cut.
    pub(crate) fn runs(&self) -> Runs {
        self.runs
    }

    /// All columns.
    pub(crate) fn rows(&self) -> TileRows<'_, A> {
        TileRows {
            data: self.data.as_slice(),
            rows: self.rows,
            runs: self.runs,
            run_len: self.run_len,
        }
    }

    /// The columns of one unit.
    pub(crate) fn unit(&self, unit: usize) -> TileRows<'_, A> {
        let (run, offset) = self.runs.place(unit);
        TileRows {
            data: &self.data.as_slice()[run * self.run_len + offset..],
            rows: self.rows,
            runs: self.runs.one(),
            run_len: self.run_len,
        }
    }

    /// The rows of run `index`; those after the last may be written too.
    pub(crate) fn run_mut(&mut self, index: usize) -> RowsMut<'_, A> {
        RowsMut {
            data: &mut self.data.as_mut_slice()[index * self.run_len..][..self.run_len],
            stride: STRIDE,
        }
    }

    /// Calls `work` for every run of one unit, with the unit's columns that it holds and its rows from the first of them on.
    pub(crate) fn unit_runs_mut(&mut self, unit: usize, mut work: impl FnMut(Range<usize>, RowsMut<'_, A>)) {
        let (run, offset) = self.runs.place(unit);
        let runs = self.runs.one();
        for index in 0..runs.count() {
            let data = &mut self.data.as_mut_slice()[(run + index) * self.run_len..][offset..self.run_len];
            work(runs.range(index), RowsMut { data, stride: STRIDE });
        }
    }
}

#[cfg(test)]
#[allow(clippy::float_cmp)] // what is compared so is copied
mod tests {
    use super::*;
    use ndarray::{Array2, Array3, Axis};

    #[test]
    fn runs_cover_all_columns_in_order() {
        for unit in [1, 3, 20, 64, 96, 511, 512, 513, 600, 1024, 1500] {
            for units in [1, 2, 7, 12] {
                for runs in [Runs::of_units(units, unit), Runs::separate(units, unit), Runs::of(units * unit)] {
                    let mut end = 0;
                    for index in 0..runs.count() {
                        let range = runs.range(index);
                        assert_eq!(range.start, end);
                        assert!((1..=SEGMENT).contains(&range.len()));
                        end = range.end;
                    }
                    assert_eq!(end, units * unit);
                }
            }
        }
    }

    #[test]
    fn columns_become_rows() {
        for (rows, cols) in [(1, 1), (7, 9), (8, 8), (19, 21), (520, 30)] {
            let matrix = Array2::from_shape_fn((rows, cols), |(i, j)| (i * 1000 + j) as f64);
            let mut tile = Tile::default();
            tile.fill_transposed(matrix.view());
            let mut copy = Array2::zeros((cols, rows));
            tile.copy_to(&mut copy.view_mut());
            assert_eq!(copy, matrix.t());
        }
    }

    #[test]
    fn blocks_lie_along_the_diagonal() {
        let blocks = Array3::from_shape_fn((3, 2, 5), |(block, i, j)| (100 * block + 10 * i + j + 1) as f64);
        let mut tile = Tile::default();
        // Earlier contents must not show between the blocks.
        tile.fill(Array2::from_elem((6, 15), f64::NAN).view(), Runs::of(15));
        tile.fill_diagonal(3, |block| blocks.index_axis(Axis(0), block));
        let mut found = Array2::zeros((6, 15));
        tile.copy_to(&mut found.view_mut());
        let expected = Array2::from_shape_fn((6, 15), |(i, j)| if i / 2 == j / 5 { blocks[[i / 2, i % 2, j % 5]] } else { 0.0 });
        assert_eq!(found, expected);
    }

    /// Values that were filled in are read back, whole and unit by unit.
    #[test]
    fn a_unit_is_its_columns() {
        let (rows, unit, units) = (5, 200, 6);
        let filled = Array2::from_shape_fn((rows, unit * units), |(i, j)| (i * 10_000 + j) as f64);
        let mut tile = Tile::default();
        tile.fill(filled.view(), Runs::of_units(units, unit));
        let mut copy = Array2::zeros(filled.dim());
        tile.copy_to(&mut copy.view_mut());
        assert_eq!(copy, filled);
        for index in 0..units {
            let mut unit_copy = Array2::zeros((rows, unit));
            tile.copy_unit_to(index, &mut unit_copy.view_mut());
            assert_eq!(unit_copy, filled.slice(s![.., index * unit..(index + 1) * unit]));
            let part = tile.unit(index);
            for row in 0..rows {
                assert_eq!(part.data[row * STRIDE], filled[[row, index * unit]]);
                assert_eq!(part.data[row * STRIDE + unit - 1], filled[[row, (index + 1) * unit - 1]]);
            }
        }
    }
}
