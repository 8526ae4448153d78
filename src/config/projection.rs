//! How keys and values are compressed along the sequence.

use super::{at_least_one, setters};
use crate::error::{Error, Result};
use crate::initialization::{Initialization, is_standard_deviation};

/// The heads and layers that share E and F (paper, section 4).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub enum Sharing {
    /// Every head has its own E and its own F.
    None,
    /// One E and one F a layer. The default.
    #[default]
    Headwise,
    /// One matrix a layer, E = F.
    KeyValue,
    /// One matrix for all layers, heads, keys and values. It belongs to the encoder.
    Layerwise,
}

/// The weights of one window of a strided convolution whose kernel is as long as its stride.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub enum ConvolutionKernel {
    /// One weight for each position of the window, the same for all channels.
    Scalar,
    /// One weight for each position and channel of a head.
    Depthwise,
    /// One (`head_dim`, `head_dim`) matrix for each position: PyTorch's `Conv1d`, as in tatp22's implementation.
    ChannelMixing,
}

/// The treatment of the positions after the last whole window.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub enum ConvolutionTail {
    /// They are left out, as PyTorch's `Conv1d` does. The default.
    #[default]
    Dropped,
    /// They make one more window, as if zeros followed.
    ZeroPadded,
}

/// A strided convolution along the sequence; its stride is ⌊`seq_len` / `k`⌋.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(deny_unknown_fields))]
#[non_exhaustive]
pub struct Convolution {
    /// The weights of a window.
    pub kernel: ConvolutionKernel,
    /// The treatment of an incomplete window.
    pub tail: ConvolutionTail,
    /// Whether a shorter sequence is attended as if it were `seq_len` long, with nothing at the positions that it does not reach (windows
    /// there hold the biases alone, as in tatp22's implementation under a mask). Otherwise it has fewer slots.
    pub all_windows: bool,
}

impl Convolution {
    /// Creates a convolution that drops the tail and has as many slots as the sequence has windows.
    pub fn new(kernel: ConvolutionKernel) -> Self {
        Self {
            kernel,
            tail: ConvolutionTail::Dropped,
            all_windows: false,
        }
    }

    setters! {
        /// Sets [`Convolution::tail`].
        with_tail => tail: ConvolutionTail,
        /// Sets [`Convolution::all_windows`].
        with_all_windows => all_windows: bool,
    }

    /// The length whose windows count for an item whose real positions end at `length`.
    pub(crate) fn reach(self, length: usize, seq_len: usize) -> usize {
        if self.all_windows { length.max(seq_len) } else { length }
    }

    /// The number of windows of a sequence of `length` positions at this `stride`.
    pub(crate) fn windows(self, length: usize, stride: usize) -> usize {
        match self.tail {
            ConvolutionTail::Dropped => length / stride,
            ConvolutionTail::ZeroPadded => length.div_ceil(stride),
        }
    }
}

/// The kind of projection of n rows to k.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(deny_unknown_fields))]
#[non_exhaustive]
pub enum ProjectionKind {
    /// A trained (k, n) matrix: the paper's E and F. The default.
    #[default]
    Learned,
    /// A (k, n) matrix drawn once and kept: a buffer, saved with the model and never trained.
    Random,
    /// The mean of each of k windows of an item's own length. Any length.
    MeanPooling,
    /// The maximum of each of k windows of an item's own length, feature by feature, after the key and value weights. Any length.
    MaxPooling,
    /// A strided convolution. Any length; the number of slots grows with it.
    Convolution(Convolution),
    /// The softmax of each segment at one trained query, with the weight in attention that the segment has at this query. Any length.
    ///
    /// The n positions of an item are cut into segments of c positions, c the smallest power of two with ⌈n/c⌉ ≤ k; n is one past the item's last
    /// real position. Every query head has a trained vector u (`pooling_query`, which starts at zeros), and its segments have
    ///
    /// | | |
    /// |---|---|
    /// | aⱼ = ⟨u, kⱼ⟩/√`head_dim` | the importance of position j |
    /// | K̄ = Σ pⱼ·kⱼ, V̄ = Σ pⱼ·vⱼ | p = softmax(a) over the segment's real positions |
    /// | log Σ exp(aⱼ) − ⟨u, K̄⟩/√`head_dim` | the log-mass, which every query adds to its logit ⟨q, K̄⟩/√`head_dim` |
    ///
    /// So a query equal to u gets exact attention, and every other one weighs a segment by the tangent at u of the convex log Σ exp(⟨q, kⱼ⟩/√`head_dim`):
    /// never more than exact attention does. With k ≥ n it is exact attention. With u = 0 the rows are means of c positions, of log-mass log c.
    AttentionPooling,
}

