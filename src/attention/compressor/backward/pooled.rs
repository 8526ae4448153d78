//! Attention pooling: from the gradients of K̄, V̄ and the log-masses to those of keys, values and u, and from there through the weights.

use ndarray::{Array2, Array3, ArrayView2, ArrayView3, ArrayViewMut2, Axis, s};

use super::super::super::gradients::KeyValueGradients;
use super::super::super::heads::scale;
use super::super::super::pooling::{HeadRows, Means, RowGradients, SegmentGradients, part_backward};
use super::super::super::weights::tile;
use super::super::Compressor;
use super::super::rows::RealRows;
use super::CompressionGradients;
use crate::layers::{rows as rows_of, sequence};
use crate::parallel::{self, Pool, along, for_each_part};
use crate::scalar::Scalar;

/// Memory for one task: rows and their gradients, (real positions, `head_dim`) each.
#[derive(Debug)]
struct Space<A> {
    /// Which rows of the item are real.
    real: Vec<usize>,
    keys: Vec<A>,
    values: Vec<A>,
    dkeys: Vec<A>,
    dvalues: Vec<A>,
    /// K̄ and V̄ of one segment.
    mean_keys: Vec<A>,
    mean_values: Vec<A>,
    means: Means<A>,
}

impl<A: Scalar> Default for Space<A> {
    fn default() -> Self {
        Self {
            real: Vec::new(),
            keys: Vec::new(),
            values: Vec::new(),
            dkeys: Vec::new(),
            dvalues: Vec::new(),
            mean_keys: Vec::new(),
            mean_values: Vec::new(),
            means: Means::default(),
        }
    }
}

/// The gradients of slots: those from this shard's queries, and those from all queries.
#[derive(Clone, Copy)]
pub(super) struct SlotGradients<'g, A> {
    pub(super) own: &'g KeyValueGradients<A>,
    pub(super) whole: &'g KeyValueGradients<A>,
}

