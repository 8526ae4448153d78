//! One shard of the sequences: its rows make keys, values and summaries, and exchanges with the other shards complete what they see.
//!
//! Three of them, whatever the length: the sum of the keys and values in the zones around seams, and of the rows whose mean is the query; the largest
//! importances; masses and sums relative to these. Each shard then has the same summaries of the whole, up to rounding.

use std::ops::Range;

use ndarray::{Array1, Array3, ArrayView1, ArrayView2};

use super::super::mask::PaddingMask;
use super::super::pooling::{Summaries, exp_below, log_sum};
use super::super::sequence_shard::SequenceShard;
use super::super::workspace::ContextSpace;
use super::cut::Cut;
use super::item::{ItemContext, ItemScratch, PoolScratch, PooledHead};
use super::seams::Seams;
use super::{LocalGlobalAttention, OwnRows};
use crate::config::PoolingQuery;
use crate::error::{Error, Result};
use crate::layers::LayerNorm;
use crate::parallel::{self, Chunks, for_each_part};
use crate::scalar::Scalar;

/// What the rows of one shard give to an item.
#[derive(Debug)]
pub(crate) struct ItemPart<A> {
    item: ItemContext<A>,
    /// The sums of its rows, where the mean query counts.
    sums: Vec<f64>,
}

/// What one shard knows of a head's segments, and of the blocks that are far from any shard.
#[derive(Debug, Default)]
struct PartOfHead<A> {
    segments: Summaries<A>,
    /// log Σ exp(a) of what this shard has of its own blocks.
    blocks: Vec<A>,
    /// The same of what is [far](Seams::far) from each shard; after the first exchange the largest of all, and then of their sum.
    far: Vec<A>,
    /// exp(own − largest) of these.
    far_sums: Vec<A>,
}

impl<A: Scalar> LocalGlobalAttention<A> {
    /// What the rows of a shard give to item `index` of the batch, normed if a norm comes first.
    pub(crate) fn part_of_item(
        &self,
        rows: ArrayView2<'_, A>,
        norm: Option<&LayerNorm<A>>,
        real: Option<ArrayView1<'_, bool>>,
        (shard, index): (&dyn SequenceShard<A>, usize),
        space: &mut ContextSpace<A>,
    ) -> Result<ItemPart<A>> {
        let ContextSpace {
            local_global: (.., scratch),
            normed,
            ..
        } = space;
        self.part(rows, norm, real, (shard, index), (scratch, normed))
    }

    pub(super) fn part(
        &self,
        rows: ArrayView2<'_, A>,
        norm: Option<&LayerNorm<A>>,
        real: Option<ArrayView1<'_, bool>>,
        (shard, index): (&dyn SequenceShard<A>, usize),
        (scratch, normed): (&mut ItemScratch<A>, &mut Vec<A>),
    ) -> Result<ItemPart<A>> {
        if self.config.attention.causal {
            return Err(Error::argument(
                "Sharded",
                "causal attention to a window and to summaries cannot be sharded; give each rank whole sequences",
            ));
        }
        let bounds = shard.bounds();
        let cut = Cut::new(&self.config, shard.lengths()[index], bounds.last().copied().unwrap_or(0));
        let seams = Seams::new(&cut, bounds, shard.index());
        let mut item = ItemContext::default();
        let own = OwnRows {
            rows,
            norm,
            real,
            first: seams.first,
            held: seams.own.clone(),
        };
        let sums = self.fill_item(&own, cut, (&mut item, scratch), normed)?;
        item.seams = Some(seams);
        Ok(ItemPart { item, sums })
    }

    /// The keys, values and summaries that a shard's rows of every item see.
    pub(super) fn summarize_shard(
        &self,
        x: &Array3<A>,
        mask: Option<&PaddingMask>,
        shard: &dyn SequenceShard<A>,
    ) -> Result<Vec<ItemContext<A>>> {
        let (mut scratch, mut normed) = (ItemScratch::default(), Vec::new());
        let mut parts = Vec::with_capacity(x.dim().0);
        for (index, rows) in x.outer_iter().enumerate() {
            let real = mask.map(|mask| mask.item(index));
            parts.push(self.part(rows, None, real, (shard, index), (&mut scratch, &mut normed))?);
        }
        self.complete(parts, shard)
    }

    /// Completes the parts of all items of the batch by those of all other shards.
    pub(crate) fn complete(&self, parts: Vec<ItemPart<A>>, shard: &dyn SequenceShard<A>) -> Result<Vec<ItemContext<A>>> {
        let (mut items, sums): (Vec<_>, Vec<_>) = parts.into_iter().map(|part| (part.item, part.sums)).unzip();
        self.count_all(&mut items, shard)?;
        let means = exchange_rows(&mut items, &sums, shard)?;
        for (item, mean) in items.iter_mut().zip(means) {
            let mean = (self.config.pooling_query == PoolingQuery::MeanOfItem && item.total > 0).then_some(mean);
            item.queries.clear();
            item.queries.extend(self.pooling_queries(mean));
        }
        let mut heads: Vec<Vec<PartOfHead<A>>> = items.iter().map(summarize_own).collect();
        merge(&mut heads, shard)?;
        for (item, heads) in items.iter_mut().zip(heads) {
            let shift = A::cast(self.config.shift_of(item.total));
            item.take_all(heads, shift);
        }
        Ok(items)
    }

