//! Sums of many terms, kept in `f64`: in f32 a running sum of n equal terms is off by up to n·1.5e-8, for its roundings all go one way.
//!
//! The order of every sum depends on the shapes only.

use std::ops::Range;

use ndarray::{Array2, ArrayView1, ArrayView2, ArrayViewMut1};

use super::elementary::dispatch;
use crate::parallel::{self, Chunks, for_each_part};
use crate::scalar::Scalar;

/// Rows that are added together before they are added to the sums, which are then read and written less often.
const ROWS: usize = 4;

/// Columns whose sums one task makes.
const TASK_COLS: usize = 256;

/// Sums of one element type.
pub(crate) trait LongSumKernels: Sized {
    /// `sums` += the first elements of every `stride` of `rows`.
    fn add_rows(sums: &mut [f64], rows: &[Self], stride: usize);
    /// `sums`, whose rows are at the distance `stride`, += contiguous rows of `cols` numbers.
    fn add_block(sums: &mut [f64], stride: usize, block: &[Self], cols: usize);
    /// `sums` += `factor`·`row`.
    fn add_scaled(sums: &mut [f64], factor: f64, row: &[Self]);
    /// sums ← `factor`·sums + `row_factor`·row.
    fn rescale_and_add(sums: &mut [f64], factor: f64, row: &[Self], row_factor: f64);
    /// Σ x.
    fn long_sum(x: &[Self]) -> f64;
    /// `to` += `sums`, rounded once.
    fn add_sums(sums: &[f64], to: &mut [Self]);
}

macro_rules! kernels {
    ($t:ty) => {
        impl LongSumKernels for $t {
            fn add_rows(sums: &mut [f64], rows: &[Self], stride: usize) {
                dispatch!(dispatched, add_rows_body, $t, (sums: &mut [f64], rows: &[$t], stride: usize));
                dispatched(sums, rows, stride);
            }

            fn add_block(sums: &mut [f64], stride: usize, block: &[Self], cols: usize) {
                dispatch!(dispatched, add_block_body, $t, (sums: &mut [f64], stride: usize, block: &[$t], cols: usize));
                dispatched(sums, stride, block, cols);
            }

            fn add_scaled(sums: &mut [f64], factor: f64, row: &[Self]) {
                dispatch!(dispatched, add_scaled_body, $t, (sums: &mut [f64], factor: f64, row: &[$t]));
                dispatched(sums, factor, row);
            }

            fn rescale_and_add(sums: &mut [f64], factor: f64, row: &[Self], row_factor: f64) {
                dispatch!(dispatched, rescale_body, $t, (sums: &mut [f64], factor: f64, row: &[$t], row_factor: f64));
                dispatched(sums, factor, row, row_factor);
            }

            fn long_sum(x: &[Self]) -> f64 {
                dispatch!(dispatched, sum_body, $t, (x: &[$t], sum: &mut f64));
                let mut sum = 0.0;
                dispatched(x, &mut sum);
                sum
            }

            fn add_sums(sums: &[f64], to: &mut [Self]) {
                dispatch!(dispatched, add_sums_body, $t, (sums: &[f64], to: &mut [$t]));
                dispatched(sums, to);
            }
        }
    };
}
kernels!(f32);
kernels!(f64);

#[inline(always)]
fn add_rows_body<A: Scalar, const FMA: bool>(sums: &mut [f64], rows: &[A], stride: usize) {
    let width = sums.len();
    let mut blocks = rows.chunks_exact(ROWS * stride);
    for block in &mut blocks {
        let [a, b, c, d] = std::array::from_fn(|row| &block[row * stride..][..width]);
        for i in 0..width {
            sums[i] += (a[i].widen() + b[i].widen()) + (c[i].widen() + d[i].widen());
        }
    }
    for row in blocks.remainder().chunks(stride) {
        for (sum, x) in sums.iter_mut().zip(row) {
            *sum += x.widen();
        }
    }
}

