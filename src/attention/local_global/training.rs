//! Training of attention to a window and to summaries: forward with a cache, and backward.

use ndarray::{Array2, Array3, Array4, ArrayRef3, Axis, s};

use super::super::cache::{AttentionCache, CachedContext, check_gradient, owned, unlike};
use super::super::gradients::{KeyValueGradients, sequence_mut};
use super::super::mask::PaddingMask;
use super::super::sequence_shard::SequenceShard;
use super::backward::{ItemGradients, backward_item};
use super::block::Dropping;
use super::shard_backward::{add_up_queries, complete_gradients};
use super::{BlockScratch, ItemContext, ItemScratch, LocalGlobalAttention, PackedItem};
use crate::buffer_pool::Buffers;
use crate::config::PoolingQuery;
use crate::error::{Error, Result};
use crate::layers::{check_width, rows, sequence};
use crate::ops::{Dropout, Runs, Tile};
use crate::parallel::{self, Chunks, Parts, Pool, along, for_each_part};
use crate::scalar::Scalar;

/// Blocks of rows that one task attends for.
const TASK_BLOCKS: usize = 8;

impl<A: Scalar> LocalGlobalAttention<A> {
    /// Returns [`forward`](Self::forward)'s result and the cache that [`backward`](Self::backward) needs.
    ///
    /// # Errors
    /// Returns an error as [`forward`](Self::forward) does.
    pub fn forward_train(&self, x: &ArrayRef3<A>, mask: Option<&PaddingMask>) -> Result<(Array3<A>, AttentionCache<A>)> {
        self.train(None, owned("LocalGlobalAttention::forward_train", x)?, mask, None)
    }

    /// Returns the gradient of `x`, given `dy` of the output, both (batch, n, dim). Those of the parameters are added to `gradients`, a value like
    /// the layer's own [`zeros_like`](crate::Parameters::zeros_like).
    ///
    /// # Errors
    /// Returns an error if `dy` has another shape than the output, or if the cache or the gradients are of a layer of another configuration.
    pub fn backward(&self, cache: AttentionCache<A>, dy: Array3<A>, gradients: &mut Self) -> Result<Array3<A>> {
        self.backward_dropped(None, &cache, &dy, None, gradients)
    }

    pub(crate) fn train(
        &self,
        shard: Option<&dyn SequenceShard<A>>,
        x: Array3<A>,
        mask: Option<&PaddingMask>,
        dropout: Option<Dropout<A>>,
    ) -> Result<(Array3<A>, AttentionCache<A>)> {
        const OPERATION: &str = "LocalGlobalAttention::forward_train";
        let (batch, length, _) = x.dim();
        check_width(OPERATION, "x", &x, self.config.attention.dim)?;
        PaddingMask::check(mask, OPERATION, batch, length)?;
        let items = match shard {
            None => self.summarize(&x, mask)?,
            Some(shard) => self.summarize_shard(&x, mask, shard)?,
        };
        let queries = self.weights().query.forward_rows(rows(&x));
        let concat = self.attend_items(&items, &queries, length, dropout);
        let (y, attend) = self.weights().concat_output(queries, concat, (batch, length), Buffers::new());
        let cache = AttentionCache {
            layer: self.config.clone().into(),
            x,
            other: None,
            mask: mask.cloned(),
            context: CachedContext::LocalGlobal(items),
            compression: None,
            attend,
        };
        Ok((y, cache))
    }

    /// The keys, values and summaries of every item.
    pub(super) fn summarize(&self, x: &Array3<A>, mask: Option<&PaddingMask>) -> Result<Vec<ItemContext<A>>> {
        let (batch, length, dim) = x.dim();
        let mut items: Vec<_> = (0..batch).map(|_| (ItemContext::default(), Ok(()))).collect();
        let cost = parallel::cost(&[batch, length, dim, 2 * self.config.attention.key_value_dim()]);
        let parts = Chunks {
            slice: &mut items,
            size: 1,
        };
        for_each_part(parts, cost, |index, part| {
            let (item, done) = &mut part.slice[0];
            let real = mask.map(|mask| mask.item(index));
            *done = self.summarize_item(
                x.index_axis(Axis(0), index),
                None,
                real,
                (item, &mut ItemScratch::default()),
                &mut Vec::new(),
            );
        });
        items.into_iter().map(|(item, done)| done.map(|()| item)).collect()
    }

