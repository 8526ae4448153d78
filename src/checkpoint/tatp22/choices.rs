//! The options that are one of a few words.

use serde::{Deserialize, Serialize};

/// The sharing of E and F: the peer's `parameter_sharing`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum ParameterSharing {
    /// Every head has its own E and its own F.
    None,
    /// One E and one F a layer.
    Headwise,
    /// One matrix a layer, E = F.
    Kv,
    /// One matrix for the whole model, E = F. The default. (For a bare `MHAttention`: the two modules it was given.)
    #[default]
    Layerwise,
}

/// How the sequence is compressed: the peer's `method`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Method {
    /// A trained (k, n) matrix with a bias. The default.
    #[default]
    Learnable,
    /// `Conv1d` over the sequence, mixing a head's channels, of kernel and stride ⌊n/k⌋, with a bias.
    Convolution,
    /// A fixed random (n, k) matrix, which the peer does not save.
    NoParams,
}

/// The peer's recomputation in training to save memory. The numbers are the same.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub enum CheckpointLevel {
    /// Nothing. The default.
    #[default]
    C0,
    /// Each sublayer.
    C1,
    /// Each sublayer and each head.
    C2,
}
