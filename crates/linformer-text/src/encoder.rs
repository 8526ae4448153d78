//! Texts in, vectors out.

mod files;
mod long;
mod spans;

pub(crate) use long::pieces;

use std::path::Path;

use linformer::ndarray::{Array1, Array2};
use linformer::{AttentionKind, LanguageModel};

use crate::batch::{Piece, unpadded};
use crate::error::Result;
use crate::head::{Module, StoredModule};
use crate::model::positions;
use crate::options::{EmbedOptions, Progress};
use crate::pooling::{Pooling, weighted_mean};
use crate::tokenizer::Tokenizer;
use crate::tokens::Tokens;

/// An encoder with its tokenizer: texts in, one vector for each out.
///
/// A text has the same vector, bit for bit, alone, in any batch and with any number of threads. Everything takes `&self` and runs on the
/// caller's rayon pool.
///
/// ```
/// use linformer_text::{TextEncoder, similarity};
///
/// # mod tiny { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/tiny.rs")); }
/// # let folder = tiny::tiny_folder("encoder_example");
/// let encoder = TextEncoder::open(&folder)?;
/// let vectors = encoder.embed(&["The whale.", "A whale it is.", "Call me Ishmael."])?;
/// assert_eq!(vectors.dim(), (3, encoder.dimension()));
/// let alone = encoder.embed(&["Call me Ishmael."])?;
/// assert_eq!(vectors.row(2), alone.row(0));
/// println!("{:.3}", similarity(&vectors, &vectors)?);
/// # std::fs::remove_dir_all(&folder).unwrap();
/// # Ok::<(), linformer_text::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct TextEncoder {
    model: LanguageModel<f32>,
    tokenizer: Tokenizer,
    pooling: Pooling,
    after: Vec<Module>,
    trained_len: Option<usize>,
    /// The special tokens of a text.
    special: usize,
    dimension: usize,
}

