//! From tokens into a stack of blocks, and out of it: what all models of tokens have in common.

use ndarray::{Array2, Array3, ArrayRef2, Axis, s};

use super::typed_tokens::TypedTokens;

use crate::attention::PaddingMask;
use crate::config::{DecoderLanguageModelConfig, LanguageModelConfig, PositionKind, TrainingPass};
use crate::error::{Result, checked_len};
use crate::initialization::{Place, Streams};
use crate::layers::{Embedding, LayerNorm, Linear, Padding, Position, Start, drop_out, flat, row_ranges, rows, sequence};
use crate::parameters::parameters;
use crate::scalar::Scalar;

/// Token and position vectors, and the products around the blocks.
#[derive(Clone, Debug)]
pub(crate) struct Embeddings<A> {
    pub(crate) embedding: Embedding<A>,
    pub(crate) position: Position<A>,
    token_types: Option<Embedding<A>>,
    embedding_norm: Option<LayerNorm<A>>,
    project_in: Option<Linear<A>>,
    project_out: Option<Linear<A>>,
    zeroed_token: Option<usize>,
}

parameters!(Embeddings {
    embedding,
    position,
    token_types,
    embedding_norm,
    project_in,
    project_out
});

/// The options of a model's embeddings.
pub(crate) struct EmbeddingsConfig {
    vocab_size: usize,
    /// The width of token and position vectors.
    width: usize,
    /// The width of the blocks.
    dim: usize,
    position: PositionKind,
    token_types: Option<usize>,
    /// Whether a product leads out where the widths differ.
    project_out: bool,
    /// The standard deviation of new token vectors.
    deviation: Option<f64>,
    /// The ε of the embedding's norm, where there is one.
    norm: Option<f64>,
    zeroed_token: Option<usize>,
}

impl From<&LanguageModelConfig> for EmbeddingsConfig {
    fn from(config: &LanguageModelConfig) -> Self {
        Self {
            vocab_size: config.vocab_size,
            width: config.effective_embedding_dim(),
            dim: config.encoder.dim(),
            position: config.position,
            token_types: config.token_types,
            project_out: config.project_out,
            deviation: config.embedding_deviation,
            norm: config.embedding_norm.then_some(config.encoder.norm_eps),
            zeroed_token: config.zeroed_token,
        }
    }
}

impl From<&DecoderLanguageModelConfig> for EmbeddingsConfig {
    fn from(config: &DecoderLanguageModelConfig) -> Self {
        Self {
            vocab_size: config.vocab_size,
            width: config.effective_embedding_dim(),
            dim: config.decoder.dim(),
            position: config.position,
            token_types: None,
            project_out: true,
            deviation: config.embedding_deviation,
            norm: config.embedding_norm.then_some(config.decoder.norm_eps),
            zeroed_token: None,
        }
    }
}

/// The cache of `embed_train`.
#[derive(Clone, Debug)]
pub(super) struct EmbeddingsCache<A> {
    tokens: Array2<usize>,
    /// The type of each, where the model has types.
    types: Option<Array2<usize>>,
    mask: Option<PaddingMask>,
    /// The layer that the embedding's dropout counts as.
    layer: usize,
    /// Before the embedding's norm.
    embedded: Option<Array3<A>>,
    /// Before the product into the blocks' width.
    projected: Option<Array3<A>>,
}

impl<A: Scalar> Embeddings<A> {
    /// The embeddings and the blocks between them, which draw between the two products.
    pub(crate) fn init_around<B>(
        config: impl Into<EmbeddingsConfig>,
        streams: &mut Streams,
        blocks: impl FnOnce(&mut Streams) -> B,
    ) -> (Self, B) {
        let config = config.into();
        let EmbeddingsConfig { width, dim, .. } = config;
        let embedding = Embedding::init(config.vocab_size, width, config.deviation, streams);
        let position = Position::init(config.position, width, streams);
        let token_types = config.token_types.map(|count| Embedding::init(count, width, None, streams));
        let embedding_norm = config.norm.map(|eps| LayerNorm::init(width, eps));
        let project_in = (width != dim).then(|| Linear::init(width, dim, true, streams));
        let blocks = blocks(streams);
        let embeddings = Self {
            embedding,
            position,
            token_types,
            embedding_norm,
            project_in,
            project_out: (width != dim && config.project_out).then(|| Linear::init(dim, width, true, streams)),
            zeroed_token: config.zeroed_token,
        };
        (embeddings, blocks)
    }

