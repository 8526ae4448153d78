//! A converted encoder that learns from the exact one on the user's own texts.

use linformer::training::{AdamW, AdamWConfig, Distillation, EncoderBatch, Optimizer, Schedule, Step, Trainable};
use linformer::{AttentionKind, Encoder, Pooling as CorePooling, TrainingPass};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::fidelity::Agreement;
use super::input_of;
use crate::batch::{Padded, Piece};
use crate::encoder::TextEncoder;
use crate::error::{Error, Result};
use crate::pooling::Pooling;
use crate::tokens::Tokens;

const OPERATION: &str = "TextEncoder::distill";

/// Steps over which the rate rises.
const WARMUP: u64 = 8;

/// The largest norm of a step's gradients.
const MAX_NORM: f64 = 1.0;

/// The most tokens of a step.
const MOST_TOKENS: usize = 1 << 24;

/// The shortest sequences of a step, where the model reads longer ones.
const SHORTEST: usize = 64;

/// How [`TextEncoder::distill`] trains.
///
/// ```
/// use linformer_text::DistillationOptions;
///
/// // At most 300 steps, and no more once the vectors of held-out texts agree as well as this.
/// let options = DistillationOptions::new(300).with_enough(Some(0.985));
/// assert_eq!(options.batch_tokens, 4096);
/// ```
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct DistillationOptions {
    /// The number of steps, at most.
    pub steps: u64,
    /// The highest learning rate, which then falls along half a cosine; 1e-4.
    pub rate: f64,
    /// The tokens of a step: as many sequences of 64, 128, … tokens up to the model's own length; 4,096.
    pub batch_tokens: usize,
    /// The steps between two comparisons with the exact model on the held-out texts; 25.
    pub evaluate_every: u64,
    /// The mean cosine on the held-out texts with which training ends early, if any.
    pub enough: Option<f64>,
    /// The seed of the sequences that are drawn; 0.
    pub seed: u64,
}

impl DistillationOptions {
    /// Creates options with this number of steps.
    pub fn new(steps: u64) -> Self {
        Self {
            steps,
            rate: 1e-4,
            batch_tokens: 4096,
            evaluate_every: 25,
            enough: None,
            seed: 0,
        }
    }

    /// Sets [`DistillationOptions::rate`].
    #[must_use]
    pub fn with_rate(mut self, rate: f64) -> Self {
        self.rate = rate;
        self
    }

    /// Sets [`DistillationOptions::batch_tokens`].
    #[must_use]
    pub fn with_batch_tokens(mut self, batch_tokens: usize) -> Self {
        self.batch_tokens = batch_tokens;
        self
    }

    /// Sets [`DistillationOptions::evaluate_every`].
    #[must_use]
    pub fn with_evaluate_every(mut self, steps: u64) -> Self {
        self.evaluate_every = steps;
        self
    }

    /// Sets [`DistillationOptions::enough`].
    #[must_use]
    pub fn with_enough(mut self, cosine: Option<f64>) -> Self {
        self.enough = cosine;
        self
    }

    /// Sets [`DistillationOptions::seed`].
    #[must_use]
    pub fn with_seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    fn check(&self) -> Result<()> {
        let refuse = |reason: String| Err(Error::argument("DistillationOptions", reason));
        if self.steps == 0 || self.evaluate_every == 0 || self.batch_tokens == 0 {
            return refuse("steps, evaluate_every and batch_tokens must be at least 1".into());
        }
        if self.batch_tokens > MOST_TOKENS {
            return refuse(format!(
                "batch_tokens is {}; at most {MOST_TOKENS} are read at once",
                self.batch_tokens
            ));
        }
        if !(self.rate > 0.0 && self.rate.is_finite()) {
            return refuse(format!("the rate is {}; it must be a number above 0", self.rate));
        }
        match self.enough {
            Some(cosine) if !(-1.0..=1.0).contains(&cosine) => refuse(format!("enough is {cosine}; a cosine is from −1 to 1")),
            _ => Ok(()),
        }
    }
}

/// How far a distillation has come.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct DistillationProgress {
    /// The steps that are done.
    pub step: u64,
    /// The loss of the last one; see [`Distillation`].
    pub loss: f64,
    /// The agreement on the held-out texts, after steps that are followed by a comparison.
    pub held_out: Option<Agreement>,
}

/// What [`TextEncoder::distill`] made.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Distilled {
    /// The encoder with the weights that agreed best on the held-out texts.
    pub encoder: TextEncoder,
    /// The steps after which it had them; 0 where training did not help.
    pub step: u64,
    /// Their agreement.
    pub held_out: Agreement,
}

