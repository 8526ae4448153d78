//! Causal attention: tokens per second of generation after short and long contexts, and steps of training, local-global and blockwise against exact.
//!
//! `cargo bench --bench causal`, or in a few minutes `cargo bench --bench causal -- --quick`

use std::cell::LazyCell;
use std::hint::black_box;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, SamplingMode, Throughput, criterion_group, criterion_main};
use linformer::ndarray::{Array2, Axis};
use linformer::training::{CrossEntropy, Step, TokenBatch, Trainable};
use linformer::{
    AttentionConfig, AttentionKind, CausalConfig, EncoderConfig, LanguageModel, LanguageModelConfig, LanguageModelState, LocalGlobalConfig,
    PositionKind, SinusoidLayout, TrainingPass,
};

const DIM: usize = 512;
const HEADS: usize = 8;
const DEPTH: usize = 2;
const VOCABULARY: usize = 256;
/// The longest context, which the blocks are made for.
const CONTEXT: usize = 65_536;
/// Tokens of a measurement.
const TOKENS: usize = 64;

fn model(attention: impl Into<AttentionKind>) -> LanguageModel<f32> {
    let position = PositionKind::Sinusoidal {
        base: 10_000.0,
        layout: SinusoidLayout::Interleaved,
        stored: false,
    };
    let config = LanguageModelConfig::new(VOCABULARY, EncoderConfig::new(attention, DEPTH)).with_position(position);
    LanguageModel::new(&config, 0).expect("a valid configuration")
}

fn models(seq_len: usize) -> [(&'static str, LanguageModel<f32>); 3] {
    let local_global = LocalGlobalConfig::new(DIM, HEADS).with_causal(true).with_slots(8);
    [
        ("local-global", model(local_global)),
        ("blockwise", model(CausalConfig::new(DIM, HEADS, seq_len, 4))),
        ("exact", model(AttentionConfig::new(DIM, HEADS).with_causal(true))),
    ]
}

/// A state after `context` tokens and one more, so that it has room to grow, and the token that follows.
fn filled(model: &LanguageModel<f32>, context: usize) -> (LanguageModelState<f32>, usize) {
    let text: Vec<usize> = (0..context).map(|position| (position * 7 + position / 13) % VOCABULARY).collect();
    let (scores, mut state) = model.prefill(&[text]).expect("it fits");
    let scores = model.step(&mut state, &[Some(best(&scores))]).expect("a token of the vocabulary");
    (state, best(&scores))
}

fn best(scores: &Array2<f32>) -> usize {
    let scores = scores.index_axis(Axis(0), 0);
    (0..scores.len()).max_by(|&a, &b| scores[a].total_cmp(&scores[b])).unwrap_or(0)
}

fn generation(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("causal/tokens");
    group
        .sampling_mode(SamplingMode::Flat)
        .sample_size(10)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(2))
        .throughput(Throughput::Elements(TOKENS as u64));
    for (name, model) in models(CONTEXT) {
        for context in [1024, CONTEXT] {
            // Only where it is measured, and before: exact attention takes its time to read a long context.
            let start = LazyCell::new(|| filled(&model, context));
            group.bench_function(BenchmarkId::new(name, context), |bencher| {
                let start = LazyCell::force(&start);
                bencher.iter_batched_ref(
                    || start.clone(),
                    |(state, token)| {
                        for _ in 0..TOKENS {
                            let scores = model.step(state, &[Some(*token)]).expect("a token of the vocabulary");
                            *token = best(&scores);
                        }
                    },
                    criterion::BatchSize::PerIteration,
                );
            });
        }
    }
    group.finish();
}

fn training(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("causal/step");
    group
        .sampling_mode(SamplingMode::Flat)
        .sample_size(10)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(3));
    for n in [2048, 8192] {
        let tokens = Array2::from_shape_fn((1, n), |(_, position)| (position * 7 + position / 13) % VOCABULARY);
        let pass = TrainingPass::new(Step::new(0, 0));
        group.throughput(Throughput::Elements(n as u64));
        for (name, model) in models(n) {
            let targets = model.next_tokens(&tokens, None).expect("a causal model");
            group.bench_function(BenchmarkId::new(name, n), |bencher| {
                bencher.iter(|| {
                    model
                        .loss_and_gradients(&TokenBatch::new(black_box(&tokens), &targets), &CrossEntropy::new(), &pass)
                        .expect("it fits")
                });
            });
        }
    }
    group.finish();
}

criterion_group!(benches, generation, training);
criterion_main!(benches);
