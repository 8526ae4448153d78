//! Configurations, losses and schedules as text.
use std::fmt::Debug;

use linformer::training::{AdamWConfig, CrossEntropy, MeanSquaredError, Reduction, Schedule, SgdConfig, Step, WeightDecay};
use linformer::{
    AttentionConfig, AttentionKind, CausalConfig, ClassifierConfig, ContextOverflow, Convolution, ConvolutionKernel, DecoderConfig,
    DecoderLanguageModelConfig, EncoderConfig, EncoderDecoderConfig, FeedForwardConfig, GenerationConfig, HeadKind, Initialization,
    LanguageModelConfig, LinformerConfig, LocalGlobalConfig, PositionKind, ProjectionConfig, ProjectionKind, Sharing, TrainingPass,
    TranslationConfig,
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, from_value, to_value};

/// The value comes back as it was, and, where it is a table of fields, a field that it does not have is an error.
fn comes_back<T: Serialize + DeserializeOwned + PartialEq + Debug>(value: &T) {
    let written = to_value(value).unwrap();
    assert_eq!(&from_value::<T>(written.clone()).unwrap(), value);
    if let Value::Object(mut fields) = written {
        fields.insert("no_such_field".to_owned(), Value::Null);
        assert!(from_value::<T>(fields.into()).is_err(), "{value:?} takes any field");
    }
}

fn encoder() -> EncoderConfig {
    EncoderConfig::new(LinformerConfig::new(8, 2, 16, 4).with_sharing(Sharing::KeyValue), 2)
        .with_k_by_layer(vec![4, 3])
        .with_norm_eps(1.0 / 3.0)
}

#[test]
fn configurations_of_models_come_back() {
    let convolution = Convolution::new(ConvolutionKernel::Depthwise).with_all_windows(true);
    comes_back(&convolution);
    comes_back(&ProjectionConfig::new(ProjectionKind::Convolution(convolution)).with_bias(true));
    comes_back(&AttentionConfig::new(8, 2).with_head_dim(3).with_causal(true));
    comes_back(&LinformerConfig::new(8, 2, 16, 4).with_initialization(Initialization::Normal { standard_deviation: 0.1 }));
    comes_back(&CausalConfig::new(8, 2, 16, 4).with_window(5).with_output_rank(2));
    comes_back(&LocalGlobalConfig::new(8, 2).with_mass_shift(1.0 / 3.0).with_trained_len(9));
    comes_back(&AttentionKind::from(LocalGlobalConfig::new(8, 2)));
    comes_back(&AttentionKind::from(CausalConfig::new(8, 2, 16, 4)));
    comes_back(&AttentionKind::from(LocalGlobalConfig::new(8, 2).with_causal(true).with_slots(8)));
    comes_back(&FeedForwardConfig::new(7).with_gated(true));
    comes_back(&encoder());
    let language = LanguageModelConfig::new(11, encoder()).with_embedding_dim(5);
    comes_back(&language);
    comes_back(
        &LanguageModelConfig::new(11, encoder())
            .with_embedding_dim(5)
            .with_project_out(false)
            .with_token_types(2)
            .with_head(HeadKind::Labels { count: 3 })
            .with_position(PositionKind::LearnedRepeating {
                max_len: 7,
                padding_token: Some(1),
            }),
    );
    comes_back(&ClassifierConfig::tokens(language.clone(), 3).with_hidden_dim(4));
    comes_back(&ClassifierConfig::features(2, encoder(), 3).with_position(PositionKind::Learned { max_len: 9 }));
    let decoder = DecoderConfig::new(AttentionConfig::new(8, 2).with_causal(true), LinformerConfig::new(8, 2, 16, 4), 2);
    comes_back(&decoder);
    let decoder = DecoderLanguageModelConfig::new(13, decoder);
    comes_back(&decoder);
    comes_back(&EncoderDecoderConfig::new(language, decoder));
}

#[test]
fn options_of_training_and_generation_come_back() {
    comes_back(&Step::new(u64::MAX, 3));
    comes_back(
        &TrainingPass::new(Step::new(1, 2))
            .with_layer_drop(0.1)
            .with_gradient_checkpointing(true),
    );
    comes_back(&CrossEntropy::new().with_label_smoothing(0.1).with_reduction(Reduction::Sum));
    comes_back(&MeanSquaredError::new().with_reduction(Reduction::Sum));
    comes_back(&AdamWConfig::default());
    comes_back(&SgdConfig::default());
    comes_back(&WeightDecay::default());
    for schedule in [
        Schedule::constant(0.1),
        Schedule::linear(0.1, 9),
        Schedule::cosine(0.1, u64::MAX),
        Schedule::inverse_square_root(1.0 / 3.0),
    ] {
        comes_back(&schedule.with_warmup(4));
    }
    comes_back(
        &GenerationConfig::new(5)
            .with_top_k(3)
            .with_seeds(vec![u64::MAX])
            .with_overflow(ContextOverflow::default()),
    );
    comes_back(&TranslationConfig::new(1, 2, 9).with_beams(3).with_length_penalty(0.6));
}
