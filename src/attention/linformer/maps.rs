//! What the queries of Linformer attention look at.

use ndarray::{Array4, ArrayRef3, ArrayView1, ArrayView2, s};

use super::super::compressed::Compressed;
use super::super::heads::scale;
use super::super::mask::PaddingMask;
use super::super::projection::Projections;
use super::LinformerAttention;
use crate::config::{ConvolutionTail, ProjectionKind};
use crate::error::{Error, Result, checked_len};
use crate::layers::rows as rows_of;
use crate::ops::{gemm, softmax_rows};
use crate::scalar::Scalar;

impl<A: Scalar> LinformerAttention<A> {
    /// Returns P̄ = softmax(Q·K̄ᵀ/√`head_dim`): (batch, heads, m, slots), 0 for slots that an item does not have.
    ///
    /// # Errors
    /// Returns an error as [`attend`](Self::attend) does.
    pub fn attention_map(&self, queries: &ArrayRef3<A>, context: &Compressed<A>) -> Result<Array4<A>> {
        self.check_context("LinformerAttention::attention_map", queries, context)?;
        self.weights.attention_map("LinformerAttention::attention_map", queries, context)
    }

    /// Returns P̄·F: how much each query draws from each of the n positions whose values F compresses, (batch, heads, m, n).
    /// With E = F it is P̄·E.
    ///
    /// `mask` says which positions were real; [`PaddingMask::all_real`] where there was none. The result takes m·n numbers a head.
    ///
    /// # Errors
    /// Returns an error as [`attend`](Self::attend) does, if the mask has another batch, or if the kind of projection has no such map (max pooling,
    /// convolutions over channels), or one for a given sequence only, as [`effective_map_of`](Self::effective_map_of) returns it (attention pooling).
    pub fn effective_map(&self, queries: &ArrayRef3<A>, context: &Compressed<A>, mask: &PaddingMask) -> Result<Array4<A>> {
        self.effective_map_with(self.own_or(None)?, queries, context, mask)
    }

    /// Returns [`effective_map`](Self::effective_map) with the projections of an encoder that shares them among its layers.
    ///
    /// # Errors
    /// Returns an error as [`effective_map`](Self::effective_map) does.
    pub fn effective_map_with(
        &self,
        projections: &Projections<A>,
        queries: &ArrayRef3<A>,
        context: &Compressed<A>,
        mask: &PaddingMask,
    ) -> Result<Array4<A>> {
        const OPERATION: &str = "LinformerAttention::effective_map";
        projections.check(OPERATION, &self.config)?;
        if self.config.projection.pools_by_attention() {
            let reason = "what a position weighs in attention pooling depends on the sequence; use effective_map_of, which takes it";
            return Err(Error::argument(OPERATION, reason));
        }
        let (batch, length) = mask.dim();
        if batch != context.batch() {
            return Err(Error::shape(
                OPERATION,
                "mask",
                format!("({}, any length)", context.batch()),
                &[batch, length],
            ));
        }
        self.config.check_length(OPERATION, length)?;
        for (&own, &slots) in mask.lengths().iter().zip(&context.slots) {
            let expected = self.config.slots_of(own);
            if slots != expected {
                let reason = format!(
                    "the mask belongs to a sequence of {expected} slots, but the context has {slots}; pass the mask it was compressed with"
                );
                return Err(Error::argument(OPERATION, reason));
            }
        }
        let (tail, reach) = match self.config.projection.kind {
            ProjectionKind::Convolution(convolution) => (convolution.tail, convolution.reach(0, self.config.seq_len)),
            _ => (ConvolutionTail::default(), 0),
        };
        let map = self.attention_map(queries, context)?;
        let (_, heads, rows, _) = map.dim();
        checked_len(OPERATION, &[batch, heads, rows, length], size_of::<A>())?;
        let mut effective = Array4::zeros((batch, heads, rows, length));
        for (item, mut effective) in effective.outer_iter_mut().enumerate() {
            for (head, mut effective) in effective.outer_iter_mut().enumerate() {
                let slots = context.slots[item];
                let matrix = projections
                    .value()
                    .effective_matrix(head, slots, mask.item(item), mask.lengths()[item].max(reach), tail)
                    .ok_or_else(|| Error::argument(OPERATION, "this kind of projection gives no position a weight of its own"))?;
                gemm(
                    A::one(),
                    map.slice(s![item, head, .., ..slots]),
                    matrix.view(),
                    A::zero(),
                    &mut effective,
                );
            }
        }
        Ok(effective)
    }

    /// Returns [`effective_map`](Self::effective_map) for the compressed `sequence` (batch, n, dim): how much each query draws from each of its positions,
    /// (batch, heads, m, n).
    ///
    /// Attention pooling has only this one, since what a position weighs in its segment depends on the sequence; its rows sum to 1.
    ///
    /// # Errors
    /// Returns an error as [`compress`](Self::compress) and [`effective_map`](Self::effective_map) do.
    pub fn effective_map_of(&self, queries: &ArrayRef3<A>, sequence: &ArrayRef3<A>, mask: Option<&PaddingMask>) -> Result<Array4<A>> {
        const OPERATION: &str = "LinformerAttention::effective_map_of";
        let (batch, length, _) = sequence.dim();
        let context = self.compress(sequence, mask)?;
        let all_real = PaddingMask::all_real(batch, length)?;
        let mask = mask.unwrap_or(&all_real);
        let Some(query) = self.own_or(None)?.key().pooling_query() else {
            return self.effective_map(queries, &context, mask);
        };
        let map = self.attention_map(queries, &context)?;
        let (_, heads, rows, _) = map.dim();
        checked_len(OPERATION, &[batch, heads, rows, length], size_of::<A>())?;
        let head_dim = query.ncols();
        let keys = self.weights.key.forward_rows(rows_of(&sequence.as_standard_layout()));
        let mut effective = Array4::zeros((batch, heads, rows, length));
        for (item, mut effective) in effective.outer_iter_mut().enumerate() {
            let segment = 1 << self.config.segment_level(mask.lengths()[item]);
            for (head, mut effective) in effective.outer_iter_mut().enumerate() {
                let first = head * self.config.attention.kv_heads / heads * head_dim;
                let keys = keys.slice(s![item * length..(item + 1) * length, first..first + head_dim]);
                let query = query.row(head);
                let mut shares = importances(query, keys, mask.item(item));
                for (slot, shares) in shares[..mask.lengths()[item]].chunks_mut(segment).enumerate() {
                    softmax_rows(shares, shares.len());
                    for (index, &share) in shares.iter().enumerate() {
                        let weights = map.slice(s![item, head, .., slot]).mapv(|weight| weight * share);
                        effective.column_mut(slot * segment + index).assign(&weights);
                    }
                }
            }
        }
        Ok(effective)
    }
}

/// ⟨u, k⟩/√`head_dim` of every position; −∞ of padding.
fn importances<A: Scalar>(query: ArrayView1<'_, A>, keys: ArrayView2<'_, A>, real: ArrayView1<'_, bool>) -> Vec<A> {
    let scale: A = scale(query.len());
    let of = |(key, &real): (ArrayView1<'_, A>, &bool)| if real { query.dot(&key) * scale } else { A::neg_infinity() };
    keys.outer_iter().zip(real).map(of).collect()
}