impl TextEncoder {
    /// Trains a converted encoder to do what the exact one does, on texts without labels: all weights but those of tokens and positions learn the exact
    /// model's hidden states and vectors; see [`Distillation`]. `progress` is called after each step.
    ///
    /// # Errors
    /// Returns an error if an option cannot be; if the encoders are not forms of one model; if the model pools by the last token, which is not trained
    /// here; if the training or the held-out texts have no token; or if a loss is not finite.
    pub fn distill<T: AsRef<str> + Sync>(
        &self,
        exact: &Self,
        (training, held_out): (&[T], &[T]),
        options: &DistillationOptions,
        mut progress: impl FnMut(DistillationProgress),
    ) -> Result<Distilled> {
        options.check()?;
        self.check_made_of(OPERATION, exact)?;
        if matches!(self.model().config().encoder.attention, AttentionKind::Exact(_)) {
            let reason = "the encoder's attention is exact, so that it has nothing to learn from the exact one; convert it first, with to_local_global";
            return Err(Error::argument(OPERATION, reason));
        }
        let loss = Distillation::new(exact.model().encoder().clone()).with_pooling(core_pooling(self.pooling())?);
        let sequences = Sequences::of(exact, training, options)?;
        let held_out = exact.own_pieces(held_out)?;
        let of_exact = exact.vectors_of(&held_out, options.batch_tokens)?;
        let agreement = |encoder: &Self| Agreement::of(of_exact.view(), encoder.vectors_of(&held_out, options.batch_tokens)?.view());

        let mut student: Encoder<f32> = self.model().encoder().clone();
        let mut optimizer = AdamW::new(&student, AdamWConfig::new().with_betas((0.9, 0.98)).with_weight_decay(0.0))?;
        let schedule = Schedule::cosine(options.rate, options.steps).with_warmup(WARMUP.min(options.steps - 1));
        let mut best = Distilled {
            encoder: self.clone(),
            step: 0,
            held_out: agreement(self)?,
        };
        let is_enough = |best: &Distilled| options.enough.is_some_and(|enough| best.held_out.mean >= enough);
        for index in 0..options.steps {
            if is_enough(&best) {
                break;
            }
            let step = Step::new(options.seed, index);
            let batch = sequences.batch(exact, step)?;
            let (loss, mut gradients) = student.loss_and_gradients(&batch, &loss, &TrainingPass::new(step))?;
            optimizer.clip_gradient_norm(&mut gradients, MAX_NORM)?;
            optimizer.step(&mut student, &gradients, schedule.at(index))?;
            let step = index + 1;
            let mut report = DistillationProgress {
                step,
                loss,
                held_out: None,
            };
            if step % options.evaluate_every == 0 || step == options.steps {
                let encoder = self.with_model(self.model().clone().with_encoder(student.clone())?)?;
                let held_out = agreement(&encoder)?;
                report.held_out = Some(held_out);
                if held_out.mean > best.held_out.mean {
                    best = Distilled { encoder, step, held_out };
                }
            }
            progress(report);
        }
        Ok(best)
    }
}

fn core_pooling(pooling: Pooling) -> Result<CorePooling> {
    match pooling {
        // They differ by a factor, which no cosine sees.
        Pooling::Mean | Pooling::MeanSqrtLen => Ok(CorePooling::Mean),
        Pooling::Cls => Ok(CorePooling::First),
        Pooling::Max => Ok(CorePooling::Max),
        Pooling::LastToken => {
            let reason = "the model pools by the last token, and vectors of that kind are not trained here";
            Err(Error::argument(OPERATION, reason))
        }
    }
}

/// The texts that sequences are drawn from.
struct Sequences {
    texts: Vec<Tokens>,
    /// The most tokens of a sequence, special ones included, of which each step takes one.
    lengths: Vec<usize>,
    batch_tokens: usize,
}

impl Sequences {
    fn of<T: AsRef<str> + Sync>(exact: &TextEncoder, texts: &[T], options: &DistillationOptions) -> Result<Self> {
        let mut tokens = Vec::with_capacity(texts.len());
        for text in texts {
            tokens.push(exact.tokenize(text.as_ref())?);
        }
        tokens.retain(|tokens: &Tokens| tokens.len() > tokens.special());
        let Some(longest_text) = tokens.iter().map(Tokens::len).max() else {
            return Err(Error::argument(
                OPERATION,
                "the training texts have no tokens; give some that are not empty",
            ));
        };
        let longest = exact.max_len().unwrap_or(usize::MAX).min(longest_text);
        let doubled = std::iter::successors(Some(SHORTEST), |length| length.checked_mul(2));
        let lengths: Vec<usize> = doubled.take_while(|&length| length < longest).chain([longest]).collect();
        Ok(Self {
            texts: tokens,
            lengths,
            batch_tokens: options.batch_tokens,
        })
    }

    /// Sequences of one length, each from anywhere in its text; texts that are shorter come whole, and padded.
    fn batch(&self, exact: &TextEncoder, step: Step) -> Result<EncoderBatch<f32>> {
        let mut generator = ChaCha8Rng::seed_from_u64(step.seed);
        generator.set_stream(step.index);
        let length = self.lengths[generator.random_range(0..self.lengths.len())];
        let pieces: Vec<Piece> = (0..(self.batch_tokens / length).max(1))
            .map(|_| {
                let tokens = &self.texts[generator.random_range(0..self.texts.len())];
                let room = length.saturating_sub(tokens.special());
                let start = generator.random_range(0..=tokens.len().saturating_sub(length));
                Piece::of(&tokens.part(start..start + room, 0..0))
            })
            .collect();
        let (x, mask) = input_of(exact.model(), Padded::of(&pieces.iter().collect::<Vec<_>>())?)?;
        Ok(EncoderBatch::new(x).with_mask(mask.as_ref()))
    }
}
