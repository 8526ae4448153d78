//! The way back over shards: each has the gradients of what its rows saw, and completes those of its own keys and values.
//!
//! One exchange adds up the gradients of slots, and those of the keys and values in the zones around seams. Each shard then goes on through the summaries
//! to its own positions.

use std::ops::Range;

use ndarray::Axis;

use super::super::pooling::{Known, Means, RowGradients, SegmentGradients, known_backward};
use super::super::sequence_shard::SequenceShard;
use super::backward::{ItemGradients, SlotGradients};
use super::item::{ItemContext, PooledHead};
use super::seams::Seams;
use super::shard::sum_all;
use crate::error::Result;
use crate::parallel::{self, Chunks, Pool, along, for_each_part};
use crate::scalar::Scalar;

/// Beyond that exp only tells what is rounded to 0 in the gradient.
const LARGEST_RATIO: f64 = 700.0;

/// What the shards add up for one head.
struct HeadSums<A> {
    /// Of K̄ and V̄, (segments, `head_dim`) each; and of the logits, and of those that counted all of the mass.
    slots: [Vec<A>; 4],
    /// Of the masses of the blocks in zones, and of what is far from each shard: Σ of the gradients, each over the share of the mass that it counted, times
    /// the mass.
    masses: [Vec<A>; 2],
}

/// Completes the gradients of keys and values of this shard's rows, and adds those of u that belong to it.
pub(super) fn complete_gradients<A: Scalar>(
    items: &[ItemContext<A>],
    grads: &mut [ItemGradients<A>],
    shard: &dyn SequenceShard<A>,
) -> Result<()> {
    let mut zones: Vec<Vec<A>> = items.iter().zip(&*grads).map(|(item, grads)| grads.zone_rows(item)).collect();
    let mut sums: Vec<Vec<HeadSums<A>>> = items
        .iter()
        .zip(&*grads)
        .map(|(item, grads)| {
            item.pooled
                .iter()
                .zip(&grads.slots)
                .map(|(pooled, slots)| HeadSums::of(item, pooled, slots))
                .collect()
        })
        .collect();
    let mut numbers: Vec<&mut [A]> = zones.iter_mut().map(Vec::as_mut_slice).collect();
    for HeadSums { slots, masses } in sums.iter_mut().flatten() {
        numbers.extend(slots.iter_mut().chain(masses).map(Vec::as_mut_slice));
    }
    sum_all(&mut numbers, shard)?;
    for (((item, grads), zones), sums) in items.iter().zip(grads).zip(&zones).zip(&sums) {
        grads.add_zone_rows(item, zones);
        item.lead_back(sums, grads);
    }
    Ok(())
}

/// Replaces the gradients of u of every item by their sums over all shards.
pub(super) fn add_up_queries<A: Scalar>(grads: &mut [ItemGradients<A>], shard: &dyn SequenceShard<A>) -> Result<()> {
    let mut sums: Vec<A> = grads.iter().flat_map(|grads| &grads.queries).map(|&grad| A::cast(grad)).collect();
    sum_all(&mut [&mut sums], shard)?;
    for (grad, sum) in grads.iter_mut().flat_map(|grads| &mut grads.queries).zip(sums) {
        *grad = sum.widen();
    }
    Ok(())
}

impl<A: Scalar> HeadSums<A> {
    /// What this shard's rows add.
    fn of(item: &ItemContext<A>, pooled: &PooledHead<A>, grads: &SlotGradients<A>) -> Self {
        let cast = |numbers: &[f64]| numbers.iter().map(|&number| A::cast(number)).collect();
        let Some(seams) = item.seams.as_ref().filter(|_| item.cut.segment > item.cut.block) else {
            return Self::with_masses(grads, cast, Default::default());
        };
        let held = item.held_blocks();
        let of_block = |block: usize| {
            let Some(place) = held.contains(&block).then(|| block - held.start) else {
                return A::zero();
            };
            let whole = pooled.masses[item.segment_of_block(block)];
            A::cast(grads.parts[place] * share_of(pooled.block_masses[place], whole))
        };
        let of_far = |(place, far): (usize, Range<usize>)| {
            if place / 2 != seams.index || far.is_empty() {
                return A::zero();
            }
            let whole = pooled.masses[far.start / item.cut.segment];
            A::cast(grads.far[place] * share_of(pooled.far_masses[place], whole))
        };
        let masses = [
            seams.zone_blocks(item.cut.block).map(of_block).collect(),
            far_of_all(item, seams).map(of_far).collect(),
        ];
        Self::with_masses(grads, cast, masses)
    }

