//! Sequences of either kind.

use ndarray::{ArrayBase, ArrayRef2, ArrayRef3, ArrayView2, ArrayView3, Data, Ix2, Ix3};

use crate::models::typed_tokens::TypedTokens;

/// A batch of sequences for a [`Classifier`](crate::Classifier): of tokens or of vectors. It is made of a reference to an array of either,
/// or for tokens that have [types](crate::LanguageModelConfig::token_types) of a pair of references, to tokens and to types.
///
/// ```
/// use linformer::ndarray::array;
/// use linformer::{AttentionConfig, Classifier, ClassifierConfig, EncoderConfig, LanguageModelConfig};
///
/// let model = LanguageModelConfig::new(100, EncoderConfig::new(AttentionConfig::new(8, 2), 1)).with_token_types(2);
/// let model = Classifier::<f32>::new(&ClassifierConfig::tokens(model, 3), 0)?;
/// let (tokens, types) = (array![[1, 17, 2, 30, 31, 2]], array![[0, 0, 0, 1, 1, 1]]);
/// assert_eq!(model.forward((&tokens, &types), None)?.dim(), (1, 3));
/// # Ok::<(), linformer::Error>(())
/// ```
#[derive(Clone, Copy, Debug)]
pub enum Sequences<'a, A = f32> {
    /// (batch, n) token ids.
    Tokens(ArrayView2<'a, usize>),
    /// (batch, n) token ids, and the type of each.
    TypedTokens {
        /// The ids.
        tokens: ArrayView2<'a, usize>,
        /// The types.
        types: ArrayView2<'a, usize>,
    },
    /// (batch, n, features).
    Vectors(ArrayView3<'a, A>),
}

impl<A> Sequences<'_, A> {
    /// (batch, n).
    pub(crate) fn dim(&self) -> (usize, usize) {
        match self {
            Self::Tokens(tokens) | Self::TypedTokens { tokens, .. } => tokens.dim(),
            Self::Vectors(x) => (x.dim().0, x.dim().1),
        }
    }

    /// Its tokens, and `None` of vectors.
    pub(crate) fn tokens(&self) -> Option<TypedTokens<'_>> {
        match self {
            Self::Tokens(tokens) => Some(TypedTokens::new(tokens, None)),
            Self::TypedTokens { tokens, types } => Some(TypedTokens::new(tokens, Some(types))),
            Self::Vectors(_) => None,
        }
    }

    /// Its vectors, and `None` of tokens.
    pub(crate) fn vectors(&self) -> Option<&ArrayRef3<A>> {
        match self {
            Self::Vectors(x) => Some(x),
            Self::Tokens(_) | Self::TypedTokens { .. } => None,
        }
    }
}

impl<'a, A, S: Data<Elem = usize>> From<&'a ArrayBase<S, Ix2>> for Sequences<'a, A> {
    fn from(tokens: &'a ArrayBase<S, Ix2>) -> Self {
        Self::Tokens(tokens.view())
    }
}

impl<'a, A> From<&'a ArrayRef2<usize>> for Sequences<'a, A> {
    fn from(tokens: &'a ArrayRef2<usize>) -> Self {
        Self::Tokens(tokens.view())
    }
}

impl<'a, A, S: Data<Elem = usize>, T: Data<Elem = usize>> From<(&'a ArrayBase<S, Ix2>, &'a ArrayBase<T, Ix2>)> for Sequences<'a, A> {
    fn from((tokens, types): (&'a ArrayBase<S, Ix2>, &'a ArrayBase<T, Ix2>)) -> Self {
        Self::TypedTokens {
            tokens: tokens.view(),
            types: types.view(),
        }
    }
}

impl<'a, A> From<(&'a ArrayRef2<usize>, &'a ArrayRef2<usize>)> for Sequences<'a, A> {
    fn from((tokens, types): (&'a ArrayRef2<usize>, &'a ArrayRef2<usize>)) -> Self {
        Self::TypedTokens {
            tokens: tokens.view(),
            types: types.view(),
        }
    }
}

impl<'a, A, S: Data<Elem = A>> From<&'a ArrayBase<S, Ix3>> for Sequences<'a, A> {
    fn from(x: &'a ArrayBase<S, Ix3>) -> Self {
        Self::Vectors(x.view())
    }
}

impl<'a, A> From<&'a ArrayRef3<A>> for Sequences<'a, A> {
    fn from(x: &'a ArrayRef3<A>) -> Self {
        Self::Vectors(x.view())
    }
}
