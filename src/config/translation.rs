//! How an encoder–decoder writes.

use super::{at_least_one, setters};
use crate::error::{Error, Result};

/// How targets are searched for, and when they end.
///
/// A target's score is the sum of its tokens' log-probabilities, divided by ((5 + length)/6)^α (Wu et al., arXiv 1609.08144, equation 14); its
/// length counts the end token, where there is one.
///
/// ```
/// use linformer::TranslationConfig;
///
/// // Targets of up to 20 of 50 tokens, which begin with 0 and end with 1; four beginnings at a time, and no preference for short ones.
/// let config = TranslationConfig::new(0, 1, 20).with_beams(4).with_length_penalty(0.6);
/// config.check(50)?;
///
/// // Options without effect are errors: one beam has nothing to choose from.
/// assert!(config.with_beams(1).check(50).is_err());
/// # Ok::<(), linformer::Error>(())
/// ```
///
/// [`EncoderDecoder`](crate::EncoderDecoder) shows a search.
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(deny_unknown_fields))]
#[non_exhaustive]
pub struct TranslationConfig {
    /// The token before the first of every target.
    pub start_token: usize,
    /// The token that ends a target. It is not part of the result.
    pub end_token: usize,
    /// The most tokens of a target; what has not ended then is taken as it is.
    pub max_new_tokens: usize,
    /// How many beginnings of a target are followed at a time; 1 always takes the likeliest token (the first of equals).
    pub beams: usize,
    /// α: 0 prefers short targets, larger numbers prefer longer ones.
    pub length_penalty: f64,
}

impl TranslationConfig {
    /// Creates a configuration for targets of at most `max_new_tokens` tokens, always the likeliest token.
    pub fn new(start_token: usize, end_token: usize, max_new_tokens: usize) -> Self {
        Self {
            start_token,
            end_token,
            max_new_tokens,
            beams: 1,
            length_penalty: 0.0,
        }
    }

    setters! {
        /// Sets [`TranslationConfig::beams`].
        with_beams => beams: usize,
        /// Sets [`TranslationConfig::length_penalty`].
        with_length_penalty => length_penalty: f64,
    }

    /// Checks that targets can be searched for so, of a vocabulary of `vocab_size` tokens.
    ///
    /// # Errors
    /// Returns an error that names the first option that is out of range or without effect.
    pub fn check(&self, vocab_size: usize) -> Result<()> {
        at_least_one("beams", self.beams)?;
        for (option, token) in [("start_token", self.start_token), ("end_token", self.end_token)] {
            if token >= vocab_size {
                return Err(Error::config(
                    option,
                    token,
                    format!("token ids end at {}", vocab_size.saturating_sub(1)),
                ));
            }
        }
        if !(self.length_penalty >= 0.0 && self.length_penalty.is_finite()) {
            return Err(Error::config(
                "length_penalty",
                self.length_penalty,
                "it must be finite and at least 0",
            ));
        }
        if self.beams == 1 && self.length_penalty != 0.0 {
            let reason = "with one beam there is nothing to choose from; raise beams, or leave it out";
            return Err(Error::config("length_penalty", self.length_penalty, reason));
        }
        Ok(())
    }

    /// Returns the divisor of the log-probability of a target of `length` tokens: a number above 0 and finite, whatever α is.
    pub(crate) fn divisor(&self, length: usize) -> f64 {
        let power = libm::pow((5.0 + length as f64) / 6.0, self.length_penalty);
        power.clamp(f64::MIN_POSITIVE, f64::MAX)
    }
}
