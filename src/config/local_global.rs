//! Attention that is exact near by and in summary far away.

use super::{AttentionConfig, at_least_one, setters};
use crate::error::{Error, Result, checked_len};

/// The query at which far positions are summarized.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub enum PoolingQuery {
    /// One trained vector a head, the same for all texts, which starts at 0. A summary then depends on its own positions only. The default.
    #[default]
    Fixed,
    /// The mean query of each item's own real positions, plus a trained vector a head, which starts at 0.
    MeanOfItem,
}

/// Attention that joins an exact window with summaries of everything outside it, in one softmax: O(n).
///
/// A sequence is cut into blocks. A row sees all keys of its own block and of both neighbors, and one slot for each segment outside them.
/// A segment has c positions, c the smallest power of two with which the blocks hold at most [`slots`](Self::slots) of them. With the window, up to two
/// blocks give the result of exact attention; so does, without a shift, one position a segment.
/// [`LocalGlobalAttention`](crate::LocalGlobalAttention) has the formulas.
///
/// # Causal
/// With [`AttentionConfig::causal`] a row of block t sees the keys of block t − 1 and those of its own block up to itself, and slots of the blocks
/// before these, which are complete. Such blocks enter one by one, as segments of one block. Of each length there are at most
/// [`slots`](Self::slots): when one more comes, the two oldest of that length merge into one of twice the length. So segments never get shorter with
/// their distance, and m blocks make at most slots·(⌊log₂⌈m/slots⌉⌋ + 1) of them, whichever length the sequence will have. With blocks of 32
/// positions the last row of a sequence sees so many keys and slots:
///
/// | positions | 8 slots | 16 slots | 64 slots |
/// |---|---|---|---|
/// | 1,024 | 81 | 87 | 94 |
/// | 65,536 | 123 | 173 | 385 |
/// | 1,048,576 | 151 | 233 | 637 |
///
/// A cache for one more token has as many rows. A [`trained_len`](Self::trained_len), a [`PoolingQuery::MeanOfItem`] and a layer without its window
/// need the whole sequence, and are errors there.
///
/// ```
/// use linformer::LocalGlobalConfig;
///
/// let config = LocalGlobalConfig::new(64, 4);
/// assert_eq!((config.block, config.slots), (32, 64));
/// // A power of two is what lets blocks and segments fit each other.
/// assert!(config.with_block(48).check().is_err());
/// ```
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(deny_unknown_fields))]
#[non_exhaustive]
pub struct LocalGlobalConfig {
    /// The head and weight options.
    pub attention: AttentionConfig,
    /// The positions of a block, a power of two.
    pub block: usize,
    /// The most segments that a sequence is cut into, or, in causal attention, the most of each length; 0 leaves the window alone.
    pub slots: usize,
    /// Whether rows see the window exactly. Without it they see the summaries only: Linformer with weighted pooling.
    pub window: bool,
    /// The query at which segments are summarized.
    pub pooling_query: PoolingQuery,
    /// The number that is added to every slot's logit.
    pub mass_shift: f64,
    /// The length that the weights were trained for, if it matters: a sequence of n real positions above it gets log(`trained_len` / n) added to
    /// every slot's logit, so that what is far keeps the share that it had.
    ///
    /// It helps new models, too. A new one attends to all positions about equally, so that of a long sequence hardly anything is seen of the neighbors that it
    /// must learn from first. With the length of the window, 3 · [`block`](Self::block), window and slots weigh about the same from the first step.
    pub trained_len: Option<usize>,
}

impl LocalGlobalConfig {
    /// Creates a configuration of `heads` heads over `dim` features with blocks of 32 positions and 64 slots.
    pub fn new(dim: usize, heads: usize) -> Self {
        Self::of(&AttentionConfig::new(dim, heads))
    }

    /// Creates a configuration with the head and weight options of `attention`, blocks of 32 positions and 64 slots: the form in which an exact model
    /// with these options can be converted.
    pub fn of(attention: &AttentionConfig) -> Self {
        Self {
            attention: attention.clone(),
            block: 32,
            slots: 64,
            window: true,
            pooling_query: PoolingQuery::default(),
            mass_shift: 0.0,
            trained_len: None,
        }
    }

    setters! {
        /// Sets [`LocalGlobalConfig::attention`].
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
        /// Sets [`AttentionConfig::causal`].
        with_causal => attention.causal: bool,
        /// Sets [`LocalGlobalConfig::block`].
        with_block => block: usize,
        /// Sets [`LocalGlobalConfig::slots`].
        with_slots => slots: usize,
        /// Sets [`LocalGlobalConfig::window`].
        with_window => window: bool,
        /// Sets [`LocalGlobalConfig::pooling_query`].
        with_pooling_query => pooling_query: PoolingQuery,
        /// Sets [`LocalGlobalConfig::mass_shift`].
        with_mass_shift => mass_shift: f64,
        /// Sets [`LocalGlobalConfig::trained_len`].
        with_trained_len => trained_len: Option<usize>,
    }

