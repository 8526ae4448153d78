//! The way back from the heads' results to queries, keys, values and u. Scores are recomputed block by block, never stored.

use std::ops::Range;

use ndarray::{Array3, ArrayView1, ArrayView2, ArrayViewMut2, Axis, s};

use super::super::heads::scale;
use super::super::pooling::{Means, RowGradients, SegmentGradients, segment_backward};
use super::super::weights::tile;
use super::block::{Dropping, Seen, Slots};
use super::item::ItemContext;
use crate::ops::{StagedSum, gemm, idle_rows, softmax_backward_rows, without_idle};
use crate::parallel::{Chunks, Pool, along, for_each_part};
use crate::scalar::Scalar;

/// The gradients of what one item's rows see.
pub(super) struct ItemGradients<A> {
    /// (`kv_heads`, real positions held, `head_dim`) each.
    pub(super) keys: Array3<A>,
    pub(super) values: Array3<A>,
    /// Of u, (heads, `head_dim`).
    pub(super) queries: Vec<f64>,
    /// Of the slots of each query head.
    pub(super) slots: Vec<SlotGradients<A>>,
}

impl<A: Scalar> ItemGradients<A> {
    pub(super) fn zeros(item: &ItemContext<A>, heads: usize) -> Self {
        let shape = (item.kv_heads, item.count, item.head_dim);
        Self {
            keys: Array3::zeros(shape),
            values: Array3::zeros(shape),
            queries: vec![0.0; heads * item.head_dim],
            slots: (0..heads).map(|_| SlotGradients::default()).collect(),
        }
    }
}

/// The gradients of the slots of one head.
#[derive(Default)]
pub(super) struct SlotGradients<A> {
    pub(super) keys: SlotSum<A>,
    pub(super) values: SlotSum<A>,
    /// Of all logits of a segment together.
    pub(super) logits: Vec<f64>,
    /// Of those that counted all of its mass.
    pub(super) whole: Vec<f64>,
    /// Of those that counted only blocks outside their window: for each block held, Σ of the gradients, each over the share of the mass that it counted.
    pub(super) parts: Vec<f64>,
    /// The same of what is far from each shard.
    pub(super) far: Vec<f64>,
}

/// The gradients of K̄ or of V̄ of all segments of one head.
#[derive(Default)]
pub(super) struct SlotSum<A> {
    /// (segments, `head_dim`).
    pub(super) sums: Vec<A>,
    staged: StagedSum,
    /// The sums where rows see some of the segments, and what is added to them.
    long: Vec<f64>,
    product: Vec<A>,
}

impl<A: Scalar> SlotSum<A> {
    fn reset(&mut self, size: usize) {
        self.long.clear();
        self.sums.clear();
        self.sums.resize(size, A::zero());
    }

    /// Adds factor·aᵀ·b, one row for each of `segments`, or for all.
    fn add(&mut self, factor: A, a: ArrayView2<'_, A>, b: ArrayView2<'_, A>, segments: Option<&[usize]>) {
        let (slots, width) = (a.ncols(), b.ncols());
        let Some(segments) = segments else {
            let mut to = ArrayViewMut2::from_shape((slots, width), &mut self.sums).expect("one row a segment");
            gemm(factor, a.t(), b, A::one(), &mut to);
            return self.staged.added(&mut self.sums);
        };
        self.long.resize(self.sums.len(), 0.0);
        gemm(factor, a.t(), b, A::zero(), &mut tile(&mut self.product, slots, width));
        for (&segment, product) in segments.iter().zip(self.product.chunks_exact(width)) {
            let sums = &mut self.long[segment * width..(segment + 1) * width];
            sums.iter_mut().zip(product).for_each(|(sum, &term)| *sum += term.widen());
        }
    }

    fn finish(&mut self) {
        self.staged.finish(&mut self.sums);
        self.sums.iter_mut().zip(&self.long).for_each(|(sum, &long)| *sum += A::cast(long));
    }
}

/// Scratch space for one key/value head.
#[derive(Default)]
struct Scratch<A> {
    weights: Vec<A>,
    dropped: Vec<A>,
    dscores: Vec<A>,
    seen: Slots<A>,
    means: Means<A>,
}

/// What a task works on: the queries of all heads and the gradients of their results, (rows, heads·`head_dim`) each.
struct Task<'t, A> {
    item: &'t ItemContext<A>,
    queries: ArrayView2<'t, A>,
    dout: ArrayView2<'t, A>,
    heads: usize,
    dropping: Option<&'t Dropping<'t, A>>,
}

/// The gradients that one key/value head's task adds to.
struct Own<'g, A> {
    keys: ArrayViewMut2<'g, A>,
    values: ArrayViewMut2<'g, A>,
    /// Of the queries of its query heads, side by side.
    dqueries: ArrayViewMut2<'g, A>,
    /// Of u, (query heads, `head_dim`).
    pooling: &'g mut [f64],
}

