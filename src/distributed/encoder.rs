//! Encoders whose sequences are spread over ranks.

use ndarray::{Array3, ArrayRef3, Axis};

use super::rank_shard::{RankShard, check_output, real_rows};
use super::sharded::{Sharded, pass_words};
use super::team::Header;
use crate::attention::{Compressor, ContextSpace, ItemContext, PaddingMask, SequenceShard, Workspace};
use crate::blocks::{Attention, Encoder, EncoderBlock, EncoderCache};
use crate::config::TrainingPass;
use crate::error::{Error, Result, checked_len};
use crate::layers::check_width;
use crate::scalar::Scalar;

impl<A: Scalar> Sharded<'_, Encoder<A>> {
    /// Encodes (batch, own n, dim) → (batch, own n, dim): the rows that [`Encoder::forward`] has at this rank's positions.
    ///
    /// # Errors
    /// Returns an error as [`Encoder::forward`] does, if the ranks disagree, or if another rank failed.
    pub fn forward(&self, x: &ArrayRef3<A>, mask: Option<&PaddingMask>) -> Result<Array3<A>> {
        let header = self.sequence_header(x.dim().0, x.dim().1, mask).and_then(|header| {
            check_width("Sharded::forward", "x", x, self.model().config().dim())?;
            Ok(header)
        });
        self.together("Sharded::forward of an Encoder", header, |team| {
            let shard = RankShard::new(team, self.shards(), x.dim().0, mask)?;
            let y = self.model().forward_shard(x.to_owned(), mask, &shard)?;
            check_output(team.rank(), real_rows(&y, mask))?;
            Ok(y)
        })
    }

    /// Runs [`forward`](Self::forward) with the pass's dropout; returns the scores and what [`backward`](Self::backward) needs. Dropout masks are
    /// each rank's own, and not those of a single process, except those of the weights of local-global attention.
    ///
    /// # Errors
    /// Returns an error as [`forward`](Self::forward) does, if a rate is below 0 or not below 1, or if the passes of the ranks differ.
    pub fn forward_train(
        &self,
        x: &ArrayRef3<A>,
        mask: Option<&PaddingMask>,
        pass: &TrainingPass,
    ) -> Result<(Array3<A>, ShardedCache<EncoderCache<A>>)> {
        let (batch, length, _) = x.dim();
        let header = self.training_header(batch, length, mask, pass).and_then(|header| {
            check_width("Sharded::forward_train", "x", x, self.model().config().dim())?;
            Ok(header)
        });
        let mask = mask.cloned();
        self.together("Sharded::forward_train of an Encoder", header, |team| {
            let shard = RankShard::new(team, self.shards(), batch, mask.as_ref())?;
            let pass = &self.own_pass(pass);
            let (y, cache) = self.model().forward_train_shard(x.to_owned(), mask.as_ref(), pass, Some(&shard))?;
            check_output(team.rank(), real_rows(&y, mask.as_ref()))?;
            let cache = ShardedCache {
                cache,
                mask: mask.clone(),
                dim: (batch, length),
            };
            Ok((y, cache))
        })
    }

    /// Returns the gradient of this rank's rows of the input, given `dy` of its rows of the output. Those of the parameters are added to `gradients`,
    /// a value like the model's own [`zeros_like`](crate::Parameters::zeros_like): those of E and F in full, and this rank's share of all others,
    /// which [`reduce_gradients`](Self::reduce_gradients) completes.
    ///
    /// # Errors
    /// Returns an error as [`Encoder::backward`] does, or if another rank failed. This rank may have added to `gradients` by then, which makes them
    /// unusable: begin again with [`zeros_like`](crate::Parameters::zeros_like), and repeat from [`forward_train`](Self::forward_train) on, with
    /// every batch that was added to them.
    pub fn backward(&self, cache: ShardedCache<EncoderCache<A>>, dy: Array3<A>, gradients: &mut Encoder<A>) -> Result<Array3<A>> {
        let (batch, length) = cache.dim;
        let pass = cache.cache.pass().for_part(0);
        let header = self.sequence_header(batch, length, cache.mask.as_ref());
        let header = header.map(|header| header.and(pass_words(&pass)));
        self.together("Sharded::backward of an Encoder", header, |team| {
            let shard = RankShard::new(team, self.shards(), batch, cache.mask.as_ref())?;
            let dx = self.model().backward_shard(cache.cache, dy, gradients, Some(&shard))?;
            check_output(team.rank(), real_rows(&dx, cache.mask.as_ref()))?;
            Ok(dx)
        })
    }
}

/// The cache of a backward pass over ranks: the model's own, and more.
#[derive(Clone, Debug)]
pub struct ShardedCache<C> {
    cache: C,
    mask: Option<PaddingMask>,
    /// (batch, own n).
    dim: (usize, usize),
}

