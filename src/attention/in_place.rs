//! Linformer attention in memory that is kept from call to call.

use std::mem;
use std::ops::Range;

use ndarray::{Array3, ArrayRef3, ArrayView1, ArrayView2, Axis, s};

use super::compressor::{Compressor, Extent, Order};
use super::linformer::LinformerAttention;
use super::mask::{PaddingMask, one_past_last};
use super::projection::Projections;
use super::workspace::{ContextSpace, TileSpace, Workspace};
use crate::error::{Error, Result};
use crate::layers::{LayerNorm, check_width};
use crate::ops::RowsMut;
use crate::parallel;
use crate::scalar::Scalar;

impl<A: Scalar> LinformerAttention<A> {
    /// [`forward`](Self::forward) into an array of x's shape, in memory that is kept from call to call.
    ///
    /// # Errors
    /// As [`forward`](Self::forward); an `out` of another shape, or whose elements do not lie in order.
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
        PaddingMask::check(mask, OPERATION, batch, length)?;
        if out.dim() != x.dim() || !out.is_standard_layout() {
            let expected = format!("({batch}, {length}, {dim}), in standard layout");
            return Err(Error::shape(OPERATION, "out", expected, out.shape()));
        }
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
                    .attend_tile(&self.config().attention, x.rows(), (packed, 0), false, RowsMut::of(out), attention);
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
        let ContextSpace {
            compression,
            spare,
            compressed,
            packed,
            normed,
        } = space;
        let order = Order::of(self.config());
        let compressor = Compressor::from_spare(self.config(), self.weights(), projections, 1, order, mem::take(spare))?;
        let mut compressor = if self.config().projection.pools() {
            let own = real.map_or(rows.nrows(), one_past_last);
            compressor.with_extent(Extent::PerItem(vec![own]))?
        } else {
            compressor
        };
        let mut push = |rows: ArrayView2<'_, A>, range: Range<usize>| {
            let real = real.map(|real| real.slice_move(s![range]));
            compressor.push_item(rows.insert_axis(Axis(0)), real, compression)
        };
        match norm {
            None => push(rows, 0..rows.nrows())?,
            Some(norm) => ContextSpace::normed(normed, rows, norm, push)?,
        }
        compressor.finish_into(compressed, compression)?;
        *spare = compressor.into_spare();
        packed.repack(compressed);
        Ok(())
    }
}
