//! Softmax over keys that come part by part, of which each query row sees a range.

use std::ops::Range;

use ndarray::{ArrayView2, ArrayViewMut2, Zip, s};

use super::super::gradients::Dropped;
use super::super::heads::scale;
use super::super::partial::{Partial, Total};
use super::super::weights::tile;
use crate::ops::{exp_rows, gemm};
use crate::scalar::Scalar;

/// Keys and values of one head, and what each query row sees of them.
pub(in crate::attention) struct KeyPart<'p, A> {
    pub(in crate::attention) keys: ArrayView2<'p, A>,
    pub(in crate::attention) values: ArrayView2<'p, A>,
    /// The keys that each row sees.
    pub(in crate::attention) visible: &'p [Range<usize>],
}

/// The softmax over the keys so far of some query rows of one head (online softmax: Milakov and Gimelshein, arXiv 1805.02867).
#[derive(Debug, Default)]
pub(super) struct Online<A> {
    total: Total<A>,
    latest: Partial<A>,
    scores: Vec<A>,
    finite: Vec<A>,
}

impl<A: Scalar> Online<A> {
    /// The empty sum of `rows` rows.
    pub(super) fn reset(&mut self, rows: usize, head_dim: usize) {
        self.total.reset(rows, head_dim);
    }

    /// Adds the keys of `part`. Keys and values that a row does not see have no influence on it, NaN or not.
    pub(super) fn add(&mut self, queries: ArrayView2<'_, A>, part: &KeyPart<'_, A>, dropped: Option<&Dropped<'_, A>>) {
        let ((rows, head_dim), width) = (queries.dim(), part.keys.nrows());
        if width == 0 {
            return;
        }
        let Self {
            total,
            latest,
            scores,
            finite,
        } = self;
        latest.reset(rows, head_dim);
        let mut scores = tile(scores, rows, width);
        masked_scores(queries, part, &mut scores);
        if let Some(scores) = scores.as_slice_mut() {
            exp_rows(scores, width, width, &mut latest.maxima, &mut latest.sums);
        }
        if let Some(dropped) = dropped {
            dropped.apply(&mut scores);
        }
        multiply_values(scores.view(), part, &mut tile(&mut latest.products, rows, head_dim), finite);
        total.add(latest, head_dim);
    }

    /// Adds the quotients to `out`; a row that saw nothing adds 0.
    pub(super) fn add_quotients(&self, out: &mut ArrayViewMut2<'_, A>) {
        self.total.for_each_row(out.ncols(), |row, products, factor| {
            let out = out.row_mut(row);
            Zip::from(out)
                .and(products)
                .for_each(|out, product| *out += A::cast(product * factor));
        });
    }
}

/// q·kᵀ/√`head_dim`, and −∞ where a row does not see the key.
pub(in crate::attention) fn masked_scores<A: Scalar>(queries: ArrayView2<'_, A>, part: &KeyPart<'_, A>, scores: &mut ArrayViewMut2<'_, A>) {
    gemm(scale(queries.ncols()), queries, part.keys.t(), A::zero(), scores);
    for (mut scores, visible) in scores.rows_mut().into_iter().zip(part.visible) {
        scores.slice_mut(s![..visible.start]).fill(A::neg_infinity());
        scores.slice_mut(s![visible.end..]).fill(A::neg_infinity());
    }
}

/// out ← weights·values, where a row that does not see a value is not touched by it: 0·NaN would be NaN.
pub(in crate::attention) fn multiply_values<A: Scalar>(
    weights: ArrayView2<'_, A>,
    part: &KeyPart<'_, A>,
    out: &mut ArrayViewMut2<'_, A>,
    space: &mut Vec<A>,
) {
    let width = part.values.nrows();
    let non_finite = if part.visible.iter().all(|visible| *visible == (0..width)) {
        Vec::new()
    } else {
        non_finite_rows(part.values)
    };
    if non_finite.is_empty() {
        return gemm(A::one(), weights, part.values, A::zero(), out);
    }
    let mut finite = tile(space, width, part.values.ncols());
    finite.assign(&part.values);
    for &row in &non_finite {
        finite.row_mut(row).fill(A::zero());
    }
    gemm(A::one(), weights, finite.view(), A::zero(), out);
    for ((mut out, weights), visible) in out.rows_mut().into_iter().zip(weights.rows()).zip(part.visible) {
        for &row in non_finite.iter().filter(|row| visible.contains(row)) {
            out.scaled_add(weights[row], &part.values.row(row));
        }
    }
}

/// The rows that hold a number that is not finite.
fn non_finite_rows<A: Scalar>(values: ArrayView2<'_, A>) -> Vec<usize> {
    let is_wild = |row: &usize| !values.row(*row).iter().fold(A::zero(), |sum, &x| sum + x * A::zero()).is_finite();
    (0..values.nrows()).filter(is_wild).collect()
}
