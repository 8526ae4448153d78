//! Options of embedding.

use crate::error::{Error, Result};

/// What is done with a text that has more tokens than a model reads at once. Nothing is ever cut unasked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum LongText {
    /// An error that names the text, its tokens and the limit, before anything is computed. The default.
    #[default]
    Refuse,
    /// The first tokens that fit, with special tokens around them, as Python packages do it without a word.
    Cut,
    /// Chunks of as many tokens as fit, each with special tokens around it. The text's vector is the mean of those of its chunks, before
    /// modules that follow pooling; a chunk weighs as many as it has tokens that are not special.
    Chunks {
        /// How many tokens a chunk has in common with the one before it.
        overlap: usize,
    },
    /// The whole text at once, at any length: only for models whose attention is local-global and whose positions have no end.
    OnePass,
}

/// Options of [`TextEncoder::embed_with`](crate::TextEncoder::embed_with).
///
/// ```
/// use linformer_text::{EmbedOptions, LongText};
///
/// // Chunks of 256 tokens, 32 of which two neighbors have in common.
/// let options = EmbedOptions::new().with_long(LongText::Chunks { overlap: 32 }).with_max_len(Some(256));
/// assert_eq!(options.batch_tokens, EmbedOptions::new().batch_tokens);
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct EmbedOptions {
    /// What is done with texts that are too long.
    pub long: LongText,
    /// The number of tokens, special ones included, from which a text is too long, where this is to be less than
    /// [`TextEncoder::max_len`](crate::TextEncoder::max_len).
    pub max_len: Option<usize>,
    /// The most tokens that are computed together; a text with more of them is computed by itself. Of pairs of texts, padding counts, too. It decides
    /// memory and speed, not results.
    pub batch_tokens: usize,
}

impl Default for EmbedOptions {
    fn default() -> Self {
        Self::new()
    }
}

impl EmbedOptions {
    /// Creates options that refuse texts which are too long, with the model's own limit and batches of 4,096 tokens.
    pub fn new() -> Self {
        Self {
            long: LongText::Refuse,
            max_len: None,
            batch_tokens: 4096,
        }
    }

    /// Sets [`EmbedOptions::long`].
    #[must_use]
    pub fn with_long(mut self, long: LongText) -> Self {
        self.long = long;
        self
    }

    /// Sets [`EmbedOptions::max_len`].
    #[must_use]
    pub fn with_max_len(mut self, max_len: Option<usize>) -> Self {
        self.max_len = max_len;
        self
    }

    /// Sets [`EmbedOptions::batch_tokens`].
    #[must_use]
    pub fn with_batch_tokens(mut self, batch_tokens: usize) -> Self {
        self.batch_tokens = batch_tokens;
        self
    }

    /// Returns the most tokens of a text that are read at once, `None` for any number, given what the model reads, how many special tokens a
    /// text gets, and whether the model reads texts of any length.
    ///
    /// # Errors
    /// Returns an error if an option cannot be, or has no effect.
    pub(crate) fn limit(&self, model: Option<usize>, special: usize, any_length: bool) -> Result<Option<usize>> {
        const OPERATION: &str = "EmbedOptions";
        if self.batch_tokens == 0 {
            return Err(Error::argument(
                OPERATION,
                "batch_tokens is 0; at least one token is computed at a time",
            ));
        }
        if let (Some(asked), Some(model)) = (self.max_len, model)
            && asked > model
            && !any_length
        {
            let reason = format!("max_len is {asked}, but the model reads {model} tokens at once");
            return Err(Error::argument(OPERATION, reason));
        }
        if self.long == LongText::OnePass {
            return self.one_pass(any_length);
        }
        let Some(limit) = self.max_len.or(model) else {
            return match self.long {
                LongText::Refuse => Ok(None),
                other => {
                    let reason =
                        format!("the model reads texts of any length, so that {other:?} has no effect; set max_len, or leave it out");
                    Err(Error::argument(OPERATION, reason))
                }
            };
        };
        let room = limit.saturating_sub(special);
        if room == 0 {
            let reason = format!("max_len is {limit}, but {special} special tokens come with every text; allow more");
            return Err(Error::argument(OPERATION, reason));
        }
        match self.long {
            LongText::Chunks { overlap } if overlap >= room => {
                let reason = format!(
                    "chunks of {room} tokens beside the special ones cannot have {overlap} in common with the one before; use fewer"
                );
                Err(Error::argument(OPERATION, reason))
            }
            _ => Ok(Some(limit)),
        }
    }

    fn one_pass(&self, any_length: bool) -> Result<Option<usize>> {
        const OPERATION: &str = "EmbedOptions";
        if !any_length {
            let reason =
                "LongText::OnePass needs a model in local-global form whose positions have no end; convert this one, or use Chunks";
            return Err(Error::argument(OPERATION, reason));
        }
        if self.max_len.is_some() {
            return Err(Error::argument(
                OPERATION,
                "LongText::OnePass has no limit, so that max_len has no effect; leave it out",
            ));
        }
        Ok(None)
    }
}

/// How far [`TextEncoder::embed_with_progress`](crate::TextEncoder::embed_with_progress) has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Progress {
    /// The tokens that are done, special ones included and padding not.
    pub tokens: usize,
    /// All tokens that are computed.
    pub all_tokens: usize,
}
