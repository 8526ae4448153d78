//! Causal attention to a window and to summaries, token by token.

use ndarray::{Array3, ArrayRef3, ArrayView1, ArrayView2, ArrayViewMut2, Axis, s};

use super::super::cached_rows::CachedRows;
use super::super::decoding::step_rows;
use super::super::heads::scale;
use super::super::mask::PaddingMask;
use super::super::pooling::{HeadRows, Summaries};
use super::super::weights::tile;
use super::histogram::Counts;
use super::item::PooledHead;
use super::{ItemContext, LocalGlobalAttention};
use crate::buffer_pool::Buffers;
use crate::error::Result;
use crate::layers::{check_width, rows};
use crate::ops::{gemm, softmax_rows};
use crate::parallel::Pool;
use crate::scalar::Scalar;

/// The shape of the layer that a state belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SegmentShape {
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
    block: usize,
    slots: usize,
    /// The bits of the shift that the slots' logits have.
    mass_shift: u64,
}

/// The state of one layer for one sequence: the keys and values of the last two blocks, and O(log n) segments.
#[derive(Clone, Debug)]
pub(crate) struct SegmentState<A> {
    shape: SegmentShape,
    /// Those of the block before the latest row's, and of its own up to it.
    window: CachedRows<A>,
    /// The segments of the blocks before these, of every query head, the oldest first.
    heads: Vec<HeadSegments<A>>,
    counts: Counts,
}

#[derive(Clone, Debug, Default)]
struct HeadSegments<A> {
    sets: Summaries<A>,
    slots: PooledHead<A>,
}

/// u of all heads, (heads, `head_dim`), and what is added to the slots' logits.
#[derive(Clone, Copy)]
struct Pooled<'l, A> {
    queries: Option<ArrayView2<'l, A>>,
    shift: A,
}

impl<A: Scalar> SegmentState<A> {
    /// The state of a sequence that has not begun.
    pub(crate) fn start(shape: SegmentShape) -> Self {
        let mut heads = vec![HeadSegments::default(); if shape.slots == 0 { 0 } else { shape.heads }];
        for head in &mut heads {
            head.sets.reset(shape.head_dim);
        }
        Self {
            shape,
            window: CachedRows::new(shape.kv_heads, shape.head_dim),
            heads,
            counts: Counts::default(),
        }
    }

    /// Whether it belongs to a layer like this.
    pub(crate) fn fits(&self, shape: SegmentShape) -> bool {
        self.shape == shape
    }

    /// Takes in the next position.
    fn push(&mut self, keys: ArrayView1<'_, A>, values: ArrayView1<'_, A>, pooled: Pooled<'_, A>) {
        let most = self.most();
        if self.window.filled == most {
            if let Some(queries) = pooled.queries {
                let (block, window) = (self.shape.block, &self.window);
                for (head, own) in self.heads.iter_mut().enumerate() {
                    let (keys, values) = window.view().head(head, self.shape.heads);
                    let query = queries.row(head);
                    if let (Some(keys), Some(values), Some(query)) = (keys.to_slice(), values.to_slice(), query.to_slice()) {
                        let scale = scale(self.shape.head_dim);
                        own.add(
                            &HeadRows {
                                keys,
                                values,
                                query,
                                scale,
                            },
                            block,
                        );
                    }
                }
                self.merge();
                self.refresh(pooled);
            }
            self.window.remove_first(self.shape.block);
        }
        self.window.reserve(1, most);
        self.window.write(self.window.filled, (keys, values));
    }

    /// The most rows of the window.
    fn most(&self) -> usize {
        2 * self.shape.block
    }

    /// Merges segments now that there is one more.
    fn merge(&mut self) {
        let heads = &mut self.heads;
        self.counts.enter(self.shape.slots, |index| {
            for head in &mut *heads {
                head.sets.merge_within(index, index + 1);
                head.sets.remove(index + 1);
            }
        });
    }

    /// Makes the slots of the segments.
    fn refresh(&mut self, pooled: Pooled<'_, A>) {
        let Some(queries) = pooled.queries else { return };
        for (head, own) in self.heads.iter_mut().enumerate() {
            if let Some(query) = queries.row(head).to_slice() {
                let rows = HeadRows {
                    keys: &[],
                    values: &[],
                    query,
                    scale: scale(self.shape.head_dim),
                };
                own.slots.take(&rows, &own.sets, pooled.shift);
            }
        }
    }

    fn visible(&self) -> usize {
        self.window.filled + self.heads.first().map_or(0, |head| head.sets.len())
    }