/// How keys and values are compressed along the sequence; [`LinformerConfig`](crate::LinformerConfig) has the shorter ways to say it.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(deny_unknown_fields))]
#[non_exhaustive]
pub struct ProjectionConfig {
    /// The kind of projection of n rows to k.
    pub kind: ProjectionKind,
    /// The heads and layers that share it; `None` means [`Sharing::Headwise`]. Pooling takes no mode: it has no weights to share, or one query for each
    /// head.
    pub sharing: Option<Sharing>,
    /// Whether a trained number is added to each slot (learned), or to each channel (convolution), after the key and value weights.
    pub bias: bool,
    /// How a matrix starts. `None`: [`Initialization::MeanPooling`] for a learned one, a standard deviation of 1/√k for a random one
    /// (paper, theorem 1). Convolutions start as the mean of the window (as PyTorch's `Conv1d` where channels mix), the queries of attention pooling
    /// at zeros, and both take none.
    pub initialization: Option<Initialization>,
}

impl ProjectionConfig {
    /// Creates a projection of this kind with its defaults.
    pub fn new(kind: ProjectionKind) -> Self {
        Self { kind, ..Self::default() }
    }

    setters! {
        /// Sets [`ProjectionConfig::sharing`].
        with_sharing => sharing: Option<Sharing>,
        /// Sets [`ProjectionConfig::bias`].
        with_bias => bias: bool,
        /// Sets [`ProjectionConfig::initialization`].
        with_initialization => initialization: Option<Initialization>,
    }

    /// Returns which heads and layers share the projection, with the default filled in. Pooling is alike for keys and values, and but for attention
    /// pooling for all heads.
    pub fn effective_sharing(&self) -> Sharing {
        match self.kind {
            ProjectionKind::MeanPooling | ProjectionKind::MaxPooling | ProjectionKind::AttentionPooling => Sharing::KeyValue,
            _ => self.sharing.unwrap_or_default(),
        }
    }

    /// Whether keys and values go through one and the same matrix.
    pub(crate) fn ties_key_value(&self) -> bool {
        matches!(self.effective_sharing(), Sharing::KeyValue | Sharing::Layerwise)
    }

    /// How many different matrices, or pooling queries, the heads of a layer use.
    pub(crate) fn matrices(&self, heads: usize) -> usize {
        if self.pools_by_attention() || self.effective_sharing() == Sharing::None {
            heads
        } else {
            1
        }
    }

    /// Whether summing over the sequence and applying the key and value weights commute.
    pub(crate) fn commutes(&self) -> bool {
        match self.kind {
            ProjectionKind::MaxPooling | ProjectionKind::AttentionPooling => false,
            ProjectionKind::Convolution(convolution) => convolution.kernel == ConvolutionKernel::Scalar,
            _ => true,
        }
    }

    /// Whether the kind pools over windows of an item's own length, and so has no weights.
    pub(crate) fn pools(&self) -> bool {
        matches!(self.kind, ProjectionKind::MeanPooling | ProjectionKind::MaxPooling)
    }

    /// Whether it is attention pooling.
    pub(crate) fn pools_by_attention(&self) -> bool {
        self.kind == ProjectionKind::AttentionPooling
    }

