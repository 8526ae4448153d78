//! How much a configuration describes, counted before a model of it is made: a file must not make us allocate what it does not hold.

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::tensors::Tensors;
use crate::config::{
    AttentionConfig, AttentionKind, CausalConfig, ClassifierConfig, ClassifierInput, ConvolutionKernel, DecoderConfig,
    DecoderLanguageModelConfig, EncoderConfig, EncoderDecoderConfig, FeedForwardConfig, HeadKind, LanguageModelConfig, LinformerConfig,
    LocalGlobalConfig, NormPlacement, PositionKind, ProjectionKind, Sharing,
};
use crate::error::{Error, Result};
use crate::scalar::Scalar;

/// How many numbers, and how many blocks, a model may have in addition to those in the file, so that what is missing can be listed.
const SPARE_NUMBERS: usize = 1 << 20;
const SPARE_BLOCKS: usize = 1 << 10;

/// An error where a configuration describes no model, or one so much larger than `tensors` that it should not be allocated.
pub(crate) fn check_extent<A: Scalar, C: StoredConfig>(
    config: &C,
    tensors: &Tensors<A>,
    check: impl FnOnce(&C) -> Result<()>,
) -> Result<()> {
    check_size(config, (tensors.len(), tensors.number_count()), check)
}

/// The same of a file that holds so many tensors and numbers.
pub(crate) fn check_size<C: StoredConfig>(config: &C, (tensors, held): (usize, usize), check: impl FnOnce(&C) -> Result<()>) -> Result<()> {
    // The check takes time for each block, so this comes first.
    check_blocks(config.depth(), tensors)?;
    check(config)?;
    let described = config.numbers();
    if described > held.saturating_mul(2).saturating_add(SPARE_NUMBERS) {
        return Err(too_large(described, "numbers", held));
    }
    Ok(())
}

/// An error where `tensors` are too few for this many blocks, each of which has some.
pub(crate) fn check_depth<A: Scalar>(depth: usize, tensors: &Tensors<A>) -> Result<()> {
    check_blocks(depth, tensors.len())
}

fn check_blocks(depth: usize, tensors: usize) -> Result<()> {
    if depth > tensors.max(SPARE_BLOCKS) {
        return Err(too_large(depth, "blocks", tensors));
    }
    Ok(())
}

fn too_large(described: usize, what: &str, held: usize) -> Error {
    let problem = format!("the configuration describes {described} {what}, but the file holds {held}");
    Error::Checkpoint { problems: vec![problem] }
}

/// A configuration as a file holds it.
pub(crate) trait StoredConfig: Serialize + DeserializeOwned {
    /// The number of blocks.
    fn depth(&self) -> usize;

    /// An error where it describes no model.
    fn check(&self) -> Result<()>;

    /// The number of elements of all tensors, buffers too, of the model that it describes; the largest number where it is larger.
    /// Only for a configuration that passes [`check`](Self::check).
    fn numbers(&self) -> usize;
}

/// Implements [`StoredConfig`] for a configuration with its own check.
macro_rules! stored {
    ($type:ty, $depth:expr, $numbers:expr) => {
        impl StoredConfig for $type {
            fn depth(&self) -> usize {
                let depth: fn(&Self) -> usize = $depth;
                depth(self)
            }

            fn check(&self) -> Result<()> {
                self.check()
            }

            fn numbers(&self) -> usize {
                let numbers: fn(&Self) -> usize = $numbers;
                numbers(self)
            }
        }
    };
}

stored!(AttentionKind, |_| 0, attention_kind);
stored!(AttentionConfig, |_| 0, attention);
stored!(LinformerConfig, |_| 0, linformer);
stored!(CausalConfig, |_| 0, causal);
stored!(LocalGlobalConfig, |_| 0, local_global);
stored!(EncoderConfig, |config| config.depth, encoder);
stored!(LanguageModelConfig, |config| config.encoder.depth, language_model);
stored!(
    ClassifierConfig,
    |config| match &config.input {
        ClassifierInput::Tokens(model) => model.encoder.depth,
        ClassifierInput::Features { encoder, .. } => encoder.depth,
    },
    classifier
);

stored!(DecoderConfig, |config| config.depth, decoder);
stored!(DecoderLanguageModelConfig, |config| config.decoder.depth, decoder_language_model);
stored!(
    EncoderDecoderConfig,
    |config| config.source.encoder.depth.saturating_add(config.target.decoder.depth),
    |config| language_model(&config.source).saturating_add(decoder_language_model(&config.target))
);

