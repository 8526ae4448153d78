//! softmax(q·kᵀ/√d)·v for one tile of queries, head by head.

use ndarray::{ArrayView2, ArrayViewMut2, s};

use super::weights::{ItemKeyValues, tile};
use crate::ops::{gemm, softmax_rows};
use crate::scalar::Scalar;

/// Scratch space for one tile of queries, kept by a thread from tile to tile.
#[derive(Debug)]
pub(crate) struct TileScratch<A> {
    pub(crate) queries: Vec<A>,
    pub(crate) factor: Vec<A>,
    pub(crate) heads: HeadScratch<A>,
}

/// Scratch space for the scores of one head.
#[derive(Debug)]
pub(crate) struct HeadScratch<A> {
    scores: Vec<A>,
}

impl<A> TileScratch<A> {
    pub(crate) fn new() -> Self {
        Self {
            queries: Vec::new(),
            factor: Vec::new(),
            heads: HeadScratch { scores: Vec::new() },
        }
    }
}

/// Replaces every head's queries in `queries` (rows, heads·`head_dim`) by softmax(q·kᵀ/√`head_dim`)·v.
///
/// Without a slot to attend to the result is 0, the empty sum.
pub(crate) fn attend_heads<A: Scalar>(
    queries: &mut ArrayViewMut2<'_, A>,
    context: ItemKeyValues<'_, A>,
    heads: usize,
    scratch: &mut HeadScratch<A>,
) {
    let (kv_heads, _, head_dim) = context.keys.dim();
    let (rows, count) = (queries.nrows(), context.count);
    if count == 0 {
        queries.fill(A::zero());
        return;
    }
    for head in 0..heads {
        let mut scores = tile(&mut scratch.scores, rows, count);
        head_scores(queries.view(), context, head, heads, &mut scores);
        let values = context.values.slice(s![head * kv_heads / heads, ..count, ..]);
        // The head's queries have been read: its result takes their place.
        let mut result = queries.slice_mut(s![.., head * head_dim..(head + 1) * head_dim]);
        gemm(A::one(), scores.view(), values, A::zero(), &mut result);
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
    let (kv_heads, _, head_dim) = context.keys.dim();
    let count = context.count;
    let scale = A::one() / A::cast(head_dim as f64).sqrt();
    let keys = context.keys.slice(s![head * kv_heads / heads, ..count, ..]);
    let queries = queries.slice(s![.., head * head_dim..(head + 1) * head_dim]);
    gemm(scale, queries, keys.t(), A::zero(), &mut scores.slice_mut(s![.., ..count]));
    for mut row in scores.rows_mut() {
        if let Some(row) = row.as_slice_mut() {
            softmax_rows(&mut row[..count], count);
        }
    }
}
