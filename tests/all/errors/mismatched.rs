//! Caches, gradients, projections, contexts and states of another model than the one they are given to: errors, whatever differs.

use crate::common::sequence;
use linformer::ndarray::{Array2, Array3, array};
use linformer::training::Step;
use linformer::{
    AttentionConfig, BlockwiseCausalAttention, CausalConfig, Classifier, ClassifierConfig, ClassifierInput, Convolution, ConvolutionKernel,
    DecoderConfig, DecoderLanguageModelConfig, Encoder, EncoderConfig, EncoderDecoder, EncoderDecoderConfig, ExactAttention, FeedForward,
    FeedForwardConfig, HeadKind, LanguageModel, LanguageModelConfig, LinformerAttention, LinformerConfig, LocalGlobalConfig, NormPlacement,
    PaddingMask, Parameters, PositionKind, ProjectionKind, Result, Sharing, TokenPairs, TrainingPass,
};

/// Two models, and the same two the other way round, for every pair of `configs` of which each differs from the others.
fn pairs<C>(configs: &[C]) -> impl Iterator<Item = (&C, &C)> {
    let count = configs.len();
    let places = (0..count * count).map(move |place| (place / count, place % count));
    places.filter(|(a, b)| a != b).map(|(a, b)| (&configs[a], &configs[b]))
}

fn pass() -> TrainingPass {
    TrainingPass::new(Step::new(0, 0))
}

/// An error and no panic; `what` is what was tried.
fn refused<T>(result: Result<T>, what: impl std::fmt::Debug) {
    assert!(result.is_err(), "{what:#?}");
}

fn linformers() -> Vec<LinformerConfig> {
    let base = LinformerConfig::new(8, 2, 6, 3);
    let convolution = |kernel| ProjectionKind::Convolution(Convolution::new(kernel));
    vec![
        base.clone(),
        LinformerConfig::new(8, 4, 6, 3),
        LinformerConfig::new(8, 2, 6, 4),
        LinformerConfig::new(8, 2, 9, 3),
        base.clone().with_head_dim(Some(3)),
        base.clone().with_kv_heads(1),
        base.clone().with_tied_key_value(true),
        base.clone().with_query_bias(true).with_key_value_bias(true, true),
        base.clone().with_output_bias(false),
        base.clone().with_output_rank(Some(2)),
        base.clone().with_projection_bias(true),
        base.clone().with_sharing(Sharing::None),
        base.clone().with_sharing(Sharing::KeyValue),
        base.clone().with_kind(ProjectionKind::MeanPooling),
        base.clone().with_kind(ProjectionKind::MaxPooling),
        base.clone().with_kind(ProjectionKind::AttentionPooling),
        base.clone().with_kind(convolution(ConvolutionKernel::Scalar)),
        base.with_kind(convolution(ConvolutionKernel::ChannelMixing)),
    ]
}

fn exacts() -> Vec<AttentionConfig> {
    let base = AttentionConfig::new(8, 2);
    vec![
        base.clone(),
        AttentionConfig::new(8, 4),
        base.clone().with_head_dim(Some(3)),
        base.clone().with_kv_heads(1),
        base.clone().with_tied_key_value(true),
        base.clone().with_output_rank(Some(2)),
        base.with_causal(true),
    ]
}

fn causals() -> Vec<CausalConfig> {
    let base = CausalConfig::new(8, 2, 8, 2).with_block(Some(2)).with_window(Some(3));
    vec![
        base.clone(),
        base.clone().with_window(Some(2)),
        base.clone().with_block(Some(4)),
        base.clone().with_sharing(Sharing::None),
        base.clone().with_block_weights(linformer::BlockWeights::PerBlock),
        base.with_softmax(linformer::SummarySoftmax::Summed),
    ]
}

