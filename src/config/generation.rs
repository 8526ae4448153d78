//! How a causal language model continues a text.

use super::setters;
use crate::error::{Error, Result};

/// The treatment of a text that is longer than the model's context.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub enum ContextOverflow {
    /// Returns an error. The default.
    #[default]
    Error,
    /// Drops the oldest tokens: of a longer prompt the last tokens that fit are kept, and whenever the context is full it restarts with its
    /// last half, positions counted from 0. This costs a run over half a context every half a context.
    Slide,
}

/// How tokens are chosen, and when to stop.
///
/// The order is: repetition penalty, temperature, `top_k`, `top_p`, then one draw. Every text of a batch draws from its own stream: that of
/// its own seed, where [`seeds`](Self::seeds) has one for each, and the stream with the text's number of the one [`seed`](Self::seed) otherwise.
///
/// ```
/// use linformer::{CausalConfig, EncoderConfig, GenerationConfig, LanguageModel, LanguageModelConfig};
///
/// let model = LanguageModelConfig::new(9, EncoderConfig::new(CausalConfig::new(16, 2, 32, 2), 1));
/// let model = LanguageModel::<f32>::new(&model, 0)?;
/// let config = GenerationConfig::new(5).with_temperature(0.8).with_top_k(3).with_seed(1);
/// let write = || model.generate_one(&[1, 2], &config)?.collect::<Result<Vec<usize>, _>>();
/// assert_eq!(write()?.len(), 5);
/// assert_eq!(write()?, write()?, "one seed, one text");
///
/// // A text with its own seed gets in any batch what it gets alone.
/// let batch = config.clone().with_seed(0).with_seeds(vec![8, 1]);
/// let steps = model.generate(&[vec![3], vec![1, 2]], &batch)?.collect::<Result<Vec<_>, _>>()?;
/// assert_eq!(steps.iter().map(|step| step[1].unwrap()).collect::<Vec<_>>(), write()?);
///
/// // Options without effect are errors: without a temperature nothing is drawn.
/// assert!(GenerationConfig::new(5).with_top_k(3).check().is_err());
/// # Ok::<(), linformer::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(deny_unknown_fields))]
#[non_exhaustive]
pub struct GenerationConfig {
    /// The most tokens that a sequence gets.
    pub max_new_tokens: usize,
    /// The number that scores are divided by before the softmax; 0 always takes the highest score (the first of equals).
    pub temperature: f64,
    /// Only this many of the highest scores are drawn from.
    pub top_k: Option<usize>,
    /// Only the likeliest tokens that together have this probability are drawn from (Holtzman et al., arXiv 1904.09751): as few as reach it. They
    /// reach it to within rounding, a few units in the last place of the model's scores, so that probabilities that add up to it in decimal are
    /// enough.
    pub top_p: Option<f64>,
    /// The number that positive scores of tokens in the text are divided by, and negative ones multiplied by (Keskar et al., arXiv 1909.05858);
    /// 1 does nothing.
    pub repetition_penalty: f64,
    /// Tokens of the vocabulary that end a sequence. They are part of the result.
    pub stop_tokens: Vec<usize>,
    /// The seed of all draws. The first text of a batch gets what it gets alone with this seed; the i-th, counted from 0, draws from the i-th
    /// stream of the seed, which no text alone draws from.
    pub seed: u64,
    /// A seed for each text, in the order of the prompts, instead of one for all; none where it is empty. A text then gets what it gets alone
    /// with its seed as [`seed`](Self::seed), whatever other texts the batch has.
    pub seeds: Vec<u64>,
    /// The most tokens of context, where it is less than the model's own limit.
    pub max_context: Option<usize>,
    /// The treatment of longer texts.
    pub overflow: ContextOverflow,
}

impl GenerationConfig {
    /// Creates a configuration that takes at most `max_new_tokens` tokens, always the likeliest.
    pub fn new(max_new_tokens: usize) -> Self {
        Self {
            max_new_tokens,
            temperature: 0.0,
            top_k: None,
            top_p: None,
            repetition_penalty: 1.0,
            stop_tokens: Vec::new(),
            seed: 0,
            seeds: Vec::new(),
            max_context: None,
            overflow: ContextOverflow::default(),
        }
    }

    setters! {
        /// Sets [`GenerationConfig::temperature`].
        with_temperature => temperature: f64,
        /// Sets [`GenerationConfig::top_k`].
        with_top_k => top_k: Option<usize>,
        /// Sets [`GenerationConfig::top_p`].
        with_top_p => top_p: Option<f64>,
        /// Sets [`GenerationConfig::repetition_penalty`].
        with_repetition_penalty => repetition_penalty: f64,
        /// Sets [`GenerationConfig::stop_tokens`].
        with_stop_tokens => stop_tokens: Vec<usize>,
        /// Sets [`GenerationConfig::seed`].
        with_seed => seed: u64,
        /// Sets [`GenerationConfig::seeds`].
        with_seeds => seeds: Vec<u64>,
        /// Sets [`GenerationConfig::max_context`].
        with_max_context => max_context: Option<usize>,
        /// Sets [`GenerationConfig::overflow`].
        with_overflow => overflow: ContextOverflow,
    }

    /// Checks that tokens can be chosen so.
    ///
    /// # Errors
    /// Returns an error that names the first option that is out of range or without effect.
    pub fn check(&self) -> Result<()> {
        let finite = |option, value: f64, holds: bool, reason| {
            if holds && value.is_finite() {
                Ok(())
            } else {
                Err(Error::config(option, value, reason))
            }
        };
        finite(
            "temperature",
            self.temperature,
            self.temperature >= 0.0,
            "it must be finite and at least 0",
        )?;
        let penalty = self.repetition_penalty;
        finite("repetition_penalty", penalty, penalty > 0.0, "it must be finite and above 0")?;
        if let Some(p) = self.top_p {
            finite("top_p", p, p > 0.0 && p <= 1.0, "it must be above 0 and at most 1")?;
        }
        for (option, value) in [("top_k", self.top_k), ("max_context", self.max_context)] {
            if value == Some(0) {
                return Err(Error::config(option, 0, "it must be at least 1"));
            }
        }
        if !self.seeds.is_empty() && self.seed != 0 {
            return Err(Error::config(
                "seed",
                self.seed,
                "every text has a seed of its own in seeds; leave one of the two out",
            ));
        }
        if self.temperature == 0.0 && !self.seeds.is_empty() {
            return Err(Error::config(
                "seeds",
                format!("{:?}", self.seeds),
                "without a temperature nothing is drawn; raise it, or leave them out",
            ));
        }
        if self.temperature == 0.0 && (self.top_k.is_some() || self.top_p.is_some()) {
            return Err(Error::config(
                "temperature",
                0,
                "it always takes the highest score, so that top_k and top_p have no effect; raise it, or leave them out",
            ));
        }
        Ok(())
    }
}
