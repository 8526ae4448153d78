//! Token by token through a language model, with a cache.

use ndarray::{Array2, Array3, ArrayRef2, Axis};

use super::body::{Body, select};
use super::causal_language_model::CausalLanguageModel;
use crate::attention::PaddingMask;
use crate::blocks::EncoderState;
use crate::error::{Error, Result};
use crate::layers::Start;
use crate::scalar::Scalar;

/// What a [`CausalLanguageModel`] keeps of a batch of texts to go on with them: for each layer the keys and values of the window, the sums of the
/// unfinished block and the summaries; with exact attention all keys and values.
#[derive(Clone, Debug)]
pub struct CausalState<A = f32> {
    items: Vec<EncoderState<A>>,
    lengths: Vec<usize>,
}

impl<A> CausalState<A> {
    /// The number of tokens of each text so far.
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

impl<A: Scalar> Body<A> {
    fn prefill(&self, tokens: &ArrayRef2<usize>, lengths: &[usize]) -> Result<(Array3<A>, Vec<EncoderState<A>>)> {
        let mask = PaddingMask::from_lengths(lengths, tokens.ncols())?;
        let (x, states) = self
            .encoder
            .prefill(self.ends.lead_in(Start::default(), tokens, Some(&mask))?, lengths, &mask)?;
        Ok((self.ends.lead_out(x)?, states))
    }

    fn step(&self, tokens: &ArrayRef2<usize>, positions: &[usize], states: &mut [&mut EncoderState<A>]) -> Result<Array3<A>> {
        let x = self.encoder.step(self.ends.lead_in_at(tokens, positions)?, states)?;
        self.ends.lead_out(x)
    }
}

impl<A: Scalar> CausalLanguageModel<A> {
    /// Runs whole texts: the scores of what follows each, (texts, `vocab_size`), and the state to go on from.
    ///
    /// The texts may differ in length; each has its own positions and blocks.
    ///
    /// # Errors
    /// No text or an empty one; a token outside the vocabulary; a text longer than [`max_context`](Self::max_context).
    pub fn prefill(&self, texts: &[impl AsRef<[usize]>]) -> Result<(Array2<A>, CausalState<A>)> {
        const OPERATION: &str = "CausalLanguageModel::prefill";
        let lengths: Vec<usize> = texts.iter().map(|text| text.as_ref().len()).collect();
        if lengths.is_empty() || lengths.contains(&0) {
            return Err(Error::argument(OPERATION, "every text needs a token to begin with"));
        }
        let longest = lengths.iter().copied().max().unwrap_or(0);
        self.check_length(OPERATION, longest)?;
        let tokens = Array2::from_shape_fn((texts.len(), longest), |(item, position)| {
            texts[item].as_ref().get(position).copied().unwrap_or(0)
        });
        let (features, items) = self.body().prefill(&tokens, &lengths)?;
        let last: Vec<Vec<usize>> = lengths.iter().map(|length| vec![length - 1]).collect();
        let scores = self.scores(select(&features, &last)?)?;
        Ok((scores.index_axis_move(Axis(0), 0), CausalState { items, lengths }))
    }

    /// The scores of what follows one more token of each text, (texts, `vocab_size`). A text whose token is `None` rests; its scores are 0.
    ///
    /// They are those that [`forward`](Self::forward) has at the same places of the whole texts, to rounding.
    ///
    /// # Errors
    /// Another number of tokens than texts; a token outside the vocabulary; a text that is [`max_context`](Self::max_context) long already.
    /// The state is then as it was.
    pub fn step(&self, state: &mut CausalState<A>, tokens: &[Option<usize>]) -> Result<Array2<A>> {
        const OPERATION: &str = "CausalLanguageModel::step";
        if tokens.len() != state.lengths.len() {
            let expected = format!("({}), one for each text", state.lengths.len());
            return Err(Error::shape(OPERATION, "tokens", expected, &[tokens.len()]));
        }
        let mut scores = Array2::zeros((tokens.len(), self.config().vocab_size));
        let going: Vec<(usize, usize)> = tokens
            .iter()
            .enumerate()
            .filter_map(|(item, token)| Some((item, (*token)?)))
            .collect();
        let positions: Vec<usize> = going.iter().map(|&(item, _)| state.lengths[item]).collect();
        self.check_length(OPERATION, positions.iter().map(|position| position + 1).max().unwrap_or(0))?;
        let column = Array2::from_shape_fn((going.len(), 1), |(row, _)| going[row].1);
        let mut items: Vec<&mut EncoderState<A>> = state
            .items
            .iter_mut()
            .zip(tokens)
            .filter_map(|(item, token)| token.map(|_| item))
            .collect();
        let features = self.body().step(&column, &positions, &mut items)?;
        let found = self.scores(features)?;
        for (&(item, _), found) in going.iter().zip(found.outer_iter()) {
            scores.row_mut(item).assign(&found.row(0));
            state.lengths[item] += 1;
        }
        Ok(scores)
    }
}