fn encoders() -> Vec<EncoderConfig> {
    let linformer = LinformerConfig::new(8, 2, 6, 3);
    let base = EncoderConfig::new(linformer.clone(), 2);
    let feed_forward = FeedForwardConfig::new(5);
    vec![
        base.clone(),
        EncoderConfig::new(linformer.clone(), 1),
        EncoderConfig::new(linformer.clone().with_sharing(Sharing::Layerwise), 2),
        EncoderConfig::new(linformer.with_output_rank(Some(2)), 2),
        EncoderConfig::new(AttentionConfig::new(8, 2), 2),
        EncoderConfig::new(AttentionConfig::new(8, 2).with_causal(true), 2),
        EncoderConfig::new(CausalConfig::new(8, 2, 8, 2), 2),
        EncoderConfig::new(LinformerConfig::new(6, 2, 6, 3), 2),
        base.clone().with_feed_forward(None),
        base.clone().with_feed_forward(Some(feed_forward.clone())),
        base.clone().with_feed_forward(Some(feed_forward.with_gated(true))),
        base.clone().with_norm(NormPlacement::Post),
        base.clone().with_final_norm(false),
        base.clone().with_reversible(true),
        base.with_hidden_dim(Some(7)).with_norm(NormPlacement::Post),
    ]
}

fn language_models() -> Vec<LanguageModelConfig> {
    let base = LanguageModelConfig::new(9, EncoderConfig::new(LinformerConfig::new(8, 2, 6, 3), 1));
    vec![
        base.clone(),
        LanguageModelConfig::new(7, base.encoder.clone()),
        base.clone().with_embedding_dim(Some(4)),
        base.clone().with_position(PositionKind::None),
        base.clone().with_position(PositionKind::Learned { max_len: 4 }),
        base.clone().with_embedding_norm(true),
        base.clone().with_head(HeadKind::Tied),
        base.clone().with_head(HeadKind::None),
        base.clone().with_head(HeadKind::Roberta {
            tied: true,
            activation: linformer::Activation::Gelu,
        }),
        LanguageModelConfig::new(9, EncoderConfig::new(AttentionConfig::new(8, 2), 1)),
        LanguageModelConfig::new(9, EncoderConfig::new(LinformerConfig::new(8, 2, 6, 3), 2)),
    ]
}

fn classifiers() -> Vec<ClassifierConfig> {
    let encoder = EncoderConfig::new(LinformerConfig::new(8, 2, 6, 3), 1);
    let tokens = ClassifierConfig::tokens(LanguageModelConfig::new(9, encoder.clone()), 3);
    let features = ClassifierConfig::features(8, encoder.clone(), 3);
    vec![
        tokens.clone(),
        ClassifierConfig::tokens(LanguageModelConfig::new(9, encoder.clone()), 4),
        ClassifierConfig::tokens(LanguageModelConfig::new(7, encoder.clone()), 3),
        tokens.with_hidden_dim(Some(5)),
        features.clone(),
        ClassifierConfig::features(5, encoder, 3),
        features.with_hidden_dim(Some(5)),
    ]
}

#[test]
fn a_layers_backward_takes_its_own_cache_and_gradients() {
    let x = sequence((1, 4, 8), 1);
    for (config, other) in pairs(&linformers()) {
        let layer = LinformerAttention::<f64>::new(config, 1).unwrap();
        let strange = LinformerAttention::<f64>::new(other, 1).unwrap();
        let (y, cache) = layer.forward_train(&x, None).unwrap();
        let before = strange.named().len();
        refused(layer.backward(cache.clone(), y.clone(), &mut strange.zeros_like()), (config, other));
        assert_eq!(strange.named().len(), before);
        refused(
            strange.backward(cache.clone(), y.clone(), &mut strange.zeros_like()),
            (config, other),
        );
        let (y, cache) = layer.forward_train_cross(&x, &x, None).unwrap();
        refused(
            layer.backward_cross(cache.clone(), y.clone(), &mut strange.zeros_like()),
            (config, other),
        );
        refused(
            strange.backward_cross(cache.clone(), y.clone(), &mut strange.zeros_like()),
            (config, other),
        );
        refused(layer.backward(cache.clone(), y.clone(), &mut layer.zeros_like()), config);
    }
    for (config, other) in pairs(&exacts()) {
        let layer = ExactAttention::<f64>::new(config, 1).unwrap();
        let strange = ExactAttention::<f64>::new(other, 1).unwrap();
        let (y, cache) = layer.forward_train(&x, None).unwrap();
        refused(layer.backward(cache.clone(), y.clone(), &mut strange.zeros_like()), (config, other));
        refused(
            strange.backward(cache.clone(), y.clone(), &mut strange.zeros_like()),
            (config, other),
        );
    }
    for (config, other) in pairs(&causals()) {
        let layer = BlockwiseCausalAttention::<f64>::new(config, 1).unwrap();
        let strange = BlockwiseCausalAttention::<f64>::new(other, 1).unwrap();
        let (y, cache) = layer.forward_train(&x, None).unwrap();
        refused(layer.backward(cache.clone(), y.clone(), &mut strange.zeros_like()), (config, other));
        refused(
            strange.backward(cache.clone(), y.clone(), &mut strange.zeros_like()),
            (config, other),
        );
    }
    let feed_forwards = [
        FeedForwardConfig::new(5),
        FeedForwardConfig::new(6),
        FeedForwardConfig::new(5).with_gated(true),
        FeedForwardConfig::new(5).with_bias(false),
    ];
    for (config, other) in pairs(&feed_forwards) {
        let layer = FeedForward::<f64>::new(8, 3, config, 1).unwrap();
        let strange = FeedForward::<f64>::new(8, 3, other, 1).unwrap();
        let (y, cache) = layer.forward_train(&x).unwrap();
        refused(layer.backward(cache.clone(), y.clone(), &mut strange.zeros_like()), (config, other));
        if config.ff_dim != other.ff_dim || config.gated != other.gated {
            refused(strange.backward(cache, y, &mut strange.zeros_like()), (config, other));
        }
    }
}

