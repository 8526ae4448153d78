//! Every kind of attention, in encoders and decoders: initial weights, outputs, gradients, and three steps of AdamW.

use linformer::ndarray::{Array2, Array3};
use linformer::training::{AdamW, AdamWConfig, Optimizer, Step};
use linformer::{
    Activation, AttentionConfig, BiasPlace, BlockWeights, CausalConfig, Convolution, ConvolutionKernel, ConvolutionTail, Decoder,
    DecoderConfig, Encoder, EncoderConfig, FeedForwardConfig, Initialization, LinformerConfig, LocalGlobalConfig, NormPlacement,
    PaddingMask, Parameters, PoolingQuery, ProjectionConfig, ProjectionKind, Scalar, Sharing, SummarySoftmax, TrainingPass,
};

use super::pieces::sequence;
use super::record::Record;

/// Records the initial weights of `model`, the results and gradients that `run` gives for it and a step, and the weights after three steps.
pub fn trained<A: Scalar, M: Parameters<A> + Clone>(
    record: &mut Record,
    name: &str,
    mut model: M,
    run: impl Fn(&M, &TrainingPass) -> (Vec<Array3<A>>, M),
) {
    record.tensors(&format!("{name}: initial weights"), &model);
    let config = AdamWConfig::new().with_weight_decay(0.01);
    let mut optimizer = AdamW::new(&model, config).unwrap();
    for index in 0..3 {
        let pass = TrainingPass::new(Step::new(5, index))
            .with_residual_dropout(0.1)
            .with_attention_dropout(0.1);
        let (results, gradients) = run(&model, &pass);
        if index == 0 {
            record.numbers(&format!("{name}: outputs"), results.iter().flatten().copied());
            record.tensors(&format!("{name}: gradients"), &gradients);
        }
        optimizer.step(&mut model, &gradients, 1e-3).unwrap();
    }
    record.tensors(&format!("{name}: after three steps"), &model);
}

/// A mask with holes in its second sequence.
fn holes(length: usize) -> PaddingMask {
    PaddingMask::from_bools(&Array2::from_shape_fn((2, length), |(item, t)| {
        item == 0 || (t % 7 > 0 && t + 9 < length)
    }))
}

fn encoder<A: Scalar>(record: &mut Record, name: &str, config: &EncoderConfig, length: usize) {
    let mut model = Encoder::<A>::new(config, 11).unwrap();
    model.visit_mut("", &mut |name, _, mut tensor| {
        // It starts at 0, where all positions are alike important.
        if name.ends_with("pooling_query") {
            let numbers = tensor.iter_mut().enumerate();
            numbers.for_each(|(index, number)| *number = A::cast((index * 37 % 101) as f64 / 25.0 - 2.0));
        }
    });
    let x = sequence((2, length, config.dim()), 1);
    let mask = holes(length);
    record.array(&format!("{name}: forward"), &model.forward(&x, Some(&mask)).unwrap());
    trained(record, name, model, |model, pass| {
        let (y, cache) = model.forward_train(&x, Some(&mask), pass).unwrap();
        let mut gradients = model.zeros_like();
        let dx = model.backward(cache, sequence(y.dim(), 2), &mut gradients).unwrap();
        (vec![y, dx], gradients)
    });
}

const DIM: usize = 32;
const LENGTH: usize = 96;

fn small(kind: ProjectionKind) -> LinformerConfig {
    LinformerConfig::new(DIM, 4, LENGTH, 16).with_kind(kind)
}

fn blocks(depth: usize, attention: impl Into<linformer::AttentionKind>) -> EncoderConfig {
    EncoderConfig::new(attention, depth).with_feed_forward(Some(FeedForwardConfig::new(48)))
}

fn one_block(attention: impl Into<linformer::AttentionKind>) -> EncoderConfig {
    blocks(1, attention)
}

fn projections<A: Scalar>(record: &mut Record) {
    let convolution = |kernel| ProjectionKind::Convolution(Convolution::new(kernel).with_tail(ConvolutionTail::ZeroPadded));
    let kinds = [
        ProjectionKind::Learned,
        ProjectionKind::Random,
        convolution(ConvolutionKernel::Scalar),
        convolution(ConvolutionKernel::Depthwise),
        convolution(ConvolutionKernel::ChannelMixing),
    ];
    for kind in kinds {
        for sharing in [Sharing::None, Sharing::Headwise, Sharing::KeyValue, Sharing::Layerwise] {
            let config = small(kind).with_projection(ProjectionConfig::new(kind).with_sharing(Some(sharing)));
            let depth = if sharing == Sharing::Layerwise { 2 } else { 1 };
            let config = blocks(depth, config);
            encoder::<A>(record, &format!("{kind:?}, shared {sharing:?}"), &config, 83);
        }
    }
    for kind in [
        ProjectionKind::MeanPooling,
        ProjectionKind::MaxPooling,
        ProjectionKind::AttentionPooling,
    ] {
        encoder::<A>(record, &format!("{kind:?}"), &one_block(small(kind)), 83);
    }
    let initializations = [
        Initialization::UniformInverseSqrtK,
        Initialization::XavierNormal,
        Initialization::Normal { standard_deviation: 0.02 },
    ];
    for initialization in initializations {
        let config = small(ProjectionKind::Learned).with_initialization(initialization);
        encoder::<A>(record, &format!("{initialization:?}"), &one_block(config), 60);
    }
}

