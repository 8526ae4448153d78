//! softmax(q·kᵀ/√d)·v for one tile of queries, head by head.

use ndarray::{ArrayView2, ArrayViewMut2, Zip, s};

use super::weights::{ItemKeyValues, tile};
use crate::ops::{Scratch, exp_rows, gemm, softmax_rows};
use crate::scalar::Scalar;

/// Keys whose scores are held at once. It depends on nothing, so that results do not either.
const KEY_BLOCK: usize = 512;

/// Scratch space for one tile of queries, kept by a thread from tile to tile.
#[derive(Debug)]
pub(crate) struct TileScratch<A> {
    pub(crate) queries: Vec<A>,
    pub(crate) factor: Vec<A>,
    pub(crate) products: Scratch<A>,
    pub(crate) heads: HeadScratch<A>,
}

/// Scratch space for one head.
#[derive(Debug)]
pub(crate) struct HeadScratch<A> {
    scores: Vec<A>,
    /// What the blocks so far sum to, and what the latest adds.
    total: Partial<A>,
    latest: Partial<A>,
}

impl<A: Scalar> TileScratch<A> {
    pub(crate) fn new() -> Self {
        Self {
            queries: Vec::new(),
            factor: Vec::new(),
            products: Scratch::default(),
            heads: HeadScratch::new(),
        }
    }
}

impl<A> HeadScratch<A> {
    pub(crate) fn new() -> Self {
        Self {
            scores: Vec::new(),
            total: Partial::new(),
            latest: Partial::new(),
        }
    }
}

/// Replaces every head's queries in `queries` (rows, heads·`head_dim`) by softmax(q·kᵀ/√`head_dim`)·v.
///
/// Scores are held for one block of keys at a time, whatever the number of slots. Without a slot to attend to the result is 0, the empty sum.
pub(crate) fn attend_heads<A: Scalar>(
    queries: &mut ArrayViewMut2<'_, A>,
    context: ItemKeyValues<'_, A>,
    heads: usize,
    scratch: &mut HeadScratch<A>,
) {
    if context.count == 0 {
        queries.fill(A::zero());
        return;
    }
    let head_dim = context.keys.dim().2;
    for head in 0..heads {
        let (keys, values) = context.head(head, heads);
        let mut queries = queries.slice_mut(s![.., head * head_dim..(head + 1) * head_dim]);
        if context.count <= KEY_BLOCK {
            let mut scores = tile(&mut scratch.scores, queries.nrows(), context.count);
            softmax_scores(queries.view(), keys, &mut scores);
            // The head's queries have been read: its result takes their place.
            gemm(A::one(), scores.view(), values, A::zero(), &mut queries);
        } else {
            attend_blocks(&mut queries, keys, values, scratch);
        }
    }
}

/// Fills the first columns of `scores` (rows, slots or more; contiguous rows) with softmax(q·kᵀ/√`head_dim`) of one head.
pub(crate) fn head_scores<A: Scalar>(
    queries: ArrayView2<'_, A>,
    context: ItemKeyValues<'_, A>,
    head: usize,
    heads: usize,
    scores: &mut ArrayViewMut2<'_, A>,
) {
    let head_dim = context.keys.dim().2;
    let (keys, _) = context.head(head, heads);
    let queries = queries.slice(s![.., head * head_dim..(head + 1) * head_dim]);
    softmax_scores(queries, keys, &mut scores.slice_mut(s![.., ..context.count]));
}

/// Fills `scores` (rows, slots; contiguous rows) with softmax(q·kᵀ/√`head_dim`).
fn softmax_scores<A: Scalar>(queries: ArrayView2<'_, A>, keys: ArrayView2<'_, A>, scores: &mut ArrayViewMut2<'_, A>) {
    gemm(scale(queries.ncols()), queries, keys.t(), A::zero(), scores);
    let slots = scores.ncols();
    for mut row in scores.rows_mut() {
        if let Some(row) = row.as_slice_mut() {
            softmax_rows(row, slots);
        }
    }
}

/// 1/√`head_dim`.
fn scale<A: Scalar>(head_dim: usize) -> A {
    A::one() / A::cast(head_dim as f64).sqrt()
}

