//! The kinds of attention that the examples compare.

use linformer::{AttentionConfig, AttentionKind, LinformerConfig, LocalGlobalConfig};

use super::{AnyError, Options};

/// A kind of attention, by the name that the command line has for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Linformer,
    LocalGlobal,
    Exact,
}

/// The options that a kind needs beside its name.
pub const BLOCK: (&str, &str, &str) = ("block", "32", "positions of a block of local-global attention");
pub const SLOTS: (&str, &str, &str) = ("slots", "64", "segments that it summarizes, at most");
pub const TRAINED_LEN: (&str, &str, &str) = (
    "trained-len",
    "0",
    "length above which all summaries together keep the share of attention that they have at it, as LocalGlobalConfig::trained_len; none if 0",
);

impl Kind {
    pub const ALL: [Self; 3] = [Self::Linformer, Self::LocalGlobal, Self::Exact];

    /// The kind that the option `attention` names.
    pub fn of(options: &Options) -> Result<Self, AnyError> {
        let text = options.text("attention");
        let kind = Self::ALL.into_iter().find(|kind| kind.name() == text);
        kind.ok_or_else(|| format!("--attention is linformer, local-global or exact, not `{text}`").into())
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::Linformer => "linformer",
            Self::LocalGlobal => "local-global",
            Self::Exact => "exact",
        }
    }

    /// The attention of models of `dim` features for sequences of up to `n`; plain Linformer compresses them to `k` rows.
    pub fn config(self, options: &Options, n: usize, k: usize) -> AttentionKind {
        let (dim, heads) = (options.count("dim"), options.count("heads"));
        match self {
            Self::Linformer => LinformerConfig::new(dim, heads, n, k).into(),
            Self::Exact => AttentionConfig::new(dim, heads).into(),
            Self::LocalGlobal => LocalGlobalConfig::new(dim, heads)
                .with_block(options.count("block"))
                .with_slots(options.number("slots"))
                .with_trained_len(Some(options.number("trained-len")).filter(|&length| length > 0))
                .into(),
        }
    }
}
