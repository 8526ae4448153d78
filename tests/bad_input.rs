//! Every way of being wrong is a typed error that says what to do; the odd but meaningful cases are defined; nothing panics.

mod common;

use common::{scramble, sequence};
use linformer::ndarray::{Array2, Array3, array, s};
use linformer::{
    Activation, AttentionConfig, BiasPlace, Classifier, ClassifierConfig, Convolution, ConvolutionKernel, Embedding, Encoder, EncoderBlock,
    EncoderConfig, Error, ExactAttention, Extent, FeedForward, FeedForwardConfig, HeadKind, Initialization, LanguageModel,
    LanguageModelConfig, LayerNorm, Linear, LinformerAttention, LinformerConfig, NormPlacement, Order, PaddingMask, Parameters,
    PositionKind, ProjectionKind, Sharing, batched_matmul,
};

/// Asserts that the result is an error of this variant whose message has these words.
macro_rules! refused {
    ($result:expr, $variant:pat, $($word:expr),+) => {{
        let error = $result.err().expect(concat!("must be refused: ", stringify!($result)));
        assert!(matches!(error, $variant), "{error:?}");
        let message = error.to_string();
        $(assert!(message.contains($word), "`{message}` does not say `{}`", $word);)+
    }};
}

fn config() -> LinformerConfig {
    LinformerConfig::new(8, 2, 6, 4)
}

fn layer() -> LinformerAttention<f64> {
    LinformerAttention::new(&config(), 0).unwrap()
}

fn model() -> LanguageModel<f64> {
    LanguageModel::new(&LanguageModelConfig::new(11, EncoderConfig::new(config(), 2)), 0).unwrap()
}

