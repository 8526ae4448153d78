//! Errors, and how to fix their causes.

use std::ops::Range;
use std::path::{Path, PathBuf};

/// A result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Every way in which a call of this crate can fail.
///
/// Each message says what was asked, what came, and what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// An error of the model: its files do not fit, or an argument does not.
    #[error(transparent)]
    Model(#[from] linformer::Error),
    /// The operating system refused to read or write.
    #[error("cannot {action} {path}: {source}", path = .path.display())]
    Io {
        /// The operation.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// The system's answer.
        source: std::io::Error,
    },
    /// A folder or file without something that a model needs.
    #[error("{path}: {reason}", path = .path.display())]
    Missing {
        /// The folder or file.
        path: PathBuf,
        /// What is not there, and what to do.
        reason: String,
    },
    /// A file that cannot be understood.
    #[error("{path}: {reason}", path = .path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// The problem.
        reason: String,
    },
    /// An option of a model's files that this crate does not reproduce.
    #[error("{path}: `{option}` is refused: {reason}", path = .path.display())]
    Refused {
        /// The file.
        path: PathBuf,
        /// The option, with its value.
        option: String,
        /// Why, and what to do instead.
        reason: String,
    },
    /// The tokenizer could not be made, or could not cut a text into tokens.
    #[error("tokenizer: {reason}")]
    Tokenizer {
        /// The problem.
        reason: String,
    },
    /// A text longer than the model reads at once. Nothing was computed.
    #[error("text {text} has {tokens} tokens, but {limit} are read at once; {advice}")]
    TooLong {
        /// The index of the text, or of the pair of texts.
        text: usize,
        /// Its tokens, special ones included.
        tokens: usize,
        /// The largest number of tokens that is possible here.
        limit: usize,
        /// What to do, which depends on the operation.
        advice: &'static str,
    },
    /// A range of bytes that no vector can be made of.
    #[error("span {span}, bytes {start} to {end} of the text: {reason}", start = .range.start, end = .range.end)]
    Span {
        /// The index of the span.
        span: usize,
        /// The range.
        range: Range<usize>,
        /// The problem, and what would fit.
        reason: String,
    },
    /// An argument that does not fit the operation.
    #[error("{operation}: {reason}")]
    Argument {
        /// The operation that was called.
        operation: &'static str,
        /// The mismatch, and what would fit.
        reason: String,
    },
}

impl Error {
    pub(crate) fn argument(operation: &'static str, reason: impl Into<String>) -> Self {
        Self::Argument {
            operation,
            reason: reason.into(),
        }
    }

    pub(crate) fn malformed(path: &Path, reason: impl ToString) -> Self {
        Self::Malformed {
            path: path.to_owned(),
            reason: reason.to_string(),
        }
    }

    pub(crate) fn missing(path: &Path, reason: impl Into<String>) -> Self {
        Self::Missing {
            path: path.to_owned(),
            reason: reason.into(),
        }
    }

    pub(crate) fn refused(path: &Path, option: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::Refused {
            path: path.to_owned(),
            option: option.into(),
            reason: reason.into(),
        }
    }

    // The error of `tokenizers` is a box of any error.
    pub(crate) fn tokenizer(what: &str, error: impl std::fmt::Display) -> Self {
        Self::Tokenizer {
            reason: format!("{what}: {error}"),
        }
    }
}
