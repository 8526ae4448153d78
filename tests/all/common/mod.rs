//! What the property tests share: random configurations, numbers and comparisons.
#![cfg_attr(not(feature = "checkpoint"), allow(dead_code))] // some are only for tests of files

pub mod causal;
pub mod decoder;
#[cfg(feature = "checkpoint")]
pub mod directory;
pub mod gradients;

use linformer::ndarray::{Array, Array3, ArrayD, ArrayView, Dimension};
use linformer::{
    Activation, AttentionConfig, BiasPlace, Convolution, ConvolutionKernel, ConvolutionTail, EncoderConfig, FeedForwardConfig,
    LanguageModel, LanguageModelConfig, LinformerConfig, NormPlacement, Parameters, ProjectionConfig, ProjectionKind, Sharing,
};
use proptest::prelude::*;
use proptest::sample::select;

/// This executable, to be started once more for one test: the function `test` of the module whose `module_path!()` is given.
pub fn once_more(module: &str, test: &str) -> std::process::Command {
    let (_crate, module) = module.split_once("::").expect("a module of this crate");
    let mut command = std::process::Command::new(std::env::current_exe().expect("the path of this executable"));
    command.args([&format!("{module}::{test}"), "--exact", "--nocapture"]);
    command
}

/// A smooth, aperiodic sequence: no two entries of a small array are alike.
pub fn sequence(shape: (usize, usize, usize), seed: u64) -> Array3<f64> {
    let (_, length, dim) = shape;
    Array3::from_shape_fn(shape, |(item, position, feature)| {
        let index = ((item * length + position) * dim + feature) as f64;
        (index * 0.734 + seed as f64 * 1.618).sin() + 0.3 * (index * 1.931 + 0.5).cos()
    })
}

/// The largest absolute difference; NaN where exactly one of two numbers is NaN.
pub fn difference<D: Dimension>(a: ArrayView<'_, f64, D>, b: ArrayView<'_, f64, D>) -> f64 {
    assert_eq!(a.shape(), b.shape());
    a.iter().zip(b).fold(0.0, |most: f64, (a, b)| {
        let difference = (a - b).abs();
        if difference > most || difference.is_nan() {
            difference
        } else {
            most
        }
    })
}

/// The bits of every number.
pub fn bits<D: Dimension>(a: &Array<f64, D>) -> Vec<u64> {
    a.iter().map(|value| value.to_bits()).collect()
}

/// All of a model's tensors by name.
pub fn tensors<M: linformer::Parameters<f64>>(model: &M) -> Vec<(String, ArrayD<f64>)> {
    model.named().into_iter().map(|(name, tensor)| (name, tensor.to_owned())).collect()
}

/// Fills every parameter with numbers that tell their places apart, so that no bias is 0 and no norm is trivial.
pub fn scramble<M: linformer::Parameters<f64>>(model: &mut M, seed: u64) {
    let mut index = seed as f64;
    model.visit_mut("", &mut |_, _, mut tensor| {
        let scale = 1.0 / (*tensor.shape().last().unwrap_or(&1) as f64).sqrt();
        for value in &mut tensor {
            index += 1.0;
            *value = (index * 2.399_963).sin() * scale + 0.02;
        }
    });
}

/// The name, shape and bits of all of a model's tensors.
pub fn model_bits(model: &impl Parameters<f64>) -> Vec<(String, Vec<usize>, Vec<u64>)> {
    let of = |(name, tensor): (String, ArrayD<f64>)| (name, tensor.shape().to_vec(), tensor.iter().map(|x| x.to_bits()).collect());
    tensors(model).into_iter().map(of).collect()
}

/// Two small blocks with one projection.
pub fn small_encoder() -> EncoderConfig {
    let attention = LinformerConfig::new(4, 2, 6, 3)
        .with_sharing(Sharing::Layerwise)
        .with_output_rank(Some(2));
    EncoderConfig::new(attention, 2).with_feed_forward(Some(FeedForwardConfig::new(5)))
}

/// A small model around [`small_encoder`].
pub fn small_language_model() -> LanguageModelConfig {
    LanguageModelConfig::new(7, small_encoder())
}

/// A small model with drawn numbers.
pub fn small_model() -> LanguageModel<f64> {
    LanguageModel::new(&small_language_model(), 1).unwrap()
}

