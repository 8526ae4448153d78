//! Training of the second half of attention: queries to keys and values. Scores are made again tile by tile, never stored.

use ndarray::{Array2, Array3, Array4, ArrayView2, ArrayViewMut2, ArrayViewMut3, Axis, s};

use super::compressed::Compressed;
use super::heads::{ItemKeyValues, head_scores};
use super::partial::HeadScratch;
use super::weights::{AttentionWeights, tile};
use crate::layers::{TILE, rows, sequence};
use crate::ops::{Dropout, Runs, StagedSum, Tile, gemm};
use crate::parallel;
use crate::room::Room;
use crate::scalar::Scalar;
use crate::views::{outer, split};

mod head;

use head::{HeadBackward, OwnGradients};

/// The values that the backward pass needs: (batch·m, heads·`head_dim`) twice, and the factored output where there is one.
#[derive(Clone, Debug)]
pub(crate) struct AttendCache<A> {
    pub(super) queries: Array2<A>,
    concat: Array2<A>,
    factored: Option<Array2<A>>,
}

/// The gradients of what a context is made of, (batch, heads, slots, `head_dim`) each.
#[derive(Clone, Debug)]
pub(crate) struct KeyValueGradients<A> {
    pub(crate) keys: Array4<A>,
    pub(crate) values: Array4<A>,
}

impl<A: Scalar> AttendCache<A> {
    /// Returns its memory to the pool.
    pub(super) fn give(self, room: Room<'_, A>) {
        room.give(self.queries);
        room.give(self.concat);
    }
}

impl<A: Scalar> AttentionWeights<A> {
    /// Attention of the rows of `x` (batch, m, dim), and what the backward pass needs.
    pub(crate) fn attend_train(
        &self,
        x: &Array3<A>,
        context: &Compressed<A>,
        dropout: Option<Dropout<A>>,
        room: Room<'_, A>,
    ) -> (Array3<A>, AttendCache<A>) {
        let (batch, length, _) = x.dim();
        let queries = self.query.forward_rows_in(room, rows(x));
        let mut concat = room.array2(queries.dim());
        let cost = parallel::cost(&[concat.len(), 2, context.keys.dim().2]);
        let mut items = sequence_mut(&mut concat, batch, length);
        let mut tasks = Vec::new();
        for (item, rows) in outer(items.view_mut()).into_iter().enumerate() {
            for (index, rows) in split(rows, Axis(0), TILE).into_iter().enumerate() {
                tasks.push((item, index * TILE, rows));
            }
        }
        parallel::for_each_with(
            tasks,
            cost,
            |(tile, scratch): &mut (Tile<A>, HeadScratch<A>), (item, start, mut concat)| {
                let first = item * length + start;
                let queries = queries.slice(s![first..first + concat.nrows(), ..]);
                let Some(dropout) = &dropout else {
                    tile.fill(queries, Runs::of_units(self.heads, self.head_dim()));
                    context.packed().attend(item, self.heads, tile, scratch);
                    return tile.copy_to(&mut concat);
                };
                concat.assign(&queries);
                let place = ScoreTile {
                    item,
                    start,
                    length,
                    heads: self.heads,
                };
                attend_with_dropout(&mut concat, context.item(item), place, dropout);
            },
        );
        self.concat_output(queries, concat, (batch, length), room)
    }

    /// The output of the heads' results side by side, and what the backward pass needs.
    pub(super) fn concat_output(
        &self,
        queries: Array2<A>,
        concat: Array2<A>,
        (batch, length): (usize, usize),
        room: Room<'_, A>,
    ) -> (Array3<A>, AttendCache<A>) {
        let factored = self.output_factor.as_ref().map(|factor| factor.forward_rows(concat.view()));
        let output = self.output.forward_rows_in(room, factored.as_ref().unwrap_or(&concat).view());
        (sequence(output, batch, length), AttendCache { queries, concat, factored })
    }

