//! Configurations that describe nothing.

use super::*;

fn new(config: LinformerConfig) -> linformer::Result<LinformerAttention<f32>> {
    LinformerAttention::new(&config, 0)
}

#[test]
fn configurations_that_describe_no_layer() {
    refused!(new(LinformerConfig::new(0, 1, 6, 4)), Error::Config { .. }, "dim", "at least 1");
    refused!(new(LinformerConfig::new(8, 0, 6, 4)), Error::Config { .. }, "heads");
    refused!(new(LinformerConfig::new(8, 3, 6, 4)), Error::Config { .. }, "divide", "head_dim");
    refused!(new(LinformerConfig::new(8, 2, 0, 4)), Error::Config { .. }, "seq_len");
    refused!(new(LinformerConfig::new(8, 2, 6, 0)), Error::Config { .. }, "k");
    refused!(new(config().with_head_dim(Some(0))), Error::Config { .. }, "head_dim");
    refused!(new(config().with_kv_heads(0)), Error::Config { .. }, "kv_heads");
    refused!(new(config().with_kv_heads(3)), Error::Config { .. }, "kv_heads", "divide");
    refused!(new(config().with_output_rank(Some(0))), Error::Config { .. }, "output_rank");
    refused!(
        new(config().with_sharing(Sharing::Layerwise)),
        Error::Config { .. },
        "Encoder",
        "KeyValue"
    );
    refused!(
        new(config().with_tied_key_value(true).with_key_value_bias(true, false)),
        Error::Config { .. },
        "value_bias"
    );
    refused!(
        new(config().with_bias_place(BiasPlace::AfterCompression)),
        Error::Config { .. },
        "bias_place",
        "neither"
    );
    refused!(new(LinformerConfig::new(8, 2, usize::MAX, 4)), Error::Overflow { .. }, "memory");
    refused!(new(LinformerConfig::new(usize::MAX, 1, 6, 4)), Error::Overflow { .. }, "memory");
    refused!(new(config().with_head_dim(Some(usize::MAX / 2))), Error::Overflow { .. }, "memory");
}

#[test]
fn configurations_that_describe_no_projection() {
    for kind in [
        ProjectionKind::MeanPooling,
        ProjectionKind::MaxPooling,
        ProjectionKind::AttentionPooling,
    ] {
        refused!(
            new(config().with_kind(kind).with_sharing(Sharing::Headwise)),
            Error::Config { .. },
            "sharing",
            "pooling"
        );
        refused!(
            new(config().with_kind(kind).with_projection_bias(true)),
            Error::Config { .. },
            "bias",
            "pooling"
        );
        refused!(
            new(config().with_kind(kind).with_initialization(Initialization::MeanPooling)),
            Error::Config { .. },
            "initialization"
        );
    }
    refused!(
        new(config()
            .with_kind(ProjectionKind::AttentionPooling)
            .with_key_value_bias(true, true)
            .with_bias_place(BiasPlace::AfterCompression)),
        Error::Config { .. },
        "bias_place",
        "no effect"
    );
    refused!(
        new(config().with_kind(ProjectionKind::Random).with_projection_bias(true)),
        Error::Config { .. },
        "random"
    );
    let convolution = ProjectionKind::Convolution(Convolution::new(ConvolutionKernel::Scalar));
    refused!(
        new(LinformerConfig::new(8, 2, 6, 7).with_kind(convolution)),
        Error::Config { .. },
        "stride"
    );
    let negative = Initialization::Normal { standard_deviation: -1.0 };
    refused!(
        new(config().with_initialization(negative)),
        Error::Config { .. },
        "standard_deviation"
    );
}

/// Sizes whose products no memory can hold are refused before anything is allocated, wherever they stand.
#[test]
fn sizes_that_overflow() {
    let huge = 1 << 40;
    let mixing = ProjectionKind::Convolution(Convolution::new(ConvolutionKernel::ChannelMixing));
    let convolution = LinformerConfig::new(1, 1, 1 << 10, 1)
        .with_head_dim(Some(1 << 28))
        .with_kind(mixing);
    refused!(LinformerAttention::<f32>::new(&convolution, 0), Error::Overflow { .. }, "memory");
    let small = || EncoderConfig::new(config(), 2);
    let depth = EncoderConfig::new(config(), usize::MAX);
    refused!(Encoder::<f32>::new(&depth, 0), Error::Overflow { .. }, "memory");
    let wide = EncoderConfig::new(LinformerConfig::new(huge, 1, 6, 4).with_head_dim(Some(1)), 2);
    let wide = wide.with_feed_forward(Some(FeedForwardConfig::new(1))).with_hidden_dim(Some(huge));
    refused!(Encoder::<f32>::new(&wide, 0), Error::Overflow { .. }, "memory");
    let feed_forward = small().with_feed_forward(Some(FeedForwardConfig::new(usize::MAX / 4)));
    refused!(Encoder::<f32>::new(&feed_forward, 0), Error::Overflow { .. }, "memory");
    let language = |config: LanguageModelConfig| LanguageModel::<f32>::new(&config, 0);
    refused!(
        language(LanguageModelConfig::new(1 << 62, small())),
        Error::Overflow { .. },
        "memory"
    );
    let embedding = LanguageModelConfig::new(11, small()).with_embedding_dim(Some(huge));
    let embedding = embedding.with_head(HeadKind::Roberta {
        tied: true,
        activation: Activation::Gelu,
    });
    refused!(language(embedding), Error::Overflow { .. }, "memory");
    let position = PositionKind::Learned { max_len: usize::MAX };
    refused!(
        language(LanguageModelConfig::new(11, small()).with_position(position)),
        Error::Overflow { .. },
        "memory"
    );
    let classes = ClassifierConfig::features(3, small(), usize::MAX);
    refused!(Classifier::<f32>::new(&classes, 0), Error::Overflow { .. }, "memory");
    let features = ClassifierConfig::features(1 << 62, small(), 2);
    refused!(Classifier::<f32>::new(&features, 0), Error::Overflow { .. }, "memory");
}

