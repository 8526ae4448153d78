//! The crate's own files: any bytes are an error or a model that runs.
#![no_main]

use libfuzzer_sys::fuzz_target;
use linformer::checkpoint::{Checkpoint, Tensors};
use linformer::ndarray::{Array2, Array3};
use linformer::{
    BlockwiseCausalAttention, Classifier, Encoder, ExactAttention, FeedForward, LanguageModel, LinformerAttention, LocalGlobalAttention,
};
use linformer_fuzz::{is_small, run_encoder, run_language_model};

fuzz_target!(|data: &[u8]| {
    let Ok(tensors) = Tensors::<f32>::from_bytes(data) else { return };
    let again =
        Tensors::<f32>::from_bytes(&tensors.to_bytes().expect("what was read can be written")).expect("what was written can be read");
    assert!(again.names().eq(tensors.names()));
    // A loaded model may describe long sequences in few numbers, and is then slow to run.
    let runs = tensors.metadata().get("linformer").is_some_and(|json| is_small(json));
    let (x, tokens) = (Array3::<f32>::zeros((2, 3, 4)), Array2::zeros((2, 3)));
    if let Ok(layer) = LinformerAttention::<f32>::from_bytes(data)
        && runs
    {
        let _ = layer.forward(&x, None);
    }
    if let Ok(layer) = ExactAttention::<f32>::from_bytes(data)
        && runs
    {
        let _ = layer.forward(&x, None);
    }
    if let Ok(layer) = BlockwiseCausalAttention::<f32>::from_bytes(data)
        && runs
    {
        let _ = layer.forward(&x, None);
    }
    if let Ok(layer) = LocalGlobalAttention::<f32>::from_bytes(data)
        && runs
    {
        let _ = layer.forward(&x, None);
    }
    if let Ok(layer) = FeedForward::<f32>::from_bytes(data)
        && runs
    {
        let _ = layer.forward(&x);
    }
    if let Ok(encoder) = Encoder::<f32>::from_bytes(data)
        && runs
    {
        run_encoder(&encoder);
    }
    if let Ok(model) = LanguageModel::<f32>::from_bytes(data)
        && runs
    {
        run_language_model(&model);
        let again = LanguageModel::<f32>::from_bytes(&model.to_bytes().expect("a loaded model can be saved"));
        assert!(again.is_ok());
    }
    if let Ok(model) = Classifier::<f32>::from_bytes(data)
        && runs
    {
        let _ = model.forward(&tokens, None);
        let _ = model.forward(&x, None);
    }
});
