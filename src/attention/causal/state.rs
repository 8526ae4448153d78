//! The state of one layer for one growing sequence: the last keys and values, the sums of the unfinished block, the summaries.

use std::ops::Range;

use ndarray::{Array2, Array3, Array4, ArrayView1, ArrayView2, Axis, s};

use super::super::heads::ItemKeyValues;
use super::super::projection::Projections;
use super::super::weights::AttentionWeights;
use super::attend::{CausalScratch, ItemContext, attend_head};
use super::summaries::{column, matrix_of};
use super::{CausalContext, Visibility};
use crate::config::{AttentionConfig, CausalConfig, SummarySoftmax};
use crate::layers::rows;
use crate::ops::add_scaled_widened;
use crate::parallel::{self, Pool, along, for_each_part};
use crate::scalar::Scalar;

/// The summaries' side of a layer.
#[derive(Clone, Copy)]
pub(crate) struct Summarized<'l, A> {
    pub(crate) config: &'l CausalConfig,
    pub(crate) projections: &'l Projections<A>,
}

/// Rows (heads, rows, `head_dim`) of keys and of values, of which the first are filled.
#[derive(Clone, Debug)]
struct CachedRows<A> {
    keys: Array3<A>,
    values: Array3<A>,
    filled: usize,
}

impl<A: Scalar> CachedRows<A> {
    fn new(heads: usize, head_dim: usize) -> Self {
        let none = || Array3::zeros((heads, 0, head_dim));
        Self {
            keys: none(),
            values: none(),
            filled: 0,
        }
    }

    /// Reserves memory for `more` rows after those that are filled, but for no more than `most` in total.
    fn reserve(&mut self, more: usize, most: usize) {
        let (heads, capacity, head_dim) = self.keys.dim();
        let needed = self.filled + more;
        if needed <= capacity {
            return;
        }
        let larger = needed.max(2 * capacity).min(most.max(needed));
        for rows in [&mut self.keys, &mut self.values] {
            let mut copy = Array3::zeros((heads, larger, head_dim));
            copy.slice_mut(s![.., ..self.filled, ..])
                .assign(&rows.slice(s![.., ..self.filled, ..]));
            *rows = copy;
        }
    }

    /// Writes row `place` of every head.
    fn write(&mut self, place: usize, (keys, values): (ArrayView1<'_, A>, ArrayView1<'_, A>)) {
        let head_dim = self.keys.dim().2;
        for (rows, from) in [(&mut self.keys, keys), (&mut self.values, values)] {
            for (head, mut rows) in rows.outer_iter_mut().enumerate() {
                rows.row_mut(place).assign(&from.slice(s![head * head_dim..(head + 1) * head_dim]));
            }
        }
        self.filled = self.filled.max(place + 1);
    }

    fn view(&self) -> ItemKeyValues<'_, A> {
        ItemKeyValues {
            keys: self.keys.view(),
            values: self.values.view(),
            count: self.filled,
        }
    }
}

/// The shape of the layer that a state belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct StateShape {
    kv_heads: usize,
    head_dim: usize,
    window: usize,
    /// Heads, rows and positions of a summary.
    summary: Option<(usize, usize, usize)>,
}

impl StateShape {
    pub(crate) fn new(config: &AttentionConfig, window: usize, summarized: Option<&CausalConfig>) -> Self {
        Self {
            kv_heads: config.kv_heads,
            head_dim: config.effective_head_dim(),
            window,
            summary: summarized.map(|config| (config.summary_heads(), config.rows, config.effective_block())),
        }
    }
}

/// The state of one layer for one sequence: O(window + summaries) rows, or all keys and values where it attends exactly to everything.
#[derive(Clone, Debug)]
pub(crate) struct LayerState<A> {
    shape: StateShape,
    /// The positions so far.
    position: usize,
    /// The last ones of a window, position t at row t modulo the window.
    window: CachedRows<A>,
    /// The sums of the unfinished block, (heads, rows, `head_dim`) of keys and of values, in `f64`: a block may be long.
    sums: Option<[Array3<f64>; 2]>,
    summaries: CachedRows<A>,
}