#[test]
fn configurations_that_describe_no_layer() {
    let new = |config: LinformerConfig| LinformerAttention::<f32>::new(&config, 0);
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
    for kind in [ProjectionKind::MeanPooling, ProjectionKind::MaxPooling] {
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
    refused!(new(LinformerConfig::new(8, 2, usize::MAX, 4)), Error::Overflow { .. }, "memory");
    refused!(new(LinformerConfig::new(usize::MAX, 1, 6, 4)), Error::Overflow { .. }, "memory");
    refused!(new(config().with_head_dim(Some(usize::MAX / 2))), Error::Overflow { .. }, "memory");
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
fn configurations_that_describe_no_model() {
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

#[test]
fn every_dimension_wrong_by_one() {
    let layer = layer();
    for width in [7, 9] {
        let x = sequence((2, 5, width), 0);
        refused!(layer.forward(&x, None), Error::Shape { .. }, "8", &width.to_string());
        refused!(layer.compressor(2).unwrap().push(&x, None), Error::Shape { .. }, "chunk");
        let context = layer.compress(&sequence((2, 5, 8), 0), None).unwrap();
        refused!(layer.attend(&x, &context), Error::Shape { .. }, "queries");
        refused!(ExactAttention::from_linformer(&layer).forward(&x, None), Error::Shape { .. }, "8");
        refused!(
            Encoder::<f64>::new(&EncoderConfig::new(config(), 1), 0).unwrap().forward(&x, None),
            Error::Shape { .. },
            "8"
        );
        refused!(Linear::<f64>::new(8, 3, true, 0).unwrap().forward(&x), Error::Shape { .. }, "8");
        refused!(LayerNorm::<f64>::new(8, 1e-5).unwrap().forward(&x), Error::Shape { .. }, "8");
        let feed_forward = FeedForward::<f64>::new(8, 8, &FeedForwardConfig::new(4), 0).unwrap();
        refused!(feed_forward.forward(&x), Error::Shape { .. }, "8");
        let classifier = Classifier::<f64>::new(&ClassifierConfig::features(8, EncoderConfig::new(config(), 1), 2), 0).unwrap();
        refused!(classifier.forward_features(&x, None), Error::Shape { .. }, "8");
    }
    let context = layer.compress(&sequence((2, 5, 8), 0), None).unwrap();
    refused!(
        layer.attend(&sequence((3, 5, 8), 0), &context),
        Error::Shape { .. },
        "one item",
        "2"
    );
    refused!(
        layer.compressor(2).unwrap().push(&sequence((3, 5, 8), 0), None),
        Error::Shape { .. },
        "2"
    );
    let other = LinformerAttention::<f64>::new(&config().with_head_dim(Some(3)), 0).unwrap();
    refused!(other.attend(&sequence((2, 5, 8), 0), &context), Error::Shape { .. }, "context");
    refused!(
        Linear::from_parts(Array2::<f64>::zeros((2, 3)), Some(array![1.0])),
        Error::Shape { .. },
        "bias"
    );
    refused!(
        batched_matmul(&sequence((2, 3, 4), 0), &sequence((2, 5, 4), 0)),
        Error::Shape { .. },
        "4"
    );
    refused!(
        batched_matmul(&sequence((2, 3, 4), 0), &sequence((3, 4, 4), 0)),
        Error::Shape { .. },
        "2"
    );
}

#[test]
fn sequences_tokens_and_masks_that_do_not_fit() {
    let layer = layer();
    refused!(
        layer.forward(&sequence((1, 7, 8), 0), None),
        Error::TooLong { .. },
        "7",
        "6",
        "extended"
    );
    let mut compressor = layer.compressor(1).unwrap();
    compressor.push(&sequence((1, 5, 8), 0), None).unwrap();
    let before = compressor.clone().finish().unwrap();
    refused!(compressor.push(&sequence((1, 2, 8), 0), None), Error::TooLong { .. }, "7");
    assert_eq!(compressor.finish().unwrap(), before, "a refused chunk changes nothing");

    let model = model();
    refused!(
        model.forward(&array![[0, 11]], None),
        Error::Token { .. },
        "11",
        "position 1",
        "0 to 10"
    );
    refused!(
        model.forward(&Array2::zeros((1, 7)), None),
        Error::Argument { .. } | Error::TooLong { .. },
        "6"
    );
    refused!(
        model.logits_at(&array![[0, 1]], &[vec![2]], None),
        Error::Argument { .. },
        "position 2"
    );
    refused!(model.logits_at(&array![[0, 1]], &[], None), Error::Argument { .. }, "batch");
    let headless = LanguageModelConfig::new(11, EncoderConfig::new(config(), 1)).with_head(HeadKind::None);
    let headless = LanguageModel::<f64>::new(&headless, 0).unwrap();
    refused!(
        headless.logits_at(&array![[0, 1]], &[vec![0]], None),
        Error::Argument { .. },
        "features"
    );
    refused!(
        Embedding::<f64>::new(3, 2, 0).unwrap().forward(&array![[3]]),
        Error::Token { .. },
        "3"
    );

    let mask = PaddingMask::all_real(2, 4).unwrap();
    let x = sequence((2, 5, 8), 0);
    refused!(layer.forward(&x, Some(&mask)), Error::Shape { .. }, "mask", "(2, 5)");
    refused!(
        ExactAttention::from_linformer(&layer).forward(&x, Some(&mask)),
        Error::Shape { .. },
        "mask"
    );
    refused!(model.forward(&Array2::zeros((2, 5)), Some(&mask)), Error::Shape { .. }, "mask");
    let context = layer.compress(&x, None).unwrap();
    let other = PaddingMask::all_real(3, 5).unwrap();
    refused!(layer.effective_map(&x, &context, &other), Error::Shape { .. }, "mask");
    let long = PaddingMask::all_real(2, 7).unwrap();
    refused!(layer.effective_map(&x, &context, &long), Error::TooLong { .. }, "7");
    // The map of a context that this layer or this mask did not make.
    let wider = LinformerAttention::<f64>::new(&LinformerConfig::new(8, 2, 6, 5), 0).unwrap();
    let five = PaddingMask::all_real(2, 5).unwrap();
    refused!(
        layer.effective_map(&x, &wider.compress(&x, None).unwrap(), &five),
        Error::Argument { .. },
        "4 slots",
        "5"
    );
    let windows = ProjectionKind::Convolution(Convolution::new(ConvolutionKernel::Scalar));
    let windows = LinformerAttention::<f64>::new(&LinformerConfig::new(8, 2, 6, 6).with_kind(windows), 0).unwrap();
    let longer = PaddingMask::all_real(2, 9).unwrap();
    refused!(
        windows.effective_map(&x, &windows.compress(&x, None).unwrap(), &longer),
        Error::Argument { .. },
        "9 slots",
        "5"
    );
    refused!(PaddingMask::from_lengths(&[3, 5], 4), Error::Argument { .. }, "item 1", "4");
    refused!(PaddingMask::all_real(usize::MAX, 2), Error::Overflow { .. }, "memory");

    let features = Classifier::<f64>::new(&ClassifierConfig::features(3, EncoderConfig::new(config(), 1), 2), 0).unwrap();
    refused!(features.forward(&array![[0]], None), Error::Argument { .. }, "forward_features");
    let tokens = LanguageModelConfig::new(11, EncoderConfig::new(config(), 1));
    let tokens = Classifier::<f64>::new(&ClassifierConfig::tokens(tokens, 2), 0).unwrap();
    refused!(tokens.forward_features(&x, None), Error::Argument { .. }, "use forward");
}

#[test]
fn compressors_used_wrongly() {
    let layer = layer();
    let x = sequence((1, 3, 8), 0);
    let new = || layer.compressor(1).unwrap();
    let mut pushed = new();
    pushed.push(&x, None).unwrap();
    refused!(pushed.clone().starting_at(2), Error::Argument { .. }, "already");
    refused!(pushed.clone().with_extent(Extent::Known(6)), Error::Argument { .. }, "already");
    refused!(new().with_extent(Extent::PerItem(vec![1, 2])), Error::Argument { .. }, "batch");
    refused!(new().with_extent(Extent::Known(7)), Error::TooLong { .. }, "7");
    refused!(new().starting_at(7), Error::TooLong { .. }, "7");
    let pooling = LinformerAttention::<f64>::new(&config().with_kind(ProjectionKind::MeanPooling), 0).unwrap();
    let far = pooling.compressor(1).unwrap().with_extent(Extent::Known(usize::MAX)).unwrap();
    let mut far = far.starting_at(usize::MAX - 3).unwrap();
    far.push(&x, None).unwrap();
    refused!(far.push(&x, None), Error::Overflow { .. }, "memory");
    assert!(far.finish().unwrap().keys().iter().all(|value| value.is_finite()));
    let mut short = new().with_extent(Extent::Known(2)).unwrap();
    refused!(short.push(&x, None), Error::Argument { .. }, "extent");
    refused!(pushed.clone().merge(pushed.clone()), Error::Argument { .. }, "overlap");
    let other = LinformerAttention::<f64>::new(&config(), 0).unwrap();
    refused!(
        pushed.clone().merge(other.compressor(1).unwrap()),
        Error::Argument { .. },
        "one layer"
    );
    let row = Array2::zeros((1, 8));
    refused!(pushed.clone().replace(3, &row, &row), Error::Argument { .. }, "position 3");
    refused!(pushed.clone().replace(1, &Array2::zeros((1, 7)), &row), Error::Shape { .. }, "old");
    refused!(layer.compressor(usize::MAX), Error::Overflow { .. }, "memory");

    for kind in [ProjectionKind::MeanPooling, ProjectionKind::MaxPooling] {
        let pooling = LinformerAttention::<f64>::new(&config().with_kind(kind), 0).unwrap();
        refused!(pooling.compressor(1).unwrap().push(&x, None), Error::Argument { .. }, "with_extent");
        refused!(pooling.extended(9), Error::Argument { .. }, "learned");
    }
    let max = LinformerAttention::<f64>::new(&config().with_kind(ProjectionKind::MaxPooling), 0).unwrap();
    refused!(
        max.compressor_in_order(1, Order::CompressFirst),
        Error::Argument { .. },
        "weights come first"
    );
    let mut max = max.compressor(1).unwrap().with_extent(Extent::Known(3)).unwrap();
    max.push(&x, None).unwrap();
    refused!(max.replace(0, &row, &row), Error::Argument { .. }, "maximum");
    refused!(layer.extended(0), Error::Config { .. }, "seq_len");
}

fn every_kind() -> Vec<LinformerConfig> {
    let mut kinds = vec![
        ProjectionKind::Learned,
        ProjectionKind::Random,
        ProjectionKind::MeanPooling,
        ProjectionKind::MaxPooling,
    ];
    for kernel in [
        ConvolutionKernel::Scalar,
        ConvolutionKernel::Depthwise,
        ConvolutionKernel::ChannelMixing,
    ] {
        kinds.push(ProjectionKind::Convolution(Convolution::new(kernel)));
    }
    kinds
        .into_iter()
        .map(|kind| config().with_kind(kind).with_key_value_bias(true, true))
        .collect()
}

#[test]
fn empty_batches_and_sequences_are_defined() {
    for config in every_kind() {
        let mut layer = LinformerAttention::<f64>::new(&config, 0).unwrap();
        scramble(&mut layer, 1);
        assert_eq!(layer.forward(&sequence((0, 5, 8), 0), None).unwrap().dim(), (0, 5, 8));
        assert_eq!(layer.forward(&sequence((2, 0, 8), 0), None).unwrap().dim(), (2, 0, 8));
        let nothing = layer.compress(&sequence((2, 0, 8), 0), None).unwrap();
        let masked = PaddingMask::from_lengths(&[0, 0], 5).unwrap();
        let all_padding = layer.compress(&Array3::from_elem((2, 5, 8), f64::NAN), Some(&masked)).unwrap();
        let queries = sequence((2, 3, 8), 4);
        for context in [nothing, all_padding] {
            let answers = layer.attend(&queries, &context).unwrap();
            assert!(answers.iter().all(|value| value.is_finite()), "{config:?}");
            // The empty sum attends alike from everywhere: all rows are equal.
            assert!(answers.outer_iter().all(|item| {
                item.rows()
                    .into_iter()
                    .all(|row| (&row - &item.row(0)).iter().all(|d| d.abs() < 1e-12))
            }));
        }
        let encoder = Encoder::<f64>::new(&EncoderConfig::new(config, 2), 0).unwrap();
        assert_eq!(encoder.forward(&sequence((0, 0, 8), 0), None).unwrap().dim(), (0, 0, 8));
        assert_eq!(encoder.forward(&sequence((3, 0, 8), 0), None).unwrap().dim(), (3, 0, 8));
    }
    assert_eq!(model().forward(&Array2::zeros((0, 3)), None).unwrap().dim(), (0, 3, 11));
    assert_eq!(model().forward(&Array2::zeros((2, 0)), None).unwrap().dim(), (2, 0, 11));
    let classifier = Classifier::<f64>::new(&ClassifierConfig::features(3, EncoderConfig::new(config(), 1), 2), 0).unwrap();
    assert!(
        classifier
            .forward_features(&Array3::zeros((2, 0, 3)), None)
            .unwrap()
            .iter()
            .all(|score| score.is_finite())
    );
}

#[test]
fn odd_but_meaningful_sizes() {
    // k ≥ n, one head, heads · head_dim ≠ dim, one position, depth 0.
    for config in [
        LinformerConfig::new(8, 1, 3, 7),
        LinformerConfig::new(8, 3, 6, 4).with_head_dim(Some(5)),
        LinformerConfig::new(8, 8, 1, 1),
    ] {
        let n = config.seq_len;
        let layer = LinformerAttention::<f64>::new(&config, 0).unwrap();
        assert_eq!(layer.forward(&sequence((1, n, 8), 0), None).unwrap().dim(), (1, n, 8));
    }
    let encoder = Encoder::<f64>::new(&EncoderConfig::new(config(), 0).with_final_norm(false), 0).unwrap();
    let x = sequence((1, 4, 8), 0);
    assert_eq!(encoder.forward(&x, None).unwrap(), x);
}

#[test]
fn pooling_and_convolution_take_any_length() {
    for config in every_kind().into_iter().skip(2) {
        let mut layer = LinformerAttention::<f64>::new(&config, 0).unwrap();
        scramble(&mut layer, 1);
        let x = sequence((2, 50, 8), 0);
        let together = layer.forward(&x, Some(&PaddingMask::from_lengths(&[50, 33], 50).unwrap())).unwrap();
        let alone = layer.forward(&x.slice(s![1..2, ..33, ..]), None).unwrap();
        let difference = common::difference(alone.view(), together.slice(s![1..2, ..33, ..]));
        assert!(difference < 1e-10, "{config:?}: {difference}");
    }
}

#[test]
fn numbers_that_are_no_numbers_propagate_and_large_scores_do_not_overflow() {
    for value in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
        for config in every_kind() {
            let mut layer = LinformerAttention::<f64>::new(&config, 0).unwrap();
            layer.visit_mut("", &mut |name, _, mut tensor| {
                if name == "key.weight" {
                    tensor.fill(value);
                }
            });
            let output = layer.forward(&sequence((1, 6, 8), 0), None).unwrap();
            assert!(output.iter().any(|x| !x.is_finite()), "{config:?}");
        }
    }
    let mut layer = layer();
    layer.visit_mut("", &mut |name, _, mut tensor| {
        if name == "query.weight" || name == "key.weight" {
            tensor.mapv_inplace(|x| x * 300.0);
        }
    });
    let x = sequence((1, 6, 8), 0);
    let scores = layer.attention_map(&x, &layer.compress(&x, None).unwrap()).unwrap();
    assert!(scores.iter().all(|p| p.is_finite()));
    assert!(layer.forward(&x, None).unwrap().iter().all(|value| value.is_finite()));
}
