//! Attention pooling: the summaries of aligned intervals of positions, merged as one binary tree wherever the chunks were cut.

use std::iter;

use ndarray::{ArrayView2, ArrayView3, Axis, Ix3, Ix4, s};

use super::super::compressed::Compressed;
use super::super::heads::scale;
use super::super::pooling::{HeadRows, Summaries, importance};
use super::super::projection::Projection;
use super::super::weights::AttentionWeights;
use super::Compressor;
use super::accumulate::segments;
use super::features::head_features;
use super::range_set::RangeSet;
use super::rows::RealRows;
use super::scratch::{CompressionScratch, SegmentScratch};
use super::sums::refill;
use crate::config::LinformerConfig;
use crate::error::{Result, checked_len};
use crate::parallel::{self, Chunks, Pool, along, for_each_part};
use crate::scalar::Scalar;

/// Positions that intervals of a power of two have room for.
pub(super) const MOST_POSITIONS: usize = isize::MAX as usize;

/// An aligned power of two of positions: interval `index` of those of 2^`level` positions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Interval {
    level: u32,
    pub(super) index: usize,
}

impl Interval {
    pub(super) fn start(self) -> usize {
        self.index << self.level
    }

    pub(super) fn end(self) -> usize {
        (self.index + 1) << self.level
    }

    fn parent(self) -> Self {
        Self {
            level: self.level + 1,
            index: self.index / 2,
        }
    }

    fn sibling(self) -> Self {
        Self {
            index: self.index ^ 1,
            ..self
        }
    }

    /// The fewest intervals of 2^`most` positions at most that make up start..end.
    fn within(start: usize, end: usize, most: u32) -> impl Iterator<Item = Self> {
        let mut from = start;
        iter::from_fn(move || {
            let left = end.checked_sub(from).filter(|&left| left > 0)?;
            let level = from.trailing_zeros().min(left.ilog2()).min(most);
            let interval = Self {
                level,
                index: from >> level,
            };
            from = interval.end();
            Some(interval)
        })
    }
}

/// The summaries of one item: those of disjoint intervals, in order, of which every head has one. Positions in none of them are padding, or not there.
#[derive(Clone, Debug, Default)]
pub(super) struct ItemSummaries<A> {
    pub(super) intervals: Vec<Interval>,
    pub(super) heads: Vec<Summaries<A>>,
}

/// The summaries of a batch; of no items where the kind is another.
#[derive(Clone, Debug, Default)]
pub(super) struct Pooled<A> {
    pub(super) items: Vec<ItemSummaries<A>>,
    /// The positions that are in them, or are known as padding.
    added: RangeSet,
}

impl<A: Scalar> Pooled<A> {
    /// Nothing, of this shape; the memory is kept.
    pub(super) fn reset(&mut self, batch: usize, heads: usize, head_dim: usize) {
        self.added.clear();
        self.items.truncate(batch);
        self.items.resize_with(batch, ItemSummaries::default);
        for item in &mut self.items {
            item.intervals.clear();
            item.heads.resize_with(heads, Summaries::default);
            item.heads.iter_mut().for_each(|head| head.reset(head_dim));
        }
    }

    /// Adds those of other positions; `level` gives that of the segments of each item.
    pub(super) fn merge(&mut self, other: Self, level: impl Fn(usize) -> u32) {
        self.added.insert_all(other.added);
        for (item, (own, other)) in self.items.iter_mut().zip(other.items).enumerate() {
            own.insert(&other);
            own.settle(level(item), |interval| self.added.covers(interval.start(), interval.end()));
        }
    }
}

impl<A: Scalar> ItemSummaries<A> {
    /// Merges siblings that are complete, up to intervals of 2^`level` positions; `is_complete` says what positions are all there.
    pub(super) fn settle(&mut self, level: u32, is_complete: impl Fn(Interval) -> bool) {
        let Some(first) = self.intervals.iter().position(|interval| interval.level < level) else {
            return;
        };
        let mut kept = first;
        for next in first..self.intervals.len() {
            let interval = self.intervals[next];
            kept = self.raise(kept, level, interval.start(), &is_complete);
            if kept < next {
                self.intervals[kept] = interval;
                self.heads.iter_mut().for_each(|head| head.copy_within(next, kept));
            }
            kept += 1;
        }
        kept = self.raise(kept, level, usize::MAX, &is_complete);
        self.intervals.truncate(kept);
        self.heads.iter_mut().for_each(|head| head.truncate(kept));
    }

    /// Makes the last of the first `kept` intervals as long as it can be before position `limit`; returns how many are left.
    fn raise(&mut self, mut kept: usize, level: u32, limit: usize, is_complete: impl Fn(Interval) -> bool) -> usize {
        while let Some(last) = kept.checked_sub(1) {
            let interval = self.intervals[last];
            if interval.level >= level {
                break;
            }
            let parent = interval.parent();
            if parent.end() > limit || !is_complete(parent) {
                break;
            }
            let before = last.checked_sub(1).filter(|&before| self.intervals[before] == interval.sibling());
            if let Some(before) = before {
                self.heads.iter_mut().for_each(|head| head.merge_within(before, last));
                kept = last;
            }
            self.intervals[kept - 1] = parent;
        }
        kept
    }

