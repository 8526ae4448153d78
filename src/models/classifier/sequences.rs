//! Sequences of either kind.

use ndarray::{ArrayBase, ArrayRef2, ArrayRef3, ArrayView2, ArrayView3, Data, Ix2, Ix3};

/// A batch of sequences for a [`Classifier`](crate::Classifier): of tokens or of vectors. It is made of a reference to an array of either.
#[derive(Clone, Copy, Debug)]
pub enum Sequences<'a, A = f32> {
    /// (batch, n) token ids.
    Tokens(ArrayView2<'a, usize>),
    /// (batch, n, features).
    Vectors(ArrayView3<'a, A>),
}

impl<A> Sequences<'_, A> {
    /// (batch, n).
    pub(crate) fn dim(&self) -> (usize, usize) {
        match self {
            Self::Tokens(tokens) => tokens.dim(),
            Self::Vectors(x) => (x.dim().0, x.dim().1),
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
