//! Files of causal models: of both kinds that they had, and of tatp22.

use linformer::checkpoint::{Checkpoint, Tensors, tatp22};
use linformer::ndarray::{Array2, s};
use linformer::{
    CausalConfig, Classifier, Encoder, EncoderConfig, Error, GenerationConfig, LanguageModel, LanguageModelConfig, Parameters,
};
use proptest::prelude::*;

use super::language_models::{VOCABULARY, collect, model, text};
use crate::common::causal::encoder_config;
use crate::common::{difference, model_bits, small_language_model};

/// A file that was saved when causal models were a kind of their own: of seed 0.
const CAUSAL_KIND: &[u8] = include_bytes!(concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/tests/fixtures/causal_language_model.safetensors"
));

fn kind(bytes: &[u8]) -> String {
    let description = Tensors::<f64>::from_bytes(bytes).unwrap().metadata()["linformer"].clone();
    serde_json::from_str::<serde_json::Value>(&description).unwrap()["model"]
        .as_str()
        .unwrap()
        .to_owned()
}

/// The file as it was when causal models were a kind of their own.
fn as_causal_kind(bytes: &[u8]) -> Vec<u8> {
    let mut tensors = Tensors::<f64>::from_bytes(bytes).unwrap();
    let description = tensors.metadata()["linformer"].replacen("\"LanguageModel\"", "\"CausalLanguageModel\"", 1);
    tensors.set_metadata("linformer", description);
    let bytes = tensors.to_bytes().unwrap();
    assert_eq!(kind(&bytes), "CausalLanguageModel");
    bytes
}

#[test]
fn a_file_of_the_causal_kind_loads() {
    assert_eq!(kind(CAUSAL_KIND), "CausalLanguageModel");
    let model = LanguageModel::<f32>::from_bytes(CAUSAL_KIND).unwrap();
    let encoder = EncoderConfig::new(CausalConfig::new(4, 2, 4, 1), 1).with_feed_forward(None);
    let config = LanguageModelConfig::new(5, encoder);
    assert_eq!(model.config(), &config);
    assert_eq!(model.named(), LanguageModel::<f32>::new(&config, 0).unwrap().named());
    assert_eq!(model.generate_one(&[1, 2], &GenerationConfig::new(2)).unwrap().count(), 2);
    assert_eq!(kind(&model.to_bytes().unwrap()), "LanguageModel");
    assert_eq!(
        LanguageModel::<f64>::from_bytes(CAUSAL_KIND).unwrap().config(),
        &config,
        "of the other element type"
    );
    // No other model.
    for error in [
        Encoder::<f32>::from_bytes(CAUSAL_KIND).err(),
        Classifier::<f32>::from_bytes(CAUSAL_KIND).err(),
    ] {
        assert!(error.unwrap().to_string().contains("the file holds `CausalLanguageModel`"));
    }
}

/// A file that calls itself causal and is not is a model that does not generate.
#[test]
fn the_kind_of_a_file_does_not_make_a_model_causal() {
    let model = LanguageModel::<f64>::new(&small_language_model(), 0).unwrap();
    let again = LanguageModel::<f64>::from_bytes(&as_causal_kind(&model.to_bytes().unwrap())).unwrap();
    assert_eq!((model_bits(&again), again.config()), (model_bits(&model), model.config()));
    let refused = again.generate_one(&[1], &GenerationConfig::new(1)).err();
    assert!(matches!(refused, Some(Error::Config { option: "attention", .. })));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(30))]

    #[test]
    fn files_of_both_kinds_are_one_model(encoder in encoder_config(), seed in 0..1000_u64) {
        let model = model(&LanguageModelConfig::new(VOCABULARY, encoder), seed);
        let bytes = model.to_bytes().unwrap();
        for bytes in [as_causal_kind(&bytes), bytes] {
            let again = LanguageModel::<f64>::from_bytes(&bytes).unwrap();
            prop_assert_eq!((model_bits(&again), again.config()), (model_bits(&model), model.config()));
            prop_assert_eq!(again.prefill(&[[1, 2]]).unwrap().0, model.prefill(&[[1, 2]]).unwrap().0);
        }
    }
}

/// A causal model that tatp22's loader returns generates as any other: by its cache as in whole runs, in a batch as alone.
#[test]
fn a_causal_model_of_tatp22_generates() {
    let json = r#"{"num_tokens": 7, "input_size": 16, "channels": 8, "dim_k": 2, "dim_ff": 6, "nhead": 2, "depth": 2,
        "full_attention": true, "causal": true}"#;
    let options = tatp22::LinformerLMOptions::from_json(json).unwrap();
    let own = model(&options.language_model_config().unwrap(), 3);
    let dict = tatp22::language_model_state_dict(&own, &options).unwrap();
    let model = tatp22::language_model(&dict, &options).unwrap();
    let prompts = [text(5, 1), text(2, 2)];
    let config = GenerationConfig::new(9).with_repetition_penalty(1.2);
    let found = collect(&model, &prompts, &config);
    assert_eq!(found, collect(&own, &prompts, &config));
    for (prompt, found) in prompts.iter().zip(&found) {
        assert_eq!(&collect(&model, std::slice::from_ref(prompt), &config)[0], found);
        let whole = [&prompt[..], found].concat();
        let tokens = Array2::from_shape_vec((1, whole.len()), whole.clone()).unwrap();
        let expected = model.forward(&tokens, None).unwrap();
        let (_, mut state) = model.prefill(&[prompt]).unwrap();
        for (position, &token) in whole.iter().enumerate().skip(prompt.len()) {
            let scores = model.step(&mut state, &[Some(token)]).unwrap();
            assert!(difference(expected.slice(s![0, position, ..]), scores.row(0)) < 1e-10);
        }
    }
}