    /// Adds the intervals of `other`, which has none of its own.
    fn insert(&mut self, other: &Self) {
        let before = std::mem::take(&mut self.intervals);
        let mut places: Vec<(Interval, bool, usize)> = Vec::with_capacity(before.len() + other.intervals.len());
        let sources = [(before.as_slice(), false), (other.intervals.as_slice(), true)];
        for (intervals, is_other) in sources {
            places.extend(intervals.iter().enumerate().map(|(index, &interval)| (interval, is_other, index)));
        }
        places.sort_unstable_by_key(|(interval, ..)| interval.start());
        self.intervals.extend(places.iter().map(|&(interval, ..)| interval));
        for (own, other) in self.heads.iter_mut().zip(&other.heads) {
            let mut both = Summaries::default();
            both.reset(own.head_dim());
            for &(_, is_other, index) in &places {
                both.push_copy(if is_other { other } else { own }, index);
            }
            *own = both;
        }
    }

    /// Merges what is there of each of `slots` intervals of 2^`level` positions; each then has a summary, if an empty one.
    pub(super) fn fill(&mut self, level: u32, slots: usize) {
        self.settle(level, |_| true);
        let mut dense = Self::default();
        dense.intervals.extend((0..slots).map(|index| Interval { level, index }));
        for own in &self.heads {
            let mut head = Summaries::default();
            head.reset(own.head_dim());
            let mut places = self.intervals.iter().enumerate().peekable();
            for index in 0..slots {
                match places.next_if(|(_, interval)| interval.index == index) {
                    Some((place, _)) => head.push_copy(own, place),
                    None => head.push_empty(),
                }
            }
            dense.heads.push(head);
        }
        *self = dense;
    }
}

impl<A: Scalar> Compressor<'_, A> {
    /// Adds a chunk that starts at position `start` to the summaries.
    pub(super) fn pool_rows(
        &mut self,
        chunk: ArrayView3<'_, A>,
        start: usize,
        rows: &[RealRows<'_>],
        spaces: &mut Pool<SegmentScratch<A>>,
    ) {
        let (_, length, dim) = chunk.dim();
        let config = self.config;
        let cost = parallel::cost(&[self.batch, length, dim, config.attention.key_value_dim()]);
        spaces.prepare();
        let Pooled { items, added } = &mut self.totals.pooled;
        added.insert((start, start + length));
        let (added, ends) = (&*added, &self.totals.ends);
        for_each_part(Chunks { slice: items, size: 1 }, cost, |item, part| {
            let ItemSummaries { intervals, heads } = &mut part.slice[0];
            // Rows of padding do not lengthen an item.
            let end = if rows[item].end == 0 { 0 } else { start + rows[item].end };
            let pushed = PushedRows {
                config,
                weights: self.weights,
                projection: self.projections.key(),
                x: chunk.index_axis(Axis(0), item),
                start,
                rows: &rows[item],
                level: config.segment_level(ends[item].max(end)),
            };
            let size = config.attention.heads / config.attention.kv_heads;
            for_each_part(Chunks { slice: heads, size }, cost, |kv_head, group| {
                spaces.with(|scratch| pushed.add_to(kv_head, group.slice, scratch));
            });
            for (from, to) in segments(start, rows[item].end) {
                intervals.extend(Interval::within(start + from, start + to, pushed.level));
            }
            part.slice[0].settle(pushed.level, |interval| added.covers(interval.start(), interval.end()));
        });
    }

    /// [`finish_into`](Self::finish_into) for attention pooling.
    pub(super) fn finish_pooled(&mut self, compressed: &mut Compressed<A>, scratch: &mut CompressionScratch<A>) -> Result<()> {
        let (heads, head_dim) = (self.config.compressed_heads(), self.config.attention.effective_head_dim());
        // One that is not there, rather than none at all.
        let most = compressed.slots.iter().copied().max().unwrap_or(self.config.effective_k()).max(1);
        checked_len("Compressor::finish", &[self.batch, heads, most, head_dim], size_of::<A>())?;
        self.add_pending(self.next, scratch);
        for array in [&mut compressed.keys, &mut compressed.values] {
            refill(array, Ix4(self.batch, heads, most, head_dim), A::zero());
        }
        let masses = compressed.log_mass.get_or_insert_default();
        refill(masses, Ix3(self.batch, heads, most), A::neg_infinity());
        let query = self.projections.key().pooling_query();
        let scale = scale(head_dim);
        let parts = (
            (along(compressed.keys.view_mut(), 0, 1), along(compressed.values.view_mut(), 0, 1)),
            (
                along(masses.view_mut(), 0, 1),
                Chunks {
                    slice: &mut self.totals.pooled.items,
                    size: 1,
                },
            ),
        );
        let (config, ends) = (self.config, &self.totals.ends);
        let cost = parallel::cost(&[self.batch, heads, most, head_dim, 16]);
        for_each_part(parts, cost, |item, ((mut keys, mut values), (mut masses, part))| {
            let own = &mut part.slice[0];
            own.settle(config.segment_level(ends[item]), |_| true);
            for (head, summaries) in own.heads.iter().enumerate() {
                let query = query.as_ref().map(|query| query.index_axis(Axis(0), head));
                for (place, interval) in own.intervals.iter().enumerate() {
                    let at = s![0, head, interval.index, ..];
                    let (key, mut value) = (keys.view.slice_mut(at), values.view.slice_mut(at));
                    let (Some(key), Some(value), Some(query)) =
                        (key.into_slice(), value.as_slice_mut(), query.and_then(|query| query.to_slice()))
                    else {
                        continue;
                    };
                    summaries.write_means(place, key, value);
                    let tangent = summaries.log_mass(place).widen() - importance(query, key, scale).widen();
                    masses.view[[0, head, interval.index]] = A::cast(tangent);
                }
            }
        });
        Ok(())
    }
}