    /// Sets [`AttentionConfig::key_bias`] and [`AttentionConfig::value_bias`].
    #[must_use]
    pub fn with_key_value_bias(mut self, key: bool, value: bool) -> Self {
        self.attention = self.attention.with_key_value_bias(key, value);
        self
    }

    /// Returns the positions of a segment of a sequence of `length` positions: the smallest power of two with which its blocks hold at most
    /// [`slots`](Self::slots) of them. Causal attention has segments of many lengths, from one block on.
    pub fn segment_len(&self, length: usize) -> usize {
        let covered = length.div_ceil(self.block.max(1)).saturating_mul(self.block);
        let needed = covered.div_ceil(self.slots.max(1)).max(1);
        needed.checked_next_power_of_two().unwrap_or(1 << (usize::BITS - 1))
    }

    /// About how many rows a query of a sequence of `length` positions looks at, at most.
    pub(crate) fn rows_seen(&self, length: usize) -> usize {
        let blocks = if self.attention.causal { 2 } else { 3 };
        let far = length.div_ceil(self.block.max(1)).saturating_sub(2);
        let slots = match self.slots {
            slots if !self.attention.causal || slots == 0 => slots,
            slots if far <= slots => far,
            slots => slots.saturating_mul(far.div_ceil(slots).ilog2() as usize + 1),
        };
        self.block.saturating_mul(blocks).saturating_add(slots)
    }

    /// What is added to every slot's logit of an item with `count` real positions.
    #[allow(clippy::cast_precision_loss)] // a length
    pub(crate) fn shift_of(&self, count: usize) -> f64 {
        let longer = self.trained_len.filter(|&trained| count > trained);
        self.mass_shift + longer.map_or(0.0, |trained| libm::log(trained as f64 / count as f64))
    }

    /// Whether segments are summarized at a vector u that is the same for all texts.
    pub(crate) fn has_fixed_query(&self) -> bool {
        self.slots > 0 && self.pooling_query == PoolingQuery::Fixed
    }

    /// An error unless this describes a layer with the weights of an exact one.
    pub(crate) fn check_weights_of(&self, exact: &AttentionConfig) -> Result<()> {
        self.check()?;
        if self.attention == *exact {
            return Ok(());
        }
        Err(Error::config(
            "attention",
            format!("{:?}", self.attention),
            format!("the weights that are taken over have other options, {exact:?}; start from LocalGlobalConfig::of them"),
        ))
    }

    /// Checks that this describes a layer.
    ///
    /// # Errors
    /// Returns an error that names the first size that is 0, does not divide or overflows, or the first option without effect.
    pub fn check(&self) -> Result<()> {
        self.attention.check()?;
        at_least_one("block", self.block)?;
        let refused = |option, value: String, reason: &str| Err(Error::config(option, value, reason));
        if !self.block.is_power_of_two() {
            return refused(
                "block",
                self.block.to_string(),
                "it must be a power of two, so that blocks and segments fit each other",
            );
        }
        if self.attention.masked_keys_stay {
            return refused("masked_keys_stay", "true".into(), "only exact attention takes it");
        }
        if self.mass_shift.is_nan() || self.mass_shift.abs() > f64::from(f32::MAX) {
            return refused("mass_shift", self.mass_shift.to_string(), "it must be a finite number of f32");
        }
        if let Some(trained_len) = self.trained_len {
            at_least_one("trained_len", trained_len)?;
        }
        if self.slots == 0 {
            let unused = [
                ("pooling_query", self.pooling_query != PoolingQuery::Fixed),
                ("mass_shift", self.mass_shift != 0.0),
                ("trained_len", self.trained_len.is_some()),
                ("window", !self.window),
            ];
            if let Some((option, _)) = unused.iter().find(|(_, is_set)| *is_set) {
                return refused(
                    option,
                    "set".into(),
                    "without slots nothing is summarized, so that it has no effect; set slots, or leave it out",
                );
            }
        }
        if self.attention.causal {
            self.check_causal()?;
        }
        checked_len("LocalGlobalConfig", &[self.block, 4, self.attention.query_dim()], 8).map(|_| ())
    }

    /// The options that need the whole sequence, or all of it at once.
    fn check_causal(&self) -> Result<()> {
        let refused = |option, value: String, reason: &str| Err(Error::config(option, value, reason));
        if !self.window {
            return refused(
                "window",
                "false".into(),
                "a causal row sees summaries of complete segments only, so that it needs its window",
            );
        }
        if self.pooling_query != PoolingQuery::Fixed {
            return refused(
                "pooling_query",
                format!("{:?}", self.pooling_query),
                "the mean query of an item depends on what comes later",
            );
        }
        if self.trained_len.is_some() {
            return refused(
                "trained_len",
                "set".into(),
                "the length of a growing sequence is not known; set mass_shift",
            );
        }
        Ok(())
    }
}