    /// Learns how many real positions the whole items have, where that matters.
    fn count_all(&self, items: &mut [ItemContext<A>], shard: &dyn SequenceShard<A>) -> Result<()> {
        if self.config.pooling_query == PoolingQuery::Fixed && self.config.trained_len.is_none() {
            return Ok(());
        }
        let mut counts: Vec<usize> = items.iter().map(|item| item.count).collect();
        shard.count(&mut counts)?;
        for (item, count) in items.iter_mut().zip(counts) {
            item.total = count;
        }
        Ok(())
    }
}

/// Sums over all shards, if there is anything to sum; all of them know that alike.
pub(super) fn sum_all<A: Scalar>(numbers: &mut [&mut [A]], shard: &dyn SequenceShard<A>) -> Result<()> {
    if numbers.iter().all(|numbers| numbers.is_empty()) {
        return Ok(());
    }
    shard.sum(numbers)
}

/// Gives each shard the keys and values near it, and returns the mean rows of the items.
#[allow(clippy::cast_precision_loss)] // a length
fn exchange_rows<A: Scalar>(items: &mut [ItemContext<A>], sums: &[Vec<f64>], shard: &dyn SequenceShard<A>) -> Result<Vec<Array1<A>>> {
    let mut zones: Vec<Vec<A>> = items.iter().map(ItemContext::zone_rows).collect();
    let mut means: Vec<Array1<A>> = items
        .iter()
        .zip(sums)
        .map(|(item, sums)| sums.iter().map(|sum| A::cast(sum / item.total.max(1) as f64)).collect())
        .collect();
    let mut numbers: Vec<&mut [A]> = zones.iter_mut().map(Vec::as_mut_slice).collect();
    numbers.extend(means.iter_mut().filter_map(|mean| mean.as_slice_mut()));
    sum_all(&mut numbers, shard)?;
    for (item, zones) in items.iter_mut().zip(&zones) {
        item.hold_near(zones);
    }
    Ok(means)
}

/// What this shard's positions give to the segments of every query head.
fn summarize_own<A: Scalar>(item: &ItemContext<A>) -> Vec<PartOfHead<A>> {
    let heads = item.queries.len() / item.head_dim.max(1);
    let mut parts: Vec<PartOfHead<A>> = Vec::new();
    parts.resize_with(heads, PartOfHead::default);
    let cost = parallel::cost(&[heads, item.own().len(), item.head_dim, 8]);
    let each = Chunks {
        slice: &mut parts,
        size: 1,
    };
    for_each_part(each, cost, |head, part| item.summarize_own(head, heads, &mut part.slice[0]));
    parts
}

/// Merges the segments of all shards: first their largest importances, then masses and sums relative to these.
fn merge<A: Scalar>(items: &mut [Vec<PartOfHead<A>>], shard: &dyn SequenceShard<A>) -> Result<()> {
    let mut maxima: Vec<A> = Vec::new();
    for head in items.iter().flatten() {
        maxima.extend(head.segments.maxima().iter().chain(&head.far));
    }
    if maxima.is_empty() {
        return Ok(());
    }
    shard.maximum(&mut [&mut maxima])?;
    let mut rest = maxima.as_slice();
    let mut numbers = Vec::new();
    for head in items.iter_mut().flatten() {
        let (segments, others) = rest.split_at(head.segments.len());
        let (far, others) = others.split_at(head.far.len());
        head.segments.rescale(segments);
        head.rescale_far(far);
        numbers.extend(head.segments.masses_and_sums());
        numbers.push(&mut head.far_sums);
        rest = others;
    }
    shard.sum(&mut numbers)
}

impl<A: Scalar> PartOfHead<A> {
    fn rescale_far(&mut self, maxima: &[A]) {
        let share = |(&own, &largest): (&A, &A)| {
            if own == A::neg_infinity() {
                A::zero()
            } else {
                exp_below(own, largest)
            }
        };
        self.far_sums = self.far.iter().zip(maxima).map(share).collect();
        self.far.copy_from_slice(maxima);
    }
}

impl<A: Scalar> ItemContext<A> {
    /// The numbers of a position in a zone: whether it is real, its keys and its values.
    fn zone_width(&self) -> usize {
        1 + 2 * self.kv_heads * self.head_dim
    }

