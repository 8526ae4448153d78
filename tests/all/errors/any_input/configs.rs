//! Configurations whose fields are drawn one by one: many describe no model.
//!
//! Strategies are boxed: as values, one in another, they take more of the stack than a test's thread has.

use linformer::{
    Activation, AttentionConfig, AttentionKind, BiasPlace, BlockWeights, CausalConfig, ClassifierConfig, ClassifierInput, Convolution,
    ConvolutionKernel, ConvolutionTail, DecoderConfig, DecoderLanguageModelConfig, EncoderConfig, EncoderDecoderConfig, FeedForwardConfig,
    HeadKind, Initialization, LanguageModelConfig, LinformerConfig, LocalGlobalConfig, NormPlacement, Pooling, PoolingQuery, PositionKind,
    ProjectionConfig, ProjectionKind, Sharing, SinusoidLayout, SummarySoftmax,
};
use proptest::prelude::*;
use proptest::sample::select;

/// A small size, or one that nothing can have.
pub fn size() -> impl Strategy<Value = usize> {
    prop_oneof![1 => Just(0), 20 => 1..=9_usize, 1 => Just(17), 1 => Just(usize::MAX)]
}

/// A size that is mostly one of these.
fn mostly(sizes: &'static [usize]) -> impl Strategy<Value = usize> {
    prop_oneof![9 => select(sizes), 1 => size()]
}

/// A number that may be none.
pub fn number() -> impl Strategy<Value = f64> {
    prop_oneof![
        6 => select(vec![0.0, 0.25, 0.5, 1e-5]),
        2 => select(vec![1.0, 1.5, -1.0, 1e300, 1e-320, f64::NAN, f64::INFINITY]),
    ]
}

fn sharing() -> impl Strategy<Value = Sharing> {
    select(vec![Sharing::None, Sharing::Headwise, Sharing::KeyValue, Sharing::Layerwise])
}

fn initialization() -> impl Strategy<Value = Initialization> {
    prop_oneof![
        select(vec![
            Initialization::MeanPooling,
            Initialization::UniformInverseSqrtK,
            Initialization::XavierNormal
        ]),
        number().prop_map(|standard_deviation| Initialization::Normal { standard_deviation }),
    ]
}

pub fn attention() -> BoxedStrategy<AttentionConfig> {
    let options = prop::array::uniform6(any::<bool>());
    let rarely = prop::array::uniform2(prop::bool::weighted(0.2));
    let widths = (mostly(&[4, 6, 8]), mostly(&[1, 2, 4]), prop::option::of(size()), mostly(&[1, 2, 4]));
    (widths, options, rarely, prop::option::weighted(0.2, size()))
        .prop_map(
            |((dim, heads, head_dim, kv_heads), [tied, query, key, value, output, same], [stay, causal], rank)| {
                AttentionConfig::new(dim, heads)
                    .with_head_dim(head_dim)
                    .with_kv_heads(if same { heads } else { kv_heads })
                    .with_tied_key_value(tied)
                    .with_query_bias(query)
                    .with_key_value_bias(key, if tied { key } else { value })
                    .with_output_bias(output)
                    .with_output_rank(rank)
                    .with_masked_keys_stay(stay)
                    .with_causal(causal)
            },
        )
        .boxed()
}

fn kind() -> impl Strategy<Value = ProjectionKind> {
    let kernel = select(vec![
        ConvolutionKernel::Scalar,
        ConvolutionKernel::Depthwise,
        ConvolutionKernel::ChannelMixing,
    ]);
    let convolution = (
        kernel,
        select(vec![ConvolutionTail::Dropped, ConvolutionTail::ZeroPadded]),
        any::<bool>(),
    );
    prop_oneof![
        2 => Just(ProjectionKind::Learned),
        1 => Just(ProjectionKind::Random),
        1 => Just(ProjectionKind::MeanPooling),
        1 => Just(ProjectionKind::MaxPooling),
        1 => Just(ProjectionKind::AttentionPooling),
        2 => convolution.prop_map(|(kernel, tail, all)| ProjectionKind::Convolution(Convolution::new(kernel).with_tail(tail).with_all_windows(all))),
    ]
}