    fn with_masses(grads: &SlotGradients<A>, cast: impl Fn(&[f64]) -> Vec<A>, masses: [Vec<A>; 2]) -> Self {
        let slots = [
            grads.keys.sums.clone(),
            grads.values.sums.clone(),
            cast(&grads.logits),
            cast(&grads.whole),
        ];
        Self { slots, masses }
    }
}

/// The mass of a part over that of the whole, given their logarithms.
fn share_of<A: Scalar>(part: A, whole: A) -> f64 {
    if part == A::neg_infinity() {
        return 0.0;
    }
    libm::exp(part.widen() - whole.widen())
}

/// The mass of the whole over that of a part, as far as it matters.
fn multiple_of<A: Scalar>(part: A, whole: A) -> f64 {
    if part == A::neg_infinity() {
        return 0.0;
    }
    libm::exp((whole.widen() - part.widen()).min(LARGEST_RATIO))
}

/// What is far from each shard, and its place among all of it.
fn far_of_all<A>(item: &ItemContext<A>, seams: &Seams) -> impl Iterator<Item = (usize, Range<usize>)> {
    (0..seams.shards()).flat_map(|shard| seams.far(&item.cut, shard)).enumerate()
}

impl<A: Scalar> ItemGradients<A> {
    /// The gradients of keys and values in zones that are other shards'; zeros in the places of the rest.
    fn zone_rows(&self, item: &ItemContext<A>) -> Vec<A> {
        let Some(seams) = &item.seams else { return Vec::new() };
        let width = item.kv_heads * item.head_dim;
        let mut zones = vec![A::zero(); seams.zone_len() * 2 * width];
        for (position, to) in seams.zone_positions().zip(zones.chunks_exact_mut(2 * width)) {
            let Some(row) = item.row_of(position).filter(|_| !seams.own.contains(&position)) else {
                continue;
            };
            let (keys, values) = to.split_at_mut(width);
            for (from, to) in [(&self.keys, keys), (&self.values, values)] {
                let from = from.index_axis(Axis(1), row);
                to.iter_mut().zip(from).for_each(|(to, &from)| *to = from);
            }
        }
        zones
    }

    /// Adds what other shards have found for this one's keys and values.
    fn add_zone_rows(&mut self, item: &ItemContext<A>, zones: &[A]) {
        let Some(seams) = &item.seams else { return };
        let width = item.kv_heads * item.head_dim;
        for (position, from) in seams.zone_positions().zip(zones.chunks_exact(2 * width)) {
            let Some(row) = item.row_of(position).filter(|_| seams.own.contains(&position)) else {
                continue;
            };
            let (keys, values) = from.split_at(width);
            for (to, from) in [(&mut self.keys, keys), (&mut self.values, values)] {
                let mut to = to.index_axis_mut(Axis(1), row);
                to.iter_mut().zip(from).for_each(|(to, &from)| *to += from);
            }
        }
    }
}

impl<A: Scalar> ItemContext<A> {
    /// The segment of several blocks in which a block lies.
    fn segment_of_block(&self, block: usize) -> usize {
        block / (self.cut.segment / self.cut.block).max(1)
    }

