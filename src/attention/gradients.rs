//! Training of the second half of attention: queries to keys and values. Scores are recomputed tile by tile, never stored.

use ndarray::{Array2, Array3, Array4, ArrayView2, ArrayViewMut2, ArrayViewMut3, Axis, Ix4, s};

use super::compressed::Compressed;
use super::heads::head_scores;
use super::partial::HeadScratch;
use super::weights::{AttentionWeights, tile};
use crate::buffer_pool::Buffers;
use crate::layers::{TILE, for_each_tile, rows, sequence};
use crate::ops::{Dropout, Runs, StagedSum, Tile, gemm};
use crate::parallel::{self, Parts, Pool, along, for_each_part};
use crate::scalar::Scalar;

mod head;

use head::{HeadBackward, OwnGradients};

/// The values that the backward pass needs: (batch·m, heads·`head_dim`) twice, and the factored output where there is one.
#[derive(Clone, Debug)]
pub(crate) struct AttendCache<A> {
    pub(super) queries: Array2<A>,
    concat: Array2<A>,
    factored: Option<Array2<A>>,
}

/// The gradients of what a context is made of, (batch, heads, slots, `head_dim`) each, and of what is added to its logits, (batch, heads, slots).
#[derive(Clone, Debug)]
pub(crate) struct KeyValueGradients<A> {
    pub(crate) keys: Array4<A>,
    pub(crate) values: Array4<A>,
    pub(crate) log_mass: Option<Array3<A>>,
}

impl<A: Scalar> AttendCache<A> {
    /// Returns its memory to the pool.
    pub(super) fn recycle(self, buffers: Buffers<'_, A>) {
        buffers.recycle(self.queries);
        buffers.recycle(self.concat);
    }
}

impl<A: Scalar> AttentionWeights<A> {
    /// Attention of the rows of `x` (batch, m, dim), and what the backward pass needs.
    pub(crate) fn attend_train(
        &self,
        x: &Array3<A>,
        context: &Compressed<A>,
        dropout: Option<Dropout<A>>,
        buffers: Buffers<'_, A>,
    ) -> (Array3<A>, AttendCache<A>) {
        let (batch, length, _) = x.dim();
        let queries = self.query.forward_rows_in(buffers, rows(x));
        let mut concat = buffers.array2(queries.dim());
        let cost = parallel::cost(&[concat.len(), 2, context.keys.dim().2]);
        let mut pool = Pool::<(Tile<A>, HeadScratch<A>)>::default();
        pool.prepare();
        for_each_tile(sequence_mut(&mut concat, batch, length), TILE, cost, |item, rows, mut concat| {
            let first = item * length + rows.start;
            let queries = queries.slice(s![first..first + concat.nrows(), ..]);
            let Some(dropout) = &dropout else {
                return pool.with(|(tile, scratch)| {
                    tile.fill(queries, Runs::of_units(self.heads, self.head_dim()));
                    context.packed().attend(item, self.heads, tile, scratch);
                    tile.copy_to(&mut concat);
                });
            };
            concat.assign(&queries);
            let place = ScoreTile {
                item,
                start: rows.start,
                length,
                heads: self.heads,
            };
            attend_with_dropout(&mut concat, context, place, dropout);
        });
        self.concat_output(queries, concat, (batch, length), buffers)
    }

    /// The output of the heads' results side by side, and what the backward pass needs.
    pub(super) fn concat_output(
        &self,
        queries: Array2<A>,
        concat: Array2<A>,
        (batch, length): (usize, usize),
        buffers: Buffers<'_, A>,
    ) -> (Array3<A>, AttendCache<A>) {
        let factored = self.output_factor.as_ref().map(|factor| factor.forward_rows(concat.view()));
        let output = self.output.forward_rows_in(buffers, factored.as_ref().unwrap_or(&concat).view());
        (sequence(output, batch, length), AttendCache { queries, concat, factored })
    }

    /// The gradient of the heads' results side by side, given that of the output.
    pub(super) fn concat_gradient(
        &self,
        cache: &AttendCache<A>,
        dy: ArrayView2<'_, A>,
        gradients: &mut Self,
        buffers: Buffers<'_, A>,
    ) -> Array2<A> {
        match (&self.output_factor, &cache.factored, &mut gradients.output_factor) {
            (Some(factor), Some(factored), Some(own)) => {
                let dfactored = self.output.backward_rows(factored.view(), dy, &mut gradients.output);
                factor.backward_rows(cache.concat.view(), dfactored.view(), own)
            }
            _ => self
                .output
                .backward_rows_in(buffers, cache.concat.view(), dy, &mut gradients.output),
        }
    }