pub fn linformer() -> BoxedStrategy<LinformerConfig> {
    let projection = (
        kind(),
        prop::option::of(sharing()),
        prop::bool::weighted(0.3),
        prop::option::weighted(0.2, initialization()),
    );
    let attention = prop_oneof![
        3 => attention().prop_map(|attention| attention.with_masked_keys_stay(false).with_causal(false)),
        1 => attention(),
    ];
    (attention, size(), size(), projection, prop::bool::weighted(0.3))
        .prop_map(|(attention, seq_len, k, (kind, sharing, bias, initialization), after)| {
            LinformerConfig::new(attention.dim, attention.heads, seq_len, k)
                .with_attention(attention)
                .with_projection(
                    ProjectionConfig::new(kind)
                        .with_sharing(sharing)
                        .with_bias(bias)
                        .with_initialization(initialization),
                )
                .with_bias_place(if after {
                    BiasPlace::AfterCompression
                } else {
                    BiasPlace::BeforeCompression
                })
        })
        .boxed()
}

pub fn causal() -> BoxedStrategy<CausalConfig> {
    let blocks = (prop::option::of(size()), prop::option::of(size()));
    let choices = (
        sharing(),
        select(vec![BlockWeights::Shared, BlockWeights::PerBlock]),
        select(vec![SummarySoftmax::Joint, SummarySoftmax::Summed]),
        initialization(),
    );
    let attention = attention().prop_map(|attention| attention.with_masked_keys_stay(false).with_causal(false));
    (attention, size(), mostly(&[1, 2]), blocks, choices)
        .prop_map(
            |(attention, seq_len, rows, (block, window), (sharing, weights, softmax, initialization))| {
                // The default block of the longest sequence is a number of gigabytes.
                let block = if seq_len == usize::MAX { block.or(Some(3)) } else { block };
                CausalConfig::new(attention.dim, attention.heads, seq_len, rows)
                    .with_attention(attention)
                    .with_block(block)
                    .with_window(window)
                    .with_sharing(sharing)
                    .with_block_weights(weights)
                    .with_softmax(softmax)
                    .with_initialization(initialization)
            },
        )
        .boxed()
}

pub fn local_global() -> BoxedStrategy<LocalGlobalConfig> {
    let attention = attention().prop_map(|attention| attention.with_masked_keys_stay(false).with_causal(false));
    let query = select(vec![PoolingQuery::Fixed, PoolingQuery::MeanOfItem]);
    let shift = select(vec![0.0, 1.5, f64::NAN]);
    let block = select(vec![0, 1, 2, 3, 8, 1 << 20, usize::MAX, 1 << 63]);
    (attention, block, size(), any::<bool>(), query, (shift, prop::option::of(size())))
        .prop_map(|(attention, block, slots, window, query, (shift, trained_len))| {
            LocalGlobalConfig::new(attention.dim, attention.heads)
                .with_attention(attention)
                .with_block(block)
                .with_slots(slots)
                .with_window(window)
                .with_pooling_query(query)
                .with_mass_shift(shift)
                .with_trained_len(trained_len)
        })
        .boxed()
}

fn activation() -> impl Strategy<Value = Activation> {
    select(vec![
        Activation::Gelu,
        Activation::GeluTanh,
        Activation::Relu,
        Activation::Silu,
        Activation::Tanh,
        Activation::Identity,
    ])
}

fn feed_forward() -> impl Strategy<Value = FeedForwardConfig> {
    (size(), activation(), any::<bool>(), any::<bool>()).prop_map(|(ff_dim, activation, gated, bias)| {
        FeedForwardConfig::new(ff_dim)
            .with_activation(activation)
            .with_gated(gated)
            .with_bias(bias)
    })
}

