//! Token by token through a language model, with a cache.

use ndarray::{Array2, Axis};

use super::LanguageModel;
use crate::blocks::EncoderState;
use crate::error::{Error, Result};
use crate::models::backbone::select;
use crate::models::continued::{Continued, padded};
use crate::scalar::Scalar;

/// The state of a causal [`LanguageModel`] that continues a batch of texts: for each layer the keys and values of the window, the sums of the
/// unfinished block and the summaries; with exact attention all keys and values; with a [`LocalGlobalConfig`](crate::LocalGlobalConfig) those of two
/// blocks, and O(log n) segments.
#[derive(Clone, Debug)]
pub struct LanguageModelState<A = f32> {
    items: Vec<EncoderState<A>>,
    lengths: Vec<usize>,
}

impl<A> LanguageModelState<A> {
    /// Returns the number of tokens of each text so far.
    pub fn lengths(&self) -> &[usize] {
        &self.lengths
    }

    /// Puts text 0 of `other` in the place of text `item`.
    pub(super) fn replace(&mut self, item: usize, other: Self) {
        if let (Some(state), Some(&length)) = (other.items.into_iter().next(), other.lengths.first()) {
            self.items[item] = state;
            self.lengths[item] = length;
        }
    }
}

impl<A: Scalar> LanguageModel<A> {
    /// Returns an error where a text of `length` tokens is too long.
    fn check_length(&self, operation: &'static str, length: usize) -> Result<()> {
        match self.max_context() {
            Some(most) if length > most => Err(Error::argument(
                operation,
                format!(
                    "the text has {length} tokens, but the model reads at most {most}; shorten it, or generate with ContextOverflow::Slide"
                ),
            )),
            _ => Ok(()),
        }
    }

    /// Runs whole texts; returns the scores of the token after each, (texts, `vocab_size`), and the state to continue from.
    ///
    /// The texts may differ in length; each has its own positions and blocks.
    ///
    /// # Errors
    /// Returns an error if the model cannot generate: if its attention is not causal, if it has no head, or if it treats a token as padding
    /// ([`zeroed_token`](crate::LanguageModelConfig::zeroed_token), [`PositionKind::LearnedAfterPadding`](crate::PositionKind::LearnedAfterPadding)).
    /// Returns an error if there is no text or an empty one, if a token is outside the vocabulary, or if a text is longer than
    /// [`max_context`](Self::max_context).
    pub fn prefill(&self, texts: &[impl AsRef<[usize]>]) -> Result<(Array2<A>, LanguageModelState<A>)> {
        const OPERATION: &str = "LanguageModel::prefill";
        self.config().check_generation()?;
        let lengths: Vec<usize> = texts.iter().map(|text| text.as_ref().len()).collect();
        if lengths.is_empty() || lengths.contains(&0) {
            return Err(Error::argument(OPERATION, "every text needs a token to begin with"));
        }
        self.check_length(OPERATION, lengths.iter().copied().max().unwrap_or(0))?;
        let (tokens, mask) = padded(OPERATION, texts)?;
        let (features, items) = self.backbone().prefill(&tokens, &lengths, &mask)?;
        let last: Vec<Vec<usize>> = lengths.iter().map(|length| vec![length - 1]).collect();
        let scores = self.scores(select(&features, &last)?)?;
        Ok((scores.index_axis_move(Axis(0), 0), LanguageModelState { items, lengths }))
    }

    /// Appends one token to each text; returns the scores of the token after it, (texts, `vocab_size`). Texts whose token is `None` are skipped
    /// and get zero scores.
    ///
    /// The scores are those of [`forward`](Self::forward) at the same positions of the whole texts, up to rounding.
    ///
    /// # Errors
    /// Returns an error if the model cannot generate (see [`prefill`](Self::prefill)), if there are more or fewer tokens than texts, if a token is
    /// outside the vocabulary, if a text is [`max_context`](Self::max_context) long already, or if the state is of another model. The state is
    /// then unchanged.
    pub fn step(&self, state: &mut LanguageModelState<A>, tokens: &[Option<usize>]) -> Result<Array2<A>> {
        const OPERATION: &str = "LanguageModel::step";
        self.config().check_generation()?;
        let batch = state.items.iter_mut().zip(&mut state.lengths);
        let mut continued = Continued::new(OPERATION, "text", batch, tokens)?;
        let positions: Vec<usize> = continued.sequences.iter().map(|(_, length)| **length).collect();
        self.check_length(OPERATION, positions.iter().map(|position| position + 1).max().unwrap_or(0))?;
        let mut items: Vec<&mut EncoderState<A>> = continued.sequences.iter_mut().map(|(item, _)| &mut **item).collect();
        let features = self.backbone().step(&continued.tokens, &positions, &mut items)?;
        let found = self.scores(features)?;
        for (_, length) in &mut continued.sequences {
            **length += 1;
        }
        Ok(continued.spread(&found, tokens.len()))
    }
}
