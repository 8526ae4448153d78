//! Text to tokens.

mod agreement;
mod word_piece;

use std::path::Path;

use crate::error::{Error, Result};
use crate::source::Source;
use crate::tokens::Tokens;

pub(crate) const TOKENIZER: &str = "tokenizer.json";
pub(crate) const TOKENIZER_CONFIG: &str = "tokenizer_config.json";
const VOCABULARY: &str = "vocab.txt";

/// The tokenizer of a model, read from its folder by the crate [`tokenizers`]. It gives the same ids as in Python.
///
/// Truncation and padding that its file asks for are off: they would cut texts without a word. [`truncation`](Self::truncation) returns what the file
/// asks for.
///
/// ```
/// use linformer_text::Tokenizer;
///
/// let tokenizer = Tokenizer::from_vocabulary("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nsea\n##men\nthe\n", "{}")?;
/// let tokens = tokenizer.encode("The seamen")?;
/// assert_eq!(tokens.ids(), [2, 7, 5, 6, 3]);
/// assert_eq!(tokens.bytes(3), Some(7..10));
/// assert_eq!(tokenizer.encode_pair("the sea", "sea")?.types(), [0, 0, 0, 0, 1, 1]);
/// # Ok::<(), linformer_text::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    truncation: Option<usize>,
}