fn any_attention() -> BoxedStrategy<AttentionKind> {
    prop_oneof![
        3 => linformer().prop_map(AttentionKind::from),
        1 => attention().prop_map(AttentionKind::from),
        2 => causal().prop_map(AttentionKind::from),
        2 => local_global().prop_map(AttentionKind::from),
    ]
    .boxed()
}

pub fn encoder() -> BoxedStrategy<EncoderConfig> {
    let shape = (
        mostly(&[0, 1, 2, 3]),
        prop::option::weighted(0.8, feed_forward()),
        prop::option::weighted(0.2, prop::collection::vec(size(), 0..4)),
        prop::option::weighted(0.2, size()),
    );
    let choices = (
        any::<bool>(),
        prop_oneof![5 => Just(1e-5), 1 => number()],
        any::<bool>(),
        prop::bool::weighted(0.3),
    );
    (any_attention(), shape, choices)
        .prop_map(
            |(attention, (depth, feed_forward, k_by_layer, hidden_dim), (post, eps, final_norm, reversible))| {
                EncoderConfig::new(attention, depth)
                    .with_feed_forward(feed_forward)
                    .with_k_by_layer(k_by_layer)
                    .with_hidden_dim(hidden_dim)
                    .with_norm(if post { NormPlacement::Post } else { NormPlacement::Pre })
                    .with_norm_eps(eps)
                    .with_final_norm(final_norm)
                    .with_reversible(reversible)
            },
        )
        .boxed()
}

fn position() -> BoxedStrategy<PositionKind> {
    let layout = select(vec![SinusoidLayout::Halves, SinusoidLayout::Interleaved]);
    prop_oneof![
        2 => Just(PositionKind::None),
        3 => size().prop_map(|max_len| PositionKind::Learned { max_len }),
        1 => (size(), size()).prop_map(|(max_len, padding_token)| PositionKind::LearnedAfterPadding { max_len, padding_token }),
        1 => (size(), prop::option::of(size())).prop_map(|(max_len, padding_token)| PositionKind::LearnedRepeating { max_len, padding_token }),
        2 => (prop_oneof![3 => Just(10_000.0), 1 => number()], layout, any::<bool>())
            .prop_map(|(base, layout, stored)| PositionKind::Sinusoidal { base, layout, stored }),
    ]
    .boxed()
}

pub fn language_model() -> BoxedStrategy<LanguageModelConfig> {
    let head = prop_oneof![
        select(vec![HeadKind::None, HeadKind::Plain, HeadKind::Tied]),
        (any::<bool>(), activation()).prop_map(|(tied, activation)| HeadKind::Roberta { tied, activation }),
        size().prop_map(|count| HeadKind::Labels { count }),
    ];
    let embedding = (
        prop::option::weighted(0.3, size()),
        prop::bool::weighted(0.8),
        prop::option::weighted(0.2, size()),
        any::<bool>(),
        prop::option::weighted(0.2, size()),
    );
    (mostly(&[3, 5, 6]), encoder(), position(), embedding, head)
        .prop_map(|(vocab_size, encoder, position, (width, project_out, types, norm, zeroed), head)| {
            LanguageModelConfig::new(vocab_size, encoder)
                .with_position(position)
                .with_embedding_dim(width)
                .with_project_out(project_out)
                .with_token_types(types)
                .with_embedding_norm(norm)
                .with_zeroed_token(zeroed)
                .with_head(head)
        })
        .boxed()
}

/// Attention of `dim` features where it can have them.
fn of_width(mut kind: AttentionKind, dim: usize) -> AttentionKind {
    match &mut kind {
        AttentionKind::Linformer(config) => config.attention.dim = dim,
        AttentionKind::Exact(config) => config.dim = dim,
        AttentionKind::Causal(config) => config.attention.dim = dim,
        AttentionKind::LocalGlobal(config) => config.attention.dim = dim,
        _ => {}
    }
    kind
}

