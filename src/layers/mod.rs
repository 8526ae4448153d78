//! Layers with parameters, other than attention.

mod embedding;
mod feed_forward;
mod layer_norm;
mod linear;
mod patches;
mod position;
mod rows;
mod tiles;

pub use embedding::{Embedding, EmbeddingCache};
pub use feed_forward::{FeedForward, FeedForwardCache};
pub use layer_norm::{LayerNorm, LayerNormCache};
pub use linear::{Linear, LinearCache};
pub use patches::{Patches, PatchesCache};
pub use position::{Position, PositionCache};

pub(crate) use feed_forward::FeedForwardScratch;
pub(crate) use linear::{bias_gradient, input_gradient, weight_gradient};
pub(crate) use position::{Padding, Start};
pub(crate) use rows::{add, check_gradient, check_width, contiguous, drop_out, dropped, flat, rows, sequence};
pub(crate) use tiles::{TILE, for_each_tile, map_tiles, row_ranges, tile_rows};
