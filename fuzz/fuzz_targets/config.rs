//! Configurations from any JSON: checked without a panic, the same after a way through JSON, and, where small, models that run.
#![no_main]

use libfuzzer_sys::fuzz_target;
use linformer::ndarray::{Array2, Array3};
use linformer::{
    AttentionConfig, CausalConfig, Classifier, ClassifierConfig, Encoder, EncoderConfig, FeedForwardConfig, LanguageModel,
    LanguageModelConfig, LinformerAttention, LinformerConfig,
};
use linformer_fuzz::{is_small, run_encoder, run_language_model};

macro_rules! survives {
    ($type:ty, $json:expr) => {{
        let read = serde_json::from_str::<$type>($json).ok();
        if let Some(config) = &read {
            let again = serde_json::to_string(config)
                .ok()
                .and_then(|json| serde_json::from_str::<$type>(&json).ok());
            assert_eq!(again.as_ref(), Some(config));
        }
        read
    }};
}

fuzz_target!(|json: &str| {
    let small = is_small(json);
    let tokens = Array2::zeros((1, 3));
    if let Some(config) = survives!(LinformerConfig, json)
        && config.check().is_ok()
        && small
    {
        let dim = config.attention.dim;
        let _ = LinformerAttention::<f32>::new(&config, 0).map(|layer| layer.forward(&Array3::zeros((1, 3, dim)), None));
    }
    if let Some(config) = survives!(EncoderConfig, json)
        && config.check().is_ok()
        && small
    {
        run_encoder(&Encoder::new(&config, 0).expect("it was checked"));
    }
    if let Some(config) = survives!(LanguageModelConfig, json)
        && config.check().is_ok()
        && small
    {
        run_language_model(&LanguageModel::new(&config, 0).expect("it was checked"));
    }
    if let Some(config) = survives!(ClassifierConfig, json)
        && config.check().is_ok()
        && small
    {
        let model = Classifier::<f32>::new(&config, 0).expect("it was checked");
        let _ = model.forward(&tokens, None);
        let _ = model.forward(&Array3::zeros((1, 3, 4)), None);
    }
    if let Some(config) = survives!(CausalConfig, json) {
        let _ = config.check();
    }
    if let Some(config) = survives!(AttentionConfig, json) {
        let _ = config.check();
    }
    if let Some(config) = survives!(FeedForwardConfig, json) {
        let _ = config.check(4, 4);
    }
});