impl TextEncoder {
    /// Opens a model's folder as it comes from the model hub, or a file that [`save`](Self::save) wrote.
    ///
    /// Of a folder it reads `config.json`, `model.safetensors` (or its index and parts), `tokenizer.json` (or `vocab.txt`), `modules.json` and what
    /// it names, and `sentence_bert_config.json`. Without `modules.json` vectors are means and are not normalized, as in the Python package
    /// `sentence-transformers`.
    ///
    /// # Errors
    /// Returns an error if a file is missing, cannot be read or understood, or does not fit the others, or if it asks for something that this crate
    /// does not reproduce, which the error names.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        files::open(path.as_ref())
    }

    /// Makes an encoder of a model, whose features are pooled, and are normalized where `normalize` says so.
    ///
    /// # Errors
    /// Returns an error if the tokenizer has ids that the model has no vectors for.
    pub fn new(model: LanguageModel<f32>, tokenizer: Tokenizer, pooling: Pooling, normalize: bool) -> Result<Self> {
        let after = if normalize { vec![Module::Normalize] } else { Vec::new() };
        Self::of(model, tokenizer, pooling, after, None)
    }

    fn of(
        model: LanguageModel<f32>,
        tokenizer: Tokenizer,
        pooling: Pooling,
        after: Vec<Module>,
        trained_len: Option<usize>,
    ) -> Result<Self> {
        tokenizer.check_ids(model.config().vocab_size)?;
        let width = model.config().feature_dim();
        let dimension = after.iter().try_fold(width, |width, module| module.width(width))?;
        let special = tokenizer.encode("")?.special();
        Ok(Self {
            model,
            tokenizer,
            pooling,
            after,
            trained_len,
            special,
            dimension,
        })
    }

    /// Returns the same encoder with another model, as one in local-global form; tokenizer, pooling and what follows it stay.
    ///
    /// # Errors
    /// Returns an error as [`new`](Self::new) does, or if the model's features have a width that does not fit what follows.
    pub fn with_model(&self, model: LanguageModel<f32>) -> Result<Self> {
        Self::of(model, self.tokenizer.clone(), self.pooling, self.after.clone(), self.trained_len)
    }

    /// Writes the encoder, with tokenizer and pooling, to one file, which [`open`](Self::open) opens like a folder.
    ///
    /// # Errors
    /// Returns an error if the file cannot be written, or if the tokenizer is too large for the header of a safetensors file.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        files::save(self, path.as_ref())
    }

    /// Returns the model.
    pub fn model(&self) -> &LanguageModel<f32> {
        &self.model
    }

    /// Returns the tokenizer.
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    /// Returns how the vectors of tokens become one.
    pub fn pooling(&self) -> Pooling {
        self.pooling
    }

    /// Returns whether vectors have length 1.
    pub fn normalizes(&self) -> bool {
        matches!(self.after.last(), Some(Module::Normalize))
    }

    /// The modules after pooling, as a file has them.
    pub(crate) fn stored_modules(&self) -> Vec<StoredModule> {
        self.after.iter().map(Module::stored).collect()
    }

    /// Whether something other than normalization follows pooling.
    pub(crate) fn has_dense(&self) -> bool {
        self.after.iter().any(|module| matches!(module, Module::Dense { .. }))
    }

    /// Returns the width of the vectors.
    pub fn dimension(&self) -> usize {
        self.dimension
    }

    /// Returns the most tokens, special ones included, that the model has positions for; `None` where it has no such limit. Of a model whose
    /// positions repeat, those before they do.
    pub fn max_len(&self) -> Option<usize> {
        let positions = positions(self.model.config());
        positions.into_iter().chain(self.model.max_context()).min()
    }

    /// Returns the length to which texts were cut when the model was trained, where its folder says so (`max_seq_length`). Longer texts up to
    /// [`max_len`](Self::max_len) are read whole, unlike in Python; [`EmbedOptions::max_len`] sets the same limit.
    pub fn trained_len(&self) -> Option<usize> {
        let trained = self.trained_len?;
        Some(self.max_len().map_or(trained, |max_len| trained.min(max_len)))
    }

    /// Returns whether texts of any length can be read at once, with [`LongText::OnePass`](crate::LongText::OnePass).
    pub fn reads_any_length(&self) -> bool {
        matches!(self.model.config().encoder.attention, AttentionKind::LocalGlobal(_)) && self.model.max_context().is_none()
    }

    /// Cuts a text into tokens, with special ones around it.
    ///
    /// # Errors
    /// Returns an error as [`Tokenizer::encode`] does.
    pub fn tokenize(&self, text: &str) -> Result<Tokens> {
        self.tokenizer.encode(text)
    }

    /// Returns the number of tokens of a text, special ones included.
    ///
    /// # Errors
    /// Returns an error as [`Tokenizer::encode`] does.
    pub fn count_tokens(&self, text: &str) -> Result<usize> {
        self.tokenizer.count(text)
    }

    /// Computes the vectors of texts: (texts, dimension). Texts that are too long are refused.
    ///
    /// # Errors
    /// Returns an error as [`embed_with`](Self::embed_with) does.
    pub fn embed<T: AsRef<str> + Sync>(&self, texts: &[T]) -> Result<Array2<f32>> {
        self.embed_with(texts, &EmbedOptions::new())
    }

    /// Computes the vectors of texts with options: (texts, dimension).
    ///
    /// # Errors
    /// Returns an error that names the first text that is too long, where these are refused, or if an option does not fit the model.
    pub fn embed_with<T: AsRef<str> + Sync>(&self, texts: &[T], options: &EmbedOptions) -> Result<Array2<f32>> {
        self.embed_with_progress(texts, options, |_| ())
    }

    /// Computes the vectors of texts with options, (texts, dimension), and calls `progress` on this thread after each batch.
    ///
    /// ```
    /// use linformer_text::{EmbedOptions, LongText, TextEncoder};
    ///
    /// # mod tiny { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/tiny.rs")); }
    /// # let folder = tiny::tiny_folder("progress_example");
    /// let encoder = TextEncoder::open(&folder)?;
    /// let long = "It is a way I have of driving off the spleen. ".repeat(100);
    /// let options = EmbedOptions::new().with_long(LongText::Chunks { overlap: 8 });
    /// let mut done = 0.0;
    /// encoder.embed_with_progress(&[long.as_str(), "short"], &options, |progress| {
    ///     done = progress.tokens as f64 / progress.all_tokens as f64;
    /// })?;
    /// assert_eq!(done, 1.0);
    /// # std::fs::remove_dir_all(&folder).unwrap();
    /// # Ok::<(), linformer_text::Error>(())
    /// ```
    ///
    /// # Errors
    /// Returns an error as [`embed_with`](Self::embed_with) does.
    pub fn embed_with_progress<T: AsRef<str> + Sync>(
        &self,
        texts: &[T],
        options: &EmbedOptions,
        progress: impl FnMut(Progress),
    ) -> Result<Array2<f32>> {
        let limit = options.limit(self.max_len(), self.special, self.reads_any_length())?;
        let of_texts = pieces(&self.tokenizer, texts, limit, options.long)?;
        let pieces: Vec<&Piece> = of_texts.iter().flatten().collect();
        let mut pooled = self.pooled(&pieces, options.batch_tokens, progress)?.into_iter();
        let mut vectors = Array2::zeros((texts.len(), self.dimension));
        for (own, mut row) in of_texts.iter().zip(vectors.outer_iter_mut()) {
            let own: Vec<_> = pooled
                .by_ref()
                .zip(own)
                .map(|(vector, piece)| (vector, piece.weight))
                .take(own.len())
                .collect();
            let vector = if let [(vector, _)] = own.as_slice() {
                vector.clone()
            } else {
                weighted_mean(&own)
            };
            row.assign(&self.finish(vector)?);
        }
        Ok(vectors)
    }

    /// The vectors of pieces: (pieces, dimension).
    pub(crate) fn vectors_of(&self, pieces: &[Piece], batch_tokens: usize) -> Result<Array2<f32>> {
        let pooled = self.pooled(&pieces.iter().collect::<Vec<_>>(), batch_tokens, |_| ())?;
        let mut vectors = Array2::zeros((pieces.len(), self.dimension));
        for (vector, mut row) in pooled.into_iter().zip(vectors.outer_iter_mut()) {
            row.assign(&self.finish(vector)?);
        }
        Ok(vectors)
    }

    /// The pooled features of each piece.
    fn pooled(&self, pieces: &[&Piece], batch_tokens: usize, mut progress: impl FnMut(Progress)) -> Result<Vec<Array1<f32>>> {
        let lengths: Vec<_> = pieces.iter().map(|piece| piece.len()).collect();
        let all_tokens = lengths.iter().sum();
        let width = self.model.config().feature_dim();
        let mut pooled = vec![Array1::zeros(width); pieces.len()];
        let mut tokens = 0;
        for batch in unpadded(&lengths, batch_tokens) {
            let own: Vec<_> = batch.iter().map(|&index| pieces[index]).collect();
            let features = self.features(&own)?;
            let mut first = 0;
            for index in batch {
                let rows: Vec<_> = (first..first + lengths[index]).collect();
                pooled[index] = self.pooling.pool(features.view(), &rows);
                first += lengths[index];
            }
            tokens += first;
            progress(Progress { tokens, all_tokens });
        }
        Ok(pooled)
    }

    /// The features of pieces, one after the other: (tokens of all, width).
    fn features(&self, pieces: &[&Piece]) -> Result<Array2<f32>> {
        let ids: Vec<_> = pieces.iter().map(|piece| &piece.ids).collect();
        // Tokenizers number the texts of a pair for models that make no difference, too.
        if self.model.config().token_types.is_some() {
            let types: Vec<_> = pieces.iter().map(|piece| &piece.types).collect();
            return Ok(self.model.features_ragged_with_types(&ids, &types)?);
        }
        Ok(self.model.features_ragged(&ids)?)
    }

    /// What the modules after pooling make of a vector.
    fn finish(&self, pooled: Array1<f32>) -> Result<Array1<f32>> {
        self.after.iter().try_fold(pooled, |vector, module| module.apply(vector))
    }
}
