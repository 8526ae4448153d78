//! Models and threads: every public type can cross and be shared (but for `Sharded`, which is its rank's), and nothing is shared that a
//! caller does not see.

use std::sync::Arc;
use std::thread;

use crate::common::{bits, model_bits, scramble, sequence, small_encoder, small_model};
use linformer::distributed::{Shards, SingleProcess};
use linformer::ndarray::{Array2, Array3};
use linformer::training::{Accumulation, AdamW, AdamWConfig, CrossEntropy, MaskedTokens, MeanSquaredError, Schedule, Sgd, SgdConfig, Step};
use linformer::{
    Attention, AttentionCache, AttentionConfig, AttentionKind, BlockwiseCausalAttention, CausalConfig, CausalLanguageModel, CausalState,
    Classifier, ClassifierCache, ClassifierConfig, Compressed, CompressedSource, Compressor, Decoder, DecoderBlock, DecoderCache,
    DecoderConfig, DecoderLanguageModel, DecoderLanguageModelCache, DecoderLanguageModelConfig, Embedding, Encoder, EncoderBlock,
    EncoderCache, EncoderConfig, EncoderDecoder, EncoderDecoderCache, EncoderDecoderConfig, EncoderDecoderState, Error, ExactAttention,
    Extent, FeedForward, FeedForwardBlock, FeedForwardCache, FeedForwardConfig, Generation, GenerationConfig, Head, Initialization,
    LanguageModel, LanguageModelCache, LanguageModelConfig, LayerNorm, Linear, LinformerAttention, LinformerConfig, Order, PaddingMask,
    PairBatch, Parameters, Position, PositionKind, Projection, ProjectionConfig, Projections, Sharing, TokenPairs, TrainingPass,
    Translation, TranslationConfig, Workspace,
};

fn crosses<T: Send + Sync + Unpin + std::fmt::Debug>() {}
fn is_value<T: Clone>() {}
fn is_error<T: std::error::Error + Send + Sync + 'static>() {}

macro_rules! check {
    ($($type:ty),* $(,)?) => {$(
        crosses::<$type>();
        is_value::<$type>();
    )*};
}

#[test]
fn public_types_cross_threads_and_can_be_shown() {
    check!(Linear, LayerNorm, Embedding, Position, FeedForward, FeedForwardBlock, Head);
    check!(
        LinformerAttention,
        ExactAttention,
        BlockwiseCausalAttention,
        Attention,
        Projection,
        Projections
    );
    check!(Encoder, EncoderBlock, LanguageModel, CausalLanguageModel, Classifier);
    check!(Compressed, Compressor<'static>, PaddingMask, CausalState, Order, Extent);
    check!(AttentionCache, EncoderCache, FeedForwardCache, LanguageModelCache, ClassifierCache);
    check!(
        AttentionConfig,
        LinformerConfig,
        CausalConfig,
        ProjectionConfig,
        AttentionKind,
        FeedForwardConfig,
        EncoderConfig
    );
    check!(
        LanguageModelConfig,
        ClassifierConfig,
        GenerationConfig,
        PositionKind,
        Initialization,
        TrainingPass
    );
    check!(
        AdamW,
        AdamWConfig,
        Sgd,
        SgdConfig,
        Accumulation<Encoder>,
        CrossEntropy,
        MeanSquaredError,
        Schedule,
        Step
    );
    check!(linformer::training::TokenMasking, MaskedTokens);
    // Memory of calls, and an iterator over a model's own state.
    crosses::<Workspace>();
    crosses::<Generation<'static>>();
    crosses::<linformer::distributed::ThreadGroup>();
    crosses::<linformer::distributed::ThreadRank>();
    is_error::<Error>();
}

#[test]
fn decoders_choices_and_ranks_cross_threads() {
    check!(Decoder, DecoderBlock, DecoderLanguageModel, EncoderDecoder, CompressedSource);
    check!(DecoderCache, DecoderLanguageModelCache, EncoderDecoderCache, EncoderDecoderState);
    check!(
        DecoderConfig,
        DecoderLanguageModelConfig,
        EncoderDecoderConfig,
        TranslationConfig,
        Translation,
        PairBatch,
        TokenPairs
    );
    check!(
        linformer::Activation,
        linformer::BiasPlace,
        linformer::BlockWeights,
        linformer::ClassifierInput,
        linformer::Convolution,
        linformer::ConvolutionKernel,
        linformer::HeadKind,
        linformer::NormPlacement,
        linformer::Overflow,
        linformer::Pooling,
        linformer::ProjectionKind,
        linformer::Role,
        linformer::Sharing,
        linformer::SinusoidLayout,
        linformer::SummarySoftmax,
        linformer::Tail,
    );
    check!(linformer::training::Reduction, linformer::training::WeightDecay);
    check!(Shards, SingleProcess, linformer::distributed::Combine);
    check!(linformer::distributed::ShardedCache<EncoderCache>);
}

#[cfg(feature = "checkpoint")]
#[test]
fn files_contents_cross_threads() {
    use linformer::checkpoint::{Tensors, fairseq, lucidrains, rifath95, tatp22};
    fn check<T: Send + Sync + Unpin + Clone + std::fmt::Debug>() {}
    check::<Tensors>();
    check::<lucidrains::Options>();
    check::<lucidrains::FeedForwardOptions>();
    check::<tatp22::LinformerOptions>();
    check::<tatp22::LinformerLMOptions>();
    check::<tatp22::MHAttentionOptions>();
    check::<tatp22::FeedForwardOptions>();
    check::<fairseq::AttentionOptions>();
    check::<fairseq::RobertaOptions>();
    check::<rifath95::Options>();
}

#[test]
fn two_threads_run_one_model() {
    let model = small_model();
    let tokens = |seed: usize| Array2::from_shape_fn((2, 5), |(b, t)| (b + t * seed) % 7);
    let expected: Vec<_> = (1..9)
        .map(|seed| bits(&small_model().forward(&tokens(seed), None).unwrap()))
        .collect();
    // Nothing of the model is packed yet: both may find it so at once.
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                for (seed, expected) in (1..9).zip(&expected) {
                    assert_eq!(&bits(&model.forward(&tokens(seed), None).unwrap()), expected);
                }
            });
        }
    });
}

