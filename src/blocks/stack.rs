//! Training the blocks of a stack one after another, and the values saved of each.

use ndarray::Array3;

use crate::error::Result;
use crate::scalar::Scalar;

/// The values saved of a block, whose own cache is a `C`.
#[derive(Clone, Debug)]
pub(super) enum SavedBlock<A, C> {
    /// It was left out.
    Dropped,
    /// Its cache.
    Cache(Box<C>),
    /// Its input, where it is computed again.
    Input(Array3<A>),
}

impl<A, C> SavedBlock<A, C> {
    /// The block's cache, `again` made of its input where that is what was saved; `None` of a block that was left out.
    pub(super) fn cache(self, again: impl FnOnce(Array3<A>) -> Result<(Array3<A>, C)>) -> Result<Option<C>> {
        Ok(match self {
            Self::Dropped => None,
            Self::Cache(cache) => Some(*cache),
            Self::Input(input) => Some(again(input)?.1),
        })
    }
}

/// The stream after all blocks, and what is saved of each.
type Trained<A, C> = (Array3<A>, Vec<SavedBlock<A, C>>);

/// Runs `stream` through `blocks` with `train`, but for those that `drops` names, and keeps what the way back needs: their inputs where
/// `only_inputs`, and otherwise their caches. `after_each` sees the stream after every block, and after those that were left out.
pub(super) fn train_blocks<A: Scalar, B, C>(
    blocks: &[B],
    mut stream: Array3<A>,
    only_inputs: bool,
    drops: impl Fn(usize, &B) -> bool,
    train: impl Fn(usize, &B, Array3<A>) -> Result<(Array3<A>, C)>,
    mut after_each: impl FnMut(&Array3<A>),
) -> Result<Trained<A, C>> {
    let mut saved = Vec::with_capacity(blocks.len());
    for (number, block) in blocks.iter().enumerate() {
        if drops(number, block) {
            saved.push(SavedBlock::Dropped);
        } else {
            let input = only_inputs.then(|| stream.clone());
            let (next, cache) = train(number, block, stream)?;
            saved.push(input.map_or_else(|| SavedBlock::Cache(Box::new(cache)), SavedBlock::Input));
            stream = next;
        }
        after_each(&stream);
    }
    Ok((stream, saved))
}