fn kinds() -> impl Strategy<Value = ProjectionKind> {
    let convolution = (
        select(vec![
            ConvolutionKernel::Scalar,
            ConvolutionKernel::Depthwise,
            ConvolutionKernel::ChannelMixing,
        ]),
        select(vec![ConvolutionTail::Dropped, ConvolutionTail::ZeroPadded]),
        any::<bool>(),
    )
        .prop_map(|(kernel, tail, all)| ProjectionKind::Convolution(Convolution::new(kernel).with_tail(tail).with_all_windows(all)));
    prop_oneof![
        3 => Just(ProjectionKind::Learned),
        1 => Just(ProjectionKind::Random),
        1 => Just(ProjectionKind::MeanPooling),
        1 => Just(ProjectionKind::MaxPooling),
        2 => Just(ProjectionKind::AttentionPooling),
        3 => convolution,
    ]
}

/// A layer of any kind, sharing, bias and shape. `layerwise` sharing is left to encoders.
pub fn linformer_config(seq_len: std::ops::RangeInclusive<usize>) -> impl Strategy<Value = LinformerConfig> {
    let heads = select(vec![(1, 1), (2, 1), (2, 2), (4, 2), (3, 3), (3, 1)]);
    let biases = (any::<bool>(), any::<bool>(), any::<bool>(), any::<bool>(), any::<bool>());
    let sharing = select(vec![Sharing::None, Sharing::Headwise, Sharing::KeyValue]);
    (
        seq_len,
        1..=6_usize,
        heads,
        1..=5_usize,
        kinds(),
        sharing,
        biases,
        any::<bool>(),
        select(vec![None, Some(3)]),
        any::<bool>(),
    )
        .prop_map(
            |(n, k, (heads, kv_heads), head_dim, kind, sharing, (query, key, value, output, projection), after, rank, tied)| {
                let value = if tied { key } else { value };
                let attention = AttentionConfig::new(5, heads)
                    .with_head_dim(Some(head_dim))
                    .with_kv_heads(kv_heads)
                    .with_tied_key_value(tied)
                    .with_query_bias(query)
                    .with_key_value_bias(key, value)
                    .with_output_bias(output)
                    .with_output_rank(rank);
                let attends = kind == ProjectionKind::AttentionPooling;
                let pools = attends || matches!(kind, ProjectionKind::MeanPooling | ProjectionKind::MaxPooling);
                let can_have_bias = !pools && kind != ProjectionKind::Random;
                let projection = ProjectionConfig::new(kind)
                    .with_sharing((!pools).then_some(sharing))
                    .with_bias(projection && can_have_bias);
                let place = if after && (key || value) && !attends {
                    BiasPlace::AfterCompression
                } else {
                    BiasPlace::BeforeCompression
                };
                let k = if matches!(kind, ProjectionKind::Convolution(_)) {
                    k.min(n)
                } else {
                    k
                };
                LinformerConfig::new(5, heads, n, k)
                    .with_attention(attention)
                    .with_projection(projection)
                    .with_bias_place(place)
            },
        )
}

/// An encoder of depth 3 around such a layer.
pub fn encoder_config(seq_len: std::ops::RangeInclusive<usize>) -> impl Strategy<Value = EncoderConfig> {
    let shape = select(vec!["pre", "post", "reversible", "wide", "bare"]);
    let feed_forward = (
        1..=7_usize,
        select(vec![Activation::Gelu, Activation::Relu, Activation::Silu]),
        any::<bool>(),
    );
    (linformer_config(seq_len), shape, feed_forward, any::<bool>(), any::<bool>()).prop_map(
        |(mut attention, shape, (ff_dim, activation, gated), final_norm, layerwise)| {
            if layerwise && attention.projection.sharing == Some(Sharing::KeyValue) {
                attention.projection.sharing = Some(Sharing::Layerwise);
            }
            let feed_forward = FeedForwardConfig::new(ff_dim).with_activation(activation).with_gated(gated);
            let config = EncoderConfig::new(attention, 3)
                .with_feed_forward(Some(feed_forward))
                .with_final_norm(final_norm);
            match shape {
                "post" => config.with_norm(NormPlacement::Post),
                "reversible" => config.with_reversible(true),
                "wide" => config.with_hidden_dim(Some(7)).with_norm(NormPlacement::Post),
                "bare" => config.with_feed_forward(None),
                _ => config,
            }
        },
    )
}