impl<A: Scalar> Compressor<'_, A> {
    /// A task has the rows of one key/value head of one item; the weights then get the gradients of all heads at once.
    pub(super) fn pooled_backward(
        &self,
        x: ArrayView3<'_, A>,
        rows: &[RealRows<'_>],
        grads: SlotGradients<'_, A>,
        gradients: &mut CompressionGradients<'_, A>,
    ) {
        let (batch, length, _) = x.dim();
        let attention = &self.config.attention;
        let (heads, head_dim, width) = (attention.heads, attention.effective_head_dim(), attention.key_value_dim());
        // The rows of padding are computed, and never read.
        let keys = sequence(self.weights.key.forward_rows(rows_of(&x)), batch, length);
        let values = self.weights.value.as_ref().map(|value| value.forward_rows(rows_of(&x)));
        let values = values.map(|values| sequence(values, batch, length));
        let values = values.as_ref().unwrap_or(&keys);
        let mut features = [Array3::zeros((batch, length, width)), Array3::zeros((batch, length, width))];
        let mut dqueries = Array3::<f64>::zeros((batch, heads, head_dim));
        let [dkeys, dvalues] = &mut features;
        let items = (
            along(dqueries.view_mut(), 0, 1),
            (along(dkeys.view_mut(), 0, 1), along(dvalues.view_mut(), 0, 1)),
        );
        let mut pool = Pool::<Space<A>>::default();
        pool.prepare();
        let cost = parallel::cost(&[batch, length, heads, head_dim, 16]);
        for_each_part(items, cost, |item, (dqueries, (dkeys, dvalues))| {
            let groups = (
                along(dqueries.view, 1, heads / attention.kv_heads),
                (along(dkeys.view, 2, head_dim), along(dvalues.view, 2, head_dim)),
            );
            for_each_part(groups, cost, |kv_head, (dqueries, (dkeys, dvalues))| {
                let columns = s![item, .., kv_head * head_dim..(kv_head + 1) * head_dim];
                let task = HeadTask {
                    item,
                    kv_head,
                    rows: &rows[item],
                    keys: keys.slice(columns),
                    values: values.slice(columns),
                    grads,
                };
                let to = [dkeys, dvalues].map(|part| part.view.index_axis_move(Axis(0), 0));
                pool.with(|space| self.pooled_head(&task, dqueries.view.index_axis_move(Axis(0), 0), to, space));
            });
        });
        self.lead_back(x, features, gradients);
        if let Some(mut to) = gradients.projections.key.pooling_query_mut() {
            let sum = dqueries.sum_axis(Axis(0));
            to.zip_mut_with(&sum, |to, &sum| *to += A::cast(sum));
        }
    }

    /// Through the weights of keys and values to the sequence.
    fn lead_back(&self, x: ArrayView3<'_, A>, [mut dkeys, dvalues]: [Array3<A>; 2], gradients: &mut CompressionGradients<'_, A>) {
        let (batch, length, _) = x.dim();
        let mut through = |is_value: bool, dfeatures: &Array3<A>| {
            let (_, linear) = self.sources(usize::from(is_value));
            let own = gradients.weights.source_mut(is_value);
            let dx: Array2<A> = linear.backward_rows(rows_of(&x), rows_of(dfeatures), own);
            *gradients.x += &sequence(dx, batch, length);
        };
        if self.weights.value.is_none() {
            dkeys += &dvalues;
            return through(false, &dkeys);
        }
        through(false, &dkeys);
        through(true, &dvalues);
    }

    /// Fills the gradients of the keys and values of one head (n, `head_dim`), and adds to those of its queries u.
    fn pooled_head(
        &self,
        task: &HeadTask<'_, '_, A>,
        mut dqueries: ArrayViewMut2<'_, f64>,
        [mut to_keys, mut to_values]: [ArrayViewMut2<'_, A>; 2],
        space: &mut Space<A>,
    ) {
        let Some(query) = self.projections.key().pooling_query() else {
            return;
        };
        let (group, width) = dqueries.dim();
        space.take(task);
        let count = space.real.len() * width;
        for within in 0..group {
            let head = task.kv_head * group + within;
            let rows = HeadRows {
                keys: &space.keys[..count],
                values: &space.values[..count],
                query: query.index_axis_move(Axis(0), head).to_slice().expect("rows of u are contiguous"),
                scale: scale(width),
            };
            let mut dquery = dqueries.row_mut(within);
            let mut to = RowGradients {
                keys: &mut space.dkeys[..count],
                values: &mut space.dvalues[..count],
                query: dquery.as_slice_mut().expect("rows of gradients are contiguous"),
            };
            let summaries = &self.totals.pooled.items[task.item];
            for (place, interval) in summaries.intervals.iter().enumerate() {
                let at = |position: usize| space.real.partition_point(|&row| self.next + row < position);
                let range = at(interval.start())..at(interval.end());
                let summary = (&summaries.heads[head], place);
                let (keys, values, logits) = slot(task.grads.whole, task.item, head, interval.index);
                let slot_grads = SegmentGradients { keys, values, logits };
                part_backward(&rows, range, &slot_grads, summary, &mut space.means, &mut to);
                // −⟨u, K̄⟩ in the log-mass, which every query's shard counts once.
                let (_, _, logits) = slot(task.grads.own, task.item, head, interval.index);
                summary.0.write_means(place, &mut space.mean_keys, &mut space.mean_values);
                for (dquery, &mean) in to.query.iter_mut().zip(&space.mean_keys) {
                    *dquery -= (rows.scale * logits * mean).widen();
                }
            }
        }
        for (index, &row) in space.real.iter().enumerate() {
            let own = index * width..(index + 1) * width;
            for (to, from) in [(&mut to_keys, &space.dkeys), (&mut to_values, &space.dvalues)] {
                to.row_mut(row)
                    .iter_mut()
                    .zip(&from[own.clone()])
                    .for_each(|(to, &from)| *to = from);
            }
        }
    }
}

/// The gradients of K̄ and V̄ of one slot, and of its logits.
fn slot<A: Scalar>(grads: &KeyValueGradients<A>, item: usize, head: usize, slot: usize) -> (&[A], &[A], A) {
    let [keys, values] = [&grads.keys, &grads.values].map(|grads| {
        let row = grads.slice(s![item, head, slot, ..]);
        row.to_slice().expect("rows of gradients are contiguous")
    });
    let logits = grads.log_mass.as_ref().map_or(A::zero(), |masses| masses[[item, head, slot]]);
    (keys, values, logits)
}

/// The inputs of one task.
struct HeadTask<'t, 'm, A> {
    item: usize,
    kv_head: usize,
    rows: &'t RealRows<'m>,
    /// (n, `head_dim`) each.
    keys: ArrayView2<'t, A>,
    values: ArrayView2<'t, A>,
    grads: SlotGradients<'t, A>,
}

impl<A: Scalar> Space<A> {
    /// Takes over the real rows; their gradients are 0 at first.
    fn take(&mut self, task: &HeadTask<'_, '_, A>) {
        let width = task.keys.ncols();
        self.real.clear();
        self.real.extend((0..task.rows.end).filter(|&row| task.rows.is_real(row)));
        for (to, from) in [(&mut self.keys, task.keys), (&mut self.values, task.values)] {
            let mut to = tile(to, self.real.len(), width);
            for (mut to, &row) in to.outer_iter_mut().zip(&self.real) {
                to.assign(&from.row(row));
            }
        }
        for grads in [&mut self.dkeys, &mut self.dvalues] {
            grads.clear();
            grads.resize(self.real.len() * width, A::zero());
        }
        self.mean_keys.resize(width, A::zero());
        self.mean_values.resize(width, A::zero());
    }
}