impl<A: Scalar> LayerState<A> {
    /// The state of a sequence that has not begun.
    pub(crate) fn start(shape: StateShape) -> Self {
        let StateShape { kv_heads, head_dim, .. } = shape;
        let summary_heads = shape.summary.map_or(kv_heads, |(heads, ..)| heads);
        Self {
            shape,
            position: 0,
            window: CachedRows::new(kv_heads, head_dim),
            sums: shape
                .summary
                .map(|(heads, rows, _)| [(); 2].map(|()| Array3::zeros((heads, rows, head_dim)))),
            summaries: CachedRows::new(summary_heads, head_dim),
        }
    }

    /// The state of `item` after its first `length` positions were run with `context`.
    pub(crate) fn after(
        shape: StateShape,
        context: &CausalContext<A>,
        item: usize,
        length: usize,
        summarized: Option<Summarized<'_, A>>,
    ) -> Self {
        let mut state = Self::start(shape);
        state.position = length;
        let kept = length.min(context.window());
        state.window.reserve(kept, context.window());
        for position in length - kept..length {
            let place = position % context.window();
            for (rows, from) in [
                (&mut state.window.keys, &context.keys.keys),
                (&mut state.window.values, &context.keys.values),
            ] {
                rows.slice_mut(s![.., place, ..]).assign(&from.slice(s![item, .., position, ..]));
            }
        }
        state.window.filled = kept;
        if let Some(summarized) = summarized {
            state.take_summaries(context, item, summarized);
            state.take_sums(context, item, summarized);
        }
        state
    }

    /// Whether it belongs to a layer like this.
    pub(crate) fn fits(&self, shape: StateShape) -> bool {
        self.shape == shape
    }

    fn take_summaries(&mut self, context: &CausalContext<A>, item: usize, Summarized { config, .. }: Summarized<'_, A>) {
        let Some(summaries) = &context.summaries else { return };
        // Blocks that only padding completes have summaries too.
        let count = self.position / config.effective_block() * config.rows;
        self.summaries.reserve(count, usize::MAX);
        self.summaries.filled = count;
        for (rows, from) in [
            (&mut self.summaries.keys, &summaries.keys),
            (&mut self.summaries.values, &summaries.values),
        ] {
            rows.slice_mut(s![.., ..count, ..]).assign(&from.slice(s![item, .., ..count, ..]));
        }
    }

    /// The sums of the block that is not complete.
    fn take_sums(&mut self, context: &CausalContext<A>, item: usize, summarized: Summarized<'_, A>) {
        let config = summarized.config;
        let first = self.position - self.position % config.effective_block();
        for position in first..self.position {
            let flat = |from: &Array4<A>| from.slice(s![item, .., position, ..]).iter().copied().collect::<Vec<A>>();
            let (keys, values) = (flat(&context.keys.keys), flat(&context.keys.values));
            self.add_to_sums(position, (ArrayView1::from(&keys), ArrayView1::from(&values)), summarized);
        }
    }

    /// S += E[:, t]·k_tᵀ, head by head.
    fn add_to_sums(&mut self, position: usize, (keys, values): (ArrayView1<'_, A>, ArrayView1<'_, A>), summarized: Summarized<'_, A>) {
        let Summarized { config, projections } = summarized;
        let Some(sums) = &mut self.sums else { return };
        let column = column(config, position);
        let (heads, _, head_dim) = sums[0].dim();
        let sides = [(projections.key(), keys), (projections.value(), values)];
        for (sums, (projection, from)) in sums.iter_mut().zip(sides) {
            for (head, mut sums) in sums.outer_iter_mut().enumerate() {
                let matrix = matrix_of(projection, head);
                // Positions behind the last block with weights of its own are never summarized.
                if column >= matrix.ncols() {
                    continue;
                }
                let kv_head = head * config.attention.kv_heads / heads;
                let row = from.slice(s![kv_head * head_dim..(kv_head + 1) * head_dim]);
                for (mut sum, &weight) in sums.outer_iter_mut().zip(matrix.column(column)) {
                    add_scaled_widened(sum.as_slice_mut().expect("rows of sums are contiguous"), weight.widen(), row);
                }
            }
        }
    }

