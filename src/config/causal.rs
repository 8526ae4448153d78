//! Causal attention to a window and to summaries of complete blocks.

use super::{AttentionConfig, ProjectionConfig, ProjectionKind, Sharing, at_least_one, setters};
use crate::error::{Error, Result, checked_len};
use crate::initialization::{Initialization, is_standard_deviation};

/// The blocks that share E and F.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub enum BlockWeights {
    /// All of them: E and F are (rows, block), and sequences of any length are possible. The default.
    #[default]
    Shared,
    /// Each block index has its own, up to `seq_len`: E and F are (rows, blocks·block), with one column for each position.
    PerBlock,
}

/// How a row's attention to its window and to the summaries become one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub enum SummarySoftmax {
    /// One softmax goes over both. The default.
    #[default]
    Joint,
    /// Each has its own softmax, and the results are added, as in rifath95's Causal-Linformer.
    Summed,
}

/// Blockwise causal attention: exact over a window, and to r summary rows of each block that is complete by then.
///
/// A row at position t sees the last `window` positions up to its own, and the summaries of every block whose last position is at most t: the
/// last row of a block sees the summary of its own block, the others only those of earlier ones. With a
/// block of fixed length the summaries would grow with the sequence, and the cost with its square. So the default block grows with `seq_len`:
/// it is ⌈√(`seq_len`·r)⌉ long, and so is the window, so that there are about as many summary rows as keys of the window at the end of
/// the sequence, and fewer before. The price is that the number of rows that a query sees still grows, as the square root:
///
/// | `seq_len` | block = window | rows seen, r = 4 | by exact attention |
/// |---:|---:|---:|---:|
/// | 1,024 | 64 | 128 | 1,024 |
/// | 16,384 | 256 | 512 | 16,384 |
/// | 65,536 | 512 | 1,024 | 65,536 |
/// | 1,048,576 | 2,048 | 4,096 | 1,048,576 |
///
/// ```
/// use linformer::CausalConfig;
///
/// let config = CausalConfig::new(64, 4, 65_536, 4);
/// assert_eq!((config.effective_block(), config.effective_window(), config.visible_rows()), (512, 512, 1024));
/// assert_eq!(config.with_block(256).effective_window(), 256);
/// ```
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(deny_unknown_fields))]
#[non_exhaustive]
pub struct CausalConfig {
    /// The head and weight options.
    pub attention: AttentionConfig,
    /// The longest sequence that the layer is made for. Longer ones are possible unless each block has its own weights.
    pub seq_len: usize,
    /// r, the summary rows of a block.
    pub rows: usize,
    /// The positions of a block; `None` means ⌈√(`seq_len`·`rows`)⌉, or `seq_len` where that is less.
    pub block: Option<usize>,
    /// How many positions a row sees exactly, its own included; `None` means a block.
    pub window: Option<usize>,
    /// The heads and layers that share E and F.
    pub sharing: Sharing,
    /// The blocks that share E and F.
    pub block_weights: BlockWeights,
    /// How window and summaries become one.
    pub softmax: SummarySoftmax,
    /// How E and F start, each block's by itself.
    pub initialization: Initialization,
}

impl CausalConfig {
    /// Creates a configuration of `heads` heads over `dim` features for sequences of up to `seq_len`, each block of which is
    /// summarized by `rows` rows.
    pub fn new(dim: usize, heads: usize, seq_len: usize, rows: usize) -> Self {
        Self {
            attention: AttentionConfig::new(dim, heads),
            seq_len,
            rows,
            block: None,
            window: None,
            sharing: Sharing::default(),
            block_weights: BlockWeights::default(),
            softmax: SummarySoftmax::default(),
            initialization: Initialization::default(),
        }
    }