pub fn decoder() -> BoxedStrategy<DecoderConfig> {
    let cross = prop_oneof![
        4 => linformer().prop_map(AttentionKind::from),
        3 => attention().prop_map(|attention| attention.with_causal(false).into()),
        1 => any_attention(),
    ];
    let feed_forward = || prop::option::weighted(0.6, feed_forward());
    let shape = (
        mostly(&[0, 1, 2]),
        feed_forward(),
        feed_forward(),
        prop::option::weighted(0.1, prop::collection::vec(size(), 0..3)),
    );
    let choices = (
        any::<bool>(),
        prop_oneof![5 => Just(1e-5), 1 => number()],
        any::<bool>(),
        prop::bool::weighted(0.9),
    );
    (any_attention(), cross, shape, choices)
        .prop_map(
            |(own, cross, (depth, middle, last, k_by_layer), (post, eps, final_norm, one_width))| {
                let cross = if one_width { of_width(cross, own.attention().dim) } else { cross };
                DecoderConfig::new(own, cross, depth)
                    .with_middle_feed_forward(middle)
                    .with_feed_forward(last)
                    .with_k_by_layer(k_by_layer)
                    .with_norm(if post { NormPlacement::Post } else { NormPlacement::Pre })
                    .with_norm_eps(eps)
                    .with_final_norm(final_norm)
            },
        )
        .boxed()
}

/// Models that mostly can write; that they can be refused is what the decoders are for.
pub fn encoder_decoder() -> BoxedStrategy<EncoderDecoderConfig> {
    let causal = prop_oneof![
        1 => attention().prop_map(|attention| attention.with_causal(true).into()),
        2 => causal().prop_map(AttentionKind::from),
    ];
    let target = (
        mostly(&[1, 2, 3, 5]),
        prop::option::weighted(0.3, size()),
        position(),
        any::<bool>(),
    );
    let head = select(vec![HeadKind::None, HeadKind::Plain, HeadKind::Plain, HeadKind::Tied]);
    (language_model(), causal, decoder(), target, head, prop::bool::weighted(0.9))
        .prop_map(|(source, own, decoder, (vocab_size, width, position, norm), head, fits)| {
            let dim = decoder.dim();
            let mut decoder = decoder;
            if fits {
                decoder.self_attention = of_width(own, dim);
            }
            let source = if fits {
                source.with_embedding_dim(Some(dim)).with_zeroed_token(None)
            } else {
                source
            };
            let target = DecoderLanguageModelConfig::new(vocab_size, decoder)
                .with_embedding_dim(width)
                .with_position(position)
                .with_embedding_norm(norm)
                .with_head(head);
            EncoderDecoderConfig::new(source, target)
        })
        .boxed()
}

pub fn classifier() -> BoxedStrategy<ClassifierConfig> {
    let input = prop_oneof![
        2 => language_model().prop_map(|model| ClassifierInput::Tokens(model.with_head(HeadKind::None))),
        1 => language_model().prop_map(ClassifierInput::Tokens),
        2 => (mostly(&[5]), encoder(), position())
            .prop_map(|(features, encoder, position)| ClassifierConfig::features(features, encoder, 2).input_at(position)),
    ];
    let pooling = select(vec![Pooling::Mean, Pooling::Max, Pooling::First]);
    (input, size(), pooling, prop::option::of(size()), activation())
        .prop_map(|(input, classes, pooling, hidden, activation)| {
            let config = ClassifierConfig::new(input, classes).with_pooling(pooling).with_hidden_dim(hidden);
            if hidden.is_some() {
                config.with_activation(activation)
            } else {
                config
            }
        })
        .boxed()
}

/// Features are read at positions of another kind than the default.
trait InputAt {
    fn input_at(self, position: PositionKind) -> ClassifierInput;
}

impl InputAt for ClassifierConfig {
    fn input_at(self, kind: PositionKind) -> ClassifierInput {
        let mut input = self.input;
        if let ClassifierInput::Features { position, .. } = &mut input {
            *position = kind;
        }
        input
    }
}