    /// The gradients of x through the queries, and of keys and values, given those of the output (batch·m, dim).
    #[allow(clippy::too_many_arguments)] // all of them vary independently
    pub(crate) fn attend_backward(
        &self,
        x: &Array3<A>,
        context: &Compressed<A>,
        cache: &AttendCache<A>,
        dy: ArrayView2<'_, A>,
        dropout: Option<Dropout<A>>,
        gradients: &mut Self,
        buffers: Buffers<'_, A>,
    ) -> (Array3<A>, KeyValueGradients<A>) {
        let (batch, length, _) = x.dim();
        let dconcat = self.concat_gradient(cache, dy, gradients, buffers);
        let mut grads = KeyValueGradients {
            keys: Array4::zeros(context.keys.dim()),
            values: Array4::zeros(context.values.dim()),
            log_mass: None,
        };
        let mut dqueries = buffers.array2(cache.queries.dim());
        let heads = HeadsBackward {
            heads: self.heads,
            context,
            cache,
            dconcat: &dconcat,
            dropout,
            length,
        };
        heads.run(sequence_mut(&mut dqueries, batch, length), &mut grads);
        buffers.recycle(dconcat);
        let dx = self.query.backward_rows_in(buffers, rows(x), dqueries.view(), &mut gradients.query);
        buffers.recycle(dqueries);
        (sequence(dx, batch, length), grads)
    }
}

/// The inputs of the way back from the heads' results to queries, keys and values.
struct HeadsBackward<'t, A> {
    heads: usize,
    context: &'t Compressed<A>,
    cache: &'t AttendCache<A>,
    /// The gradient of the heads' results side by side.
    dconcat: &'t Array2<A>,
    dropout: Option<Dropout<A>>,
    /// Query rows of an item.
    length: usize,
}

impl<A: Scalar> HeadsBackward<'_, A> {
    /// A task has the query heads of one key/value head of one item.
    fn run(&self, dqueries: ArrayViewMut3<'_, A>, grads: &mut KeyValueGradients<A>) {
        let (batch, kv_heads, slots, head_dim) = self.context.keys.dim();
        let with_mass = self.context.log_mass.is_some();
        let mut masses = Array3::<f64>::zeros((batch, kv_heads, if with_mass { slots } else { 0 }));
        let width = self.heads / kv_heads * head_dim;
        let cost = parallel::cost(&[self.cache.queries.len(), 5, slots]);
        let mut pool = Pool::<HeadBackward<A>>::default();
        pool.prepare();
        let items = (
            (along(dqueries, 0, 1), along(masses.view_mut(), 0, 1)),
            (along(grads.keys.view_mut(), 0, 1), along(grads.values.view_mut(), 0, 1)),
        );
        for_each_part(items, cost, |item, ((dqueries, masses), (keys, values))| {
            let heads = (
                (along(dqueries.view, 2, width), along(masses.view, 1, 1)),
                (along(keys.view, 1, 1), along(values.view, 1, 1)),
            );
            for_each_part(heads, cost, |kv_head, ((dqueries, masses), (keys, values))| {
                let count = self.context.slots[item];
                let dqueries = dqueries.view.index_axis_move(Axis(0), 0);
                let own = OwnGradients {
                    keys: first_slots(keys, count),
                    values: first_slots(values, count),
                    log_mass: masses.view.into_slice().unwrap_or_default(),
                };
                pool.with(|backward| self.key_value_head(item, kv_head, dqueries, own, backward));
            });
        });
        grads.log_mass = with_mass.then(|| masses.mapv(A::cast));
    }

    /// Goes over the rows of the query heads of one key/value head in order.
    fn key_value_head(
        &self,
        item: usize,
        kv_head: usize,
        mut dqueries: ArrayViewMut2<'_, A>,
        mut own: OwnGradients<'_, A>,
        backward: &mut HeadBackward<A>,
    ) {
        let (_, kv_heads, slots, head_dim) = self.context.keys.dim();
        let (heads, length, group) = (self.heads, self.length, self.heads / kv_heads);
        let (keys, values) = self.context.item(item).head(kv_head, kv_heads);
        let log_mass = self.context.head_mass(item, kv_head, kv_heads);
        backward.attend_to(keys, values, log_mass);
        let mut staged = [StagedSum::default(), StagedSum::default()];
        for head in kv_head * group..(kv_head + 1) * group {
            let columns = head * head_dim..(head + 1) * head_dim;
            let own_columns = (head % group) * head_dim..(head % group + 1) * head_dim;
            for start in (0..length).step_by(TILE) {
                let own_rows = start..length.min(start + TILE);
                let rows = item * length + own_rows.start..item * length + own_rows.end;
                let place = ScoreTile {
                    item,
                    start,
                    length,
                    heads,
                };
                let dropped = self.dropout.as_ref().map(|dropout| place.dropped(head, slots, dropout));
                backward.tile(
                    self.cache.queries.slice(s![rows.clone(), columns.clone()]),
                    self.dconcat.slice(s![rows, columns.clone()]),
                    dropped.as_ref(),
                    &mut dqueries.slice_mut(s![own_rows, own_columns.clone()]),
                    &mut own,
                );
                for (staged, own) in staged.iter_mut().zip(own.slices()) {
                    staged.added(own);
                }
            }
        }
        for (staged, own) in staged.iter_mut().zip(own.slices()) {
            staged.finish(own);
        }
    }
}