    /// Sets the vectors of the zeroed token to 0 where no mask is given.
    fn zero(&self, x: &mut Array3<A>, tokens: &ArrayRef2<usize>, masked: bool) {
        let Some(zeroed) = self.zeroed_token.filter(|_| !masked) else {
            return;
        };
        for ((item, position), _) in tokens.indexed_iter().filter(|&(_, &token)| token == zeroed) {
            x.slice_mut(s![item, position, ..]).fill(A::zero());
        }
    }

    /// (batch, n) token ids → (batch, n, the blocks' width).
    pub(super) fn embed(&self, start: Start<'_>, tokens: TypedTokens<'_>, mask: Option<&PaddingMask>) -> Result<Array3<A>> {
        let (mut x, _) = self.sum(start, tokens, mask)?;
        if let Some(norm) = &self.embedding_norm {
            x = norm.forward(&x)?;
        }
        self.zero(&mut x, tokens.ids, mask.is_some());
        self.widen(x)
    }

    /// The sum of the vectors of tokens, types and positions, and the types where the model has some.
    fn sum(&self, start: Start<'_>, tokens: TypedTokens<'_>, mask: Option<&PaddingMask>) -> Result<(Array3<A>, Option<Array2<usize>>)> {
        let types = tokens.types_in(self.token_types.as_ref())?;
        let mut x = self.embedding.forward(tokens.ids)?;
        if let (Some(table), Some(types)) = (&self.token_types, &types) {
            table.add_to(&mut x, types);
        }
        self.position.add_from(start, &mut x.view_mut(), padding(tokens.ids, mask))?;
        Ok((x, types))
    }

    /// [`embed`](Self::embed) of one token of each sequence, (batch, 1), which is at `positions` and of type 0.
    pub(super) fn embed_at(&self, tokens: &ArrayRef2<usize>, positions: &[usize]) -> Result<Array3<A>> {
        let mut x = self.embedding.forward(tokens)?;
        if let Some(table) = &self.token_types {
            table.add_to(&mut x, &Array2::zeros(tokens.dim()));
        }
        self.position.add_at(&mut x.view_mut(), positions)?;
        if let Some(norm) = &self.embedding_norm {
            x = norm.forward(&x)?;
        }
        self.widen(x)
    }

    fn widen(&self, x: Array3<A>) -> Result<Array3<A>> {
        match &self.project_in {
            Some(project_in) => project_in.forward(&x),
            None => Ok(x),
        }
    }

    /// The blocks' output → (batch, n, embedding width).
    pub(super) fn project_out(&self, x: Array3<A>) -> Result<Array3<A>> {
        match &self.project_out {
            Some(project_out) => project_out.forward(&x),
            None => Ok(x),
        }
    }

    /// [`project_out`](Self::project_out) of the rows of sequences of these lengths, of each alone: products of few rows add up in another order.
    pub(super) fn project_out_ragged(&self, x: Array2<A>, lengths: &[usize]) -> Result<Array2<A>> {
        let Some(project_out) = &self.project_out else {
            return Ok(x);
        };
        checked_len("LanguageModel", &[x.nrows(), project_out.out_dim()], size_of::<A>())?;
        let mut y = Array2::zeros((x.nrows(), project_out.out_dim()));
        for rows in row_ranges(lengths) {
            let own = x.slice(s![rows.clone(), ..]).insert_axis(Axis(0));
            y.slice_mut(s![rows, ..]).assign(&project_out.forward(&own)?.index_axis(Axis(0), 0));
        }
        Ok(y)
    }

