//! The keys and values of one item, head by head, and softmax(q·kᵀ/√d) of one head, stored: for maps, and for training with dropout.

use ndarray::{ArrayView1, ArrayView2, ArrayView3, ArrayViewMut2, Axis, s};

use crate::ops::{add_bias, gemm, softmax_rows};
use crate::scalar::Scalar;

/// The keys and values that one item's queries attend to: (heads, slots, `head_dim`) each, of which the first `count` slots are there.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ItemKeyValues<'a, A> {
    pub(crate) keys: ArrayView3<'a, A>,
    pub(crate) values: ArrayView3<'a, A>,
    pub(crate) count: usize,
}

impl<'a, A> ItemKeyValues<'a, A> {
    /// The keys and the values, (count, `head_dim`) each, that query head `head` of `heads` attends to.
    pub(crate) fn head(self, head: usize, heads: usize) -> (ArrayView2<'a, A>, ArrayView2<'a, A>) {
        let head = head * self.keys.dim().0 / heads;
        // Several times faster than slicing, which shows where sequences are short.
        let rows = |all: ArrayView3<'a, A>| all.index_axis_move(Axis(0), head).split_at(Axis(0), self.count).0;
        (rows(self.keys), rows(self.values))
    }
}

/// Fills the first columns of `scores` (rows, slots or more; contiguous rows) with softmax(q·kᵀ/√`head_dim` + log-mass) of one head; the
/// log-masses of its slots are 0 where there are none.
pub(crate) fn head_scores<A: Scalar>(
    queries: ArrayView2<'_, A>,
    context: ItemKeyValues<'_, A>,
    log_mass: Option<ArrayView1<'_, A>>,
    head: usize,
    heads: usize,
    scores: &mut ArrayViewMut2<'_, A>,
) {
    let head_dim = context.keys.dim().2;
    let (keys, _) = context.head(head, heads);
    let queries = queries.slice(s![.., head * head_dim..(head + 1) * head_dim]);
    softmax_scores(queries, keys, log_mass, &mut scores.slice_mut(s![.., ..context.count]));
}

/// Fills `scores` (rows, slots; contiguous rows) with softmax(q·kᵀ/√`head_dim` + log-mass).
fn softmax_scores<A: Scalar>(
    queries: ArrayView2<'_, A>,
    keys: ArrayView2<'_, A>,
    log_mass: Option<ArrayView1<'_, A>>,
    scores: &mut ArrayViewMut2<'_, A>,
) {
    gemm(scale(queries.ncols()), queries, keys.t(), A::zero(), scores);
    if let Some(log_mass) = log_mass {
        add_bias(scores, log_mass);
    }
    let slots = scores.ncols();
    for mut row in scores.rows_mut() {
        if let Some(row) = row.as_slice_mut() {
            softmax_rows(row, slots);
        }
    }
}

/// 1/√`head_dim`.
pub(super) fn scale<A: Scalar>(head_dim: usize) -> A {
    A::one() / A::cast(head_dim as f64).sqrt()
}
