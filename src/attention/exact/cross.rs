//! Exact attention to the keys and values of another sequence, made once.

use ndarray::{Array3, ArrayRef3, s};

use super::super::compressed::Compressed;
use super::super::mask::PaddingMask;
use super::super::weights::AttendScratch;
use super::{ExactAttention, query_tile};
use crate::error::Result;
use crate::layers::{check_width, for_each_tile};
use crate::ops::{RowsMut, Runs, Tile};
use crate::parallel::{self, Pool};
use crate::scalar::Scalar;

impl<A: Scalar> ExactAttention<A> {
    /// The keys and values of `context` (batch, n, dim), all of them: what [`attend_to`](Self::attend_to) reads.
    pub(crate) fn keys_of(&self, operation: &'static str, context: &ArrayRef3<A>, mask: Option<&PaddingMask>) -> Result<Compressed<A>> {
        check_width(operation, "context", context, self.config().dim)?;
        let (batch, length, _) = context.dim();
        PaddingMask::check(mask, operation, batch, length)?;
        self.context(context, mask)
    }

    /// Attention of `queries` (batch, m, dim), each to all of `context`.
    pub(crate) fn attend_to(&self, operation: &'static str, queries: &ArrayRef3<A>, context: &Compressed<A>) -> Result<Array3<A>> {
        let dim = self.config().dim;
        context.check_queries(
            operation,
            queries,
            dim,
            (self.config().kv_heads, self.config().effective_head_dim()),
        )?;
        let (batch, length, _) = queries.dim();
        let packed = context.packed();
        let cost = parallel::cost(&[batch, length, self.attend_cost(context.keys.dim().2)]);
        let mut output = Array3::zeros(queries.dim());
        let mut pool = Pool::<(Tile<A>, AttendScratch<A>)>::default();
        pool.prepare();
        for_each_tile(output.view_mut(), query_tile(length), cost, |item, rows, out| {
            pool.with(|(tile, scratch)| {
                tile.fill(queries.slice(s![item, rows, ..]), Runs::of(dim));
                self.weights()
                    .attend_tile(tile.rows(), (packed, item), false, RowsMut::of(out), scratch);
            });
        });
        Ok(output)
    }
}