    /// Replaces one head's query, (1, `head_dim`), by what it attends to.
    fn attend(&self, head: usize, query: &mut ArrayViewMut2<'_, A>, scores: &mut Vec<A>) {
        let (keys, values) = self.window.view().head(head, self.shape.heads);
        let slots = self.heads.get(head).map(|head| &head.slots);
        let biases = slots.map_or(&[][..], |slots| &slots.biases);
        let view = |numbers| ArrayView2::from_shape((biases.len(), self.shape.head_dim), numbers).expect("whole rows");
        let slot_keys = view(slots.map_or(&[][..], |slots| &slots.keys));
        let slot_values = view(slots.map_or(&[][..], |slots| &slots.values));
        let scale = scale(self.shape.head_dim);
        let width = keys.nrows() + biases.len();
        let mut scores = tile(scores, 1, width);
        let (mut of_keys, mut of_slots) = scores.view_mut().split_at(Axis(1), keys.nrows());
        gemm(scale, query.view(), keys.t(), A::zero(), &mut of_keys);
        gemm(scale, query.view(), slot_keys.t(), A::zero(), &mut of_slots);
        of_slots.iter_mut().zip(biases).for_each(|(score, &bias)| *score += bias);
        if let Some(scores) = scores.as_slice_mut() {
            softmax_rows(scores, width);
        }
        let (of_keys, of_slots) = scores.view().split_at(Axis(1), keys.nrows());
        gemm(A::one(), of_keys, values, A::zero(), query);
        gemm(A::one(), of_slots, slot_values, A::one(), query);
    }
}

impl<A: Scalar> HeadSegments<A> {
    /// Adds the segment of the first `block` rows.
    fn add(&mut self, rows: &HeadRows<'_, A>, block: usize) {
        rows.push_segments((0..block).map(Some), block, &mut self.sets);
    }
}

impl<A: Scalar> LocalGlobalAttention<A> {
    fn pooled(&self) -> Pooled<'_, A> {
        Pooled {
            queries: self.pooling_query(),
            shift: A::cast(self.config.mass_shift),
        }
    }

    /// The shape of its states, where it is causal.
    pub(crate) fn state_shape(&self) -> Option<SegmentShape> {
        let attention = &self.config.attention;
        attention.causal.then_some(SegmentShape {
            heads: attention.heads,
            kv_heads: attention.kv_heads,
            head_dim: attention.effective_head_dim(),
            block: self.config.block,
            slots: self.config.slots,
            mass_shift: self.config.mass_shift.to_bits(),
        })
    }

    /// Self-attention of whole sequences, and what their rows saw.
    pub(crate) fn forward_kept(&self, x: &ArrayRef3<A>, mask: Option<&PaddingMask>) -> Result<(Array3<A>, Vec<ItemContext<A>>)> {
        const OPERATION: &str = "LocalGlobalAttention::forward";
        let (batch, length, _) = x.dim();
        check_width(OPERATION, "x", x, self.config.attention.dim)?;
        PaddingMask::check(mask, OPERATION, batch, length)?;
        let x = x.as_standard_layout().into_owned();
        let items = self.summarize(&x, mask)?;
        let queries = self.weights().query.forward_rows(rows(&x));
        let concat = self.attend_items(&items, &queries, length, None);
        let (y, _) = self.weights().concat_output(queries, concat, (batch, length), Buffers::new());
        Ok((y, items))
    }

    /// The state of a sequence after its first `length` positions were run with `item`, all of them real.
    pub(crate) fn state_after(&self, shape: SegmentShape, item: &ItemContext<A>, length: usize) -> SegmentState<A> {
        let mut state = SegmentState::start(shape);
        let (block, pooled) = (shape.block, self.pooled());
        let entered = length.div_ceil(block).saturating_sub(2);
        for index in 0..entered {
            for (head, own) in state.heads.iter_mut().enumerate() {
                let mut rows = item.head_rows(head, shape.heads);
                let first = index * block * shape.head_dim;
                (rows.keys, rows.values) = (&rows.keys[first..], &rows.values[first..]);
                own.add(&rows, block);
            }
            if !state.heads.is_empty() {
                state.merge();
            }
        }
        state.refresh(pooled);
        let kept = entered * block..length;
        state.window.reserve(kept.len(), state.most());
        state.window.filled = kept.len();
        for (rows, from) in [(&mut state.window.keys, &item.keys), (&mut state.window.values, &item.values)] {
            let from = ndarray::ArrayView3::from_shape((shape.kv_heads, item.count, shape.head_dim), from).expect("whole rows");
            rows.slice_mut(s![.., ..kept.len(), ..])
                .assign(&from.slice(s![.., kept.clone(), ..]));
        }
        state
    }

    /// One more row of each of several sequences, (sequences, 1, dim), each with what `states` kept of it so far.
    pub(crate) fn step(&self, x: &Array3<A>, states: &mut [&mut SegmentState<A>]) -> Array3<A> {
        let pooled = self.pooled();
        let mut pool = Pool::<Vec<A>>::default();
        pool.prepare();
        step_rows(
            self.weights(),
            x,
            states,
            |state, keys, values| state.push(keys, values, pooled),
            SegmentState::visible,
            |state, head, query| pool.with(|scores| state.attend(head, query, scores)),
        )
    }
}