    /// This shard's rows in the zones; zeros in the places of others.
    fn zone_rows(&self) -> Vec<A> {
        let Some(seams) = &self.seams else { return Vec::new() };
        let mut zones = vec![A::zero(); seams.zone_len() * self.zone_width()];
        for (position, to) in seams.zone_positions().zip(zones.chunks_exact_mut(self.zone_width())) {
            let Some(row) = self.row_of(position) else { continue };
            to[0] = A::one();
            let (keys, values) = to[1..].split_at_mut(self.kv_heads * self.head_dim);
            for (from, to) in [(&self.keys, keys), (&self.values, values)] {
                for (head, to) in to.chunks_exact_mut(self.head_dim).enumerate() {
                    to.copy_from_slice(&from[(head * self.count + row) * self.head_dim..][..self.head_dim]);
                }
            }
        }
        zones
    }

    /// Holds the keys and values near this shard, those of others from `zones`.
    fn hold_near(&mut self, zones: &[A]) {
        let Some(seams) = self.seams.take() else { return };
        let (held, total) = (seams.held(), self.total);
        if held != self.held {
            let own = std::mem::take(self);
            let width = own.zone_width();
            let zone = |position| seams.place_of(position).map(|place| &zones[place * width..][..width]);
            let is_real = |position: usize| {
                if seams.own.contains(&position) {
                    own.row_of(position).is_some()
                } else {
                    zone(position).is_some_and(|zone| zone[0] > A::zero())
                }
            };
            let real: Array1<bool> = held.clone().map(is_real).collect();
            self.begin(own.cut, held, Some(real.view()), (own.kv_heads, own.head_dim));
            for row in 0..self.count {
                let position = self.position_of(row);
                self.copy_row(row, (&own, own.row_of(position)), zone(position).unwrap_or_default());
            }
        }
        self.total = total;
        self.seams = Some(seams);
    }

    /// Row `row` ← row `from` of the keys and values of `own`, or what a zone has of it.
    fn copy_row(&mut self, row: usize, (own, from): (&Self, Option<usize>), zone: &[A]) {
        let (width, heads, count) = (self.head_dim, self.kv_heads, self.count);
        let sides = [(&mut self.keys, &own.keys), (&mut self.values, &own.values)];
        for (side, (to, own_rows)) in sides.into_iter().enumerate() {
            for head in 0..heads {
                let source = match from {
                    Some(from) => &own_rows[(head * own.count + from) * width..],
                    None => &zone[1 + (side * heads + head) * width..],
                };
                to[(head * count + row) * width..][..width].copy_from_slice(&source[..width]);
            }
        }
    }

    /// The blocks of the segments that this shard has a part in, and these segments.
    fn own_segments(&self) -> (Range<usize>, Range<usize>) {
        let (own, cut) = (self.own(), &self.cut);
        if own.is_empty() {
            return (0..0, 0..0);
        }
        let length = cut.segment.max(cut.block);
        let (first, end) = (
            own.start / length * length,
            own.end.div_ceil(length).saturating_mul(length).min(cut.length),
        );
        let blocks = first / cut.block..end.div_ceil(cut.block);
        (blocks, first / cut.segment..end.div_ceil(cut.segment))
    }

    /// What this shard's positions give to the segments of one query head.
    fn summarize_own(&self, head: usize, heads: usize, part: &mut PartOfHead<A>) {
        let (rows, own) = (self.head_rows(head, heads), self.own());
        let (blocks, segments) = self.own_segments();
        let first_block = blocks.start;
        let mut scratch = PoolScratch::default();
        self.push_blocks(&rows, (blocks, own), &mut part.blocks, &mut scratch);
        let (_, sets) = &mut scratch;
        self.merge_blocks(sets);
        part.segments.reset(self.head_dim);
        for segment in 0..self.cut.segments {
            if segments.contains(&segment) {
                part.segments.push_copy(sets, segment - segments.start);
            } else {
                part.segments.push_empty();
            }
        }
        let Some(seams) = &self.seams else { return };
        if self.cut.segment <= self.cut.block {
            return;
        }
        for shard in 0..seams.shards() {
            for far in seams.far(&self.cut, shard) {
                let far = far.start / self.cut.block..far.end.div_ceil(self.cut.block);
                let own = part.blocks.iter().enumerate();
                let masses = own.filter(|(place, _)| far.contains(&(first_block + place))).map(|(_, &mass)| mass);
                part.far.push(log_sum(masses));
            }
        }
    }

    /// Takes over the summaries of all shards.
    fn take_all(&mut self, parts: Vec<PartOfHead<A>>, shift: A) {
        let heads = parts.len();
        let mut pooled = Vec::with_capacity(heads);
        for (head, part) in parts.into_iter().enumerate() {
            let rows = self.head_rows(head, heads);
            let mut own = PooledHead::default();
            own.take(&rows, &part.segments, shift);
            self.push_blocks(
                &rows,
                (self.held_blocks(), &self.held),
                &mut own.block_masses,
                &mut PoolScratch::default(),
            );
            let log_mass = |(&largest, &sum): (&A, &A)| {
                if sum == A::zero() {
                    A::neg_infinity()
                } else {
                    A::cast(largest.widen() + libm::log(sum.widen()))
                }
            };
            own.far_masses = part.far.iter().zip(&part.far_sums).map(log_mass).collect();
            pooled.push(own);
        }
        self.pooled = pooled;
    }
}
