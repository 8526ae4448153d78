//! Exact attention whose rows see what came before them.

use ndarray::{Array3, Array4, ArrayRef3, s};

use super::super::causal::{CausalContext, KeyPart, Span, Visibility, masked_scores};
use super::super::compressed::Compressed;
use super::super::mask::PaddingMask;
use super::super::weights::AttentionWeights;
use super::ExactAttention;
use crate::error::{Error, Result};
use crate::layers::check_width;
use crate::ops::softmax_rows;
use crate::scalar::Scalar;

impl<A: Scalar> ExactAttention<A> {
    /// Returns these keys and values with what the last `rows` of `length` positions see of them.
    pub(crate) fn causal_context(
        &self,
        operation: &'static str,
        keys: Compressed<A>,
        (rows, length): (usize, usize),
        mask: Option<&PaddingMask>,
    ) -> Result<CausalContext<A>> {
        if rows > length {
            let reason = format!("causal queries are the last rows of their context, so {length} positions have no {rows} of them");
            return Err(Error::argument(operation, reason));
        }
        let span = Span {
            window: None,
            blocks: None,
            padding_stays: self.config().masked_keys_stay,
        };
        Ok(CausalContext {
            visibility: Visibility::of_batch(span, keys.batch(), length, rows, mask),
            keys,
            summaries: None,
            joint: true,
            span,
        })
    }

    /// Causal self-attention, and what its rows saw.
    pub(crate) fn forward_causal(&self, x: &ArrayRef3<A>, mask: Option<&PaddingMask>) -> Result<(Array3<A>, CausalContext<A>)> {
        const OPERATION: &str = "ExactAttention::forward";
        let (batch, length, _) = x.dim();
        check_width(OPERATION, "x", x, self.config().dim)?;
        PaddingMask::check(mask, OPERATION, batch, length)?;
        let mut keys = self.key_values(batch, length)?;
        keys.push(x.view(), |item| mask.map(|mask| mask.item(item)));
        let context = self.causal_context(OPERATION, keys.finish(), (length, length), mask)?;
        let y = self.weights().attend_causal(OPERATION, x, &context)?;
        Ok((y, context))
    }

    /// Attention of the last rows of a sequence to what came before each of them.
    pub(crate) fn attend_causal(
        &self,
        operation: &'static str,
        queries: &ArrayRef3<A>,
        keys: Compressed<A>,
        length: usize,
        mask: Option<&PaddingMask>,
    ) -> Result<Array3<A>> {
        let context = self.causal_context(operation, keys, (queries.dim().1, length), mask)?;
        self.weights().attend_causal(operation, queries, &context)
    }
}

impl<A: Scalar> AttentionWeights<A> {
    /// softmax(Q·Kᵀ/√`head_dim`) of what each row sees: (batch, heads, rows, slots), 0 for what it does not.
    pub(crate) fn causal_map(&self, operation: &'static str, queries: &ArrayRef3<A>, context: &CausalContext<A>) -> Result<Array4<A>> {
        let (_, _, slots, head_dim) = context.keys.keys.dim();
        self.map_of(operation, queries, slots, |item, first, projected, map| {
            let context = context.item(item);
            let visible: Vec<_> = (first..first + projected.nrows()).map(|row| context.visibility.keys(row)).collect();
            for (head, mut map) in map.outer_iter_mut().enumerate() {
                let (keys, values) = context.keys.head(head, self.heads);
                let queries = projected.slice(s![.., head * head_dim..(head + 1) * head_dim]);
                let mut map = map.slice_mut(s![.., ..keys.nrows()]);
                let part = KeyPart {
                    keys,
                    values,
                    visible: &visible,
                };
                masked_scores(queries, &part, &mut map);
                for mut row in map.rows_mut() {
                    if let Some(row) = row.as_slice_mut() {
                        softmax_rows(row, row.len());
                    }
                }
            }
        })
    }
}