/// The first `count` slots of a part that is one head of one item.
fn first_slots<A>(part: Parts<'_, A, Ix4>, count: usize) -> ArrayViewMut2<'_, A> {
    let slots = part.view.index_axis_move(Axis(0), 0).index_axis_move(Axis(0), 0);
    slots.split_at(Axis(0), count).0
}

/// Rows as (batch, length, width).
pub(super) fn sequence_mut<A: Scalar>(rows: &mut Array2<A>, batch: usize, length: usize) -> ArrayViewMut3<'_, A> {
    let width = rows.ncols();
    rows.view_mut()
        .into_shape_with_order((batch, length, width))
        .expect("there are batch · length rows")
}

/// The place of a tile of scores among all scores of a layer.
#[derive(Clone, Copy)]
struct ScoreTile {
    item: usize,
    start: usize,
    length: usize,
    heads: usize,
}

impl ScoreTile {
    /// Returns the dropout of the tile's scores in `head`.
    fn dropped<A>(self, head: usize, slots: usize, dropout: &Dropout<A>) -> Dropped<'_, A> {
        let rows = (self.item * self.heads + head) as u64 * self.length as u64 + self.start as u64;
        let stride = slots as u64;
        Dropped {
            dropout,
            first: rows * stride,
            stride,
        }
    }
}

/// The dropout of a tile of scores: the index of its first element and the elements of a row, so that tiles do not matter.
pub(super) struct Dropped<'d, A> {
    pub(super) dropout: &'d Dropout<A>,
    pub(super) first: u64,
    pub(super) stride: u64,
}

impl<A: Scalar> Dropped<'_, A> {
    /// Drops out of a tile whose rows are contiguous.
    pub(super) fn apply(&self, scores: &mut ArrayViewMut2<'_, A>) {
        for (row, mut scores) in scores.rows_mut().into_iter().enumerate() {
            if let Some(scores) = scores.as_slice_mut() {
                self.dropout
                    .apply(scores, self.first.wrapping_add((row as u64).wrapping_mul(self.stride)));
            }
        }
    }
}

/// Replaces every head's queries by dropout(softmax(q·kᵀ/√d + log-mass))·v.
fn attend_with_dropout<A: Scalar>(queries: &mut ArrayViewMut2<'_, A>, compressed: &Compressed<A>, place: ScoreTile, dropout: &Dropout<A>) {
    let context = compressed.item(place.item);
    let (head_dim, count) = (context.keys.dim().2, context.count);
    if count == 0 {
        queries.fill(A::zero());
        return;
    }
    let mut space = Vec::new();
    for head in 0..place.heads {
        let mut scores = tile(&mut space, queries.nrows(), count);
        let log_mass = compressed.head_mass(place.item, head, place.heads);
        head_scores(queries.view(), context, log_mass, head, place.heads, &mut scores);
        place.dropped(head, context.keys.dim().1, dropout).apply(&mut scores);
        let (_, values) = context.head(head, place.heads);
        let mut result = queries.slice_mut(s![.., head * head_dim..(head + 1) * head_dim]);
        gemm(A::one(), scores.view(), values, A::zero(), &mut result);
    }
}
