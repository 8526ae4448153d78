//! Continuing texts, token by token.

use ndarray::Array2;

use super::LanguageModel;
use super::decoding::LanguageModelState;
use super::sampling::choose;
use crate::config::{ContextOverflow, GenerationConfig};
use crate::error::{Error, Result};
use crate::initialization::{Draws, Step, unit};
use crate::scalar::Scalar;

/// The tokens that follow a batch of prompts: an iterator over steps, each with one token for every text, and `None` for texts that have ended.
///
/// It ends when all texts have, and after the first error.
#[derive(Debug)]
pub struct Generation<'m, A: Scalar = f32> {
    model: &'m LanguageModel<A>,
    config: GenerationConfig,
    limit: Option<usize>,
    state: LanguageModelState<A>,
    scores: Array2<A>,
    texts: Vec<Text>,
    steps: usize,
    failed: bool,
}

#[derive(Debug)]
struct Text {
    tokens: Vec<usize>,
    /// Where the context begins.
    first: usize,
    ended: bool,
    draws: Draws,
}

impl<A: Scalar> LanguageModel<A> {
    /// Continues each prompt token by token. Prompts do not affect each other.
    ///
    /// A text with its own seed ([`GenerationConfig::with_seeds`]) gets what it gets alone; with one seed for all, each text draws from another
    /// stream of it.
    ///
    /// # Errors
    /// Returns an error if the model cannot generate (see [`prefill`](Self::prefill)), if an option is out of range, if there are more or fewer
    /// seeds than prompts, if there is no prompt or an empty one, if a token of a prompt or to stop at is outside the vocabulary, or, with
    /// [`ContextOverflow::Error`], if a prompt is longer than the context.
    pub fn generate(&self, prompts: &[impl AsRef<[usize]>], config: &GenerationConfig) -> Result<Generation<'_, A>> {
        self.config().check_generation()?;
        config.check()?;
        let vocab_size = self.config().vocab_size;
        if let Some(token) = config.stop_tokens.iter().find(|&&token| token >= vocab_size) {
            return Err(Error::config("stop_tokens", token, format!("token ids end at {}", vocab_size - 1)));
        }
        if !config.seeds.is_empty() && config.seeds.len() != prompts.len() {
            let reason = format!(
                "there are {} prompts; give each a seed, or all of them one with with_seed",
                prompts.len()
            );
            return Err(Error::config("seeds", format!("{:?}", config.seeds), reason));
        }
        let limit = self.max_context().into_iter().chain(config.max_context).min();
        let texts: Vec<Text> = prompts
            .iter()
            .enumerate()
            .map(|(item, prompt)| {
                let tokens = prompt.as_ref().to_vec();
                Ok(Text {
                    first: first_kept(tokens.len(), limit, config.overflow)?,
                    tokens,
                    ended: false,
                    draws: draws(config, item),
                })
            })
            .collect::<Result<_>>()?;
        let contexts: Vec<&[usize]> = texts.iter().map(|text| &text.tokens[text.first..]).collect();
        let (scores, state) = self.prefill(&contexts)?;
        Ok(Generation {
            model: self,
            config: config.clone(),
            limit,
            state,
            scores,
            texts,
            steps: 0,
            failed: false,
        })
    }

    /// Continues one prompt token by token.
    ///
    /// # Errors
    /// Returns an error in the same cases as [`generate`](Self::generate).
    pub fn generate_one<'m>(&'m self, prompt: &[usize], config: &GenerationConfig) -> Result<impl Iterator<Item = Result<usize>> + 'm> {
        let steps = self.generate(&[prompt], config)?;
        Ok(steps.filter_map(|step| step.map(|tokens| tokens.first().copied().flatten()).transpose()))
    }
}

/// The random numbers of the text `item` of a batch.
fn draws(config: &GenerationConfig, item: usize) -> Draws {
    match config.seeds.get(item) {
        Some(&seed) => Step::new(seed, 0).item(0),
        None => Step::new(config.seed, 0).item(item),
    }
}

/// Where the context of a text of `length` tokens begins.
fn first_kept(length: usize, limit: Option<usize>, overflow: ContextOverflow) -> Result<usize> {
    match (limit, overflow) {
        (Some(limit), ContextOverflow::Slide) => Ok(length.saturating_sub(limit)),
        (Some(limit), ContextOverflow::Error) if length > limit => Err(too_long(length, limit)),
        _ => Ok(0),
    }
}

fn too_long(length: usize, limit: usize) -> Error {
    Error::argument(
        "LanguageModel::generate",
        format!("the text has {length} tokens, but the context holds {limit}; shorten it, or set ContextOverflow::Slide"),
    )
}

impl<A: Scalar> Generation<'_, A> {
    /// Prompts and what followed so far.
    pub fn texts(&self) -> impl Iterator<Item = &[usize]> {
        self.texts.iter().map(|text| &text.tokens[..])
    }

    /// Returns the scores that the latest tokens were chosen from, or the first will be: (texts, `vocab_size`), 0 for texts that had ended.
    pub fn scores(&self) -> &Array2<A> {
        &self.scores
    }

    fn advance(&mut self) -> Result<()> {
        let full: Vec<bool> = self
            .state
            .lengths()
            .iter()
            .map(|&length| self.limit.is_some_and(|limit| length >= limit))
            .collect();
        if let (Some(limit), ContextOverflow::Error) = (self.limit, self.config.overflow)
            && self.texts.iter().zip(&full).any(|(text, &full)| full && !text.ended)
        {
            return Err(too_long(limit + 1, limit));
        }
        let latest: Vec<Option<usize>> = self
            .texts
            .iter()
            .zip(&full)
            .map(|(text, &full)| text.tokens.last().copied().filter(|_| !text.ended && !full))
            .collect();
        self.scores = self.model.step(&mut self.state, &latest)?;
        let slides: Vec<usize> = (0..self.texts.len())
            .filter(|&item| full[item] && !self.texts[item].ended)
            .collect();
        slides.into_iter().try_for_each(|item| self.slide(item))
    }

    /// Restarts a full context with its last half.
    fn slide(&mut self, item: usize) -> Result<()> {
        let kept = self.limit.map_or(1, |limit| limit.div_ceil(2));
        let text = &mut self.texts[item];
        text.first = text.tokens.len() - kept.min(text.tokens.len());
        let (scores, state) = self.model.prefill(&[&text.tokens[text.first..]])?;
        self.scores.row_mut(item).assign(&scores.row(0));
        self.state.replace(item, state);
        Ok(())
    }

    fn choose(&mut self) -> Result<Vec<Option<usize>>> {
        let mut chosen = Vec::with_capacity(self.texts.len());
        for (text, scores) in self.texts.iter_mut().zip(self.scores.outer_iter()) {
            if text.ended {
                chosen.push(None);
                continue;
            }
            let Text { tokens, draws, .. } = text;
            let token = choose(scores, tokens, &self.config, || unit(draws.next()))?;
            text.tokens.push(token);
            text.ended = self.config.stop_tokens.contains(&token);
            chosen.push(Some(token));
        }
        Ok(chosen)
    }
}

impl<A: Scalar> Iterator for Generation<'_, A> {
    type Item = Result<Vec<Option<usize>>>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.failed || self.steps >= self.config.max_new_tokens || self.texts.iter().all(|text| text.ended) {
            return None;
        }
        let advanced = if self.steps > 0 { self.advance() } else { Ok(()) };
        let step = advanced.and_then(|()| self.choose());
        self.steps += 1;
        self.failed = step.is_err();
        Some(step)
    }
}