impl Tokenizer {
    /// Opens the tokenizer of a model's folder, or of a file that [`TextEncoder::save`](crate::TextEncoder::save) wrote: `tokenizer.json`, or
    /// else `vocab.txt` with the options of `tokenizer_config.json`.
    ///
    /// # Errors
    /// Returns an error if there is neither, if a file cannot be read or understood, if `tokenizer.json` and `tokenizer_config.json` contradict each
    /// other, or if `vocab.txt` belongs to a tokenizer other than BERT's.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        Self::of(&Source::open(path.as_ref())?, "")
    }

    /// Opens the tokenizer in `folder` of a source.
    pub(crate) fn of(source: &Source, folder: &str) -> Result<Self> {
        let config_path = source.path_of(folder, TOKENIZER_CONFIG);
        let config = source.text(folder, TOKENIZER_CONFIG)?;
        if let Some(json) = source.text(folder, TOKENIZER)? {
            if let Some(config) = &config {
                agreement::check(&json, config, &config_path)?;
            }
            return Self::from_json(&json).map_err(|error| Error::malformed(&source.path_of(folder, TOKENIZER), error));
        }
        let Some(vocabulary) = source.text(folder, VOCABULARY)? else {
            let reason =
                "there is neither tokenizer.json nor vocab.txt; save the model's tokenizer there (in Python: `tokenizer.save_pretrained`)";
            return Err(Error::missing(&source.path_of(folder, ""), reason));
        };
        word_piece::build(&vocabulary, config.as_deref().unwrap_or("{}"), &config_path).map(Self::new)
    }

    /// Makes a tokenizer of the text of a `tokenizer.json`.
    ///
    /// # Errors
    /// Returns an error if it describes no tokenizer.
    pub fn from_json(json: &str) -> Result<Self> {
        let inner = tokenizers::Tokenizer::from_bytes(json).map_err(|error| Error::tokenizer("not a valid tokenizer.json", error))?;
        Ok(Self::new(inner))
    }

    /// Makes BERT's tokenizer of the text of a `vocab.txt`, one token a line, and of that of a `tokenizer_config.json` (`{}` has the defaults).
    ///
    /// # Errors
    /// Returns an error if the vocabulary lacks a special token (of one that is there twice the last counts, as in Python), or if the configuration asks for something else than BERT's tokenizer.
    pub fn from_vocabulary(vocabulary: &str, config: &str) -> Result<Self> {
        word_piece::build(vocabulary, config, Path::new(TOKENIZER_CONFIG)).map(Self::new)
    }

    fn new(mut inner: tokenizers::Tokenizer) -> Self {
        let truncation = inner.get_truncation().map(|truncation| truncation.max_length);
        // Taking truncation away cannot fail: only its limits are checked.
        let _ = inner.with_truncation(None);
        inner.with_padding(None);
        Self { inner, truncation }
    }

    /// Returns the text of a `tokenizer.json`, without truncation and padding.
    ///
    /// # Errors
    /// Returns an error if the tokenizer has parts that cannot be written.
    pub fn to_json(&self) -> Result<String> {
        self.inner
            .to_string(false)
            .map_err(|error| Error::tokenizer("it cannot be written", error))
    }

    /// Cuts a text into tokens, with special ones around it.
    ///
    /// # Errors
    /// Returns an error if the text has something that the vocabulary has no token for, not even an unknown one.
    pub fn encode(&self, text: &str) -> Result<Tokens> {
        // Counted in characters: where a tokenizer trims white space, the crate counts a byte for each of its characters.
        let encoding = self.inner.encode_char_offsets(text, true).map_err(not_cut)?;
        Ok(Tokens::of(&encoding, [text, ""]))
    }

    /// Cuts a pair of texts into tokens, with special ones around and between them.
    ///
    /// # Errors
    /// Returns an error as [`encode`](Self::encode) does.
    pub fn encode_pair(&self, first: &str, second: &str) -> Result<Tokens> {
        let encoding = self.inner.encode_char_offsets((first, second), true).map_err(not_cut)?;
        Ok(Tokens::of(&encoding, [first, second]))
    }

    /// The same tokens as those of [`encode`](Self::encode), sooner, but not where they are in the text.
    pub(crate) fn encode_without_places(&self, text: &str) -> Result<Tokens> {
        let encoding = self.inner.encode_fast(text, true).map_err(not_cut)?;
        Ok(Tokens::of(&encoding, ["", ""]))
    }

    /// Returns the number of tokens of a text, special ones included.
    ///
    /// # Errors
    /// Returns an error as [`encode`](Self::encode) does.
    pub fn count(&self, text: &str) -> Result<usize> {
        self.encode_without_places(text).map(|tokens| tokens.len())
    }

    /// Returns the text of token ids, without special tokens; ids outside the vocabulary are left out.
    ///
    /// # Errors
    /// Returns an error if the tokenizer's decoder fails.
    pub fn decode(&self, ids: &[usize]) -> Result<String> {
        let ids: Vec<u32> = ids.iter().filter_map(|&id| u32::try_from(id).ok()).collect();
        self.inner
            .decode(&ids, true)
            .map_err(|error| Error::tokenizer("token ids cannot be made a text", error))
    }

    /// Returns the id of a token, if there is such a token.
    pub fn token_to_id(&self, token: &str) -> Option<usize> {
        self.inner.token_to_id(token).map(|id| id as usize)
    }

    /// Returns the token of an id, if there is one.
    pub fn id_to_token(&self, id: usize) -> Option<String> {
        self.inner.id_to_token(u32::try_from(id).ok()?)
    }

    /// Returns the number of tokens in the vocabulary, added ones included.
    pub fn vocab_size(&self) -> usize {
        self.inner.get_vocab_size(true)
    }

    /// Returns an error if there are token ids that a model of `vocab_size` tokens has no vectors for.
    pub(crate) fn check_ids(&self, vocab_size: usize) -> Result<()> {
        let largest = self.inner.get_vocab(true).into_iter().map(|(token, id)| (id as usize, token)).max();
        match largest {
            Some((id, token)) if id >= vocab_size => {
                let reason =
                    format!("the token `{token}` has the id {id}, but the model has {vocab_size} tokens; take the tokenizer of this model");
                Err(Error::Tokenizer { reason })
            }
            _ => Ok(()),
        }
    }

    /// Returns the number of tokens at which the file would have texts cut, which is not done.
    pub fn truncation(&self) -> Option<usize> {
        self.truncation
    }
}

fn not_cut(error: tokenizers::Error) -> Error {
    Error::tokenizer("a text cannot be cut into tokens", error)
}
