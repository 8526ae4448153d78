//! The order of multiplication.

use crate::config::{LinformerConfig, ProjectionKind};

/// The order of multiplication: the compression along the sequence first, or the key and value weights.
///
/// E·(X·Wᵀ) = (E·X)·Wᵀ, so that both give the same numbers, up to rounding. Tests compare the two.
#[doc(hidden)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Order {
    /// (E·X)·Wᵀ: n·k·d + k·d² multiplications.
    CompressFirst,
    /// E·(X·Wᵀ): n·d² + n·k·d multiplications.
    ProjectFirst,
}

impl Order {
    /// Returns the order that takes fewer multiplications for a full sequence. It does not depend on the length of a call, so that streams
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