    /// Goes through the summaries to this shard's rows, and to u.
    fn lead_back(&self, sums: &[HeadSums<A>], grads: &mut ItemGradients<A>) {
        if self.cut.segments == 0 {
            return;
        }
        let group = self.pooled.len() / self.kv_heads.max(1);
        let ItemGradients {
            keys,
            values,
            queries,
            slots,
        } = grads;
        let pooling = Chunks {
            slice: queries.as_mut_slice(),
            size: group * self.head_dim,
        };
        let parts = ((along(keys.view_mut(), 0, 1), along(values.view_mut(), 0, 1)), pooling);
        let cost = parallel::cost(&[self.pooled.len(), self.own().len(), self.head_dim, 8]);
        let mut pool = Pool::<Means<A>>::default();
        pool.prepare();
        for_each_part(parts, cost, |kv_head, ((keys, values), pooling)| {
            let (Some(keys), Some(values)) = (keys.view.into_slice(), values.view.into_slice()) else {
                return;
            };
            pool.with(|means| {
                for (within, query) in pooling.slice.chunks_exact_mut(self.head_dim).enumerate() {
                    let head = kv_head * group + within;
                    let mut to = RowGradients {
                        keys: &mut *keys,
                        values: &mut *values,
                        query,
                    };
                    self.lead_back_head(head, &sums[head], &slots[head], means, &mut to);
                }
            });
        });
    }

    fn lead_back_head(
        &self,
        head: usize,
        sums: &HeadSums<A>,
        own_grads: &SlotGradients<A>,
        means: &mut Means<A>,
        to: &mut RowGradients<'_, A>,
    ) {
        let (rows, pooled, width) = (self.head_rows(head, self.pooled.len()), &self.pooled[head], self.head_dim);
        let [keys, values, logits, whole] = &sums.slots;
        let parts = self.parts_of_all(pooled, sums, own_grads);
        for segment in 0..self.cut.segments {
            let numbers = segment * width..(segment + 1) * width;
            let known = Known {
                log_mass: pooled.masses[segment],
                keys: &pooled.keys[numbers.clone()],
                values: &pooled.values[numbers.clone()],
            };
            let slot = SegmentGradients {
                keys: &keys[numbers.clone()],
                values: &values[numbers],
                logits: logits[segment],
            };
            let positions = self.cut.segment(segment);
            let own = positions.start.max(self.own().start)..positions.end.min(self.own().end);
            let range = if own.is_empty() { 0..0 } else { self.rows_of(&own) };
            let share = |row: usize| {
                let part = parts.get(self.place_of_block(row)).copied().unwrap_or(0.0);
                A::cast(whole[segment].widen() + part)
            };
            known_backward(&rows, range, &slot, share, &known, means, to);
            // −⟨u, K̄⟩ in the log-mass, which every query's shard counts once.
            let own_logits = A::cast(own_grads.logits[segment]);
            for (dquery, &mean) in to.query.iter_mut().zip(known.keys) {
                *dquery -= (rows.scale * own_logits * mean).widen();
            }
        }
    }

    /// The gradients of the masses of the blocks held, each over the share of the mass that was counted, of the rows of all shards.
    fn parts_of_all(&self, pooled: &PooledHead<A>, sums: &HeadSums<A>, own: &SlotGradients<A>) -> Vec<f64> {
        let mut parts = own.parts.clone();
        let Some(seams) = self.seams.as_ref().filter(|_| !parts.is_empty()) else {
            return parts;
        };
        let held = self.held_blocks();
        let [of_blocks, of_far] = &sums.masses;
        for (block, &sum) in seams.zone_blocks(self.cut.block).zip(of_blocks) {
            if held.contains(&block) {
                let (place, whole) = (block - held.start, pooled.masses[self.segment_of_block(block)]);
                parts[place] = sum.widen() * multiple_of(pooled.block_masses[place], whole);
            }
        }
        for ((place, far), &sum) in far_of_all(self, seams).zip(of_far) {
            let blocks = (far.start / self.cut.block).max(held.start)..far.end.div_ceil(self.cut.block).min(held.end);
            if sum == A::zero() || blocks.is_empty() {
                continue;
            }
            let part = sum.widen() * multiple_of(pooled.far_masses[place], pooled.masses[far.start / self.cut.segment]);
            for block in blocks {
                parts[block - held.start] += part;
            }
        }
        parts
    }
}
