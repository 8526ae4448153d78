//! How well two texts go together.

use std::path::Path;

use linformer::checkpoint::bert;
use linformer::ndarray::{Array1, Array2};
use linformer::{Classifier, LanguageModelConfig};
use rayon::prelude::*;
use serde_json::Value;

use crate::batch::{Padded, Piece, plan};
use crate::error::{Error, Result};
use crate::model::{ModelFolder, positions};
use crate::options::{EmbedOptions, LongText};
use crate::search::larger_first;
use crate::source::Source;
use crate::tokenizer::{TOKENIZER_CONFIG, Tokenizer};
use crate::tokens::Tokens;

const ADVICE: &str = "with LongText::Cut the longer of both texts loses its end, then both";

/// A model that reads two texts at once and scores them (a cross-encoder): slower than [`TextEncoder`](crate::TextEncoder), and better at
/// putting the nearest texts of a query in order.
///
/// A pair has the same scores, bit for bit, alone, in any batch and with any number of threads.
///
/// ```
/// use linformer_text::PairScorer;
///
/// # mod tiny { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/tiny.rs")); }
/// # let folder = tiny::tiny_scorer("pairs_example");
/// let scorer = PairScorer::open(&folder)?;
/// let (order, scores) = scorer.rank("Who is at sea?", &["Ishmael went to sea.", "The whale."])?;
/// assert_eq!(order.len(), 2);
/// assert!(scores[0] >= scores[1]);
/// # std::fs::remove_dir_all(&folder).unwrap();
/// # Ok::<(), linformer_text::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct PairScorer {
    model: Classifier<f32>,
    /// The configuration of its encoder.
    config: LanguageModelConfig,
    tokenizer: Tokenizer,
    /// Whether a score is the sigmoid of the model's output.
    sigmoid: bool,
    /// Whether token types, which tell the two texts of a pair apart, are given to the model.
    reads_types: bool,
    labels: Vec<String>,
    /// The special tokens of a pair.
    special: usize,
}

impl PairScorer {
    /// Opens the folder of a model that classifies sequences, as it comes from the model hub.
    ///
    /// # Errors
    /// Returns an error if a file is missing, cannot be read or understood, or does not fit the others, if the model has no such head, or if it asks
    /// for something that this crate does not reproduce, which the error names.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let source = Source::open(path.as_ref())?;
        let folder = ModelFolder::read(&source, "")?;
        let tokenizer = Tokenizer::of(&source, "")?;
        let config = folder.options.config()?;
        tokenizer.check_ids(config.vocab_size)?;
        let model = bert::classifier(folder.tensors()?, &folder.options)?;
        Ok(Self {
            sigmoid: is_sigmoid(&folder)?,
            reads_types: config.token_types.is_some() && takes_types(&source)?,
            special: tokenizer.encode_pair("", "")?.special(),
            labels: folder.options.labels.clone(),
            model,
            config,
            tokenizer,
        })
    }

    /// Returns the model.
    pub fn model(&self) -> &Classifier<f32> {
        &self.model
    }

    /// Returns the tokenizer.
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    /// Returns the names of the classes, where the folder has them.
    pub fn labels(&self) -> &[String] {
        &self.labels
    }

    /// Returns the most tokens of a pair, special ones included; `None` where there is no limit.
    pub fn max_len(&self) -> Option<usize> {
        positions(&self.config)
    }

    /// Computes the model's outputs for pairs of texts: (pairs, classes). Pairs that are too long are refused.
    ///
    /// # Errors
    /// Returns an error as [`logits_with`](Self::logits_with) does.
    pub fn logits<S: AsRef<str> + Sync, T: AsRef<str> + Sync>(&self, pairs: &[(S, T)]) -> Result<Array2<f32>> {
        self.logits_with(pairs, &EmbedOptions::new())
    }

    /// Computes the model's outputs for pairs of texts with options: (pairs, classes). [`LongText::Cut`] takes tokens from the end of the longer text
    /// until both are as long, then from both.
    ///
    /// # Errors
    /// Returns an error that names the first pair that is too long, where these are refused, or if an option does not fit the model: pairs are
    /// not read in chunks, and not at any length.
    pub fn logits_with<S: AsRef<str> + Sync, T: AsRef<str> + Sync>(&self, pairs: &[(S, T)], options: &EmbedOptions) -> Result<Array2<f32>> {
        if !matches!(options.long, LongText::Refuse | LongText::Cut) {
            let reason = format!("pairs that are too long are refused or cut, but not read by {:?}", options.long);
            return Err(Error::argument("PairScorer::logits_with", reason));
        }
        let limit = options.limit(self.max_len(), self.special, false)?;
        let of_pair = |(pair, (first, second)): (usize, &(S, T))| {
            let tokens = self.tokenizer.encode_pair(first.as_ref(), second.as_ref())?;
            fitting(tokens, pair, limit, options.long)
        };
        // In the order of the pairs, so that the error is that of the first one.
        let all: Vec<Result<Piece>> = pairs.par_iter().enumerate().map(of_pair).collect();
        let pieces = all.into_iter().collect::<Result<Vec<_>>>()?;
        let lengths: Vec<_> = pieces.iter().map(Piece::len).collect();
        let mut logits = Array2::zeros((pairs.len(), self.model.config().classes));
        for batch in plan(&lengths, options.batch_tokens) {
            let own: Vec<_> = batch.iter().map(|&index| &pieces[index]).collect();
            for (&index, scores) in batch.iter().zip(self.forward(&own)?.outer_iter()) {
                logits.row_mut(index).assign(&scores);
            }
        }
        Ok(logits)
    }

    fn forward(&self, pieces: &[&Piece]) -> Result<Array2<f32>> {
        let Padded { ids, types, mask } = Padded::of(pieces)?;
        if self.reads_types {
            return Ok(self.model.forward((&ids, &types), Some(&mask))?);
        }
        Ok(self.model.forward(&ids, Some(&mask))?)
    }

    /// Computes the scores of pairs of texts with a model of one class: its outputs, or between 0 and 1 where the folder does not say otherwise, as in
    /// the Python package `sentence-transformers`.
    ///
    /// # Errors
    /// Returns an error as [`logits_with`](Self::logits_with) does, or if the model has several classes.
    pub fn scores_with<S: AsRef<str> + Sync, T: AsRef<str> + Sync>(&self, pairs: &[(S, T)], options: &EmbedOptions) -> Result<Array1<f32>> {
        let classes = self.model.config().classes;
        if classes != 1 {
            let reason = format!("the model has {classes} classes, so that a pair has no single score; use logits");
            return Err(Error::argument("PairScorer::scores", reason));
        }
        let logits = self.logits_with(pairs, options)?;
        let score = |logit: f32| if self.sigmoid { 1.0 / (1.0 + libm::expf(-logit)) } else { logit };
        Ok(logits.column(0).mapv(score))
    }

    /// Computes the scores of pairs of texts. Pairs that are too long are refused.
    ///
    /// # Errors
    /// Returns an error as [`scores_with`](Self::scores_with) does.
    pub fn scores<S: AsRef<str> + Sync, T: AsRef<str> + Sync>(&self, pairs: &[(S, T)]) -> Result<Array1<f32>> {
        self.scores_with(pairs, &EmbedOptions::new())
    }

    /// Puts texts in the order of their scores with a query: their indices, the best first, and their scores; of equal ones, the first.
    ///
    /// # Errors
    /// Returns an error as [`scores_with`](Self::scores_with) does.
    pub fn rank<T: AsRef<str> + Sync>(&self, query: &str, texts: &[T]) -> Result<(Array1<usize>, Array1<f32>)> {
        let pairs: Vec<_> = texts.iter().map(|text| (query, text.as_ref())).collect();
        let mut ranked: Vec<_> = self.scores(&pairs)?.into_iter().enumerate().collect();
        ranked.sort_unstable_by(larger_first);
        let (order, scores): (Vec<_>, Vec<_>) = ranked.into_iter().unzip();
        Ok((order.into(), scores.into()))
    }
}

