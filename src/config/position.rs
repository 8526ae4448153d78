//! Positions of tokens.

use super::{AttentionKind, at_least_one};
use crate::error::{Error, Result, checked_len};

/// The layout of sinusoidal positions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub enum SinusoidLayout {
    /// All sines, then all cosines.
    Halves,
    /// Sines and cosines interleaved, as in the original Transformer.
    Interleaved,
}

/// The encoding of positions; [`Position`](crate::Position) shows one.
#[derive(Clone, Copy, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(deny_unknown_fields))]
#[non_exhaustive]
pub enum PositionKind {
    /// Nothing.
    None,
    /// A trained vector for each of `max_len` positions.
    Learned {
        /// The longest sequence.
        max_len: usize,
    },
    /// As RoBERTa and fairseq count: only tokens that are not padding take a position, the first one `padding_token` + 1; padding itself
    /// has the vector of row `padding_token`. Padding is what the mask says, where there is one, and every `padding_token` where there is
    /// none.
    LearnedAfterPadding {
        /// The most tokens of a sequence that are not padding.
        max_len: usize,
        /// The token id of padding.
        padding_token: usize,
    },
    /// The trained vectors of [`Learned`](Self::Learned), or with a `padding_token` those of [`LearnedAfterPadding`](Self::LearnedAfterPadding),
    /// which begin anew behind the last: position p has the vector of p mod `max_len`, so that sequences of any length have positions. For models
    /// that read longer texts than they were trained on, as after
    /// [`LanguageModel::with_repeating_positions`](crate::LanguageModel::with_repeating_positions).
    LearnedRepeating {
        /// The number of positions until they repeat.
        max_len: usize,
        /// The token id of padding, where only tokens that are not padding count.
        padding_token: Option<usize>,
    },
    /// sin and cos of position · `base`^(−2i/d) (Vaswani et al., arXiv 1706.03762), of any length.
    Sinusoidal {
        /// 10,000 in most models.
        base: f64,
        /// The order of sines and cosines.
        layout: SinusoidLayout,
        /// Whether the frequencies are saved with the model, as rounded as they are there, rather than remade; PyTorch models
        /// that keep them as a buffer are reproduced only so.
        stored: bool,
    },
}

impl PositionKind {
    /// Returns sinusoidal positions as the original Transformer has them: base 10,000, sines and cosines interleaved, not stored.
    pub fn sinusoidal() -> Self {
        Self::Sinusoidal {
            base: 10_000.0,
            layout: SinusoidLayout::Interleaved,
            stored: false,
        }
    }

    /// What learned positions have in common; `None` for others.
    pub(crate) fn learned(self) -> Option<LearnedPositions> {
        let (max_len, padding_token, repeats) = match self {
            Self::Learned { max_len } => (max_len, None, false),
            Self::LearnedAfterPadding { max_len, padding_token } => (max_len, Some(padding_token), false),
            Self::LearnedRepeating { max_len, padding_token } => (max_len, padding_token, true),
            Self::None | Self::Sinusoidal { .. } => return None,
        };
        Some(LearnedPositions {
            max_len,
            padding_token,
            repeats,
        })
    }

    /// The same learned positions, which repeat.
    ///
    /// # Errors
    /// Returns an error where they are not learned.
    pub(crate) fn repeating(self) -> Result<Self> {
        let Some(learned) = self.learned() else {
            let reason = "only learned positions repeat; these have no last one, so that sequences of any length can be read already";
            return Err(Error::config("position", format!("{self:?}"), reason));
        };
        Ok(Self::LearnedRepeating {
            max_len: learned.max_len,
            padding_token: learned.padding_token,
        })
    }
}

/// Learned positions of any kind.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LearnedPositions {
    pub(crate) max_len: usize,
    /// The token that takes no position, where there is one.
    pub(crate) padding_token: Option<usize>,
    /// Whether they begin anew behind the last.
    pub(crate) repeats: bool,
}

impl LearnedPositions {
    /// The number of vectors: those up to that of padding come first.
    pub(crate) fn rows(self) -> usize {
        let before = self.padding_token.map_or(0, |token| token.saturating_add(1));
        self.max_len.saturating_add(before)
    }

    /// Which of the `max_len` vectors the position counted from 0 has.
    pub(crate) fn index(self, position: usize) -> usize {
        if self.repeats { position % self.max_len } else { position }
    }
}

/// Returns the longest sequence without padding that `depth` blocks with this attention and these positions take, if there is one.
pub(crate) fn longest(position: PositionKind, attention: &AttentionKind, depth: usize) -> Option<usize> {
    let positions = position.learned().filter(|learned| !learned.repeats).map(|learned| learned.max_len);
    let blocks = attention.longest().filter(|_| depth > 0);
    positions.into_iter().chain(blocks).min()
}

/// Learned positions up to the `seq_len` of the attention, or sinusoidal ones where it has none.
pub(crate) fn default_position(attention: &AttentionKind) -> PositionKind {
    match attention {
        AttentionKind::Linformer(config) => PositionKind::Learned { max_len: config.seq_len },
        AttentionKind::Causal(config) => PositionKind::Learned { max_len: config.seq_len },
        AttentionKind::Exact(_) | AttentionKind::LocalGlobal(_) => PositionKind::sinusoidal(),
    }
}

pub(crate) fn check_position(position: PositionKind, width: usize, vocab_size: usize) -> Result<()> {
    if let Some(learned) = position.learned() {
        at_least_one("max_len", learned.max_len)?;
        if let Some(padding_token) = learned.padding_token.filter(|&token| token >= vocab_size) {
            let reason = format!("token ids end at {}", vocab_size - 1);
            return Err(Error::config("padding_token", padding_token, reason));
        }
        return checked_len("PositionKind", &[learned.rows(), width], 8).map(|_| ());
    }
    match position {
        PositionKind::Sinusoidal { base, .. } if base.is_normal() && base > 0.0 => check_frequencies(base, width),
        PositionKind::Sinusoidal { base, .. } => {
            let reason = format!("it must be finite and at least {:e}", f64::MIN_POSITIVE);
            Err(Error::config("base", format!("{base:e}"), reason))
        }
        _ => Ok(()),
    }
}

/// An error where the product of a frequency and a position is not finite.
fn check_frequencies(base: f64, width: usize) -> Result<()> {
    let last = width.div_ceil(2).saturating_sub(1);
    let largest = libm::pow(base, -2.0 * last as f64 / width as f64).max(1.0);
    if (largest * usize::MAX as f64).is_finite() {
        return Ok(());
    }
    let reason = format!("its frequencies reach {largest:e}, which not every position can be multiplied by; use a base nearer to 1");
    Err(Error::config("base", format!("{base:e}"), reason))
}