/// Replaces `queries` (rows, `head_dim`) by softmax(q·kᵀ/√`head_dim`)·v, block by block of keys.
///
/// Each block gives a softmax relative to its own maxima, without the division; blocks are added up relative to the maxima so far, and
/// divided once at the end (online softmax: Milakov and Gimelshein, arXiv 1805.02867; Rabe and Staats, arXiv 2112.05682).
fn attend_blocks<A: Scalar>(
    queries: &mut ArrayViewMut2<'_, A>,
    keys: ArrayView2<'_, A>,
    values: ArrayView2<'_, A>,
    scratch: &mut HeadScratch<A>,
) {
    let HeadScratch { scores, total, latest } = scratch;
    let ((rows, head_dim), count) = (queries.dim(), keys.nrows());
    total.reset(rows, head_dim);
    latest.reset(rows, head_dim);
    // Blocks of even width: a last one of a few keys would cost more than its share.
    let width = count.div_ceil(count.div_ceil(KEY_BLOCK));
    for start in (0..count).step_by(width) {
        let block = start..count.min(start + width);
        let mut scores = tile(scores, rows, block.len());
        gemm(
            scale(head_dim),
            queries.view(),
            keys.slice(s![block.clone(), ..]).t(),
            A::zero(),
            &mut scores,
        );
        if let Some(scores) = scores.as_slice_mut() {
            exp_rows(scores, block.len(), &mut latest.maxima, &mut latest.sums);
        }
        let mut products = tile(&mut latest.products, rows, head_dim);
        gemm(A::one(), scores.view(), values.slice(s![block, ..]), A::zero(), &mut products);
        total.add(latest, head_dim);
    }
    total.divide_into(queries);
}

/// Σ exp(x − max)·v over some of a row's keys, with the maxima and the sums of the exponentials.
#[derive(Debug)]
struct Partial<A> {
    maxima: Vec<A>,
    sums: Vec<A>,
    /// (rows, `head_dim`).
    products: Vec<A>,
}

impl<A> Partial<A> {
    fn new() -> Self {
        Self {
            maxima: Vec::new(),
            sums: Vec::new(),
            products: Vec::new(),
        }
    }
}

impl<A: Scalar> Partial<A> {
    /// The empty sum of `rows` rows.
    fn reset(&mut self, rows: usize, head_dim: usize) {
        for (numbers, size, start) in [
            (&mut self.maxima, rows, A::neg_infinity()),
            (&mut self.sums, rows, A::zero()),
            (&mut self.products, rows * head_dim, A::zero()),
        ] {
            numbers.clear();
            numbers.resize(size, start);
        }
    }

    /// Adds the sums over some more keys.
    fn add(&mut self, other: &Self, head_dim: usize) {
        let ours = self
            .maxima
            .iter_mut()
            .zip(&mut self.sums)
            .zip(self.products.chunks_exact_mut(head_dim));
        let theirs = other.maxima.iter().zip(&other.sums).zip(other.products.chunks_exact(head_dim));
        for (((max, sum), row), ((&other_max, &other_sum), other_row)) in ours.zip(theirs) {
            // A NaN becomes the maximum and stays it, so that it reaches the result as it does without blocks.
            let both = if other_max > *max || other_max.is_nan() { other_max } else { *max };
            let (factor, other_factor) = (relative(*max, both), relative(other_max, both));
            for (x, &other) in row.iter_mut().zip(other_row) {
                *x = *x * factor + other * other_factor;
            }
            *sum = *sum * factor + other_sum * other_factor;
            *max = both;
        }
    }

    /// Writes the products divided by the sums; a row of no weight at all has no sum to divide by.
    fn divide_into(&self, out: &mut ArrayViewMut2<'_, A>) {
        let head_dim = out.ncols();
        let rows = self.sums.iter().zip(self.products.chunks_exact(head_dim));
        for (mut out, (&sum, row)) in out.rows_mut().into_iter().zip(rows) {
            let factor = if sum == A::zero() { A::one() } else { A::one() / sum };
            Zip::from(&mut out).and(row).for_each(|out, &x| *out = x * factor);
        }
    }
}

/// exp(max − larger), which is 1 where both are −∞ or both +∞.
fn relative<A: Scalar>(max: A, larger: A) -> A {
    if max == larger { A::one() } else { (max - larger).exp() }
}