#[inline(always)]
fn add_block_body<A: Scalar, const FMA: bool>(sums: &mut [f64], stride: usize, block: &[A], cols: usize) {
    for (sums, block) in sums.chunks_mut(stride).zip(block.chunks(cols)) {
        for (sum, x) in sums.iter_mut().zip(block) {
            *sum += x.widen();
        }
    }
}

#[inline(always)]
fn add_scaled_body<A: Scalar, const FMA: bool>(sums: &mut [f64], factor: f64, row: &[A]) {
    for (sum, x) in sums.iter_mut().zip(row) {
        *sum += factor * x.widen();
    }
}

#[inline(always)]
fn rescale_body<A: Scalar, const FMA: bool>(sums: &mut [f64], factor: f64, row: &[A], row_factor: f64) {
    for (sum, x) in sums.iter_mut().zip(row) {
        *sum = *sum * factor + x.widen() * row_factor;
    }
}

#[inline(always)]
fn sum_body<A: Scalar, const FMA: bool>(x: &[A], sum: &mut f64) {
    /// Independent sums hide the latency of an addition.
    const LANES: usize = 8;
    let (chunks, rest) = x.as_chunks::<LANES>();
    let mut lanes = [0.0; LANES];
    for chunk in chunks {
        for i in 0..LANES {
            lanes[i] += chunk[i].widen();
        }
    }
    *sum = lanes.iter().sum::<f64>() + rest.iter().map(|x| x.widen()).sum::<f64>();
}

#[inline(always)]
fn add_sums_body<A: Scalar, const FMA: bool>(sums: &[f64], to: &mut [A]) {
    for (to, &sum) in to.iter_mut().zip(sums) {
        *to = A::cast(to.widen() + sum);
    }
}

/// Σ x, to the precision of `f64`.
pub(crate) fn long_sum<A: Scalar>(x: ArrayView1<'_, A>) -> f64 {
    x.to_slice()
        .map_or_else(|| x.iter().map(|x| x.widen()).sum(), <A as LongSumKernels>::long_sum)
}

/// `sums` += `row`.
pub(crate) fn add_widened<A: Scalar>(sums: &mut [f64], row: &[A]) {
    A::add_rows(sums, row, row.len().max(1));
}

/// `sums`, whose rows are at the distance `stride`, += contiguous rows of `cols` numbers, as many as there are.
pub(crate) fn add_block<A: Scalar>(sums: &mut [f64], stride: usize, block: &[A], cols: usize) {
    A::add_block(sums, stride.max(1), block, cols.max(1));
}

/// `sums` += `factor`·`row`.
pub(crate) fn add_scaled_widened<A: Scalar>(sums: &mut [f64], factor: f64, row: ArrayView1<'_, A>) {
    match row.to_slice() {
        Some(row) => A::add_scaled(sums, factor, row),
        None => sums.iter_mut().zip(row).for_each(|(sum, x)| *sum += factor * x.widen()),
    }
}

/// `sums` ← `factor`·`sums` + `row_factor`·`row`.
pub(crate) fn rescale_and_add<A: Scalar>(sums: &mut [f64], factor: f64, row: &[A], row_factor: f64) {
    A::rescale_and_add(sums, factor, row, row_factor);
}

/// `to` += `sums`, rounded once.
pub(crate) fn add_sums<A: Scalar>(sums: &[f64], to: &mut [A]) {
    A::add_sums(sums, to);
}

/// Row sums of any number of rows.
#[derive(Clone, Debug, Default)]
pub(crate) struct LongSum {
    sums: Vec<f64>,
}

impl LongSum {
    /// The empty sum of rows of `width` numbers.
    pub(crate) fn zeros(width: usize) -> Self {
        Self { sums: vec![0.0; width] }
    }

    /// Makes it the empty sum of rows of `width` numbers.
    pub(crate) fn reset(&mut self, width: usize) {
        self.sums.clear();
        self.sums.resize(width, 0.0);
    }

    /// Adds a row.
    pub(crate) fn add<A: Scalar>(&mut self, row: ArrayView1<'_, A>) {
        match row.to_slice() {
            Some(row) => add_widened(&mut self.sums, row),
            None => self.sums.iter_mut().zip(row).for_each(|(sum, x)| *sum += x.widen()),
        }
    }