    setters! {
        /// Sets [`CausalConfig::attention`].
        with_attention => attention: AttentionConfig,
        /// Sets [`AttentionConfig::head_dim`].
        with_head_dim => attention.head_dim: Option<usize>,
        /// Sets [`AttentionConfig::kv_heads`].
        with_kv_heads => attention.kv_heads: usize,
        /// Sets [`AttentionConfig::tie_key_value`].
        with_tied_key_value => attention.tie_key_value: bool,
        /// Sets [`AttentionConfig::query_bias`].
        with_query_bias => attention.query_bias: bool,
        /// Sets [`AttentionConfig::output_bias`].
        with_output_bias => attention.output_bias: bool,
        /// Sets [`AttentionConfig::output_rank`].
        with_output_rank => attention.output_rank: Option<usize>,
        /// Sets [`CausalConfig::block`].
        with_block => block: Option<usize>,
        /// Sets [`CausalConfig::window`].
        with_window => window: Option<usize>,
        /// Sets [`CausalConfig::sharing`].
        with_sharing => sharing: Sharing,
        /// Sets [`CausalConfig::block_weights`].
        with_block_weights => block_weights: BlockWeights,
        /// Sets [`CausalConfig::softmax`].
        with_softmax => softmax: SummarySoftmax,
        /// Sets [`CausalConfig::initialization`].
        with_initialization => initialization: Initialization,
    }

    /// Sets [`AttentionConfig::key_bias`] and [`AttentionConfig::value_bias`].
    #[must_use]
    pub fn with_key_value_bias(mut self, key: bool, value: bool) -> Self {
        let attention = &mut self.attention;
        (attention.key_bias, attention.value_bias) = (key, value);
        self
    }

    /// Returns the positions of a block.
    pub fn effective_block(&self) -> usize {
        self.block.unwrap_or_else(|| {
            let product = self.seq_len.saturating_mul(self.rows);
            let root = product.isqrt();
            let up = root + usize::from(root * root < product);
            up.min(self.seq_len).max(1)
        })
    }

    /// Returns how many positions a row sees exactly.
    pub fn effective_window(&self) -> usize {
        self.window.unwrap_or_else(|| self.effective_block())
    }

    /// Returns the blocks of a full sequence.
    pub fn blocks(&self) -> usize {
        self.seq_len / self.effective_block().max(1)
    }

    /// Returns the most keys and summary rows that a row of a full sequence sees.
    pub fn visible_rows(&self) -> usize {
        let window = self.effective_window().min(self.seq_len);
        window.saturating_add(self.blocks().saturating_mul(self.rows))
    }

    /// Returns the longest sequence that is possible, if there is one.
    pub fn longest(&self) -> Option<usize> {
        (self.block_weights == BlockWeights::PerBlock).then_some(self.seq_len)
    }

    /// Returns the heads of the summaries: `heads` where every head has its own E and F, `kv_heads` otherwise.
    pub fn summary_heads(&self) -> usize {
        self.projection().matrices(self.attention.heads).max(self.attention.kv_heads)
    }

    /// The sharing of E and F as a projection's.
    pub(crate) fn projection(&self) -> ProjectionConfig {
        ProjectionConfig::new(ProjectionKind::Learned).with_sharing(Some(self.sharing))
    }

    /// How many blocks have an E and F of their own.
    pub(crate) fn own_blocks(&self) -> usize {
        match self.block_weights {
            BlockWeights::Shared => 1,
            BlockWeights::PerBlock => self.blocks(),
        }
    }

    /// Checks that this describes a layer.
    ///
    /// # Errors
    /// Returns an error that names the first size that is 0, does not divide or overflows, or the first option without effect.
    pub fn check(&self) -> Result<()> {
        self.attention.check()?;
        for (option, value) in [
            ("seq_len", self.seq_len),
            ("rows", self.rows),
            ("block", self.effective_block()),
            ("window", self.effective_window()),
        ] {
            at_least_one(option, value)?;
        }
        if self.attention.causal {
            return Err(Error::config(
                "causal",
                true,
                "this attention always is; leave the option to exact attention",
            ));
        }
        if self.attention.masked_keys_stay {
            return Err(Error::config("masked_keys_stay", true, "only exact attention takes it"));
        }
        if self.own_blocks() == 0 {
            return Err(Error::config(
                "block",
                self.effective_block(),
                format!("seq_len = {} holds no whole block that could have weights of its own", self.seq_len),
            ));
        }
        if let Initialization::Normal { standard_deviation } = self.initialization
            && !is_standard_deviation(standard_deviation)
        {
            return Err(Error::config(
                "standard_deviation",
                standard_deviation,
                "it must be finite and not negative",
            ));
        }
        let matrices = self.projection().matrices(self.attention.heads);
        checked_len("CausalConfig", &[matrices, self.own_blocks(), self.rows, self.effective_block()], 8).map(|_| ())
    }
}
