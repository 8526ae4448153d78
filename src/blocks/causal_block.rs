//! Blocks on whole sequences instead of tiles, with the attention that the caller gives: causal attention, where a row's place decides what it sees,
//! and attention to another sequence.

use ndarray::{Array3, ArrayRef3};

use super::encoder::{EncoderBlock, FeedForwardBlock};
use crate::config::NormPlacement;
use crate::error::Result;
use crate::scalar::Scalar;

impl<A: Scalar> EncoderBlock<A> {
    /// The block on the residual stream, with `attend` for its attention.
    pub(crate) fn apply_around(&self, stream: Array3<A>, attend: impl FnOnce(&ArrayRef3<A>) -> Result<Array3<A>>) -> Result<Array3<A>> {
        let placement = self.placement();
        let mut sum = match placement {
            NormPlacement::Pre => attend(&self.attention_norm().forward(&stream)?)?,
            NormPlacement::Post => attend(&stream)?,
        };
        sum += &stream;
        drop(stream);
        if placement == NormPlacement::Post {
            sum = self.attention_norm().forward(&sum)?;
        }
        match self.feed_forward() {
            Some(feed_forward) => feed_forward.apply_whole(placement, sum),
            None => Ok(sum),
        }
    }

    /// The reversible form on two streams: first += attention(norm(second)), then second += feed-forward(norm(first)).
    pub(crate) fn apply_reversible_around(
        &self,
        first: &mut Array3<A>,
        second: &mut Array3<A>,
        attend: impl FnOnce(&ArrayRef3<A>) -> Result<Array3<A>>,
    ) -> Result<()> {
        *first += &attend(&self.attention_norm().forward(second)?)?;
        if let Some(feed_forward) = self.feed_forward() {
            *second += &feed_forward.layer().forward(&feed_forward.norm().forward(first)?)?;
        }
        Ok(())
    }
}

impl<A: Scalar> FeedForwardBlock<A> {
    /// x + f(norm(x)), or norm(x + f(x)); the residual goes through a weight of its own where the width changes.
    fn apply_whole(&self, placement: NormPlacement, stream: Array3<A>) -> Result<Array3<A>> {
        let mut sum = match placement {
            NormPlacement::Pre => self.layer().forward(&self.norm().forward(&stream)?)?,
            NormPlacement::Post => self.layer().forward(&stream)?,
        };
        match self.residual() {
            None => sum += &stream,
            Some(residual) => sum += &residual.forward(&stream)?,
        }
        match placement {
            NormPlacement::Pre => Ok(sum),
            NormPlacement::Post => self.norm().forward(&sum),
        }
    }
}