    /// Adds `factor` times a row.
    pub(crate) fn add_scaled<A: Scalar>(&mut self, factor: A, row: ArrayView1<'_, A>) {
        add_scaled_widened(&mut self.sums, factor.widen(), row);
    }

    /// Adds all rows.
    pub(crate) fn add_rows<A: Scalar>(&mut self, rows: ArrayView2<'_, A>) {
        match rows.to_slice() {
            Some(data) if rows.ncols() > 0 => A::add_rows(&mut self.sums, data, rows.ncols()),
            _ => rows.rows().into_iter().for_each(|row| self.add(row)),
        }
    }

    /// [`add_rows`](Self::add_rows) for contiguous rows, some columns a task.
    pub(crate) fn add_rows_spread<A: Scalar>(&mut self, rows: ArrayView2<'_, A>) {
        let stride = rows.ncols();
        let data = rows.to_slice().expect("training keeps its rows contiguous");
        let parts = Chunks {
            slice: &mut self.sums,
            size: TASK_COLS,
        };
        for_each_part(parts, parallel::cost(&[rows.len(), 2]), |task, part| {
            A::add_rows(part.slice, &data[(task * TASK_COLS).min(data.len())..], stride);
        });
    }

    /// The sums so far.
    pub(crate) fn sums(&self) -> &[f64] {
        &self.sums
    }

    /// `to` += the sums, rounded once.
    pub(crate) fn add_to<A: Scalar>(&self, mut to: ArrayViewMut1<'_, A>) {
        match to.as_slice_mut() {
            Some(to) => add_sums(&self.sums, to),
            None => to.iter_mut().zip(&self.sums).for_each(|(to, sum)| *to = A::cast(to.widen() + sum)),
        }
    }
}

/// Adds `row(i)` to the row `targets[i]` of `sums`, for every i: those of one target in order, to the precision of `f64`.
pub(crate) fn scatter_rows<'r, A: Scalar>(
    targets: impl Iterator<Item = usize>,
    row: impl Fn(usize) -> ArrayView1<'r, A>,
    sums: &mut Array2<A>,
) {
    let mut places: Vec<(usize, usize)> = targets.enumerate().map(|(index, target)| (target, index)).collect();
    places.sort_unstable();
    let mut sum = LongSum::default();
    for places in places.chunk_by(|a, b| a.0 == b.0) {
        let mut to = sums.row_mut(places[0].0);
        if let [(_, index)] = *places {
            to += &row(index);
            continue;
        }
        sum.reset(to.len());
        for &(_, index) in places {
            sum.add(row(index));
        }
        sum.add_to(to);
    }
}

/// Terms that a [`StagedSum`] leaves to the element type.
const STAGE: usize = 16;

/// A sum that is made in place, in the element type, but for its terms up to the last few: those it keeps in `f64`.
#[derive(Debug, Default)]
pub(crate) struct StagedSum {
    long: Vec<f64>,
    /// Terms that were added since, and where.
    terms: usize,
    touched: Range<usize>,
}

impl StagedSum {
    /// Tells that a term was added to all of `sum`.
    pub(crate) fn added<A: Scalar>(&mut self, sum: &mut [A]) {
        self.added_to(0..sum.len(), sum);
    }

    /// Tells that a term was added to a range of `sum`.
    pub(crate) fn added_to<A: Scalar>(&mut self, range: Range<usize>, sum: &mut [A]) {
        self.touched = if self.terms == 0 {
            range
        } else {
            self.touched.start.min(range.start)..self.touched.end.max(range.end)
        };
        self.terms += 1;
        if self.terms == STAGE {
            self.long.resize(sum.len(), 0.0);
            let staged = &mut sum[self.touched.clone()];
            add_widened(&mut self.long[self.touched.clone()], staged);
            staged.fill(A::zero());
            self.terms = 0;
        }
    }

    /// Completes `sum`; the next one is empty.
    pub(crate) fn finish<A: Scalar>(&mut self, sum: &mut [A]) {
        add_sums(&self.long, sum);
        self.long.clear();
        self.terms = 0;
    }
}