    /// The heads' results side by side, (batch·n, heads·`head_dim`).
    pub(super) fn attend_items(
        &self,
        items: &[ItemContext<A>],
        queries: &Array2<A>,
        length: usize,
        dropout: Option<Dropout<A>>,
    ) -> Array2<A> {
        let (batch, heads, head_dim) = (items.len(), self.weights().heads, self.weights().head_dim());
        let mut concat = Array2::zeros(queries.dim());
        let size = TASK_BLOCKS * self.config.block;
        let cost = parallel::cost(&[concat.len(), 2, self.config.rows_seen(length)]);
        let (mut packs, mut scratches) = (Pool::<PackedItem<A>>::default(), Pool::<(Tile<A>, BlockScratch<A>)>::default());
        packs.prepare();
        scratches.prepare();
        for_each_part(along(sequence_mut(&mut concat, batch, length), 0, 1), cost, |index, part| {
            packs.with(|packed| {
                let item = &items[index];
                packed.repack(item);
                let parts = Parts {
                    view: part.view.index_axis_move(Axis(0), 0),
                    axis: 0,
                    size,
                };
                for_each_part(parts, cost, |tile, mut part| {
                    let (first, count) = (tile * size, part.view.nrows());
                    let start = index * length + first;
                    let own = queries.slice(s![start..start + count, ..]);
                    if let Some(dropout) = &dropout {
                        let dropping = Dropping::new(dropout, index, heads, item);
                        return item.attend_dropped(own, first, heads, &dropping, &mut part.view);
                    }
                    scratches.with(|(queries, scratch)| {
                        queries.fill(own, Runs::of_units(heads, head_dim));
                        packed.attend(item, first, heads, queries, scratch);
                        queries.copy_to(&mut part.view);
                    });
                });
            });
        });
        concat
    }

    pub(crate) fn backward_dropped(
        &self,
        shard: Option<&dyn SequenceShard<A>>,
        cache: &AttentionCache<A>,
        dy: &ArrayRef3<A>,
        dropout: Option<Dropout<A>>,
        gradients: &mut Self,
    ) -> Result<Array3<A>> {
        const OPERATION: &str = "LocalGlobalAttention::backward";
        cache.check(OPERATION, &self.config, &gradients.config)?;
        check_gradient(OPERATION, dy, &cache.x)?;
        let CachedContext::LocalGlobal(items) = &cache.context else {
            return Err(unlike(OPERATION, "the cache has no window and no summaries"));
        };
        if self.pooling_query.is_some() != gradients.pooling_query.is_some() {
            return Err(Error::argument(
                OPERATION,
                "the gradients have no pooling query to add to; pass this layer's zeros_like",
            ));
        }
        let (batch, length, _) = cache.x.dim();
        let dy = owned(OPERATION, dy)?;
        let (weights, own) = (self.weights(), gradients.layer.weights_mut());
        let dconcat = weights.concat_gradient(&cache.attend, rows(&dy), own, Buffers::new());
        let mut dqueries = Array2::zeros(cache.attend.queries.dim());
        let mut grads = self.items_backward(items, &cache.attend.queries, &dconcat, length, dropout, &mut dqueries);
        if let Some(shard) = shard {
            complete_gradients(items, &mut grads, shard)?;
        }
        self.pooling_query_backward((items, shard), &mut grads, &mut dqueries, length, gradients.pooling_query.as_mut())?;
        let own = gradients.layer.weights_mut();
        let mut dx = sequence(
            weights.query.backward_rows(rows(&cache.x), dqueries.view(), &mut own.query),
            batch,
            length,
        );
        let keys = key_value_gradients(items, &mut grads);
        dx += &self.layer.key_value_backward(&cache.x, cache.mask.as_ref(), &keys, own);
        Ok(dx)
    }

