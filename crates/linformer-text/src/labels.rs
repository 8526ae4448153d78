//! Models with a head for every token.

use std::path::Path;

use linformer::LanguageModel;
use linformer::checkpoint::bert;
use linformer::ndarray::{Array2, Array3, Axis, s};

use crate::batch::{Padded, Piece};
use crate::error::{Error, Result};
use crate::model::{ModelFolder, positions};
use crate::search::larger_first;
use crate::source::Source;
use crate::tokenizer::Tokenizer;
use crate::tokens::Tokens;

const ADVICE: &str = "give the text in parts";

/// What both models have in common.
#[derive(Clone, Debug)]
struct Labeler {
    model: LanguageModel<f32>,
    tokenizer: Tokenizer,
}

impl Labeler {
    fn new(model: LanguageModel<f32>, source: &Source) -> Result<Self> {
        let tokenizer = Tokenizer::of(source, "")?;
        tokenizer.check_ids(model.config().vocab_size)?;
        Ok(Self { model, tokenizer })
    }

    /// The tokens of a text, if they are not too many.
    fn tokens(&self, text: &str) -> Result<Tokens> {
        let tokens = self.tokenizer.encode(text)?;
        match positions(self.model.config()) {
            Some(limit) if tokens.len() > limit => Err(Error::TooLong {
                text: 0,
                tokens: tokens.len(),
                limit,
                advice: ADVICE,
            }),
            _ => Ok(tokens),
        }
    }
}

/// A model that gives every token of a text a score for each of some labels, as the kinds of names.
///
/// ```
/// use linformer_text::TokenClassifier;
///
/// # mod tiny { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/tiny.rs")); }
/// # let folder = tiny::tiny_labeler("labels_example");
/// let classifier = TokenClassifier::open(&folder)?;
/// let (tokens, scores) = classifier.scores("Call me Ishmael.")?;
/// assert_eq!(scores.dim(), (tokens.len(), classifier.labels().len()));
/// # std::fs::remove_dir_all(&folder).unwrap();
/// # Ok::<(), linformer_text::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct TokenClassifier {
    inner: Labeler,
    labels: Vec<String>,
}

impl TokenClassifier {
    /// Opens the folder of a model that classifies tokens, as it comes from the model hub.
    ///
    /// # Errors
    /// Returns an error if a file is missing, cannot be read or understood, or does not fit the others, if the model has no such head, or if it asks
    /// for something that this crate does not reproduce, which the error names.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let source = Source::open(path.as_ref())?;
        let folder = ModelFolder::read(&source, "")?;
        let model = bert::token_classifier(folder.tensors()?, &folder.options)?;
        Ok(Self {
            inner: Labeler::new(model, &source)?,
            labels: folder.options.labels,
        })
    }

    /// Returns the names of the labels, where the folder has them.
    pub fn labels(&self) -> &[String] {
        &self.labels
    }

    /// Computes the scores of a text's tokens, special ones included: (tokens, labels).
    ///
    /// # Errors
    /// Returns an error if the text is longer than the model reads at once, or cannot be cut into tokens.
    pub fn scores(&self, text: &str) -> Result<(Tokens, Array2<f32>)> {
        let tokens = self.inner.tokens(text)?;
        let Padded { ids, mask, .. } = Padded::of(&[&Piece::of(&tokens)])?;
        let scores: Array3<f32> = self.inner.model.forward(&ids, Some(&mask))?;
        Ok((tokens, scores.index_axis_move(Axis(0), 0)))
    }
}

/// A model that fills gaps in a text.
///
/// ```
/// use linformer_text::MaskedLanguageModel;
///
/// # mod tiny { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/tiny.rs")); }
/// # let folder = tiny::tiny_masked("masked_example");
/// let model = MaskedLanguageModel::open(&folder)?;
/// let (ids, probabilities) = model.fill("Call me [MASK].", 3)?;
/// assert_eq!(ids.dim(), (1, 3));
/// assert!(probabilities[[0, 0]] >= probabilities[[0, 1]]);
/// println!("{:?}", model.tokenizer().id_to_token(ids[[0, 0]]));
/// # std::fs::remove_dir_all(&folder).unwrap();
/// # Ok::<(), linformer_text::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct MaskedLanguageModel {
    inner: Labeler,
    mask: usize,
}

impl MaskedLanguageModel {
    /// Opens the folder of a masked language model, as it comes from the model hub.
    ///
    /// # Errors
    /// Returns an error as [`TokenClassifier::open`] does, or if the tokenizer has neither `[MASK]` nor `<mask>`.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let source = Source::open(path.as_ref())?;
        let folder = ModelFolder::read(&source, "")?;
        let model = bert::masked_language_model(folder.tensors()?, &folder.options)?;
        let inner = Labeler::new(model, &source)?;
        let mask = ["[MASK]", "<mask>"].iter().find_map(|token| inner.tokenizer.token_to_id(token));
        let mask = mask.ok_or_else(|| Error::tokenizer("no token for gaps", "there is neither [MASK] nor <mask>"))?;
        Ok(Self { inner, mask })
    }

    /// Returns the tokenizer.
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.inner.tokenizer
    }

    /// Finds the `k` likeliest tokens for each gap of a text, or all where there are fewer: their ids and probabilities, (gaps, k) each, the likeliest first.
    ///
    /// # Errors
    /// Returns an error if the text has no gap, is longer than the model reads at once, or cannot be cut into tokens.
    pub fn fill(&self, text: &str, k: usize) -> Result<(Array2<usize>, Array2<f32>)> {
        let tokens = self.inner.tokens(text)?;
        let gaps: Vec<_> = (0..tokens.len()).filter(|&token| tokens.ids()[token] == self.mask).collect();
        if gaps.is_empty() {
            let mask = self.inner.tokenizer.id_to_token(self.mask).unwrap_or_default();
            let reason = format!("the text has no gap; write {mask} where one is");
            return Err(Error::argument("MaskedLanguageModel::fill", reason));
        }
        let Padded { ids, mask, .. } = Padded::of(&[&Piece::of(&tokens)])?;
        let count = gaps.len();
        let scores = self.inner.model.logits_at(&ids, &[gaps], Some(&mask))?;
        let probabilities = linformer::softmax(&scores.insert_axis(Axis(0)));
        let probabilities = probabilities.slice(s![0, .., ..]);
        let k = k.min(probabilities.ncols());
        let (mut best, mut of_best) = (Array2::zeros((count, k)), Array2::zeros((count, k)));
        for (gap, row) in probabilities.outer_iter().enumerate() {
            let mut scored: Vec<_> = row.iter().copied().enumerate().collect();
            scored.sort_unstable_by(larger_first);
            for (rank, (id, probability)) in scored.into_iter().take(k).enumerate() {
                best[[gap, rank]] = id;
                of_best[[gap, rank]] = probability;
            }
        }
        Ok((best, of_best))
    }
}