impl<A: Scalar> Sharded<'_, Encoder<A>> {
    /// The values compared before a forward pass.
    fn training_header(&self, batch: usize, length: usize, mask: Option<&PaddingMask>, pass: &TrainingPass) -> Result<Header> {
        pass.check()?;
        Ok(self.sequence_header(batch, length, mask)?.and(pass_words(pass)))
    }
}

impl<A: Scalar> Encoder<A> {
    /// [`forward`](Self::forward) of a shard of sequences. Block by block, the sums of all items are completed at once.
    pub(super) fn forward_shard(&self, x: Array3<A>, mask: Option<&PaddingMask>, shard: &dyn SequenceShard<A>) -> Result<Array3<A>> {
        let mut stream = self.checked(x, mask)?;
        let mut second = self.config().reversible.then(|| stream.clone());
        let workspace = &mut Workspace::new();
        workspace.tiles.prepare();
        for block in self.blocks() {
            let source = second.as_ref().unwrap_or(&stream);
            let contexts = self.completed(block, source, mask, shard, workspace)?;
            let wider = attend_items(block, contexts, &mut stream, second.as_mut(), workspace)?;
            stream = wider.unwrap_or(stream);
        }
        if let Some(second) = second {
            stream += &second;
        }
        for rows in stream.outer_iter_mut() {
            self.finish_item(rows);
        }
        Ok(stream)
    }

    /// What the rows of each item attend to, with what all shards have of it.
    fn completed<'b>(
        &'b self,
        block: &'b EncoderBlock<A>,
        stream: &Array3<A>,
        mask: Option<&PaddingMask>,
        shard: &dyn SequenceShard<A>,
        workspace: &mut Workspace<A>,
    ) -> Result<Vec<Completed<'b, A>>> {
        let real = |item| mask.map(|mask| mask.item(item));
        let items = stream.outer_iter().enumerate();
        let (norm, space) = (block.first_norm(), &mut workspace.context);
        match block.attention() {
            Attention::Linformer(attention) => {
                let projections = attention.own_or(self.projections())?;
                let sums = items.map(|(item, rows)| {
                    let whole = (shard, shard.lengths()[item]);
                    attention.part_of_item(projections, whole, rows, norm, real(item), space)
                });
                let mut sums = sums.collect::<Result<Vec<_>>>()?;
                Compressor::complete_all(&mut sums, shard)?;
                Ok(sums.into_iter().map(Completed::Sums).collect())
            }
            Attention::LocalGlobal(attention) => {
                let parts = items.map(|(item, rows)| attention.part_of_item(rows, norm, real(item), (shard, item), space));
                let parts = parts.collect::<Result<Vec<_>>>()?;
                let items = attention.complete(parts, shard)?;
                Ok(items.into_iter().map(Completed::Segments).collect())
            }
            _ => Err(Error::argument(
                "Sharded::forward",
                "only Linformer and local-global attention can be sharded",
            )),
        }
    }
}

/// What the rows of an item attend to.
enum Completed<'b, A: Scalar> {
    Sums(Compressor<'b, A>),
    Segments(ItemContext<A>),
}

impl<A: Scalar> Completed<'_, A> {
    fn finish(self, space: &mut ContextSpace<A>) -> Result<()> {
        match self {
            Self::Sums(sums) => space.finish(sums),
            Self::Segments(item) => {
                space.take_item(item);
                Ok(())
            }
        }
    }
}

/// The block's second half, in place where the width stays; else its output.
fn attend_items<A: Scalar>(
    block: &EncoderBlock<A>,
    contexts: Vec<Completed<'_, A>>,
    stream: &mut Array3<A>,
    mut second: Option<&mut Array3<A>>,
    workspace: &mut Workspace<A>,
) -> Result<Option<Array3<A>>> {
    let (batch, length, _) = stream.dim();
    let mut wider = None;
    if block.in_dim() != block.out_dim() {
        checked_len("EncoderBlock", &[batch, length, block.out_dim()], size_of::<A>())?;
        wider = Some(Array3::zeros((batch, length, block.out_dim())));
    }
    for (item, context) in contexts.into_iter().enumerate() {
        context.finish(&mut workspace.context)?;
        let rows = stream.index_axis_mut(Axis(0), item);
        match (&mut wider, &mut second) {
            (Some(wider), _) => block.attend_item_into(rows, wider.index_axis_mut(Axis(0), item), workspace),
            (None, Some(second)) => block.attend_reversible(rows, second.index_axis_mut(Axis(0), item), workspace),
            (None, None) => block.attend_item(rows, workspace),
        }
    }
    Ok(wider)
}
