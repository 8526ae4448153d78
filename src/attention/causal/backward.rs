//! Training of attention to what each row sees. Scores are recomputed tile by tile, never stored.

use std::ops::Range;

use ndarray::{Array2, Array3, Array4, ArrayView2, ArrayViewMut2, ArrayViewMut3, Axis, Ix4, s};

use super::super::gradients::{AttendCache, KeyValueGradients, sequence_mut};
use super::super::heads::{ItemKeyValues, scale};
use super::super::weights::{AttentionWeights, tile};
use super::attend::{CausalContext, ItemContext, ScorePlace, clip};
use super::online::{KeyPart, masked_scores};
use super::visibility::Visibility;
use crate::buffer_pool::Buffers;
use crate::layers::{rows, sequence};
use crate::ops::{Dropout, StagedSum, gemm, idle_rows, softmax_backward_rows, softmax_rows, without_idle};
use crate::parallel::{self, Parts, Pool, along, for_each_part};
use crate::scalar::Scalar;

/// The gradients of what rows attend to, each (batch, heads, slots, `head_dim`); without summaries theirs have no slots.
#[derive(Debug)]
pub(crate) struct CausalGradients<A> {
    pub(crate) keys: KeyValueGradients<A>,
    pub(crate) summaries: KeyValueGradients<A>,
}

impl<A: Scalar> CausalGradients<A> {
    fn zeros(context: &CausalContext<A>) -> Self {
        let (batch, kv_heads, _, head_dim) = context.keys.keys.dim();
        let none = (batch, kv_heads, 0, head_dim);
        let of = |dim| KeyValueGradients {
            keys: Array4::zeros(dim),
            values: Array4::zeros(dim),
            log_mass: None,
        };
        Self {
            keys: of(context.keys.keys.dim()),
            summaries: of(context.summaries.as_ref().map_or(none, |summaries| summaries.keys.dim())),
        }
    }
}

/// The gradients of the keys and values that one task owns: those of one key/value head, and of the summaries that its query heads see.
struct Own<'g, A> {
    keys: ArrayViewMut2<'g, A>,
    values: ArrayViewMut2<'g, A>,
    /// (heads, slots, `head_dim`): one, or one for each query head.
    summary_keys: ArrayViewMut3<'g, A>,
    summary_values: ArrayViewMut3<'g, A>,
}

/// The part of [`Own`] gradients that comes from earlier tiles.
#[derive(Default)]
struct StagedOwn {
    of_keys: [StagedSum; 2],
    of_summaries: [StagedSum; 2],
}

impl StagedOwn {
    /// Tells that the rows of a tile were added.
    fn added<A: Scalar>(&mut self, own: &mut Own<'_, A>, visibility: &Visibility, rows: &Range<usize>) {
        let width = own.keys.ncols();
        let slots = visibility.keys(rows.start).start * width..visibility.keys(rows.end - 1).end * width;
        for (staged, own) in self.of_keys.iter_mut().zip([&mut own.keys, &mut own.values]) {
            staged.added_to(slots.clone(), own.as_slice_mut().expect("one head's are contiguous"));
        }
        for (staged, own) in self.of_summaries.iter_mut().zip([&mut own.summary_keys, &mut own.summary_values]) {
            staged.added(own.as_slice_mut().expect("those of some heads are contiguous"));
        }
    }

    fn finish<A: Scalar>(&mut self, own: &mut Own<'_, A>) {
        for (staged, own) in self.of_keys.iter_mut().zip([&mut own.keys, &mut own.values]) {
            staged.finish(own.as_slice_mut().expect("one head's are contiguous"));
        }
        for (staged, own) in self.of_summaries.iter_mut().zip([&mut own.summary_keys, &mut own.summary_values]) {
            staged.finish(own.as_slice_mut().expect("those of some heads are contiguous"));
        }
    }
}

/// Scratch space for one tile of one head.
#[derive(Default)]
struct BackwardScratch<A> {
    scores: Vec<A>,
    dropped: Vec<A>,
    dscores: Vec<A>,
    visible: [Vec<Range<usize>>; 2],
}

