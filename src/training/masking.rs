//! Tokens to guess, for masked language models.

use ndarray::ArrayRef2;

use super::{Step, TokenBatch};
use crate::attention::PaddingMask;
use crate::error::{Error, Result, checked_len};

/// Hides some tokens of a batch for a model to guess (Devlin et al. 2019, arXiv 1810.04805).
///
/// Each token is chosen by itself with a probability of 15 %; a chosen one becomes the mask token in 80 % of the cases, a random one in 10 %,
/// and stays as it is in 10 %. Special tokens and padding are never chosen, and no random token is a special one.
///
/// The treatment of a token depends on the [`Step`], its item and its position only, not on the lengths of the batch.
///
/// ```
/// use linformer::ndarray::array;
/// use linformer::training::{Step, TokenMasking};
///
/// // Bytes, 256 for the mask and 257 for padding.
/// let masking = TokenMasking::new(258, 256, &[257])?;
/// let tokens = array![[104, 101, 108, 108, 111, 257], [119, 111, 114, 108, 100, 33]];
/// let masked = masking.corrupt(&tokens, None, Step::new(0, 0))?;
/// assert_eq!(masked.targets.len(), masked.positions.as_ref().unwrap().iter().map(Vec::len).sum::<usize>());
/// // A batch to train on: model.loss_and_gradients(&masked, &CrossEntropy::new(), &pass)?
/// # Ok::<(), linformer::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct TokenMasking {
    mask_token: usize,
    /// Whether each token of the vocabulary is special.
    special: Vec<bool>,
    /// All others.
    ordinary: Vec<usize>,
    chosen: f64,
    masked: f64,
    random: f64,
}

impl TokenMasking {
    /// Hides tokens behind `mask_token`, which is special like those of `special`.
    ///
    /// # Errors
    /// Returns an error if the mask token or a special token is outside the vocabulary.
    pub fn new(vocab_size: usize, mask_token: usize, special: &[usize]) -> Result<Self> {
        checked_len("TokenMasking::new", &[vocab_size], size_of::<usize>())?;
        let mut is_special = vec![false; vocab_size];
        for (option, &token) in std::iter::once(("mask_token", &mask_token)).chain(special.iter().map(|token| ("special", token))) {
            let Some(is_special) = is_special.get_mut(token) else {
                return Err(Error::config(
                    option,
                    token,
                    format!("it is outside the vocabulary of {vocab_size}"),
                ));
            };
            *is_special = true;
        }
        Ok(Self {
            mask_token,
            ordinary: (0..vocab_size).filter(|&token| !is_special[token]).collect(),
            special: is_special,
            chosen: 0.15,
            masked: 0.8,
            random: 0.1,
        })
    }

    /// Chooses a share `chosen` of the tokens, of which a share `masked` becomes the mask token, a share `random` a random one, and the
    /// others stay.
    ///
    /// # Errors
    /// Returns an error if a share is not from 0 to 1, or if `masked` and `random` are more than 1 together.
    pub fn with_shares(mut self, chosen: f64, masked: f64, random: f64) -> Result<Self> {
        for (option, share) in [("chosen", chosen), ("masked", masked), ("random", random)] {
            if !(0.0..=1.0).contains(&share) {
                return Err(Error::config(option, share, "it must be from 0 to 1"));
            }
        }
        if masked + random > 1.0 + f64::EPSILON {
            return Err(Error::config(
                "random",
                random,
                format!("with masked = {masked} it makes more than 1"),
            ));
        }
        (self.chosen, self.masked, self.random) = (chosen, masked, random);
        Ok(self)
    }

    /// Returns the batch to train on in this `step`: `tokens` (batch, n) with some of them hidden, the positions of these, one ascending list
    /// for each item, and the tokens that were there as targets. Nothing is hidden where `mask` has padding.
    ///
    /// # Errors
    /// Returns an error if a token is outside the vocabulary, or if the mask has another shape.
    pub fn corrupt(&self, tokens: &ArrayRef2<usize>, mask: Option<&PaddingMask>, step: Step) -> Result<TokenBatch> {
        let (batch, length) = tokens.dim();
        PaddingMask::check(mask, "TokenMasking::corrupt", batch, length)?;
        self.check(tokens)?;
        let mut corrupted = tokens.to_owned();
        let mut positions = vec![Vec::new(); batch];
        let mut targets = Vec::new();
        for (item, mut row) in corrupted.outer_iter_mut().enumerate() {
            let mut draws = step.item(item);
            for (position, token) in row.iter_mut().enumerate() {
                // Two draws for every position, chosen or not, so that one does not depend on those before it.
                let (choice, replacement) = (draws.next(), draws.next());
                let real = mask.is_none_or(|mask| mask.is_real(item, position));
                if real && !self.special[*token] && share(choice >> 32) < self.chosen {
                    positions[item].push(position);
                    targets.push(Some(*token));
                    *token = self.corrupted(*token, share(choice & u64::from(u32::MAX)), replacement);
                }
            }
        }
        Ok(TokenBatch::new(corrupted, targets).at(positions).with_mask(mask))
    }

    /// The replacement of a chosen token.
    fn corrupted(&self, token: usize, action: f64, replacement: u64) -> usize {
        if action < self.masked {
            self.mask_token
        } else if action < self.masked + self.random {
            // The chosen token is an ordinary one, so there is one.
            self.ordinary[below(self.ordinary.len(), replacement)]
        } else {
            token
        }
    }

    fn check(&self, tokens: &ArrayRef2<usize>) -> Result<()> {
        let vocab_size = self.special.len();
        match tokens.indexed_iter().find(|&(_, &token)| token >= vocab_size) {
            Some(((item, position), &token)) => Err(Error::Token {
                token,
                item,
                position,
                vocab_size,
            }),
            None => Ok(()),
        }
    }
}

/// 32 bits as a number in [0, 1).
fn share(bits: u64) -> f64 {
    bits as f64 / (1_u64 << 32) as f64
}

/// A number below `count`, equally often each but for one in 2^64/count.
#[allow(clippy::cast_possible_truncation)] // less than `count`
pub(super) fn below(count: usize, draw: u64) -> usize {
    ((u128::from(draw) * count as u128) >> 64) as usize
}