/// A feed-forward layer, which does not keep its configuration.
#[derive(Debug, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct FeedForwardFile {
    pub(crate) dim: usize,
    pub(crate) out_dim: usize,
    pub(crate) layer: FeedForwardConfig,
}

impl StoredConfig for FeedForwardFile {
    fn depth(&self) -> usize {
        0
    }

    fn check(&self) -> Result<()> {
        self.layer.check(self.dim, self.out_dim)
    }

    fn numbers(&self) -> usize {
        feed_forward(&self.layer, self.dim, self.out_dim)
    }
}

fn product(sizes: &[usize]) -> usize {
    sizes.iter().fold(1, |product, &size| product.saturating_mul(size))
}

fn sum(numbers: impl IntoIterator<Item = usize>) -> usize {
    numbers.into_iter().fold(0, usize::saturating_add)
}

fn linear(input: usize, output: usize, bias: bool) -> usize {
    output.saturating_mul(input.saturating_add(bias.into()))
}

/// The weight and the bias of a norm.
fn norm(dim: usize) -> usize {
    dim.saturating_mul(2)
}

fn attention(config: &AttentionConfig) -> usize {
    let (dim, query_dim, key_value_dim) = (config.dim, config.query_dim(), config.key_value_dim());
    let bias = config.output_bias;
    let value = linear(dim, key_value_dim, config.value_bias);
    sum([
        linear(dim, query_dim, config.query_bias),
        linear(dim, key_value_dim, config.key_bias),
        if config.tie_key_value { 0 } else { value },
        config.output_rank.map_or(0, |rank| linear(query_dim, rank, bias)),
        linear(config.output_rank.unwrap_or(query_dim), dim, bias),
    ])
}

fn attention_kind(kind: &AttentionKind) -> usize {
    match kind {
        AttentionKind::Linformer(config) => linformer(config),
        AttentionKind::Exact(config) => attention(config),
        AttentionKind::Causal(config) => causal(config),
        AttentionKind::LocalGlobal(config) => local_global(config),
    }
}

fn linformer(config: &LinformerConfig) -> usize {
    let owned = if is_layerwise(config) { 0 } else { projections(config) };
    attention(&config.attention).saturating_add(owned)
}

fn causal(config: &CausalConfig) -> usize {
    let owned = if config.sharing == Sharing::Layerwise {
        0
    } else {
        summaries(config)
    };
    attention(&config.attention).saturating_add(owned)
}

fn local_global(config: &LocalGlobalConfig) -> usize {
    let query = if config.slots == 0 { 0 } else { config.attention.query_dim() };
    attention(&config.attention).saturating_add(query)
}

/// E, and F where it is another, of the summaries.
fn summaries(config: &CausalConfig) -> usize {
    let matrices = config.projection().matrices(config.attention.heads);
    let copies = if config.projection().ties_key_value() { 1 } else { 2 };
    product(&[copies, matrices, config.rows, config.own_blocks(), config.effective_block()])
}

/// Whether the encoder owns the projection.
fn is_layerwise(config: &LinformerConfig) -> bool {
    config.projection.sharing == Some(Sharing::Layerwise)
}

/// E, and F where it is another.
fn projections(config: &LinformerConfig) -> usize {
    let matrices = config.projection.matrices(config.attention.heads);
    let head_dim = config.attention.effective_head_dim();
    let (weight, channels) = match config.projection.kind {
        ProjectionKind::Learned | ProjectionKind::Random => (product(&[config.k, config.seq_len]), config.k),
        ProjectionKind::MeanPooling | ProjectionKind::MaxPooling => (0, 0),
        ProjectionKind::AttentionPooling => (head_dim, 0),
        ProjectionKind::Convolution(convolution) => {
            let stride = config.stride().unwrap_or(1);
            match convolution.kernel {
                ConvolutionKernel::Scalar => (stride, 1),
                ConvolutionKernel::Depthwise => (product(&[head_dim, stride]), head_dim),
                ConvolutionKernel::ChannelMixing => (product(&[head_dim, head_dim, stride]), head_dim),
            }
        }
    };
    let bias = if config.projection.bias { channels } else { 0 };
    let copies = if config.projection.ties_key_value() { 1 } else { 2 };
    product(&[copies, matrices, weight.saturating_add(bias)])
}

fn feed_forward(config: &FeedForwardConfig, dim: usize, out_dim: usize) -> usize {
    let hidden = config.ff_dim.saturating_mul(if config.gated { 2 } else { 1 });
    linear(dim, hidden, config.bias).saturating_add(linear(config.ff_dim, out_dim, config.bias))
}