    /// The gradients of what every item's rows saw; those of the queries are written.
    fn items_backward(
        &self,
        items: &[ItemContext<A>],
        queries: &Array2<A>,
        dconcat: &Array2<A>,
        length: usize,
        dropout: Option<Dropout<A>>,
        dqueries: &mut Array2<A>,
    ) -> Vec<ItemGradients<A>> {
        let (batch, heads) = (items.len(), self.weights().heads);
        let mut grads: Vec<ItemGradients<A>> = items.iter().map(|item| ItemGradients::zeros(item, heads)).collect();
        let cost = parallel::cost(&[queries.len(), 5, self.config.rows_seen(length)]);
        let parts = Chunks {
            slice: &mut grads,
            size: 1,
        };
        let both = (along(sequence_mut(dqueries, batch, length), 0, 1), parts);
        for_each_part(both, cost, |index, (dqueries, grads)| {
            let own = s![index * length..(index + 1) * length, ..];
            let dropping = dropout.as_ref().map(|dropout| Dropping::new(dropout, index, heads, &items[index]));
            let dqueries = dqueries.view.index_axis_move(Axis(0), 0);
            let (queries, dout) = (queries.slice(own), dconcat.slice(own));
            backward_item(
                &items[index],
                (queries, dout),
                heads,
                dropping.as_ref(),
                dqueries,
                &mut grads.slice[0],
                cost,
            );
        });
        grads
    }

    /// Adds the gradient of u to that of its parameter, and to those of the queries whose mean it has.
    #[allow(clippy::cast_precision_loss)] // a length
    fn pooling_query_backward(
        &self,
        (items, shard): (&[ItemContext<A>], Option<&dyn SequenceShard<A>>),
        grads: &mut [ItemGradients<A>],
        dqueries: &mut Array2<A>,
        length: usize,
        own: Option<&mut Array2<A>>,
    ) -> Result<()> {
        let Some(own) = own else { return Ok(()) };
        for grads in grads.iter() {
            for (own, &grad) in own.iter_mut().zip(&grads.queries) {
                *own += A::cast(grad);
            }
        }
        if self.config.pooling_query == PoolingQuery::Fixed {
            return Ok(());
        }
        if let Some(shard) = shard {
            add_up_queries(grads, shard)?;
        }
        for (index, (item, grads)) in items.iter().zip(grads).enumerate() {
            for row in item.rows_of(item.own()) {
                let mut dquery = dqueries.row_mut(index * length + item.position_of(row) - item.first());
                for (dquery, &grad) in dquery.iter_mut().zip(&grads.queries) {
                    *dquery += A::cast(grad / item.total as f64);
                }
            }
        }
        Ok(())
    }
}

/// The gradients of keys and values of all rows that attend, (batch, heads, slots, `head_dim`).
fn key_value_gradients<A: Scalar>(items: &[ItemContext<A>], grads: &mut [ItemGradients<A>]) -> KeyValueGradients<A> {
    let most = items.iter().map(|item| item.rows_of(item.own()).len()).max().unwrap_or(0);
    let (kv_heads, head_dim) = items.first().map_or((1, 1), |item| (item.kv_heads, item.head_dim));
    let shape = (items.len(), kv_heads, most, head_dim);
    let mut all = KeyValueGradients {
        keys: Array4::zeros(shape),
        values: Array4::zeros(shape),
        log_mass: None,
    };
    for (index, (item, grads)) in items.iter().zip(grads).enumerate() {
        let rows = item.rows_of(item.own());
        let own = s![index, .., ..rows.len(), ..];
        all.keys.slice_mut(own).assign(&grads.keys.slice(s![.., rows.clone(), ..]));
        all.values.slice_mut(own).assign(&grads.values.slice(s![.., rows, ..]));
    }
    all
}
