//! Sums of one shard of the sequences, completed by those of the others.

use ndarray::{Array4, Axis, Zip};

use super::super::pooling::Summaries;
use super::super::sequence_shard::SequenceShard;
use super::{Compressor, ProjectionKind, SequenceLengths};
use crate::error::Result;
use crate::scalar::Scalar;

impl<A: Scalar> Compressor<'_, A> {
    /// A compressor for the rows of a shard. A matrix has the shard's columns only, so that the shard is all there is to it; windows lie in the
    /// whole sequence, and the first row has the position where the shard begins.
    pub(crate) fn of_shard(self, shard: &dyn SequenceShard<A>, lengths: &[usize]) -> Result<Self> {
        if self.projections.key().columns().is_some() {
            return Ok(self);
        }
        let compressor = if self.config.projection.pools() {
            self.with_lengths(SequenceLengths::PerItem(lengths.to_vec()))?
        } else {
            self
        };
        compressor.starting_at(shard.offset())
    }

    /// Adds the sums of all other shards. For maxima it returns which of them are this shard's, one flag for each of the sums; the first of equal
    /// ones counts.
    pub(super) fn complete(&mut self, shard: &dyn SequenceShard<A>) -> Result<Option<Vec<Array4<bool>>>> {
        let takes_maximum = self.config.projection.kind == ProjectionKind::MaxPooling;
        let before = takes_maximum.then(|| (self.totals.sums.clone(), self.totals.tokens.clone()));
        Self::complete_all(std::slice::from_mut(self), shard)?;
        let Some((sums, tokens)) = before else {
            return Ok(None);
        };
        let mut owners = Vec::with_capacity(sums.len());
        for (own, whole) in sums.iter().zip(&self.totals.sums) {
            let mut owned = Zip::from(&own.values).and(&whole.values).map_collect(|own, whole| own == whole);
            for ((item, slot), _) in tokens.indexed_iter().filter(|&(_, &count)| count == 0) {
                owned.index_axis_mut(Axis(0), item).index_axis_mut(Axis(1), slot).fill(false);
            }
            if let Some(owned) = owned.as_slice_memory_order_mut() {
                shard.first_of(owned)?;
            }
            owners.push(owned);
        }
        Ok(Some(owners))
    }

    /// Adds the sums of all other shards to those of several compressors of one layer, which have the items of the batch in order: one
    /// exchange for all of them.
    pub(crate) fn complete_all(compressors: &mut [Self], shard: &dyn SequenceShard<A>) -> Result<()> {
        let takes_maximum = compressors
            .iter()
            .any(|compressor| compressor.config.projection.kind == ProjectionKind::MaxPooling);
        let mut lengths = shard.lengths();
        for compressor in compressors.iter_mut() {
            let (own, others) = lengths.split_at(compressor.batch.min(lengths.len()));
            compressor.reach(own)?;
            lengths = others;
        }
        if compressors
            .iter()
            .any(|compressor| compressor.config.projection.pools_by_attention())
        {
            return Self::complete_pooled(compressors, shard);
        }
        let mut counts: Vec<usize> = compressors
            .iter()
            .flat_map(|compressor| &compressor.totals.tokens)
            .copied()
            .collect();
        let mut sums = Vec::new();
        for compressor in compressors.iter_mut() {
            let with_row_sums: Vec<bool> = (0..compressor.totals.sums.len())
                .map(|index| compressor.needs_row_sums(index))
                .collect();
            compressor.flush_pending();
            for (own, with_row_sums) in compressor.totals.sums.iter_mut().zip(with_row_sums) {
                own.round();
                sums.extend(own.slices(with_row_sums));
            }
        }
        if takes_maximum {
            shard.maximum(&mut sums)?;
        } else {
            shard.sum(&mut sums)?;
        }
        if counts.is_empty() {
            return Ok(());
        }
        shard.count(&mut counts)?;
        for (tokens, count) in compressors
            .iter_mut()
            .flat_map(|compressor| &mut compressor.totals.tokens)
            .zip(counts)
        {
            *tokens = count;
        }
        Ok(())
    }

    /// Merges the summaries of all shards, segment by segment: first their largest importances, then masses and sums relative to these.
    fn complete_pooled(compressors: &mut [Self], shard: &dyn SequenceShard<A>) -> Result<()> {
        let mut maxima = Vec::new();
        for compressor in compressors.iter_mut() {
            compressor.flush_pending();
            for item in 0..compressor.batch {
                let length = compressor.totals.ends[item];
                let (level, slots) = (compressor.config.segment_level(length), compressor.config.slots_of(length));
                let own = &mut compressor.totals.pooled.items[item];
                own.fill(level, slots);
                maxima.extend(own.heads.iter().flat_map(Summaries::maxima).copied());
            }
        }
        shard.maximum(&mut [&mut maxima])?;
        let mut rest = maxima.as_slice();
        let mut slices = Vec::new();
        for head in compressors
            .iter_mut()
            .flat_map(|compressor| &mut compressor.totals.pooled.items)
            .flat_map(|item| &mut item.heads)
        {
            let (own, others) = rest.split_at(head.len());
            head.rescale(own);
            slices.extend(head.masses_and_sums());
            rest = others;
        }
        shard.sum(&mut slices)
    }

    /// Sets the ends of the whole sequences, and enlarges the sums to all their windows.
    fn reach(&mut self, lengths: &[usize]) -> Result<()> {
        self.totals.ends.clear();
        self.totals.ends.extend_from_slice(lengths);
        match self.config.stride() {
            Some(stride) => self.grow(lengths.iter().copied().max().unwrap_or(0).div_ceil(stride)),
            None => Ok(()),
        }
    }
}