/// The inputs of a task.
struct Task<'t, A> {
    context: ItemContext<'t, A>,
    place: Option<ScorePlace<'t, A>>,
    /// All query heads side by side, and the gradient of their results: (rows, heads·`head_dim`).
    queries: ArrayView2<'t, A>,
    dconcat: ArrayView2<'t, A>,
    heads: usize,
}

impl<A: Scalar> AttentionWeights<A> {
    /// The gradients of x through the queries, and of keys, values and summaries, given those of the output (batch·rows, dim).
    #[allow(clippy::too_many_arguments)] // all of them vary independently
    pub(crate) fn attend_causal_backward(
        &self,
        x: &Array3<A>,
        context: &CausalContext<A>,
        cache: &AttendCache<A>,
        dy: ArrayView2<'_, A>,
        dropout: Option<Dropout<A>>,
        gradients: &mut Self,
    ) -> (Array3<A>, CausalGradients<A>) {
        let (batch, length, _) = x.dim();
        let dconcat = self.concat_gradient(cache, dy, gradients, Buffers::new());
        let mut grads = CausalGradients::zeros(context);
        let mut dqueries = Array2::zeros(cache.queries.dim());
        heads_backward(self.heads, context, cache, &dconcat, dropout, length, &mut dqueries, &mut grads);
        let dx = self.query.backward_rows(rows(x), dqueries.view(), &mut gradients.query);
        (sequence(dx, batch, length), grads)
    }
}

/// A task has the query heads of one key/value head of one item, and goes over their rows in order.
#[allow(clippy::too_many_arguments)] // all of them vary independently
fn heads_backward<A: Scalar>(
    heads: usize,
    context: &CausalContext<A>,
    cache: &AttendCache<A>,
    dconcat: &Array2<A>,
    dropout: Option<Dropout<A>>,
    length: usize,
    dqueries: &mut Array2<A>,
    grads: &mut CausalGradients<A>,
) {
    let (_, kv_heads, _, head_dim) = context.keys.keys.dim();
    let group = heads / kv_heads;
    let cost = parallel::cost(&[cache.queries.len(), 5, context.visible()]);
    let batch = context.keys.batch();
    let CausalGradients { keys, summaries } = grads;
    let shared_by = summaries.keys.dim().1 / kv_heads;
    let mut pool = Pool::<BackwardScratch<A>>::default();
    pool.prepare();
    let items = (
        along(sequence_mut(dqueries, batch, length), 0, 1),
        (both_along(keys, 0, 1), both_along(summaries, 0, 1)),
    );
    for_each_part(items, cost, |item, (dqueries, (keys, summaries))| {
        let by_head = (
            along(dqueries.view, 2, group * head_dim),
            (
                (along(keys.0.view, 1, 1), along(keys.1.view, 1, 1)),
                (along(summaries.0.view, 1, shared_by), along(summaries.1.view, 1, shared_by)),
            ),
        );
        for_each_part(by_head, cost, |kv_head, (dqueries, (keys, summaries))| {
            let mut dqueries = dqueries.view.index_axis_move(Axis(0), 0);
            let mut own = Own {
                keys: of_item(keys.0).index_axis_move(Axis(0), 0),
                values: of_item(keys.1).index_axis_move(Axis(0), 0),
                summary_keys: of_item(summaries.0),
                summary_values: of_item(summaries.1),
            };
            let rows = item * length..(item + 1) * length;
            let task = Task {
                context: context.item(item),
                place: dropout.as_ref().map(|dropout| ScorePlace {
                    dropout,
                    item,
                    length,
                    slots: context.slots(),
                }),
                queries: cache.queries.slice(s![rows.clone(), ..]),
                dconcat: dconcat.slice(s![rows, ..]),
                heads,
            };
            let own_heads = kv_head * group..(kv_head + 1) * group;
            pool.with(|space| task.run(own_heads, context.tile_rows(), &mut dqueries, &mut own, space));
        });
    });
}