fn options<A: Scalar>(record: &mut Record) {
    let base = || small(ProjectionKind::Learned);
    let biased = || {
        base()
            .with_query_bias(true)
            .with_key_value_bias(true, true)
            .with_projection_bias(true)
    };
    let layers = [
        ("all biases", biased()),
        ("biases after compression", biased().with_bias_place(BiasPlace::AfterCompression)),
        ("grouped heads", base().with_kv_heads(2)),
        ("tied keys and values", base().with_tied_key_value(true)),
        ("factored output", base().with_output_rank(Some(5))),
        ("wide heads", base().with_head_dim(Some(20))),
    ];
    for (name, config) in layers {
        encoder::<A>(record, name, &one_block(config), LENGTH);
    }
    let gated = FeedForwardConfig::new(40).with_gated(true).with_activation(Activation::Silu);
    let shapes = [
        ("post-norm", one_block(base()).with_norm(NormPlacement::Post).with_final_norm(false)),
        ("gated", one_block(base()).with_feed_forward(Some(gated))),
        ("reversible", blocks(2, base()).with_reversible(true)),
        ("another width between blocks", blocks(2, base()).with_hidden_dim(Some(24))),
        ("no feed-forward", one_block(base()).with_feed_forward(None)),
        ("long", one_block(LinformerConfig::new(64, 2, 1200, 100))),
    ];
    for (name, config) in shapes {
        let length = if name == "long" { 1130 } else { LENGTH };
        encoder::<A>(record, name, &config, length);
    }
}

fn blockwise() -> CausalConfig {
    CausalConfig::new(DIM, 4, LENGTH, 3).with_block(Some(10)).with_window(Some(17))
}

fn exact_and_causal<A: Scalar>(record: &mut Record) {
    let exact = |heads| AttentionConfig::new(DIM, heads);
    encoder::<A>(record, "exact", &one_block(exact(4)), LENGTH);
    encoder::<A>(record, "exact, grouped heads", &one_block(exact(4).with_kv_heads(2)), LENGTH);
    encoder::<A>(record, "exact, long", &one_block(exact(2)), 700);
    encoder::<A>(record, "exact causal", &one_block(exact(4).with_causal(true)), LENGTH);
    encoder::<A>(record, "exact causal, long", &one_block(exact(2).with_causal(true)), 700);
    for softmax in [SummarySoftmax::Joint, SummarySoftmax::Summed] {
        for weights in [BlockWeights::Shared, BlockWeights::PerBlock] {
            let config = blockwise().with_softmax(softmax).with_block_weights(weights);
            encoder::<A>(
                record,
                &format!("blockwise causal, {softmax:?}, {weights:?}"),
                &one_block(config),
                83,
            );
        }
    }
    for sharing in [Sharing::None, Sharing::KeyValue] {
        let config = blockwise().with_sharing(sharing);
        encoder::<A>(record, &format!("blockwise causal, shared {sharing:?}"), &one_block(config), 83);
    }
    let long = CausalConfig::new(DIM, 2, 700, 4).with_block(Some(64)).with_window(Some(64));
    encoder::<A>(record, "blockwise causal, long", &one_block(long), 700);
}

fn local_global<A: Scalar>(record: &mut Record) {
    let base = || LocalGlobalConfig::new(DIM, 4).with_block(8).with_slots(6);
    let configs = [
        ("local-global", base()),
        ("local-global, mean query", base().with_pooling_query(PoolingQuery::MeanOfItem)),
        (
            "local-global, grouped heads, biases",
            base().with_kv_heads(2).with_query_bias(true).with_key_value_bias(true, true),
        ),
        ("local-global without a window", base().with_window(false).with_trained_len(30)),
        ("a window alone", base().with_slots(0)),
    ];
    for (name, config) in configs {
        encoder::<A>(record, name, &one_block(config), 83);
    }
    let long = LocalGlobalConfig::new(DIM, 2).with_block(64).with_slots(16);
    encoder::<A>(record, "local-global, long", &one_block(long), 1500);
}

fn decoders<A: Scalar>(record: &mut Record) {
    let compressed = || small(ProjectionKind::Learned);
    let exact = || AttentionConfig::new(DIM, 4);
    let configs = [
        (
            "blockwise decoder across a compressed source",
            DecoderConfig::new(blockwise(), compressed(), 2),
        ),
        (
            "exact causal decoder across an exact source",
            DecoderConfig::new(exact().with_causal(true), exact(), 1),
        ),
        (
            "open decoder across a compressed source",
            DecoderConfig::new(compressed(), compressed(), 1),
        ),
        (
            "post-norm decoder",
            DecoderConfig::new(blockwise(), compressed(), 1)
                .with_norm(NormPlacement::Post)
                .with_final_norm(false)
                .with_middle_feed_forward(Some(FeedForwardConfig::new(20))),
        ),
    ];
    for (name, config) in configs {
        let model = Decoder::<A>::new(&config, 13).unwrap();
        let (x, source) = (sequence((2, 41, DIM), 3), sequence((2, 77, DIM), 4));
        let (own, other) = (holes(41), holes(77));
        trained(record, name, model, |model, pass| {
            let (y, cache) = model.forward_train(&x, Some(&own), &source, Some(&other), pass).unwrap();
            let mut gradients = model.zeros_like();
            let (dx, dsource) = model.backward(cache, sequence(y.dim(), 5), &mut gradients).unwrap();
            (vec![y, dx, dsource], gradients)
        });
    }
}

pub fn record<A: Scalar>(record: &mut Record) {
    projections::<A>(record);
    options::<A>(record);
    exact_and_causal::<A>(record);
    local_global::<A>(record);
    decoders::<A>(record);
}
