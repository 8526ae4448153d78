//! What comes first, and how long a sequence will be.

use crate::config::{LinformerConfig, ProjectionKind};

/// What comes first: the compression along the sequence or the key and value weights.
///
/// E·(X·Wᵀ) = (E·X)·Wᵀ: both give the same numbers, up to rounding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Order {
    /// (E·X)·Wᵀ: n·k·d + k·d² multiplications.
    CompressFirst,
    /// E·(X·Wᵀ): n·d² + n·k·d multiplications.
    ProjectFirst,
}

impl Order {
    /// The order that takes fewer multiplications for a full sequence. It does not depend on the length at hand, so that streams
    /// and single calls agree.
    pub fn of(config: &LinformerConfig) -> Self {
        if !config.projection.commutes() {
            return Self::ProjectFirst;
        }
        let [dim, n, slots, matrices, compressed_heads, head_dim, kv_dim] = [
            config.attention.dim,
            config.seq_len,
            config.effective_k(),
            config.projection.matrices(config.attention.heads),
            config.compressed_heads(),
            config.attention.effective_head_dim(),
            config.attention.key_value_dim(),
        ]
        .map(|size| size as u128);
        let taken = match config.projection.kind {
            ProjectionKind::Learned | ProjectionKind::Random => slots,
            _ => 1,
        };
        let tied_weights = config.attention.tie_key_value;
        let tied_projection = config.projection.ties_key_value();
        let pair = |tied: bool| if tied { 1 } else { 2 };
        let compress_first = pair(tied_projection) * matrices * n * taken * dim
            + pair(tied_weights && tied_projection) * slots * dim * compressed_heads * head_dim;
        let project_first =
            pair(tied_weights) * n * dim * kv_dim + pair(tied_weights && tied_projection) * n * taken * compressed_heads * head_dim;
        if compress_first <= project_first {
            Self::CompressFirst
        } else {
            Self::ProjectFirst
        }
    }
}

/// How long the whole sequence will be: pooling must know before the first position comes, since its windows depend on it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Extent {
    /// All items have this length.
    Known(usize),
    /// Each item has a length of its own; what comes after it is padding.
    PerItem(Vec<usize>),
}