/// The part that belongs to one item.
fn of_item<A>(part: Parts<'_, A, Ix4>) -> ArrayViewMut3<'_, A> {
    part.view.index_axis_move(Axis(0), 0)
}

/// The gradients of keys and those of values, cut along `axis`.
fn both_along<A>(grads: &mut KeyValueGradients<A>, axis: usize, size: usize) -> (Parts<'_, A, Ix4>, Parts<'_, A, Ix4>) {
    (along(grads.keys.view_mut(), axis, size), along(grads.values.view_mut(), axis, size))
}

/// Keys and values that a tile sees some of, and how the columns of its scores are split between them and the summaries.
struct Columns<'c, A> {
    keys: KeyPart<'c, A>,
    summaries: KeyPart<'c, A>,
    /// The slots of the keys.
    slots: Range<usize>,
    joint: bool,
}

impl<'t, A: Scalar> Task<'t, A> {
    /// Goes over the rows of some query heads in order, in tiles of `size`.
    fn run(
        &self,
        heads: Range<usize>,
        size: usize,
        dqueries: &mut ArrayViewMut2<'_, A>,
        own: &mut Own<'_, A>,
        space: &mut BackwardScratch<A>,
    ) {
        let (length, head_dim) = (self.queries.nrows(), own.keys.ncols());
        let mut staged = StagedOwn::default();
        for (within, head) in heads.enumerate() {
            for first in (0..length).step_by(size) {
                let rows = first..length.min(first + size);
                let mut dqueries = dqueries.slice_mut(s![rows.clone(), within * head_dim..(within + 1) * head_dim]);
                self.tile_backward(head, within, rows.clone(), &mut dqueries, own, space);
                staged.added(own, self.context.visibility, &rows);
            }
        }
        staged.finish(own);
    }

    /// One tile of one head: dV += Pᵀ·dO, dP = dO·Vᵀ, dS = P∘(dP − ⟨P, dP⟩), dq = dS·K/√d, dK += dSᵀ·q/√d.
    fn tile_backward(
        &self,
        head: usize,
        within: usize,
        rows: Range<usize>,
        dqueries: &mut ArrayViewMut2<'_, A>,
        own: &mut Own<'_, A>,
        space: &mut BackwardScratch<A>,
    ) {
        let head_dim = dqueries.ncols();
        let block = s![rows.clone(), head * head_dim..(head + 1) * head_dim];
        let (queries, dout) = (self.queries.slice(block), self.dconcat.slice(block));
        let BackwardScratch {
            scores,
            dropped,
            dscores,
            visible,
        } = space;
        let columns = self.columns(head, &rows, visible);
        let width = columns.width();
        let mut weights = tile(scores, rows.len(), width);
        columns.softmax(queries, &mut weights);
        let idle = idle_rows(dout);
        let queries = without_idle(queries, &idle);
        for row in idle {
            weights.row_mut(row).fill(A::zero());
        }
        let mut dscores = tile(dscores, rows.len(), width);
        let (mut first, mut second) = dscores.view_mut().split_at(Axis(1), columns.slots.len());
        gemm(A::one(), dout, columns.keys.values.t(), A::zero(), &mut first);
        gemm(A::one(), dout, columns.summaries.values.t(), A::zero(), &mut second);
        match &self.place {
            None => columns.add_value_gradients(weights.view(), dout, within, own),
            Some(place) => {
                let mut kept = tile(dropped, rows.len(), width);
                kept.assign(&weights);
                for tile in [&mut kept, &mut dscores] {
                    columns.drop_out(place, (head, self.heads), rows.start, tile);
                }
                columns.add_value_gradients(kept.view(), dout, within, own);
            }
        }
        columns.softmax_backward(weights.view(), &mut dscores);
        let (first, second) = dscores.view().split_at(Axis(1), columns.slots.len());
        gemm(scale(head_dim), first, columns.keys.keys, A::zero(), dqueries);
        gemm(scale(head_dim), second, columns.summaries.keys, A::one(), dqueries);
        let mut dkeys = own.keys.slice_mut(s![columns.slots.clone(), ..]);
        gemm(scale(head_dim), first.t(), queries.view(), A::one(), &mut dkeys);
        let mut dkeys = own_summaries(&mut own.summary_keys, within, second.ncols());
        gemm(scale(head_dim), second.t(), queries.view(), A::one(), &mut dkeys);
    }