    pub(super) fn embed_train(
        &self,
        start: Start<'_>,
        tokens: TypedTokens<'_>,
        mask: Option<&PaddingMask>,
        pass: &TrainingPass,
        layer: usize,
    ) -> Result<(Array3<A>, EmbeddingsCache<A>)> {
        let (mut x, types) = self.sum(start, tokens, mask)?;
        let embedded = match &self.embedding_norm {
            Some(norm) => {
                let normed = norm.forward(&x)?;
                Some(std::mem::replace(&mut x, normed))
            }
            None => None,
        };
        drop_out(&mut x, pass.dropout(layer, Place::Embedding));
        self.zero(&mut x, tokens.ids, mask.is_some());
        let projected = match &self.project_in {
            Some(project_in) => {
                let wider = project_in.forward(&x)?;
                Some(std::mem::replace(&mut x, wider))
            }
            None => None,
        };
        let cache = EmbeddingsCache {
            tokens: tokens.ids.to_owned(),
            types,
            mask: mask.cloned(),
            layer,
            embedded,
            projected,
        };
        Ok((x, cache))
    }

    /// [`project_out`](Self::project_out), and what it was given where that is needed.
    pub(super) fn project_out_train(&self, x: Array3<A>) -> Result<(Array3<A>, Option<Array3<A>>)> {
        match &self.project_out {
            Some(project_out) => Ok((project_out.forward(&x)?, Some(x))),
            None => Ok((x, None)),
        }
    }

    /// The gradient of what [`project_out_train`](Self::project_out_train) was given.
    pub(super) fn project_out_backward(&self, given: Option<&Array3<A>>, dy: Array3<A>, gradients: &mut Self) -> Array3<A> {
        match (&self.project_out, given, &mut gradients.project_out) {
            (Some(project), Some(x), Some(own)) => linear_rows(project, x, &dy, own),
            _ => dy,
        }
    }

    pub(super) fn embed_backward(
        &self,
        start: Start<'_>,
        cache: &EmbeddingsCache<A>,
        mut dy: Array3<A>,
        pass: &TrainingPass,
        gradients: &mut Self,
    ) {
        if let (Some(project), Some(x), Some(own)) = (&self.project_in, &cache.projected, &mut gradients.project_in) {
            dy = linear_rows(project, x, &dy, own);
        }
        self.zero(&mut dy, &cache.tokens, cache.mask.is_some());
        drop_out(&mut dy, pass.dropout(cache.layer, Place::Embedding));
        if let (Some(norm), Some(x), Some(own)) = (&self.embedding_norm, &cache.embedded, &mut gradients.embedding_norm) {
            dy = norm_rows(norm, x, dy, own);
        }
        let padding = padding(&cache.tokens, cache.mask.as_ref());
        self.position.backward_from(start, padding, &dy, &mut gradients.position);
        if let (Some(types), Some(own)) = (&cache.types, &mut gradients.token_types) {
            Embedding::backward_tokens(types, &dy, own);
        }
        Embedding::backward_tokens(&cache.tokens, &dy, &mut gradients.embedding);
    }
}

/// How padding is recognized: by the mask, where there is one.
fn padding<'p>(tokens: &'p ArrayRef2<usize>, mask: Option<&'p PaddingMask>) -> Padding<'p> {
    mask.map_or(Padding::Ids(tokens), |mask| Padding::Mask(mask.real()))
}

pub(super) fn norm_rows<A: Scalar>(norm: &LayerNorm<A>, x: &Array3<A>, dy: Array3<A>, gradients: &mut LayerNorm<A>) -> Array3<A> {
    let (batch, length, _) = x.dim();
    let mut dy = flat(dy);
    norm.backward_rows(rows(x), &mut dy.view_mut(), gradients);
    sequence(dy, batch, length)
}

pub(super) fn linear_rows<A: Scalar>(linear: &Linear<A>, x: &Array3<A>, dy: &Array3<A>, gradients: &mut Linear<A>) -> Array3<A> {
    let (batch, length, _) = x.dim();
    sequence(linear.backward_rows(rows(x), rows(dy), gradients), batch, length)
}