#[test]
fn a_model_moves_to_another_thread_and_back() {
    let tokens = Array2::from_elem((1, 4), 3);
    let model = small_model();
    let here = bits(&model.forward(&tokens, None).unwrap());
    let (model, there) = thread::spawn({
        let tokens = tokens.clone();
        move || {
            let there = bits(&model.forward(&tokens, None).unwrap());
            (model, there)
        }
    })
    .join()
    .unwrap();
    assert_eq!(there, here);
    assert_eq!(bits(&model.forward(&tokens, None).unwrap()), here);
    let shared: Arc<LanguageModel<f64>> = Arc::new(model);
    let other = Arc::clone(&shared);
    assert_eq!(
        thread::spawn(move || bits(&other.forward(&tokens, None).unwrap())).join().unwrap(),
        here
    );
}

/// Of two models with one configuration, what is done to one, trained in another thread, does nothing to the other.
#[test]
fn two_models_share_nothing() {
    let x: Array3<f64> = sequence((2, 5, 4), 3);
    let still = Encoder::<f64>::new(&small_encoder(), 1).unwrap();
    let before = bits(&still.forward(&x, None).unwrap());
    let mut moving = Encoder::<f64>::new(&small_encoder(), 1).unwrap();
    assert_eq!(bits(&moving.forward(&x, None).unwrap()), before);
    thread::scope(|scope| {
        scope.spawn(|| {
            for seed in 0..20 {
                scramble(&mut moving, seed);
                moving.forward(&x, None).unwrap();
            }
        });
        for _ in 0..20 {
            assert_eq!(bits(&still.forward(&x, None).unwrap()), before);
        }
    });
    assert_ne!(bits(&moving.forward(&x, None).unwrap()), before);
}

fn in_pool<R: Send>(threads: usize, work: impl FnOnce() -> R + Send) -> R {
    rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap().install(work)
}

/// Lengths whose last tile is of a few rows for one number of threads and of many for another.
#[test]
fn linear_layers_and_token_scores_do_not_depend_on_the_number_of_threads() {
    let layer = Linear::<f64>::new(64, 64, true, 1).unwrap();
    let attention = LinformerConfig::new(512, 4, 301, 16);
    let encoder = EncoderConfig::new(attention, 1).with_feed_forward(Some(FeedForwardConfig::new(64)));
    let model = LanguageModel::<f64>::new(&LanguageModelConfig::new(50, encoder), 1).unwrap();
    for length in [100, 241, 301] {
        let x = sequence((1, length, 64), 3);
        let tokens = Array2::from_shape_fn((1, length), |(_, t)| t * 7 % 50);
        let all = || (layer.forward(&x).unwrap(), model.forward(&tokens, None).unwrap());
        let expected = in_pool(1, all);
        for threads in [2, 3, 5, 6] {
            assert_eq!(in_pool(threads, all), expected, "{threads} threads, length {length}");
        }
    }
}

/// Every kind of attention whose gradients are computed side by side, with masks, holes in them, and dropout.
#[test]
fn gradients_do_not_depend_on_the_number_of_threads() {
    let compressed = |k| LinformerConfig::new(64, 4, 700, k);
    for config in [
        EncoderConfig::new(compressed(16), 2),
        EncoderConfig::new(compressed(16).with_sharing(Sharing::None).with_key_value_bias(true, true), 1),
        EncoderConfig::new(compressed(16).with_sharing(Sharing::Layerwise).with_kv_heads(2), 2),
        EncoderConfig::new(AttentionConfig::new(64, 4).with_kv_heads(2), 1),
    ] {
        let encoder = Encoder::<f64>::new(&config, 1).unwrap();
        for length in [100, 700] {
            let x = sequence((2, length, 64), 3);
            let mask = PaddingMask::from_bools(&Array2::from_shape_fn((2, length), |(item, t)| item == 0 || t % 5 > 0));
            for (mask, pass) in [
                (None, TrainingPass::new(Step::new(0, 0))),
                (Some(&mask), TrainingPass::new(Step::new(0, 0)).with_attention_dropout(0.1)),
            ] {
                let all = || {
                    let (y, cache) = encoder.forward_train(x.clone(), mask, &pass).unwrap();
                    let mut gradients = encoder.zeros_like();
                    let dx = encoder.backward(cache, y, &mut gradients).unwrap();
                    (bits(&dx), model_bits(&gradients))
                };
                let expected = in_pool(1, all);
                for threads in [2, 3, 5] {
                    assert!(in_pool(threads, all) == expected, "{threads} threads, length {length}, {config:?}");
                }
            }
        }
    }
}