    /// Returns the keys and summaries that the rows see.
    fn columns<'c>(&self, head: usize, rows: &Range<usize>, visible: &'c mut [Vec<Range<usize>>; 2]) -> Columns<'c, A>
    where
        't: 'c,
    {
        let visibility = self.context.visibility;
        let [visible_keys, visible_summaries] = visible;
        let slots = visibility.keys(rows.start).start..visibility.keys(rows.end - 1).end;
        visible_keys.clear();
        visible_keys.extend(rows.clone().map(|row| clip(&visibility.keys(row), &slots)));
        visible_summaries.clear();
        visible_summaries.extend(rows.clone().map(|row| 0..visibility.summaries(row)));
        let count = visibility.summaries(rows.end - 1);
        let of = |from: ItemKeyValues<'t, A>, slots: Range<usize>, visible: &'c [Range<usize>]| {
            let (keys, values) = from.head(head, self.heads);
            KeyPart {
                keys: keys.slice_move(s![slots.clone(), ..]).reborrow(),
                values: values.slice_move(s![slots, ..]).reborrow(),
                visible,
            }
        };
        Columns {
            keys: of(self.context.keys, slots.clone(), visible_keys),
            // Without summaries, none of the keys.
            summaries: of(self.context.summaries.unwrap_or(self.context.keys), 0..count, visible_summaries),
            slots,
            joint: self.context.joint,
        }
    }
}

impl<A: Scalar> Columns<'_, A> {
    fn width(&self) -> usize {
        self.slots.len() + self.summaries.keys.nrows()
    }

    fn softmax(&self, queries: ArrayView2<'_, A>, weights: &mut ArrayViewMut2<'_, A>) {
        let (mut first, mut second) = weights.view_mut().split_at(Axis(1), self.slots.len());
        masked_scores(queries, &self.keys, &mut first);
        masked_scores(queries, &self.summaries, &mut second);
        for mut row in weights.rows_mut() {
            let Some(row) = row.as_slice_mut() else { continue };
            if self.joint {
                softmax_rows(row, row.len());
            } else {
                let (first, second) = row.split_at_mut(self.slots.len());
                softmax_rows(first, first.len());
                softmax_rows(second, second.len());
            }
        }
    }

    /// The gradients of the scores, in the place of those of the weights.
    fn softmax_backward(&self, weights: ArrayView2<'_, A>, grads: &mut ArrayViewMut2<'_, A>) {
        for (weights, mut grads) in weights.rows().into_iter().zip(grads.rows_mut()) {
            let (Some(weights), Some(grads)) = (weights.to_slice(), grads.as_slice_mut()) else {
                continue;
            };
            if self.joint {
                softmax_backward_rows(weights, grads, weights.len());
            } else {
                let split = self.slots.len();
                softmax_backward_rows(&weights[..split], &mut grads[..split], split);
                softmax_backward_rows(&weights[split..], &mut grads[split..], weights.len() - split);
            }
        }
    }

    fn drop_out(&self, place: &ScorePlace<'_, A>, (head, heads): (usize, usize), row: usize, tile: &mut ArrayViewMut2<'_, A>) {
        let (mut first, mut second) = tile.view_mut().split_at(Axis(1), self.slots.len());
        place.dropped(head, heads, row, self.slots.start).apply(&mut first);
        place.dropped(head, heads, row, place.slots.0).apply(&mut second);
    }

    fn add_value_gradients(&self, weights: ArrayView2<'_, A>, dout: ArrayView2<'_, A>, within: usize, own: &mut Own<'_, A>) {
        let (first, second) = weights.split_at(Axis(1), self.slots.len());
        let mut dvalues = own.values.slice_mut(s![self.slots.clone(), ..]);
        gemm(A::one(), first.t(), dout, A::one(), &mut dvalues);
        let mut dvalues = own_summaries(&mut own.summary_values, within, second.ncols());
        gemm(A::one(), second.t(), dout, A::one(), &mut dvalues);
    }
}

/// The gradients of the first `count` summary rows that query head `within` of a task sees.
fn own_summaries<'o, A>(summaries: &'o mut ArrayViewMut3<'_, A>, within: usize, count: usize) -> ArrayViewMut2<'o, A> {
    let head = if summaries.dim().0 > 1 { within } else { 0 };
    summaries.slice_mut(s![head, ..count, ..])
}
