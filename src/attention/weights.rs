//! The weights that exact and Linformer attention have in common.

use ndarray::{ArrayView2, ArrayView3, ArrayViewMut2};

use super::heads::{TileScratch, attend_heads};
use crate::config::AttentionConfig;
use crate::initialization::Streams;
use crate::layers::Linear;
use crate::parameters::parameters;
use crate::scalar::Scalar;

/// W_Q, W_K, W_V, W_O with their biases.
#[derive(Clone, Debug)]
pub(crate) struct AttentionWeights<A> {
    pub(crate) query: Linear<A>,
    pub(crate) key: Linear<A>,
    /// `None` where values are tied to keys.
    pub(crate) value: Option<Linear<A>>,
    /// The first factor of the output weight, where it has two.
    pub(crate) output_factor: Option<Linear<A>>,
    pub(crate) output: Linear<A>,
}

parameters!(AttentionWeights {
    query,
    key,
    value,
    output_factor,
    output
});

/// The keys and values that one item's queries attend to: (heads, slots, `head_dim`) each, of which the first `count` slots are there.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ItemKeyValues<'a, A> {
    pub(crate) keys: ArrayView3<'a, A>,
    pub(crate) values: ArrayView3<'a, A>,
    pub(crate) count: usize,
}

impl<A: Scalar> AttentionWeights<A> {
    pub(crate) fn draw(config: &AttentionConfig, streams: &mut Streams) -> Self {
        let (dim, query_dim, key_value_dim) = (config.dim, config.query_dim(), config.key_value_dim());
        Self {
            query: Linear::draw(dim, query_dim, config.query_bias, streams),
            key: Linear::draw(dim, key_value_dim, config.key_bias, streams),
            value: (!config.tie_key_value).then(|| Linear::draw(dim, key_value_dim, config.value_bias, streams)),
            output_factor: config
                .output_rank
                .map(|rank| Linear::draw(query_dim, rank, config.output_bias, streams)),
            output: Linear::draw(config.output_rank.unwrap_or(query_dim), dim, config.output_bias, streams),
        }
    }

    pub(crate) fn value(&self) -> &Linear<A> {
        self.value.as_ref().unwrap_or(&self.key)
    }

    /// Fills `out` with the attention of the rows of `x` to one item's keys and values.
    pub(crate) fn attend_rows(
        &self,
        config: &AttentionConfig,
        x: ArrayView2<'_, A>,
        context: ItemKeyValues<'_, A>,
        out: &mut ArrayViewMut2<'_, A>,
        scratch: &mut TileScratch<A>,
    ) {
        let rows = x.nrows();
        let TileScratch { queries, factor, heads } = scratch;
        let mut queries = tile(queries, rows, self.query.out_dim());
        self.query.apply(x, &mut queries);
        attend_heads(&mut queries, context, config.heads, heads);
        match &self.output_factor {
            None => self.output.apply(queries.view(), out),
            Some(first) => {
                let mut factored = tile(factor, rows, first.out_dim());
                first.apply(queries.view(), &mut factored);
                self.output.apply(factored.view(), out);
            }
        }
    }
}

/// A (rows, columns) view of scratch space, enlarged where it is too small.
pub(crate) fn tile<A: Scalar>(space: &mut Vec<A>, rows: usize, columns: usize) -> ArrayViewMut2<'_, A> {
    let size = rows * columns;
    if space.len() < size {
        space.resize(size, A::zero());
    }
    ArrayViewMut2::from_shape((rows, columns), &mut space[..size]).expect("the slice has this size")
}
