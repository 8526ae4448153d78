//! lucidrains' state dicts under any options.
#![no_main]

use libfuzzer_sys::fuzz_target;
use linformer::checkpoint::lucidrains;
use linformer::ndarray::Array3;
use linformer_fuzz::{options_and_tensors, run_encoder, run_language_model};

fuzz_target!(|data: &[u8]| {
    let Some((json, tensors)) = options_and_tensors(data) else { return };
    if let Ok(options) = lucidrains::FeedForwardOptions::from_json(json) {
        let _ = lucidrains::feed_forward(&tensors, &options);
    }
    let Ok(options) = lucidrains::Options::from_json(json) else {
        return;
    };
    if let Ok(layer) = lucidrains::attention(&tensors, &options) {
        let _ = layer.forward(&Array3::zeros((1, 3, options.dim)), None);
        assert!(lucidrains::attention_state_dict(&layer).is_ok());
    }
    if let Ok(encoder) = lucidrains::linformer(&tensors, &options) {
        run_encoder(&encoder);
        assert!(lucidrains::linformer_state_dict(&encoder).is_ok());
    }
    if let Ok(model) = lucidrains::language_model(&tensors, &options) {
        run_language_model(&model);
        assert!(lucidrains::language_model_state_dict(&model).is_ok());
    }
});
