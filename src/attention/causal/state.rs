//! The state of one layer for one growing sequence: the last keys and values, the sums of the unfinished block, the summaries.

use std::ops::Range;

use ndarray::{Array3, Array4, ArrayView1, s};

use super::super::cached_rows::CachedRows;
use super::super::decoding::step_rows;
use super::super::projection::Projections;
use super::super::weights::AttentionWeights;
use super::attend::{CausalScratch, ItemContext, attend_head};
use super::summaries::{column, matrix_of};
use super::{CausalContext, Visibility};
use crate::config::{AttentionConfig, CausalConfig, SummarySoftmax};
use crate::ops::add_scaled_widened;
use crate::parallel::Pool;
use crate::scalar::Scalar;

/// The summaries' side of a layer.
#[derive(Clone, Copy)]
pub(crate) struct Summarized<'l, A> {
    pub(crate) config: &'l CausalConfig,
    pub(crate) projections: &'l Projections<A>,
}

/// The shape of the layer that a state belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct KeyShape {
    kv_heads: usize,
    head_dim: usize,
    window: usize,
    /// Heads, rows and positions of a summary.
    summary: Option<(usize, usize, usize)>,
}

impl KeyShape {
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
pub(crate) struct KeyState<A> {
    shape: KeyShape,
    /// The positions so far.
    position: usize,
    /// The last ones of a window, position t at row t modulo the window.
    window: CachedRows<A>,
    /// The sums of the unfinished block, (heads, rows, `head_dim`) of keys and of values, in `f64`: a block may be long.
    sums: Option<[Array3<f64>; 2]>,
    summaries: CachedRows<A>,
}

impl<A: Scalar> KeyState<A> {
    /// The state of a sequence that has not begun.
    pub(crate) fn start(shape: KeyShape) -> Self {
        let KeyShape { kv_heads, head_dim, .. } = shape;
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
        shape: KeyShape,
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
    pub(crate) fn fits(&self, shape: KeyShape) -> bool {
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
    states: &mut [&mut KeyState<A>],
) -> Array3<A> {
    let joint = summarized.is_none_or(|summarized| summarized.config.softmax == SummarySoftmax::Joint);
    let mut pool = Pool::<CausalScratch<A>>::default();
    pool.prepare();
    step_rows(
        weights,
        x,
        states,
        |state, keys, values| state.push(keys, values, summarized),
        |state| state.window.filled + state.summaries.filled,
        |state, head, query| {
            let visibility = Visibility::All {
                keys: state.window.filled,
                summaries: state.summaries.filled,
            };
            let context = ItemContext {
                keys: state.window.view(),
                summaries: summarized.map(|_| state.summaries.view()),
                visibility: &visibility,
                joint,
            };
            pool.with(|scratch| attend_head(query, 0, context, (head, weights.heads), None, scratch));
        },
    )
}
