//! How much each row draws from each position.

use ndarray::{Array2, Array4, ArrayRef3, ArrayView2, ArrayViewMut2, Axis, CowArray, s};

use super::super::mask::PaddingMask;
use super::super::pooling::position_shares;
use super::super::weights::tile;
use super::block::Slots;
use super::{ItemContext, ItemScratch, LocalGlobalAttention};
use crate::error::{Result, checked_len};
use crate::layers::check_width;
use crate::ops::{Scratch, gemm};
use crate::scalar::Scalar;

impl<A: Scalar> LocalGlobalAttention<A> {
    /// Returns how much each row draws from each position of its own sequence: (batch, heads, n, n).
    ///
    /// A slot's weight is spread over the positions of its segment as its values are, by their softmax at u. Every row sums to 1, or to 0 where all
    /// is padding, and the map times the values is what the heads attend to. It takes n² numbers a head.
    ///
    /// # Errors
    /// Returns an error as [`forward`](Self::forward) does, or if the map is larger than memory can address.
    pub fn effective_map(&self, x: &ArrayRef3<A>, mask: Option<&PaddingMask>) -> Result<Array4<A>> {
        const OPERATION: &str = "LocalGlobalAttention::effective_map";
        let (batch, length, _) = x.dim();
        check_width(OPERATION, "x", x, self.config.attention.dim)?;
        PaddingMask::check(mask, OPERATION, batch, length)?;
        let heads = self.weights().heads;
        checked_len(OPERATION, &[batch, heads, length, length], size_of::<A>())?;
        let mut map = Array4::zeros((batch, heads, length, length));
        let mut item = ItemContext::default();
        for (index, mut map) in map.outer_iter_mut().enumerate() {
            let rows = x.index_axis(Axis(0), index);
            let real = mask.map(|mask| mask.item(index));
            self.summarize_item(rows, None, real, (&mut item, &mut ItemScratch::default()), &mut Vec::new())?;
            let mut queries = Array2::zeros((length, self.weights().query.out_dim()));
            self.weights().query.apply(rows, &mut queries.view_mut(), &mut Scratch::default());
            for (head, mut map) in map.outer_iter_mut().enumerate() {
                let own = queries.slice(s![.., head * item.head_dim..(head + 1) * item.head_dim]);
                item.fill_map(own, (head, heads), &mut map);
            }
        }
        Ok(map)
    }
}

impl<A: Scalar> ItemContext<A> {
    /// Fills the map (n, n) of one head.
    fn fill_map(&self, queries: ArrayView2<'_, A>, (head, heads): (usize, usize), map: &mut ArrayViewMut2<'_, A>) {
        let shares = self.shares(head, heads);
        let (mut space, mut slots) = (Vec::new(), Slots::default());
        let mut real = Array2::zeros((self.cut.block.min(queries.nrows()), self.count));
        for (block, rows) in self.blocks_of(0..queries.nrows()) {
            let seen = self.seen(head, heads, block, &mut slots);
            let keys = seen.rows.len();
            let mut weights = tile(&mut space, rows.len(), keys + seen.biases.len());
            self.block_weights(queries.slice(s![rows.clone(), ..]), rows.start, &seen, &mut weights);
            let mut real = real.slice_mut(s![..rows.len(), ..]);
            let shares = match seen.segments {
                None => shares.view().into(),
                Some(segments) => CowArray::from(shares.select(Axis(0), segments)),
            };
            gemm(A::one(), weights.slice(s![.., keys..]), shares.view(), A::zero(), &mut real);
            let mut window = real.slice_mut(s![.., seen.rows.clone()]);
            window += &weights.slice(s![.., ..keys]);
            for (row, of_row) in rows.zip(real.outer_iter()) {
                for (place, &weight) in of_row.iter().enumerate() {
                    map[[row, self.position_of(place)]] = weight;
                }
            }
        }
    }

    /// How a slot of one head is made of the real positions: (segments, real positions).
    fn shares(&self, head: usize, heads: usize) -> Array2<A> {
        let mut shares = Array2::zeros((self.cut.segments, self.count));
        if self.cut.segments == 0 {
            return shares;
        }
        let rows = self.head_rows(head, heads);
        for (segment, mut shares) in shares.outer_iter_mut().enumerate() {
            let range = self.rows_of(&self.cut.segment(segment));
            for (row, share) in range.clone().zip(position_shares(&rows, range)) {
                shares[row] = share;
            }
        }
        shares
    }
}