#[test]
fn an_encoders_backward_takes_its_own_cache_and_gradients() {
    for (config, other) in pairs(&encoders()) {
        let encoder = Encoder::<f64>::new(config, 1).unwrap();
        let strange = Encoder::<f64>::new(other, 1).unwrap();
        let x = sequence((1, 4, config.dim()), 1);
        for pass in [pass(), pass().with_gradient_checkpointing(true)] {
            let (y, cache) = encoder.forward_train(&x, None, &pass).unwrap();
            refused(
                encoder.backward(cache.clone(), y.clone(), &mut strange.zeros_like()),
                (config, other),
            );
            refused(strange.backward(cache, y, &mut strange.zeros_like()), (config, other));
        }
    }
}

#[test]
fn a_models_backward_takes_its_own_cache_and_gradients() {
    let tokens = array![[1, 2, 6, 3]];
    for (config, other) in pairs(&language_models()) {
        let model = LanguageModel::<f64>::new(config, 1).unwrap();
        let strange = LanguageModel::<f64>::new(other, 1).unwrap();
        let (y, cache) = model.forward_train(&tokens, None, None, &pass()).unwrap();
        refused(model.backward(cache.clone(), y.clone(), &mut strange.zeros_like()), (config, other));
        refused(strange.backward(cache, y.clone(), &mut strange.zeros_like()), (config, other));
    }
    for (config, other) in pairs(&classifiers()) {
        let model = Classifier::<f64>::new(config, 1).unwrap();
        let strange = Classifier::<f64>::new(other, 1).unwrap();
        let trained = match &config.input {
            ClassifierInput::Features { features, .. } => model.forward_train(&sequence((1, 4, *features), 1), None, &pass()),
            _ => model.forward_train(&tokens, None, &pass()),
        };
        let (y, cache) = trained.unwrap();
        refused(model.backward(cache.clone(), y.clone(), &mut strange.zeros_like()), (config, other));
        refused(strange.backward(cache, y.clone(), &mut strange.zeros_like()), (config, other));
    }
}

#[test]
fn a_layer_takes_projections_and_contexts_that_fit_it() {
    let x = sequence((1, 4, 8), 1);
    let mask = PaddingMask::all_real(1, 4).unwrap();
    for (config, other) in pairs(&linformers()) {
        let layer = LinformerAttention::<f64>::new(config, 1).unwrap();
        let strange = LinformerAttention::<f64>::new(other, 1).unwrap();
        let context = layer.compress(&x, None).unwrap();
        // These fit or do not, and whichever it is, nothing panics.
        let projections = strange.projections().unwrap();
        let own = layer.projections().unwrap();
        let shapes = |layer: &LinformerAttention<f64>| -> Vec<(String, Vec<usize>)> {
            let named = layer.named().into_iter().filter(|(name, _)| name.starts_with("projections"));
            named.map(|(name, tensor)| (name, tensor.shape().to_vec())).collect()
        };
        let fits = shapes(&layer) == shapes(&strange) && config.projection.kind == other.projection.kind;
        assert_eq!(layer.compress_with(projections, &x, None).is_ok(), fits, "{config:#?} {other:#?}");
        assert_eq!(layer.compressor_with(projections, 1).is_ok(), fits, "{config:#?} {other:#?}");
        if !fits {
            refused(layer.effective_map_with(projections, &x, &context, &mask), (config, other));
        }
        assert!(layer.compress_with(own, &x, None).is_ok());
        let _ = strange.attend(&x, &context);
        let _ = strange.attention_map(&x, &context);
        let _ = strange.effective_map(&x, &context, &mask);
    }
}

