//! What training keeps of the blocks of a stack, and how they are trained one after another.

use ndarray::Array3;

use crate::error::Result;
use crate::scalar::Scalar;

/// What is kept of a block, whose own cache is a `C`.
#[derive(Clone, Debug)]
pub(super) enum KeptBlock<A, C> {
    /// It was left out.
    LeftOut,
    /// Its cache.
    Cache(Box<C>),
    /// Its input, where it is computed again.
    Input(Array3<A>),
}

impl<A, C> KeptBlock<A, C> {
    /// The block's cache, `again` made of its input where that is what was kept; `None` of a block that was left out.
    pub(super) fn cache(self, again: impl FnOnce(Array3<A>) -> Result<(Array3<A>, C)>) -> Result<Option<C>> {
        Ok(match self {
            Self::LeftOut => None,
            Self::Cache(cache) => Some(*cache),
            Self::Input(input) => Some(again(input)?.1),
        })
    }
}

/// The stream after all blocks, and what is kept of each.
type Trained<A, C> = (Array3<A>, Vec<KeptBlock<A, C>>);

/// Runs `stream` through `blocks` with `train`, but for those that `left_out` names, and keeps what the way back needs: their inputs where
/// `only_inputs`, and otherwise their caches.
pub(super) fn train_blocks<A: Scalar, B, C>(
    blocks: &[B],
    mut stream: Array3<A>,
    only_inputs: bool,
    left_out: impl Fn(usize, &B) -> bool,
    train: impl Fn(usize, &B, Array3<A>) -> Result<(Array3<A>, C)>,
) -> Result<Trained<A, C>> {
    let mut kept = Vec::with_capacity(blocks.len());
    for (number, block) in blocks.iter().enumerate() {
        if left_out(number, block) {
            kept.push(KeptBlock::LeftOut);
            continue;
        }
        let input = only_inputs.then(|| stream.clone());
        let (next, cache) = train(number, block, stream)?;
        kept.push(input.map_or_else(|| KeptBlock::Cache(Box::new(cache)), KeptBlock::Input));
        stream = next;
    }
    Ok((stream, kept))
}