#[test]
fn configurations_that_describe_no_encoder() {
    let encoder = |config: EncoderConfig| Encoder::<f32>::new(&config, 0);
    let base = || EncoderConfig::new(config(), 2);
    refused!(encoder(base().with_norm_eps(f64::NAN)), Error::Config { .. }, "norm_eps");
    refused!(encoder(base().with_norm_eps(-1e-5)), Error::Config { .. }, "norm_eps");
    refused!(
        encoder(base().with_k_by_layer(Some(vec![4]))),
        Error::Config { .. },
        "k_by_layer",
        "2 layers"
    );
    refused!(encoder(base().with_k_by_layer(Some(vec![4, 0]))), Error::Config { .. }, "k");
    let layerwise = EncoderConfig::new(config().with_sharing(Sharing::Layerwise), 2);
    refused!(
        encoder(layerwise.clone().with_k_by_layer(Some(vec![4, 3]))),
        Error::Config { .. },
        "layerwise"
    );
    refused!(
        encoder(layerwise.with_k_by_layer(Some(vec![3, 3]))),
        Error::Config { .. },
        "layerwise"
    );
    let exact = EncoderConfig::new(AttentionConfig::new(8, 2), 2);
    refused!(encoder(exact.with_k_by_layer(Some(vec![4, 4]))), Error::Config { .. }, "exact");
    refused!(
        encoder(base().with_norm(NormPlacement::Post).with_reversible(true)),
        Error::Config { .. },
        "reversible"
    );
    refused!(
        encoder(base().with_feed_forward(None).with_reversible(true)),
        Error::Config { .. },
        "reversible"
    );
    refused!(encoder(base().with_hidden_dim(Some(0))), Error::Config { .. }, "hidden_dim");
    refused!(
        encoder(base().with_hidden_dim(Some(9)).with_feed_forward(None)),
        Error::Config { .. },
        "feed-forward"
    );
    refused!(
        encoder(EncoderConfig::new(config(), 1).with_hidden_dim(Some(9))),
        Error::Config { .. },
        "between"
    );
    refused!(
        encoder(base().with_feed_forward(Some(FeedForwardConfig::new(0)))),
        Error::Config { .. },
        "ff_dim"
    );
    refused!(EncoderBlock::<f32>::new(&base(), 0), Error::Config { .. }, "depth");
}

#[test]
fn configurations_that_describe_no_model() {
    let language = |config: LanguageModelConfig| LanguageModel::<f32>::new(&config, 0);
    let base = || LanguageModelConfig::new(11, EncoderConfig::new(config(), 1));
    refused!(
        language(LanguageModelConfig::new(0, EncoderConfig::new(config(), 1))),
        Error::Config { .. },
        "vocab_size"
    );
    refused!(language(base().with_embedding_dim(Some(0))), Error::Config { .. }, "embedding_dim");
    refused!(language(base().with_zeroed_token(Some(11))), Error::Config { .. }, "zeroed_token");
    refused!(
        language(base().with_position(PositionKind::Learned { max_len: 0 })),
        Error::Config { .. },
        "max_len"
    );
    let padded = PositionKind::LearnedAfterPadding {
        max_len: 6,
        padding_token: 11,
    };
    refused!(language(base().with_position(padded)), Error::Config { .. }, "padding_token");

    let classifier = |config: ClassifierConfig| Classifier::<f32>::new(&config, 0);
    refused!(classifier(ClassifierConfig::tokens(base(), 0)), Error::Config { .. }, "classes");
    refused!(
        classifier(ClassifierConfig::tokens(base(), 2).with_activation(Activation::Tanh)),
        Error::Config { .. },
        "hidden_dim"
    );
    refused!(
        classifier(ClassifierConfig::features(0, EncoderConfig::new(config(), 1), 2)),
        Error::Config { .. },
        "features"
    );
}
