//! Files of decoders, our own and tatp22's: any bytes are an error or a model that runs.
#![no_main]

use libfuzzer_sys::fuzz_target;
use linformer::checkpoint::{Checkpoint, Tensors, tatp22};
use linformer::ndarray::{Array2, Array3};
use linformer::{Decoder, DecoderLanguageModel, EncoderDecoder, TokenPairs};
use linformer_fuzz::{is_small, options_and_tensors};

fuzz_target!(|data: &[u8]| {
    if let Ok(tensors) = Tensors::<f32>::from_bytes(data) {
        native(data, tensors.metadata().get("linformer").is_some_and(|json| is_small(json)));
    }
    let Some((json, tensors)) = options_and_tensors(data) else { return };
    if let Ok(options) = tatp22::LinformerOptions::from_json(json)
        && let Ok(decoder) = tatp22::decoder(&tensors, &options)
    {
        assert!(tatp22::decoder_state_dict(&decoder, &options).is_ok());
        run_decoder(&decoder, is_small(json));
    }
    if let Ok(options) = tatp22::LinformerLMOptions::from_json(json)
        && let Ok(model) = tatp22::decoder_language_model(&tensors, &options)
    {
        assert!(tatp22::decoder_language_model_state_dict(&model, &options).is_ok());
        run_language_model(&model, is_small(json));
    }
});

/// What describes long sequences in few numbers is right to be slow: it is loaded, and not run.
fn native(data: &[u8], runs: bool) {
    if let Ok(decoder) = Decoder::<f32>::from_bytes(data) {
        run_decoder(&decoder, runs);
    }
    if let Ok(model) = DecoderLanguageModel::<f32>::from_bytes(data) {
        run_language_model(&model, runs);
    }
    if let Ok(model) = EncoderDecoder::<f32>::from_bytes(data) {
        if runs {
            let tokens = Array2::zeros((2, 3));
            let _ = model.forward(&TokenPairs::new(&tokens, &tokens));
        }
        let again = EncoderDecoder::<f32>::from_bytes(&model.to_bytes().expect("a loaded model can be saved"));
        assert!(again.is_ok());
    }
}

fn run_decoder(decoder: &Decoder<f32>, runs: bool) {
    for length in [0, 1, 3] {
        let x = Array3::zeros((2, length, 4));
        if runs {
            let _ = decoder.forward(&x, None, &x, None);
        }
    }
}

fn run_language_model(model: &DecoderLanguageModel<f32>, runs: bool) {
    if runs {
        let _ = model.forward(&Array2::zeros((2, 3)), None, &Array3::zeros((2, 3, 4)), None);
    }
}