#[test]
fn a_model_goes_on_from_a_state_of_its_own_shape() {
    let segments = || LocalGlobalConfig::new(8, 2).with_causal(true).with_block(2).with_slots(1);
    let models: Vec<LanguageModelConfig> = causals()
        .into_iter()
        .map(|config| EncoderConfig::new(config, 1))
        .chain([
            EncoderConfig::new(AttentionConfig::new(8, 2).with_causal(true), 1),
            EncoderConfig::new(AttentionConfig::new(8, 4).with_causal(true), 1),
            EncoderConfig::new(AttentionConfig::new(6, 2).with_causal(true), 2),
            EncoderConfig::new(CausalConfig::new(8, 2, 8, 2).with_sharing(Sharing::Layerwise), 2).with_reversible(true),
            EncoderConfig::new(segments(), 1),
            EncoderConfig::new(segments().with_slots(2), 1),
            EncoderConfig::new(segments().with_block(4), 1),
            EncoderConfig::new(segments().with_kv_heads(1), 1),
        ])
        .map(|encoder| LanguageModelConfig::new(9, encoder))
        .collect();
    for (config, other) in pairs(&models) {
        let model = LanguageModel::<f64>::new(config, 1).unwrap();
        let strange = LanguageModel::<f64>::new(other, 1).unwrap();
        let (_, mut state) = model.prefill(&[vec![1, 2, 3], vec![4]]).unwrap();
        let before = state.clone();
        if strange.step(&mut state, &[Some(1), None]).is_err() {
            assert_eq!(state.lengths(), before.lengths());
            let next = |mut state| model.step(&mut state, &[Some(1), Some(2)]).unwrap();
            assert_eq!(next(state.clone()), next(before), "{config:#?} {other:#?}");
        }
        refused(model.step(&mut state, &[Some(9), None]), "a token outside the vocabulary");
        refused(model.step(&mut state, &[Some(1)]), "one token for two texts");
    }
}

/// Models that differ on one side or the other, in the blocks or around them.
fn encoder_decoders() -> Vec<EncoderDecoderConfig> {
    let linformer = || LinformerConfig::new(8, 2, 6, 2);
    let causal = || CausalConfig::new(8, 2, 8, 2);
    let source = || LanguageModelConfig::new(9, EncoderConfig::new(linformer(), 1));
    let of = |decoder: DecoderConfig| EncoderDecoderConfig::new(source(), DecoderLanguageModelConfig::new(9, decoder));
    let base = || DecoderConfig::new(causal(), linformer(), 2);
    let targets = [
        base(),
        DecoderConfig::new(causal(), linformer(), 1),
        DecoderConfig::new(causal(), LinformerConfig::new(8, 4, 6, 2), 2),
        DecoderConfig::new(causal(), linformer().with_sharing(Sharing::Layerwise), 2),
        DecoderConfig::new(causal(), linformer().with_kv_heads(1), 2),
        DecoderConfig::new(causal(), linformer().with_head_dim(Some(3)), 2),
        DecoderConfig::new(causal(), AttentionConfig::new(8, 2), 2),
        DecoderConfig::new(causal(), AttentionConfig::new(8, 4), 2),
        DecoderConfig::new(causal().with_window(Some(2)), linformer(), 2),
        DecoderConfig::new(AttentionConfig::new(8, 2).with_causal(true), linformer(), 2),
        base().with_k_by_layer(Some(vec![2, 1])),
        base().with_middle_feed_forward(Some(FeedForwardConfig::new(5))),
        base().with_feed_forward(None),
        base().with_norm(NormPlacement::Post),
        base().with_final_norm(false),
    ];
    let target = || DecoderLanguageModelConfig::new(9, base());
    let around = [
        EncoderDecoderConfig::new(source(), target().with_head(HeadKind::Tied)),
        EncoderDecoderConfig::new(source(), target().with_embedding_dim(Some(4))),
        EncoderDecoderConfig::new(source(), target().with_position(PositionKind::None)),
        EncoderDecoderConfig::new(source(), DecoderLanguageModelConfig::new(7, base())),
        EncoderDecoderConfig::new(source().with_embedding_norm(true), target()),
        EncoderDecoderConfig::new(LanguageModelConfig::new(9, EncoderConfig::new(linformer(), 2)), target()),
    ];
    targets.into_iter().map(of).chain(around).collect()
}

