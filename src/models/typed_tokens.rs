//! Token ids, and the type of each.

use ndarray::{Array2, ArrayRef2};

use crate::error::{Error, Result};
use crate::layers::Embedding;
use crate::scalar::Scalar;

/// (batch, n) token ids, and the type of each; all are of type 0 where there are none.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TypedTokens<'t> {
    pub(crate) ids: &'t ArrayRef2<usize>,
    pub(crate) types: Option<&'t ArrayRef2<usize>>,
}

impl<'t> TypedTokens<'t> {
    pub(crate) fn new(ids: &'t ArrayRef2<usize>, types: Option<&'t ArrayRef2<usize>>) -> Self {
        Self { ids, types }
    }

    /// (batch, n).
    pub(crate) fn dim(self) -> (usize, usize) {
        self.ids.dim()
    }

    /// The type of each token, for a model that has a vector for each type in `table`; `None` for one that has no types.
    pub(super) fn types_in<A: Scalar>(self, table: Option<&Embedding<A>>) -> Result<Option<Array2<usize>>> {
        const OPERATION: &str = "token types";
        let (Some(table), Some(types)) = (table, self.types) else {
            return match self.types {
                Some(_) => Err(Error::argument(
                    OPERATION,
                    "the model has none (LanguageModelConfig::token_types); give it the token ids alone",
                )),
                None => Ok(table.map(|_| Array2::zeros(self.dim()))),
            };
        };
        if types.dim() != self.dim() {
            let (batch, length) = self.dim();
            let expected = format!("({batch}, {length}), one for each token");
            return Err(Error::shape(OPERATION, "types", expected, types.shape()));
        }
        let count = table.vocab_size();
        if let Some(((item, position), wrong)) = types.indexed_iter().find(|&(_, &own)| own >= count) {
            let reason =
                format!("type {wrong} at batch item {item}, position {position} is outside the model's {count} types, which begin at 0");
            return Err(Error::argument(OPERATION, reason));
        }
        Ok(Some(types.to_owned()))
    }
}

impl<'t> From<&'t ArrayRef2<usize>> for TypedTokens<'t> {
    fn from(ids: &'t ArrayRef2<usize>) -> Self {
        Self::new(ids, None)
    }
}
