//! Targets, token by token with a cache.

use ndarray::Array2;

use super::EncoderDecoder;
use crate::blocks::{CompressedSource, EncoderState};
use crate::error::{Error, Result};
use crate::models::continued::{Continued, padded};
use crate::scalar::Scalar;

/// The state of an [`EncoderDecoder`] that writes targets: the sources, compressed for each block, and for each target and block what
/// self-attention needs: a window, the sums of the unfinished block and the summaries, or all keys and values where it is exact.
#[derive(Clone, Debug)]
pub struct EncoderDecoderState<A = f32> {
    source: CompressedSource<A>,
    targets: Vec<Target<A>>,
}

#[derive(Clone, Debug)]
struct Target<A> {
    state: EncoderState<A>,
    /// The index of its source.
    source: usize,
    length: usize,
}

impl<A: Scalar> EncoderDecoderState<A> {
    /// Returns the number of tokens of each target so far.
    pub fn lengths(&self) -> Vec<usize> {
        self.targets.iter().map(|target| target.length).collect()
    }

    /// Returns the source that each target reads.
    pub fn sources(&self) -> Vec<usize> {
        self.targets.iter().map(|target| target.source).collect()
    }

    /// Keeps these targets in this order and drops the others. A target that is named several times can be continued in several ways.
    ///
    /// # Errors
    /// Returns an error if there is no such target. The state is then unchanged.
    pub fn select(&mut self, targets: &[usize]) -> Result<()> {
        if let Some(none) = targets.iter().find(|&&target| target >= self.targets.len()) {
            let reason = format!("there is no target {none} among {}", self.targets.len());
            return Err(Error::argument("EncoderDecoderState::select", reason));
        }
        let mut uses = vec![0_usize; self.targets.len()];
        for &target in targets {
            uses[target] += 1;
        }
        let mut old: Vec<Option<Target<A>>> = std::mem::take(&mut self.targets).into_iter().map(Some).collect();
        let moved = targets.iter().filter_map(|&target| {
            uses[target] -= 1;
            // The last continuation takes the place of the original.
            if uses[target] == 0 {
                old[target].take()
            } else {
                old[target].clone()
            }
        });
        self.targets = moved.collect();
        Ok(())
    }
}

impl<A: Scalar> EncoderDecoder<A> {
    /// Reads sources of any lengths, each as if it were alone, and begins one target for each. Only with
    /// [`AttentionConfig::masked_keys_stay`](crate::AttentionConfig::masked_keys_stay) a longer source beside it takes weight from a shorter one's.
    ///
    /// # Errors
    /// Returns an error if a token is outside the vocabulary, or if a source is longer than the positions or projections allow.
    pub fn begin(&self, sources: &[impl AsRef<[usize]>]) -> Result<EncoderDecoderState<A>> {
        let (tokens, mask) = padded("EncoderDecoder::begin", sources)?;
        let targets = (0..sources.len()).map(|source| {
            Ok(Target {
                state: self.target().decoder().begin()?,
                source,
                length: 0,
            })
        });
        Ok(EncoderDecoderState {
            targets: targets.collect::<Result<_>>()?,
            source: self.encode(&tokens, Some(&mask))?,
        })
    }

    /// Appends one token to each target, the first of which is its start token; returns the scores of the token after it, (targets, `vocab_size`). Targets
    /// whose token is `None` are skipped and get zero scores.
    ///
    /// The scores are those of [`forward`](Self::forward) at the same positions of the whole targets, up to rounding.
    ///
    /// # Errors
    /// Returns an error if there are more or fewer tokens than targets, if a token is outside the vocabulary, or if a target is
    /// [`max_target`](Self::max_target) long already. The state is then unchanged.
    pub fn step(&self, state: &mut EncoderDecoderState<A>, tokens: &[Option<usize>]) -> Result<Array2<A>> {
        const OPERATION: &str = "EncoderDecoder::step";
        let EncoderDecoderState { source, targets } = state;
        let mut continued = Continued::new(OPERATION, "target", targets, tokens)?;
        let positions: Vec<usize> = continued.sequences.iter().map(|target| target.length).collect();
        let of: Vec<usize> = continued.sequences.iter().map(|target| target.source).collect();
        self.check_length(OPERATION, positions.iter().map(|position| position + 1).max().unwrap_or(0))?;
        let mut states: Vec<&mut EncoderState<A>> = continued.sequences.iter_mut().map(|target| &mut target.state).collect();
        let found = self.target().step((&continued.tokens, &positions), &mut states, source, &of)?;
        for target in &mut continued.sequences {
            target.length += 1;
        }
        Ok(continued.spread(&found, tokens.len()))
    }
}
