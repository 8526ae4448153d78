//! The kinds of attention that a block can have.

use super::{AttentionConfig, CausalConfig, LinformerConfig, LocalGlobalConfig, Sharing};
use crate::error::Result;

/// The attention of the blocks of an encoder or decoder.
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(deny_unknown_fields))]
#[non_exhaustive]
pub enum AttentionKind {
    /// Linformer: O(n·k).
    Linformer(LinformerConfig),
    /// Exact: O(n²). With [`AttentionConfig::causal`] a position sees nothing after itself.
    Exact(AttentionConfig),
    /// Blockwise causal: a window, and summaries of the blocks that are complete.
    Causal(CausalConfig),
    /// Exact near by, in summary far away: O(n). With [`AttentionConfig::causal`] a position sees nothing after itself, in O(n·log n).
    LocalGlobal(LocalGlobalConfig),
}

impl AttentionKind {
    /// Returns the head and weight options.
    pub fn attention(&self) -> &AttentionConfig {
        match self {
            Self::Linformer(config) => &config.attention,
            Self::Exact(config) => config,
            Self::Causal(config) => &config.attention,
            Self::LocalGlobal(config) => &config.attention,
        }
    }

    pub(crate) fn attention_mut(&mut self) -> &mut AttentionConfig {
        match self {
            Self::Linformer(config) => &mut config.attention,
            Self::Exact(config) => config,
            Self::Causal(config) => &mut config.attention,
            Self::LocalGlobal(config) => &mut config.attention,
        }
    }

    /// Returns whether a position sees nothing after itself.
    pub fn is_causal(&self) -> bool {
        match self {
            Self::Linformer(_) => false,
            Self::Exact(config) => config.causal,
            Self::Causal(_) => true,
            Self::LocalGlobal(config) => config.attention.causal,
        }
    }

    /// Returns the longest sequence that is possible, if there is one.
    pub(crate) fn longest(&self) -> Option<usize> {
        match self {
            Self::Linformer(config) => (!config.projection.any_length()).then_some(config.seq_len),
            Self::Exact(_) | Self::LocalGlobal(_) => None,
            Self::Causal(config) => config.longest(),
        }
    }

    /// The mode in which E and F are shared, where there are any and the mode is given.
    pub(crate) fn sharing(&self) -> Option<Sharing> {
        match self {
            Self::Linformer(config) => config.projection.sharing,
            Self::Exact(_) | Self::LocalGlobal(_) => None,
            Self::Causal(config) => Some(config.sharing),
        }
    }

    pub(crate) fn check(&self) -> Result<()> {
        match self {
            Self::Linformer(config) => config.check(),
            Self::Exact(config) => config.check(),
            Self::Causal(config) => config.check(),
            Self::LocalGlobal(config) => config.check(),
        }
    }
}

impl From<CausalConfig> for AttentionKind {
    fn from(config: CausalConfig) -> Self {
        Self::Causal(config)
    }
}

impl From<LinformerConfig> for AttentionKind {
    fn from(config: LinformerConfig) -> Self {
        Self::Linformer(config)
    }
}

impl From<AttentionConfig> for AttentionKind {
    fn from(config: AttentionConfig) -> Self {
        Self::Exact(config)
    }
}

impl From<LocalGlobalConfig> for AttentionKind {
    fn from(config: LocalGlobalConfig) -> Self {
        Self::LocalGlobal(config)
    }
}
