//! Models and threads: every public type can cross and be shared (but for `Sharded`, which is its rank's), and nothing is shared that a
//! caller does not see.

use std::sync::Arc;
use std::thread;

use crate::common::{bits, scramble, sequence, small_encoder, small_model};
use linformer::distributed::{Shards, SingleProcess};
use linformer::ndarray::{Array2, Array3};
use linformer::training::{
    Accumulation, AdamW, AdamWConfig, CrossEntropy, FeatureBatch, MeanSquaredError, PairBatch, Schedule, Sgd, SgdConfig, Step, TokenBatch,
};
use linformer::{
    Attention, AttentionCache, AttentionConfig, AttentionKind, BlockwiseCausalAttention, CausalConfig, Classifier, ClassifierCache,
    ClassifierConfig, Compressed, CompressedSource, Compressor, Decoder, DecoderBlock, DecoderCache, DecoderConfig, DecoderLanguageModel,
    DecoderLanguageModelCache, DecoderLanguageModelConfig, Embedding, Encoder, EncoderBlock, EncoderCache, EncoderConfig, EncoderDecoder,
    EncoderDecoderCache, EncoderDecoderConfig, EncoderDecoderState, Error, ExactAttention, FeedForward, FeedForwardBlock, FeedForwardCache,
    FeedForwardConfig, Generation, GenerationConfig, Initialization, LanguageModel, LanguageModelCache, LanguageModelConfig,
    LanguageModelHead, LanguageModelState, LayerNorm, Linear, LinformerAttention, LinformerConfig, Order, PaddingMask, Position,
    PositionKind, Projection, ProjectionConfig, Projections, SequenceLengths, TokenPairs, TrainingPass, Translation, TranslationConfig,
    Workspace,
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
    check!(
        Linear,
        LayerNorm,
        Embedding,
        Position,
        FeedForward,
        FeedForwardBlock,
        LanguageModelHead
    );
    check!(
        LinformerAttention,
        ExactAttention,
        BlockwiseCausalAttention,
        Attention,
        Projection,
        Projections
    );
    check!(Encoder, EncoderBlock, LanguageModel, Classifier);
    check!(Compressed, Compressor<'static>, PaddingMask);
    check!(LanguageModelState, Order, SequenceLengths);
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
    check!(LanguageModelConfig, ClassifierConfig, GenerationConfig);
    check!(PositionKind, Initialization, TrainingPass);
    check!(
        linformer::Patches,
        linformer::PatchesCache,
        linformer::PatchesConfig,
        linformer::Copied
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
    check!(linformer::training::TokenMasking, TokenBatch, FeatureBatch);
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
        linformer::ContextOverflow,
        linformer::Pooling,
        linformer::ProjectionKind,
        linformer::Role,
        linformer::Sharing,
        linformer::SinusoidLayout,
        linformer::SummarySoftmax,
        linformer::ConvolutionTail,
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