    /// Takes in the next position; a block that it completes becomes a summary.
    fn push(&mut self, keys: ArrayView1<'_, A>, values: ArrayView1<'_, A>, summarized: Option<Summarized<'_, A>>) {
        let window = self.shape.window;
        if self.window.filled < window {
            self.window.reserve(1, window);
        }
        self.window.write(self.position % window, (keys, values));
        if let Some(summarized) = summarized {
            self.add_to_sums(self.position, (keys, values), summarized);
            if (self.position + 1).is_multiple_of(summarized.config.effective_block()) {
                self.complete_block();
            }
        }
        self.position += 1;
    }

    fn complete_block(&mut self) {
        let Some([keys, values]) = &mut self.sums else { return };
        let rows = keys.dim().1;
        self.summaries.reserve(rows, usize::MAX);
        let place: Range<usize> = self.summaries.filled..self.summaries.filled + rows;
        for (summaries, sums) in [(&mut self.summaries.keys, keys), (&mut self.summaries.values, values)] {
            summaries
                .slice_mut(s![.., place.clone(), ..])
                .zip_mut_with(sums, |summary, &sum| *summary = A::cast(sum));
            sums.fill(0.0);
        }
        self.summaries.filled = place.end;
    }
}

/// One more row of each of several sequences, (sequences, 1, dim), each with what `states` kept of it so far.
pub(crate) fn step<A: Scalar>(
    weights: &AttentionWeights<A>,
    summarized: Option<Summarized<'_, A>>,
    x: &Array3<A>,
    states: &mut [&mut LayerState<A>],
) -> Array3<A> {
    let x = rows(x);
    let keys = weights.key.forward_rows(x);
    let values = weights.value.as_ref().map(|value| value.forward_rows(x));
    let values = values.as_ref().unwrap_or(&keys);
    let mut concat = weights.query.forward_rows(x);
    for ((state, keys), values) in states.iter_mut().zip(keys.rows()).zip(values.rows()) {
        state.push(keys, values, summarized);
    }
    let joint = summarized.is_none_or(|summarized| summarized.config.softmax == SummarySoftmax::Joint);
    let visibility: Vec<Visibility> = states
        .iter()
        .map(|state| Visibility::All {
            keys: state.window.filled,
            summaries: state.summaries.filled,
        })
        .collect();
    let visible: usize = states.iter().map(|state| state.window.filled + state.summaries.filled).sum();
    let cost = parallel::cost(&[visible, 2, weights.query.out_dim()]);
    let states: &[&mut LayerState<A>] = states;
    let mut pool = Pool::<CausalScratch<A>>::default();
    pool.prepare();
    for_each_part(along(concat.view_mut(), 0, 1), cost, |item, part| {
        let context = ItemContext {
            keys: states[item].window.view(),
            summaries: summarized.map(|_| states[item].summaries.view()),
            visibility: &visibility[item],
            joint,
        };
        for_each_part(along(part.view, 1, weights.head_dim()), cost, |head, mut part| {
            pool.with(|scratch| attend_head(&mut part.view, 0, context, (head, weights.heads), None, scratch));
        });
    });
    let output = output_rows(weights, concat.view());
    output.insert_axis(Axis(1))
}

fn output_rows<A: Scalar>(weights: &AttentionWeights<A>, concat: ArrayView2<'_, A>) -> Array2<A> {
    match &weights.output_factor {
        None => weights.output.forward_rows(concat),
        Some(factor) => weights.output.forward_rows(factor.forward_rows(concat).view()),
    }
}