    /// Whether every length is possible, not only those up to `seq_len`.
    pub(crate) fn any_length(&self) -> bool {
        !matches!(self.kind, ProjectionKind::Learned | ProjectionKind::Random)
    }

    /// The number of slots of a full sequence of `seq_len` positions, given the configured `k`.
    pub(crate) fn slots(&self, seq_len: usize, k: usize) -> usize {
        match self.kind {
            ProjectionKind::Convolution(convolution) => convolution.windows(seq_len, (seq_len / k.max(1)).max(1)),
            ProjectionKind::MeanPooling | ProjectionKind::MaxPooling => k.min(seq_len),
            ProjectionKind::Learned | ProjectionKind::Random => k,
            ProjectionKind::AttentionPooling => segments(seq_len, k),
        }
    }

    /// An error where pooling of any kind has an option that it does not take.
    fn check_pooling(&self) -> Result<()> {
        let (sharing, bias) = if self.pools() {
            (
                "pooling has no weights to share; leave the sharing out",
                "pooling has no weights and takes no bias",
            )
        } else if self.pools_by_attention() {
            (
                "every head of attention pooling has a query of its own; leave the sharing out",
                "the slots of attention pooling are means of keys and of values, and take no bias",
            )
        } else {
            return Ok(());
        };
        match self.sharing {
            Some(own) => Err(Error::config("sharing", format!("{own:?}"), sharing)),
            None if self.bias => Err(Error::config("projection bias", true, bias)),
            None => Ok(()),
        }
    }

    pub(crate) fn check(&self, seq_len: usize, k: usize) -> Result<()> {
        at_least_one("seq_len", seq_len)?;
        at_least_one("k", k)?;
        let refused = |option, value: String, reason: &str| Err(Error::config(option, value, reason));
        self.check_pooling()?;
        if let Some(initialization) = self.initialization {
            match (self.kind, initialization) {
                (ProjectionKind::Random, Initialization::MeanPooling) => {
                    return refused("initialization", "MeanPooling".into(), "it draws nothing; use the kind MeanPooling");
                }
                (ProjectionKind::Learned | ProjectionKind::Random, _) => {}
                _ => {
                    return refused(
                        "initialization",
                        format!("{initialization:?}"),
                        "only learned and random matrices take one",
                    );
                }
            }
            if let Initialization::Normal { standard_deviation } = initialization
                && !is_standard_deviation(standard_deviation)
            {
                return refused(
                    "standard_deviation",
                    standard_deviation.to_string(),
                    "it must be finite and not negative",
                );
            }
        }
        match self.kind {
            ProjectionKind::Random if self.bias => refused("projection bias", "true".into(), "a fixed random matrix takes no trained bias"),
            ProjectionKind::Convolution(_) if k > seq_len => refused(
                "k",
                k.to_string(),
                "a convolution's stride is ⌊seq_len / k⌋, which must be at least 1: use k ≤ seq_len",
            ),
            _ => Ok(()),
        }
    }
}

/// log₂ of the positions in a segment of attention pooling: as few as make no more than `k` segments of `length` positions.
pub(crate) fn segment_level(length: usize, k: usize) -> u32 {
    let least = length.div_ceil(k.max(1)).max(1);
    least.checked_next_power_of_two().map_or(usize::BITS - 1, usize::ilog2)
}

/// The segments that attention pooling cuts `length` positions into.
pub(crate) fn segments(length: usize, k: usize) -> usize {
    length.div_ceil(1 << segment_level(length, k))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segments_are_the_shortest_powers_of_two() {
        for k in 1..20 {
            for length in 0..200_usize {
                let c = 1 << segment_level(length, k);
                assert!(segments(length, k) <= k && segments(length, k) == length.div_ceil(c));
                assert!(c == 1 || length.div_ceil(c / 2) > k, "{length} positions, {k} slots");
            }
        }
        for k in [1, 2, usize::MAX] {
            assert!(segments(usize::MAX, k) <= k.max(2));
        }
    }
}
