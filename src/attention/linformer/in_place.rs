//! Linformer attention in memory that is kept from call to call.

use std::mem;
use std::ops::Range;

use ndarray::{Array3, ArrayRef3, ArrayView1, ArrayView2, Axis, s};

use super::super::compressed::Compressed;
use super::super::compressor::{Compressor, Order};
use super::super::mask::{PaddingMask, one_past_last};
use super::super::projection::Projections;
use super::super::sequence_shard::SequenceShard;
use super::super::workspace::{ContextSpace, TileSpace, Workspace};
use super::LinformerAttention;
use crate::error::{Error, Result};
use crate::layers::{LayerNorm, check_width};
use crate::ops::RowsMut;
use crate::parallel;
use crate::scalar::Scalar;

impl<A: Scalar> LinformerAttention<A> {
    /// Computes [`forward`](Self::forward) into an array of x's shape, in memory that is kept from call to call.
    ///
    /// # Errors
    /// Returns an error as [`forward`](Self::forward) does, or if `out` has another shape or is not in standard layout.
    pub fn forward_into(
        &self,
        x: &ArrayRef3<A>,
        mask: Option<&PaddingMask>,
        out: &mut Array3<A>,
        workspace: &mut Workspace<A>,
    ) -> Result<()> {
        const OPERATION: &str = "LinformerAttention::forward_into";
        let (batch, length, dim) = x.dim();
        check_width(OPERATION, "x", x, self.config().attention.dim)?;
        if out.dim() != x.dim() || !out.is_standard_layout() {
            let expected = format!("({batch}, {length}, {dim}), in standard layout");
            return Err(Error::shape(OPERATION, "out", expected, out.shape()));
        }
        self.forward_items(OPERATION, x, mask, out, workspace)
    }

    /// [`forward_into`](Self::forward_into) for shapes that agree.
    pub(super) fn forward_items(
        &self,
        operation: &'static str,
        x: &ArrayRef3<A>,
        mask: Option<&PaddingMask>,
        out: &mut Array3<A>,
        workspace: &mut Workspace<A>,
    ) -> Result<()> {
        let (batch, length, _) = x.dim();
        PaddingMask::check(mask, operation, batch, length)?;
        let projections = self.own_or(None)?;
        let cost = parallel::cost(&[batch, length, self.attend_cost(self.config().effective_k())]);
        workspace.for_each_item(out.view_mut(), cost, |workspace, item, out| {
            let x = x.index_axis(Axis(0), item);
            self.compress_item(projections, x, None, mask.map(|mask| mask.item(item)), &mut workspace.context)?;
            let packed = &workspace.context.packed;
            workspace.for_each_tile(out, cost / batch, |space, rows, out| {
                space.take(x.slice(s![rows, ..]), None);
                let TileSpace { x, attention, .. } = space;
                self.weights()
                    .attend_tile(x.rows(), (packed, 0), false, RowsMut::of(out), attention);
            });
            Ok(())
        })
    }

    /// Makes the packed keys and values of one item's rows, normed if a norm comes first.
    pub(crate) fn compress_item(
        &self,
        projections: &Projections<A>,
        rows: ArrayView2<'_, A>,
        norm: Option<&LayerNorm<A>>,
        real: Option<ArrayView1<'_, bool>>,
        space: &mut ContextSpace<A>,
    ) -> Result<()> {
        let own = real.map_or(rows.nrows(), one_past_last);
        let earlier = mem::take(&mut space.totals);
        let mut compressor = Compressor::of_item(self.config(), self.weights(), projections, own, earlier)?;
        space.add_rows(&mut compressor, rows, norm, real)?;
        compressor.finish_into(&mut space.compressed, &mut space.compression)?;
        let ContextSpace { compressed, packed, .. } = &mut *space;
        self.weights().repack_for(rows.nrows(), compressed, packed);
        space.totals = compressor.into_totals();
        Ok(())
    }

    /// The sums of one item's rows in a shard of its sequence, yet to be completed; the whole sequence is `length` long.
    pub(crate) fn part_of_item<'a>(
        &'a self,
        projections: &'a Projections<A>,
        (shard, length): (&dyn SequenceShard<A>, usize),
        rows: ArrayView2<'_, A>,
        norm: Option<&LayerNorm<A>>,
        real: Option<ArrayView1<'_, bool>>,
        space: &mut ContextSpace<A>,
    ) -> Result<Compressor<'a, A>> {
        let order = Order::of(self.config());
        let mut compressor = Compressor::new(self.config(), self.weights(), projections, 1, order)?.of_shard(shard, &[length])?;
        space.add_rows(&mut compressor, rows, norm, real)?;
        Ok(compressor)
    }
}

impl<A: Scalar> ContextSpace<A> {
    /// Adds one item's rows, normed if a norm comes first.
    fn add_rows(
        &mut self,
        compressor: &mut Compressor<'_, A>,
        rows: ArrayView2<'_, A>,
        norm: Option<&LayerNorm<A>>,
        real: Option<ArrayView1<'_, bool>>,
    ) -> Result<()> {
        let Self { compression, normed, .. } = self;
        let mut push = |rows: ArrayView2<'_, A>, range: Range<usize>| {
            let real = real.map(|real| real.slice_move(s![range]));
            compressor.push_item(rows.insert_axis(Axis(0)), real, compression)
        };
        match norm {
            None => push(rows, 0..rows.nrows()),
            Some(norm) => Self::normed(normed, rows, norm, push),
        }
    }

    /// Makes the packed keys and values of one item of what the compressor has added up.
    pub(crate) fn finish(&mut self, mut compressor: Compressor<'_, A>) -> Result<()> {
        compressor.finish_into(&mut self.compressed, &mut self.compression)?;
        let Compressed { keys, values, slots, .. } = &self.compressed;
        self.packed.repack(keys.view(), values.view(), self.compressed.log_mass(), slots);
        Ok(())
    }
}