/// Adds up the gradients of one item, given the queries of the rows that attend and the gradients of their results. Where these are the rows of one
/// shard, those of slots stay slots': the other shards have parts of them.
pub(super) fn backward_item<A: Scalar>(
    item: &ItemContext<A>,
    (queries, dout): (ArrayView2<'_, A>, ArrayView2<'_, A>),
    heads: usize,
    dropping: Option<&Dropping<'_, A>>,
    dqueries: ArrayViewMut2<'_, A>,
    grads: &mut ItemGradients<A>,
    cost: usize,
) {
    let group = heads / item.kv_heads;
    let width = group * item.head_dim;
    let task = Task {
        item,
        queries,
        dout,
        heads,
        dropping,
    };
    let mut pool = Pool::<Scratch<A>>::default();
    pool.prepare();
    let pooling = Chunks {
        slice: &mut grads.queries,
        size: width,
    };
    let slots = Chunks {
        slice: &mut grads.slots,
        size: group,
    };
    let parts = (
        ((along(dqueries, 1, width), pooling), slots),
        (along(grads.keys.view_mut(), 0, 1), along(grads.values.view_mut(), 0, 1)),
    );
    for_each_part(parts, cost, |kv_head, (((dqueries, pooling), slots), (keys, values))| {
        let mut own = Own {
            keys: keys.view.index_axis_move(Axis(0), 0),
            values: values.view.index_axis_move(Axis(0), 0),
            dqueries: dqueries.view,
            pooling: pooling.slice,
        };
        pool.with(|scratch| {
            for (within, slots) in slots.slice.iter_mut().enumerate() {
                task.head(kv_head * group + within, within, &mut own, slots, scratch);
            }
        });
    });
}

impl<A: Scalar> Task<'_, A> {
    /// One query head, the `within`-th of its key/value head.
    fn head(&self, head: usize, within: usize, own: &mut Own<'_, A>, slots: &mut SlotGradients<A>, scratch: &mut Scratch<A>) {
        let item = self.item;
        slots.reset(item);
        let first = item.first();
        for (block, rows) in item.blocks_of(first..first + self.queries.nrows()) {
            self.block(head, within, (block, rows), own, slots, scratch);
        }
        if item.cut.segments == 0 {
            return;
        }
        slots.finish();
        if item.seams.is_some() {
            return;
        }
        let pooling = &mut own.pooling[within * item.head_dim..(within + 1) * item.head_dim];
        let (Some(keys), Some(values)) = (own.keys.as_slice_mut(), own.values.as_slice_mut()) else {
            return;
        };
        let mut to = RowGradients {
            keys,
            values,
            query: pooling,
        };
        self.segments(head, slots, &mut scratch.means, &mut to);
    }

    /// One block of rows of one head: dV += Pᵀ·dO, dP = dO·Vᵀ, dS = P∘(dP − ⟨P, dP⟩), dq = dS·K/√d, dK += dSᵀ·q/√d, keys and slots side by side.
    fn block(
        &self,
        head: usize,
        within: usize,
        (block, positions): (usize, Range<usize>),
        own: &mut Own<'_, A>,
        slots: &mut SlotGradients<A>,
        scratch: &mut Scratch<A>,
    ) {
        let (item, head_dim) = (self.item, self.item.head_dim);
        let columns = head * head_dim..(head + 1) * head_dim;
        let rows = positions.start - item.first()..positions.end - item.first();
        let (queries, dout) = (
            self.queries.slice(s![rows.clone(), columns.clone()]),
            self.dout.slice(s![rows.clone(), columns]),
        );
        let Scratch {
            weights,
            dropped,
            dscores,
            seen,
            ..
        } = scratch;
        let seen = item.seen(head, self.heads, block, seen);
        let (keys, width) = (seen.rows.len(), seen.rows.len() + seen.biases.len());
        let mut weights = tile(weights, rows.len(), width);
        item.block_weights(queries, positions.start, &seen, &mut weights);
        let idle = idle_rows(dout);
        let queries = without_idle(queries, &idle);
        for row in idle {
            weights.row_mut(row).fill(A::zero());
        }
        let mut dscores = tile(dscores, rows.len(), width);
        let (mut of_keys, mut of_slots) = dscores.view_mut().split_at(Axis(1), keys);
        gemm(A::one(), dout, seen.values.t(), A::zero(), &mut of_keys);
        gemm(A::one(), dout, seen.slot_values.t(), A::zero(), &mut of_slots);
        match self.dropping {
            None => slots.add_values(weights.view(), dout, &seen, own),
            Some(dropping) => {
                let mut kept = tile(dropped, rows.len(), width);
                kept.assign(&weights);
                for tile in [&mut kept, &mut dscores] {
                    dropping.apply(head, positions.start, keys, tile);
                }
                slots.add_values(kept.view(), dout, &seen, own);
            }
        }
        if let (Some(weights), Some(dscores)) = (weights.as_slice(), dscores.as_slice_mut()) {
            softmax_backward_rows(weights, dscores, width);
        }
        let (of_keys, of_slots) = dscores.view().split_at(Axis(1), keys);
        let mut dqueries = own.dqueries.slice_mut(s![rows, within * head_dim..(within + 1) * head_dim]);
        gemm(scale(head_dim), of_keys, seen.keys, A::zero(), &mut dqueries);
        gemm(scale(head_dim), of_slots, seen.slot_keys, A::one(), &mut dqueries);
        let mut dkeys = own.keys.slice_mut(s![seen.rows.clone(), ..]);
        gemm(scale(head_dim), of_keys.t(), queries.view(), A::one(), &mut dkeys);
        slots.add_keys(item, (head, block), (of_slots, queries.view()), &seen);
    }

    /// The way back through the summaries of one head.
    fn segments(&self, head: usize, slots: &SlotGradients<A>, means: &mut Means<A>, to: &mut RowGradients<'_, A>) {
        let (item, width) = (self.item, self.item.head_dim);
        let rows = item.head_rows(head, self.heads);
        for segment in 0..item.cut.segments {
            let own = segment * width..(segment + 1) * width;
            let grads = SegmentGradients {
                keys: &slots.keys.sums[own.clone()],
                values: &slots.values.sums[own],
                logits: A::cast(slots.logits[segment]),
            };
            let mass = item.pooled[head].masses[segment];
            let share = |row: usize, maximum: A| {
                let part = slots.parts.get(item.place_of_block(row)).copied().unwrap_or(0.0);
                A::cast((slots.whole[segment] + part) * libm::exp(maximum.widen() - mass.widen()))
            };
            let range = item.rows_of(&item.cut.segment(segment));
            segment_backward(&rows, range, &grads, share, means, to);
        }
    }
}

