//! tatp22's state dicts under any options.
#![no_main]

use libfuzzer_sys::fuzz_target;
use linformer::checkpoint::tatp22;
use linformer_fuzz::{is_small, options_and_tensors, run_encoder, run_language_model};

fuzz_target!(|data: &[u8]| {
    let Some((json, tensors)) = options_and_tensors(data) else { return };
    // A convolution's slots are all attended to, in however few numbers the file describes them.
    let runs = is_small(json);
    if let Ok(options) = tatp22::FeedForwardOptions::from_json(json) {
        let _ = tatp22::feed_forward(&tensors, &options);
    }
    if let Ok(options) = tatp22::MHAttentionOptions::from_json(json)
        && let Ok(layer) = tatp22::attention(&tensors, &options)
    {
        assert!(tatp22::attention_state_dict(&layer, &options).is_ok());
    }
    if let Ok(options) = tatp22::LinformerOptions::from_json(json)
        && let Ok(encoder) = tatp22::linformer(&tensors, &options)
    {
        assert!(tatp22::linformer_state_dict(&encoder, &options).is_ok());
        if runs {
            run_encoder(&encoder);
        }
    }
    if let Ok(options) = tatp22::LinformerLMOptions::from_json(json)
        && let Ok(model) = tatp22::language_model(&tensors, &options)
    {
        assert!(tatp22::language_model_state_dict(&model, &options).is_ok());
        if runs {
            run_language_model(&model);
        }
    }
});
