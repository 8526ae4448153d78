//! Attention: compress, then attend.
//!
//! | | |
//! |---|---|
//! | K̄ = E·X·W_Kᵀ, V̄ = F·X·W_Vᵀ | [`LinformerAttention::compress`]: n keys and values become k |
//! | softmax(Q·K̄ᵀ/√`head_dim`)·V̄·W_Oᵀ, Q = X·W_Qᵀ | [`LinformerAttention::attend`]: row by row |
//!
//! Multiplications a token, for width d (all heads together):
//!
//! | | |
//! |---|---|
//! | exact | 4d² + 2nd |
//! | Linformer, weights first | 4d² + 4kd |
//! | Linformer, compression first | 2d² + 4kd, and 2kd² once a sequence |
//! | local-global | 4d² + 2(3·block + slots)d |
//! | blockwise causal | 4d² + 2(window + n/block·r)d + 2rd |

mod cache;
mod cached_rows;
mod causal;
mod compressed;
mod compressor;
mod decoding;
mod exact;
mod folded;
mod gradients;
mod heads;
mod key_values;
mod linformer;
mod local_global;
mod mask;
mod partial;
mod pooling;
mod projection;
mod sequence_shard;
mod weights;
mod workspace;

pub use cache::AttentionCache;
pub use causal::BlockwiseCausalAttention;
pub use compressed::Compressed;
pub use compressor::{Compressor, Order, SequenceLengths};
pub use exact::ExactAttention;
pub use linformer::LinformerAttention;
pub use local_global::LocalGlobalAttention;
pub use mask::PaddingMask;
pub use projection::{Projection, Projections};
pub use workspace::Workspace;

pub(crate) use causal::{KeyShape, KeyState, Summarized, draw_projections, step};
pub(crate) use decoding::{LayerState, PastContext, StateShape};
pub(crate) use local_global::{ItemContext, MeanInput};
pub(crate) use sequence_shard::{LayerContext, SequenceShard};
pub(crate) use weights::tile;
pub(crate) use workspace::{ContextSpace, TileSpace};
