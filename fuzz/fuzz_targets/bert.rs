//! Folders of the model hub: any `config.json` with any tensors.
#![no_main]

use libfuzzer_sys::fuzz_target;
use linformer::checkpoint::bert;
use linformer::ndarray::Array2;
use linformer_fuzz::{options_and_tensors, run_language_model};

fuzz_target!(|data: &[u8]| {
    let Some((json, tensors)) = options_and_tensors(data) else { return };
    let Ok(options) = bert::Options::from_json(json) else { return };
    let _ = options.config();
    let _ = bert::pooler(&tensors, &options);
    if let Ok(model) = bert::encoder(&tensors, &options) {
        run_language_model(&model);
        let zeros = Array2::zeros((1, 3));
        let _ = model.features_with_types(&zeros, &zeros, None);
        if let Ok(model) = model.with_repeating_positions() {
            let _ = model.features(&Array2::zeros((1, 9)), None);
        }
    }
    for model in [bert::masked_language_model(&tensors, &options), bert::token_classifier(&tensors, &options)].into_iter().flatten() {
        run_language_model(&model);
    }
    if let Ok(model) = bert::classifier(&tensors, &options) {
        let _ = model.forward(&Array2::zeros((1, 3)), None);
    }
});
