//! fairseq's state dicts, old and new, under any options.
#![no_main]

use libfuzzer_sys::fuzz_target;
use linformer::checkpoint::fairseq;
use linformer::ndarray::Array3;
use linformer_fuzz::{options_and_tensors, run_language_model};

fuzz_target!(|data: &[u8]| {
    let Some((json, tensors)) = options_and_tensors(data) else { return };
    if let Ok(options) = fairseq::AttentionOptions::from_json(json)
        && let Ok(layer) = fairseq::attention(&tensors, &options)
    {
        let _ = layer.forward(&Array3::zeros((1, 3, options.embed_dim)), None);
        assert!(fairseq::attention_state_dict(&layer).is_ok());
    }
    let Ok(options) = fairseq::RobertaOptions::from_json(json) else {
        return;
    };
    if let Ok(model) = fairseq::linformer_roberta(&tensors, &options) {
        run_language_model(&model);
        assert!(fairseq::linformer_roberta_state_dict(&model).is_ok());
    }
    let _ = fairseq::classifier(&tensors, &options, "a");
});