/// A pair's tokens, or an error or those that fit where there are too many.
fn fitting(tokens: Tokens, pair: usize, limit: Option<usize>, long: LongText) -> Result<Piece> {
    let Some(limit) = limit.filter(|&limit| tokens.len() > limit) else {
        return Ok(Piece::of(&tokens));
    };
    if long != LongText::Cut {
        return Err(Error::TooLong {
            text: pair,
            tokens: tokens.len(),
            limit,
            advice: ADVICE,
        });
    }
    let room = limit.saturating_sub(tokens.special());
    let (first, second) = shares(tokens.content(), room);
    Ok(Piece::of(&tokens.part(0..first, 0..second)))
}

/// How many tokens two texts keep where `room` fit and both have more: the shorter all, where it has no more than half of them.
fn shares((first, second): (usize, usize), room: usize) -> (usize, usize) {
    if first <= second {
        let first = first.min(room / 2);
        (first, second.min(room - first))
    } else {
        let second = second.min(room / 2);
        (first.min(room - second), second)
    }
}

/// Whether the model is given types: in Python only if its tokenizer's options list them, or list nothing.
fn takes_types(source: &Source) -> Result<bool> {
    let config: Option<Value> = source.json("", TOKENIZER_CONFIG)?;
    let names = config.as_ref().and_then(|config| config["model_input_names"].as_array());
    Ok(names.is_none_or(|names| names.iter().any(|name| name == "token_type_ids")))
}

/// Whether scores are sigmoids, which the Python package takes for models of one class unless the folder names another function.
fn is_sigmoid(folder: &ModelFolder) -> Result<bool> {
    let config = &folder.config;
    let places = [
        &config["sentence_transformers"]["activation_fn"],
        &config["sbert_ce_default_activation_function"],
    ];
    let Some(function) = places.into_iter().find_map(Value::as_str) else {
        return Ok(true);
    };
    match function.rsplit('.').next() {
        Some("Sigmoid") => Ok(true),
        Some("Identity") => Ok(false),
        _ => Err(Error::refused(
            &folder.config_path,
            format!("activation of scores: {function}"),
            "Sigmoid and Identity are known",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::shares;

    #[test]
    fn the_longer_text_is_cut_first() {
        assert_eq!(shares((3, 20), 10), (3, 7));
        assert_eq!(shares((20, 3), 10), (7, 3));
        assert_eq!(shares((20, 21), 11), (5, 6));
        assert_eq!(shares((20, 20), 11), (5, 6));
        assert_eq!(shares((21, 20), 11), (6, 5));
        assert_eq!(shares((0, 20), 10), (0, 10));
    }
}