    /// The gradient of the heads' results side by side, given that of the output.
    pub(super) fn concat_gradient(
        &self,
        cache: &AttendCache<A>,
        dy: ArrayView2<'_, A>,
        gradients: &mut Self,
        room: Room<'_, A>,
    ) -> Array2<A> {
        match (&self.output_factor, &cache.factored, &mut gradients.output_factor) {
            (Some(factor), Some(factored), Some(own)) => {
                let dfactored = self.output.backward(factored.view(), dy, &mut gradients.output);
                factor.backward(cache.concat.view(), dfactored.view(), own)
            }
            _ => self.output.backward_in(room, cache.concat.view(), dy, &mut gradients.output),
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
        room: Room<'_, A>,
    ) -> (Array3<A>, KeyValueGradients<A>) {
        let (batch, length, _) = x.dim();
        let dconcat = self.concat_gradient(cache, dy, gradients, room);
        let mut grads = KeyValueGradients {
            keys: Array4::zeros(context.keys.dim()),
            values: Array4::zeros(context.values.dim()),
        };
        let mut dqueries = room.array2(cache.queries.dim());
        heads_backward(
            self.heads,
            context,
            cache,
            &dconcat,
            dropout,
            (batch, length),
            &mut dqueries,
            &mut grads,
        );
        room.give(dconcat);
        let dx = self.query.backward_in(room, rows(x), dqueries.view(), &mut gradients.query);
        room.give(dqueries);
        (sequence(dx, batch, length), grads)
    }
}

/// A task has the query heads of one key/value head of one item, and goes over their rows in order.
#[allow(clippy::too_many_arguments)] // all of them vary independently
fn heads_backward<A: Scalar>(
    heads: usize,
    context: &Compressed<A>,
    cache: &AttendCache<A>,
    dconcat: &Array2<A>,
    dropout: Option<Dropout<A>>,
    (batch, length): (usize, usize),
    dqueries: &mut Array2<A>,
    grads: &mut KeyValueGradients<A>,
) {
    let (_, kv_heads, slots, head_dim) = context.keys.dim();
    let group = heads / kv_heads;
    let cost = parallel::cost(&[cache.queries.len(), 5, slots]);
    let mut dqueries = sequence_mut(dqueries, batch, length);
    let parts = owned_parts(dqueries.view_mut(), grads, &context.slots, group * head_dim);
    parallel::for_each_with(
        parts,
        cost,
        |backward: &mut HeadBackward<A>, (item, kv_head, mut dqueries, mut own)| {
            let (keys, values) = context.item(item).head(kv_head, kv_heads);
            backward.attend_to(keys, values);
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
                        heads: heads,
                    };
                    let dropped = dropout.as_ref().map(|dropout| place.dropped(head, slots, dropout));
                    backward.tile(
                        cache.queries.slice(s![rows.clone(), columns.clone()]),
                        dconcat.slice(s![rows, columns.clone()]),
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
        },
    );
}

/// The gradients cut by item and key/value head: (item, head, those of its queries, those of its keys and values).
fn owned_parts<'g, A: Scalar>(
    dqueries: ArrayViewMut3<'g, A>,
    grads: &'g mut KeyValueGradients<A>,
    slots: &[usize],
    width: usize,
) -> Vec<(usize, usize, ArrayViewMut2<'g, A>, OwnGradients<'g, A>)> {
    let mut parts = Vec::new();
    let items = outer(dqueries)
        .into_iter()
        .zip(outer(grads.keys.view_mut()))
        .zip(outer(grads.values.view_mut()));
    for (item, ((dqueries, keys), values)) in items.enumerate() {
        let heads = split(dqueries, Axis(1), width).into_iter().zip(outer(keys)).zip(outer(values));
        for (head, ((dqueries, keys), values)) in heads.enumerate() {
            let count = slots[item];
            let (keys, values) = (keys.split_at(Axis(0), count).0, values.split_at(Axis(0), count).0);
            parts.push((item, head, dqueries, OwnGradients { keys, values }));
        }
    }
    parts
}

fn sequence_mut<A: Scalar>(rows: &mut Array2<A>, batch: usize, length: usize) -> ArrayViewMut3<'_, A> {
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
                self.dropout.apply(scores, self.first + row as u64 * self.stride);
            }
        }
    }
}

/// Replaces every head's queries by dropout(softmax(q·kᵀ/√d))·v.
fn attend_with_dropout<A: Scalar>(
    queries: &mut ArrayViewMut2<'_, A>,
    context: ItemKeyValues<'_, A>,
    place: ScoreTile,
    dropout: &Dropout<A>,
) {
    let (head_dim, count) = (context.keys.dim().2, context.count);
    if count == 0 {
        queries.fill(A::zero());
        return;
    }
    let mut space = Vec::new();
    for head in 0..place.heads {
        let mut scores = tile(&mut space, queries.nrows(), count);
        head_scores(queries.view(), context, head, place.heads, &mut scores);
        place.dropped(head, context.keys.dim().1, dropout).apply(&mut scores);
        let (_, values) = context.head(head, place.heads);
        let mut result = queries.slice_mut(s![.., head * head_dim..(head + 1) * head_dim]);
        gemm(A::one(), scores.view(), values, A::zero(), &mut result);
    }
}