#[test]
fn an_encoder_decoders_backward_takes_its_own_cache_and_gradients() {
    let (source, target) = (array![[1, 2, 6, 3]], array![[1, 2, 6]]);
    let pairs_of_tokens = TokenPairs::new(&source, &target);
    for (config, other) in pairs(&encoder_decoders()) {
        let model = EncoderDecoder::<f64>::new(config, 1).unwrap();
        let strange = EncoderDecoder::<f64>::new(other, 1).unwrap();
        let (y, cache) = model.forward_train(&pairs_of_tokens, &pass()).unwrap();
        let mut gradients = strange.zeros_like();
        refused(model.backward(cache.clone(), y.clone(), &mut gradients), (config, other));
        refused(strange.backward(cache, y.clone(), &mut gradients), (config, other));
        let is_zero = gradients.named().iter().all(|(_, tensor)| tensor.iter().all(|&value| value == 0.0));
        assert!(is_zero, "{config:#?} {other:#?}");
        if config.target != other.target {
            let (own, strange) = (model.target(), strange.target());
            let features = sequence((1, 4, 8), 1);
            let (y, cache) = own.forward_train(&target, None, features, None, &pass()).unwrap();
            refused(own.backward(cache.clone(), y.clone(), &mut strange.zeros_like()), (config, other));
            refused(strange.backward(cache, y.clone(), &mut strange.zeros_like()), (config, other));
        }
    }
}

/// Whether another model's state fits or does not, a step that is refused leaves it as it was.
#[test]
fn an_encoder_decoder_goes_on_from_a_state_of_its_own_shape() {
    for (config, other) in pairs(&encoder_decoders()) {
        let model = EncoderDecoder::<f64>::new(config, 1).unwrap();
        let strange = EncoderDecoder::<f64>::new(other, 1).unwrap();
        let mut state = model.begin(&[vec![1, 2, 3], vec![4]]).unwrap();
        model.step(&mut state, &[Some(0), Some(0)]).unwrap();
        let before = state.clone();
        if strange.step(&mut state, &[Some(1), None]).is_err() {
            assert_eq!(state.lengths(), before.lengths());
            let next = |mut state| model.step(&mut state, &[Some(1), Some(2)]).unwrap();
            assert_eq!(next(state.clone()), next(before), "{config:#?} {other:#?}");
        }
    }
}

#[test]
fn gradients_of_another_shape_than_the_output_are_errors() {
    let (x, tokens) = (sequence((2, 4, 8), 1), Array2::zeros((2, 4)));
    let layer = LinformerAttention::<f64>::new(&linformers()[0], 1).unwrap();
    let encoder = Encoder::<f64>::new(&encoders()[0], 1).unwrap();
    let model = LanguageModel::<f64>::new(&language_models()[0], 1).unwrap();
    let (_, cache) = layer.forward_train(&x, None).unwrap();
    let (_, encoder_cache) = encoder.forward_train(&x, None, &pass()).unwrap();
    let (_, model_cache) = model.forward_train(&tokens, None, None, &pass()).unwrap();
    for shape in [(2, 4, 7), (2, 3, 8), (1, 4, 8), (0, 0, 0), (8, 4, 2)] {
        let dy = Array3::zeros(shape);
        refused(layer.backward(cache.clone(), dy.clone(), &mut layer.zeros_like()), shape);
        refused(
            encoder.backward(encoder_cache.clone(), dy.clone(), &mut encoder.zeros_like()),
            shape,
        );
        refused(model.backward(model_cache.clone(), dy.clone(), &mut model.zeros_like()), shape);
    }
}