/// The rows of one item in a chunk, whose first has the position `start`.
struct PushedRows<'p, 'm, A> {
    config: &'p LinformerConfig,
    weights: &'p AttentionWeights<A>,
    projection: &'p Projection<A>,
    x: ArrayView2<'p, A>,
    start: usize,
    rows: &'p RealRows<'m>,
    level: u32,
}

impl<A: Scalar> PushedRows<'_, '_, A> {
    /// Adds the summaries of the query heads of one key/value head.
    fn add_to(&self, kv_head: usize, group: &mut [Summaries<A>], scratch: &mut SegmentScratch<A>) {
        let SegmentScratch { features, copy, products } = scratch;
        let Some(query) = self.projection.pooling_query() else { return };
        let (head_dim, first) = (query.ncols(), kv_head * group.len());
        for (from, to) in segments(self.start, self.rows.end) {
            let x = self.x.slice(s![from..to, ..]);
            let keys = head_features(&self.weights.key, kv_head, head_dim, x, true, features, products);
            let values = self
                .weights
                .value
                .as_ref()
                .map(|value| head_features(value, kv_head, head_dim, x, true, copy, products));
            let keys = keys.as_slice().expect("a tile is contiguous");
            for (head, summaries) in group.iter_mut().enumerate() {
                let rows = HeadRows {
                    keys,
                    values: values.as_ref().and_then(|values| values.as_slice()).unwrap_or(keys),
                    query: query
                        .index_axis_move(Axis(0), first + head)
                        .to_slice()
                        .expect("rows of u are contiguous"),
                    scale: scale(self.config.attention.effective_head_dim()),
                };
                for interval in Interval::within(self.start + from, self.start + to, self.level) {
                    let places = (interval.start() - self.start..interval.end() - self.start)
                        .map(|row| self.rows.is_real(row).then_some(row - from));
                    rows.push_set(places, summaries);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::ProjectionKind;
    use crate::{LinformerAttention, PaddingMask};
    use ndarray::{Array2, Array3};

    #[test]
    fn intervals_within_a_range() {
        for (start, end) in [(0, 0), (0, 1), (5, 64), (63, 200), (1, 2), (512, 1024)] {
            for most in [0, 2, 9] {
                let mut next = start;
                for interval in Interval::within(start, end, most) {
                    assert!(interval.start() == next && interval.level <= most);
                    assert_eq!(interval.start() % (1 << interval.level), 0);
                    next = interval.end();
                }
                assert_eq!(next, end);
            }
        }
    }

    /// A stream keeps no more than its segments and the parts of two that are not whole, wherever it begins, holes or not.
    #[test]
    fn a_stream_takes_little_memory() {
        let (k, chunk) = (6, 700);
        let config = LinformerConfig::new(2, 1, 1, k).with_kind(ProjectionKind::AttentionPooling);
        let layer = LinformerAttention::<f32>::new(&config, 0).unwrap();
        for start in [0, 12_345] {
            let mut compressor = layer.compressor(1).unwrap().starting_at(start).unwrap();
            for index in 0..40 {
                let x = Array3::ones((1, chunk, 2));
                let mask = PaddingMask::from_bools(&Array2::from_shape_fn((1, chunk), |(_, t)| (index + t) % 9 > 0));
                compressor.push(&x, Some(&mask)).unwrap();
                let most = k + 2 * (start + (index + 1) * chunk).ilog2() as usize;
                let item = &compressor.totals.pooled.items[0];
                assert!(item.intervals.len() <= most, "{} intervals after {index}", item.intervals.len());
                assert!(item.heads.iter().all(|head| head.len() == item.intervals.len()));
            }
        }
    }
}
