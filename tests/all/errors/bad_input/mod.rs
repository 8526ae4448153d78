//! Every way of being wrong is a typed error that says what to do; the odd but meaningful cases are defined; nothing panics.

/// Asserts that the result is an error of this variant whose message has these words.
macro_rules! refused {
    ($result:expr, $variant:pat, $($word:expr),+) => {{
        let error = $result.err().expect(concat!("must be refused: ", stringify!($result)));
        assert!(matches!(error, $variant), "{error:?}");
        let message = error.to_string();
        $(assert!(message.contains($word), "`{message}` does not say `{}`", $word);)+
    }};
}

mod arguments;
mod configurations;
mod odd_sizes;

use crate::common::{scramble, sequence};
use linformer::ndarray::{Array2, Array3, array, s};
use linformer::{
    Activation, AttentionConfig, BiasPlace, Classifier, ClassifierConfig, Convolution, ConvolutionKernel, Embedding, Encoder, EncoderBlock,
    EncoderConfig, Error, ExactAttention, FeedForward, FeedForwardConfig, HeadKind, Initialization, LanguageModel, LanguageModelConfig,
    LayerNorm, Linear, LinformerAttention, LinformerConfig, NormPlacement, Order, PaddingMask, Parameters, PositionKind, ProjectionKind,
    SequenceLengths, Sharing, batched_matmul,
};

fn config() -> LinformerConfig {
    LinformerConfig::new(8, 2, 6, 4)
}

fn layer() -> LinformerAttention<f64> {
    LinformerAttention::new(&config(), 0).unwrap()
}

fn model() -> LanguageModel<f64> {
    LanguageModel::new(&LanguageModelConfig::new(11, EncoderConfig::new(config(), 2)), 0).unwrap()
}

fn every_kind() -> Vec<LinformerConfig> {
    let mut kinds = vec![
        ProjectionKind::Learned,
        ProjectionKind::Random,
        ProjectionKind::MeanPooling,
        ProjectionKind::MaxPooling,
        ProjectionKind::AttentionPooling,
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