impl<A: Scalar> SlotGradients<A> {
    fn reset(&mut self, item: &ItemContext<A>) {
        let segments = item.cut.segments;
        self.keys.reset(segments * item.head_dim);
        self.values.reset(segments * item.head_dim);
        for sums in [&mut self.logits, &mut self.whole] {
            sums.clear();
            sums.resize(segments, 0.0);
        }
        self.parts.clear();
        self.far.clear();
        if item.cut.segment > item.cut.block {
            self.parts.resize(item.held_blocks().len(), 0.0);
            self.far.resize(item.seams.as_ref().map_or(0, |seams| 2 * seams.shards()), 0.0);
        }
    }

    /// dV += Pᵀ·dO, of the window's keys and of the slots.
    fn add_values(&mut self, weights: ArrayView2<'_, A>, dout: ArrayView2<'_, A>, seen: &Seen<'_, A>, own: &mut Own<'_, A>) {
        let (of_keys, of_slots) = weights.split_at(Axis(1), seen.rows.len());
        let mut dvalues = own.values.slice_mut(s![seen.rows.clone(), ..]);
        gemm(A::one(), of_keys.t(), dout, A::one(), &mut dvalues);
        self.values.add(A::one(), of_slots, dout, seen.segments);
    }

    /// dK̄ += dSᵀ·q/√d, and the gradients of the logits' biases.
    fn add_keys(
        &mut self,
        item: &ItemContext<A>,
        (head, block): (usize, usize),
        (dscores, queries): (ArrayView2<'_, A>, ArrayView2<'_, A>),
        seen: &Seen<'_, A>,
    ) {
        self.keys.add(scale(item.head_dim), dscores, queries, seen.segments);
        let sum = |dscores: ArrayView1<'_, A>| dscores.iter().map(|dscore| dscore.widen()).sum::<f64>();
        if let Some(segments) = seen.segments {
            for (&segment, dscores) in segments.iter().zip(dscores.columns()) {
                let grad = sum(dscores);
                self.logits[segment] += grad;
                self.whole[segment] += grad;
            }
            return;
        }
        let window = item.cut.window(block);
        let touched = item.cut.touched(&window);
        for (segment, dscores) in dscores.columns().into_iter().enumerate() {
            let grad = sum(dscores);
            self.logits[segment] += grad;
            if !touched.contains(&segment) {
                self.whole[segment] += grad;
                continue;
            }
            let counted = item.outside_mass(head, segment, &window);
            if grad == 0.0 || counted == A::neg_infinity() {
                continue;
            }
            // Beyond that only what is rounded to 0 is left of the gradient.
            let ratio = (item.pooled[head].masses[segment].widen() - counted.widen()).min(700.0);
            let share = grad * libm::exp(ratio);
            for block in item.blocks_outside(segment, &window) {
                self.parts[block] += share;
            }
            for place in item.far_of(segment) {
                self.far[place] += share;
            }
        }
    }

    fn finish(&mut self) {
        self.keys.finish();
        self.values.finish();
    }
}
