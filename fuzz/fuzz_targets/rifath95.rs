//! rifath95's state dicts under any options.
#![no_main]

use libfuzzer_sys::fuzz_target;
use linformer::checkpoint::rifath95;
use linformer::ndarray::Array2;
use linformer_fuzz::options_and_tensors;

fuzz_target!(|data: &[u8]| {
    let Some((json, tensors)) = options_and_tensors(data) else { return };
    let Ok(options) = rifath95::Options::from_json(json) else { return };
    if let Ok(model) = rifath95::language_model(&tensors, &options) {
        let _ = model.forward(&Array2::zeros((1, 3)), None);
        assert!(rifath95::language_model_state_dict(&model, &options).is_ok());
    }
});
