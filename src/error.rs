//! Errors, and how to fix their causes.

use std::path::PathBuf;

/// A result of this crate. With a second parameter it is the standard library's, so that `use linformer::*` takes nothing away.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Every way in which a call of this crate can fail.
///
/// Each message says what was asked, what was expected, what came, and what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// An array of another shape than the operation needs.
    #[error("{operation}: `{argument}` must have shape {expected}, but has {found:?}")]
    Shape {
        /// The operation that was called.
        operation: &'static str,
        /// The argument at fault.
        argument: &'static str,
        /// The expected shape, in words and numbers.
        expected: String,
        /// The shape that came.
        found: Vec<usize>,
    },
    /// A configuration that describes no model.
    #[error("configuration: `{option}` = {value}: {reason}")]
    Config {
        /// The option at fault.
        option: &'static str,
        /// Its value.
        value: String,
        /// Why it cannot be, and what to use instead.
        reason: String,
    },
    /// A sequence longer than the projections have columns for.
    #[error("{operation}: the sequence reaches position {length}, but E and F have {seq_len} columns; {advice}")]
    TooLong {
        /// The operation that was called.
        operation: &'static str,
        /// The length that came.
        length: usize,
        /// The longest length that fits.
        seq_len: usize,
        /// Advice, which depends on the attention.
        advice: &'static str,
    },
    /// A token id outside the vocabulary.
    #[error(
        "token {token} at batch item {item}, position {position} is outside the vocabulary of {vocab_size} (ids 0 to {last}); use the vocabulary \
         that the model was built for", last = vocab_size.saturating_sub(1)
    )]
    Token {
        /// The token id.
        token: usize,
        /// The batch item that holds it.
        item: usize,
        /// Its position.
        position: usize,
        /// The vocabulary's size.
        vocab_size: usize,
    },
    /// A target class that the logits have no column for.
    #[error("the target {class} of row {row} is outside the {classes} classes; `None` is the target of a row that does not count")]
    Class {
        /// The target.
        class: usize,
        /// Its row.
        row: usize,
        /// The number of classes.
        classes: usize,
    },
    /// A loss that is NaN or infinite.
    #[error("step {step}: the loss is {loss}; lower the learning rate, clip the gradients, or look for bad numbers in the batch")]
    NonFiniteLoss {
        /// The index of the step.
        step: u64,
        /// The loss.
        loss: f64,
    },
    /// A gradient that is NaN or infinite. Model and optimizer are left as they were.
    #[error(
        "optimizer step {step}: the gradient of `{parameter}` is not finite, and nothing was changed; leave this batch out, lower the learning \
         rate, or look for bad numbers in the batch"
    )]
    NonFiniteGradient {
        /// The optimizer's step, counted from 1.
        step: u64,
        /// The first parameter whose gradient it is.
        parameter: String,
    },
    /// An optimizer's step after which a parameter or a moment would be NaN or infinite. Model and optimizer are left as they were.
    #[error(
        "optimizer step {step}: `{tensor}` would hold a number that is not finite, and nothing was changed; clip the gradients, lower the learning \
         rate or the weight decay, or leave this batch out"
    )]
    NonFiniteStep {
        /// The optimizer's step, counted from 1.
        step: u64,
        /// The first parameter that it is, or the first moment: `moment2.weight` is the second moment of `weight`.
        tensor: String,
    },
    /// A mask, a list of lengths or a list of positions that does not fit its sequence.
    #[error("{operation}: {reason}")]
    Argument {
        /// The operation that was called.
        operation: &'static str,
        /// The mismatch, and what would fit.
        reason: String,
    },
    /// A size whose product is larger than memory can address.
    #[error("{operation}: the sizes {sizes:?} multiply to more than memory can address; use smaller ones")]
    Overflow {
        /// The operation that was called.
        operation: &'static str,
        /// The factors.
        sizes: Vec<usize>,
    },
    /// A foreign option that this crate does not reproduce.
    #[error("{peer}: the option `{option}` is refused: {reason}")]
    Refused {
        /// The configuration or package that the option belongs to.
        peer: &'static str,
        /// The option.
        option: String,
        /// Why.
        reason: String,
    },
    /// A checkpoint whose tensors do not fit the model. All of them are listed.
    #[error("the checkpoint does not fit the model: {}", list(.problems))]
    Checkpoint {
        /// One line for each tensor that is missing, unexpected, misshapen, mistyped or disagreeing.
        problems: Vec<String>,
    },
    /// A file that is not a valid checkpoint.
    #[error("not a valid checkpoint: {reason}")]
    Malformed {
        /// The problem.
        reason: String,
    },
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
    /// A rank of a distributed operation failed, so that the others could not continue. Every rank returns this except the failed one, which returns
    /// its own error.
    #[error("rank {rank} failed, and the others stopped: {reason}")]
    Rank {
        /// The rank, of the group that worked together.
        rank: usize,
        /// The error's message.
        reason: String,
    },
    /// Ranks that were not given the same. All of them return this, and none has done anything.
    #[error("{operation}: the ranks do not agree on {what}: rank 0 has {expected}, rank {rank} has {found}; give all ranks the same")]
    Disagreement {
        /// The operation that was called.
        operation: &'static str,
        /// The values that differ; a digest for configurations and parameters.
        what: &'static str,
        /// The first rank that has something else than rank 0.
        rank: usize,
        /// The value on rank 0.
        expected: String,
        /// The value on that rank.
        found: String,
    },
    /// A call from rank to rank that could not be completed.
    #[error("{operation}: {reason}")]
    Communication {
        /// The call.
        operation: &'static str,
        /// The problem.
        reason: String,
    },
}

fn list(problems: &[String]) -> String {
    problems.join("; ")
}

impl Error {
    pub(crate) fn config(option: &'static str, value: impl std::fmt::Display, reason: impl Into<String>) -> Self {
        Self::Config {
            option,
            value: value.to_string(),
            reason: reason.into(),
        }
    }

    pub(crate) fn shape(operation: &'static str, argument: &'static str, expected: impl Into<String>, found: &[usize]) -> Self {
        Self::Shape {
            operation,
            argument,
            expected: expected.into(),
            found: found.to_vec(),
        }
    }

    /// Returns the error for item `of` of a batch, given the one that the item causes alone.
    pub(crate) fn of_item(mut self, of: usize) -> Self {
        if let Self::Token { item, .. } = &mut self {
            *item = of;
        }
        self
    }

    pub(crate) fn argument(operation: &'static str, reason: impl Into<String>) -> Self {
        Self::Argument {
            operation,
            reason: reason.into(),
        }
    }
}

/// The product of `sizes`, or an error where an array of that many elements of `bytes` bytes cannot be addressed.
pub(crate) fn checked_len(operation: &'static str, sizes: &[usize], bytes: usize) -> Result<usize> {
    let overflow = || Error::Overflow {
        operation,
        sizes: sizes.to_vec(),
    };
    let mut nonzero = sizes.iter().filter(|&&size| size != 0);
    // ndarray refuses shapes whose non-zero axes overflow even where another axis is 0.
    let product = nonzero
        .try_fold(1_usize, |product, &size| product.checked_mul(size))
        .ok_or_else(overflow)?;
    let fits = product.checked_mul(bytes).is_some_and(|total| isize::try_from(total).is_ok());
    if !fits {
        return Err(overflow());
    }
    Ok(sizes.iter().product())
}