fn encoder(config: &EncoderConfig) -> usize {
    let shared = match &config.attention {
        AttentionKind::Linformer(attention) if is_layerwise(attention) => projections(attention),
        AttentionKind::Causal(attention) if attention.sharing == Sharing::Layerwise => summaries(attention),
        _ => 0,
    };
    let final_norm = if config.final_norm { norm(config.dim()) } else { 0 };
    let blocks = (0..config.depth).map(|layer| block(config, layer));
    sum(blocks.chain([shared, final_norm]))
}

fn decoder(config: &DecoderConfig) -> usize {
    let halves = [config.target_half(), config.source_half()].map(|half| encoder(&half));
    // One projection of both attentions is counted in either half.
    let twice = match &config.cross_attention {
        AttentionKind::Linformer(attention) if config.shares_one_projection() => projections(attention),
        _ => 0,
    };
    let final_norm = if config.final_norm { norm(config.dim()) } else { 0 };
    sum(halves.into_iter().chain([final_norm])).saturating_sub(twice)
}

fn block(config: &EncoderConfig, layer: usize) -> usize {
    let (before, after) = config.widths(layer);
    let attention = attention_kind(&config.layer_attention(layer));
    let feed_forward = config.feed_forward.as_ref().map_or(0, |layer| {
        let residual = if before == after { 0 } else { linear(before, after, true) };
        let width = match config.norm {
            NormPlacement::Pre => before,
            NormPlacement::Post => after,
        };
        sum([norm(width), feed_forward(layer, before, after), residual])
    });
    sum([norm(before), attention, feed_forward])
}

fn position(kind: PositionKind, dim: usize) -> usize {
    match kind {
        PositionKind::Sinusoidal { stored: true, .. } => dim.div_ceil(2),
        _ => kind.learned().map_or(0, |learned| product(&[learned.rows(), dim])),
    }
}

fn language_model(config: &LanguageModelConfig) -> usize {
    let embeddings = Embeddings {
        vocab_size: config.vocab_size,
        widths: (config.effective_embedding_dim(), config.encoder.dim()),
        features: config.feature_dim(),
        token_types: config.token_types.unwrap_or(0),
        position: config.position,
        has_norm: config.embedding_norm,
        head: config.head,
    };
    embeddings.numbers().saturating_add(encoder(&config.encoder))
}

fn decoder_language_model(config: &DecoderLanguageModelConfig) -> usize {
    let embeddings = Embeddings {
        vocab_size: config.vocab_size,
        widths: (config.effective_embedding_dim(), config.decoder.dim()),
        features: config.effective_embedding_dim(),
        token_types: 0,
        position: config.position,
        has_norm: config.embedding_norm,
        head: config.head,
    };
    embeddings.numbers().saturating_add(decoder(&config.decoder))
}

/// The parts around the blocks of a model of tokens.
struct Embeddings {
    vocab_size: usize,
    /// The widths of the token vectors and of the blocks.
    widths: (usize, usize),
    /// The width of features.
    features: usize,
    token_types: usize,
    position: PositionKind,
    has_norm: bool,
    head: HeadKind,
}

impl Embeddings {
    fn numbers(&self) -> usize {
        let (width, dim) = self.widths;
        let table = product(&[self.vocab_size, width]);
        let out = if self.features == width { linear(dim, width, true) } else { 0 };
        let around = linear(width, dim, true).saturating_add(out);
        let (features, vocab_size) = (self.features, self.vocab_size);
        let head = match self.head {
            HeadKind::None => 0,
            HeadKind::Tied => vocab_size,
            HeadKind::Plain => linear(features, vocab_size, true),
            HeadKind::Roberta { tied, .. } => sum([linear(features, width, true), norm(width), vocab_size, if tied { 0 } else { table }]),
            HeadKind::Labels { count } => linear(features, count, true),
        };
        sum([
            table,
            product(&[self.token_types, width]),
            position(self.position, width),
            if self.has_norm { norm(width) } else { 0 },
            if width == dim { 0 } else { around },
            head,
        ])
    }
}

fn classifier(config: &ClassifierConfig) -> usize {
    let (input, width) = match &config.input {
        ClassifierInput::Tokens(model) => (language_model(model), model.feature_dim()),
        ClassifierInput::Features {
            features,
            encoder: blocks,
            position: kind,
        } => {
            let dim = blocks.dim();
            let parts = [linear(*features, dim, true), position(*kind, dim), encoder(blocks)];
            (sum(parts), dim)
        }
    };
    let hidden = config.hidden_dim.map_or(0, |hidden| linear(width, hidden, true));
    let output = linear(config.hidden_dim.unwrap_or(width), config.classes, true);
    sum([input, hidden, output])
}
