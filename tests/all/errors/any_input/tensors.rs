//! Tensors of any shape. Files and options of any bytes are covered by `checkpoint/safetensors.rs`, `checkpoint_refusals.rs` and `fuzz/`.

use linformer::checkpoint::{Checkpoint, Tensors, fairseq, lucidrains, rifath95, tatp22};
use linformer::ndarray::ArrayD;
use linformer::{LanguageModel, Parameters};
use proptest::prelude::*;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    /// A small model's tensors, of which some have another shape, or are missing.
    #[test]
    fn of_any_shape(changes in prop::collection::vec((any::<prop::sample::Index>(), prop::collection::vec(0..5_usize, 0..4)), 0..3)) {
        let changed = |names: &[(String, Vec<usize>)]| {
            let mut tensors = Tensors::<f32>::new();
            for (index, (name, shape)) in names.iter().enumerate() {
                let change = changes.iter().find(|(place, _)| place.index(names.len()) == index);
                let shape = change.map_or(shape, |(_, shape)| shape);
                if shape.len() < 4 {
                    tensors.insert(name, ArrayD::zeros(shape.clone())).unwrap();
                }
            }
            tensors
        };
        let shapes = |tensors: &Tensors<f32>| -> Vec<(String, Vec<usize>)> {
            tensors.names().map(|name| (name.to_owned(), tensors.get(name).unwrap().shape().to_vec())).collect()
        };
        let mut own = crate::common::small_model();
        let native = own.named().into_iter().map(|(name, tensor)| (name, tensor.shape().to_vec())).collect::<Vec<_>>();
        let _ = own.load_parameters(&Tensors::from_bytes(&changed(&native).to_bytes().unwrap()).unwrap());

        let options = lucidrains::Options::from_json(r#"{"num_tokens": 5, "dim": 4, "seq_len": 3, "k": 2, "heads": 2, "depth": 1}"#).unwrap();
        let model = LanguageModel::<f32>::new(&options.language_model_config().unwrap(), 1).unwrap();
        let dict = changed(&shapes(&lucidrains::language_model_state_dict(&model).unwrap()));
        let _ = lucidrains::language_model(&dict, &options);

        for more in [r#""parameter_sharing": "none""#, r#""method": "no_params""#, r#""method": "convolution", "parameter_sharing": "kv""#] {
            let json = format!(r#"{{"num_tokens": 5, "channels": 4, "input_size": 3, "dim_k": 2, "nhead": 2, "depth": 1, "dim_ff": 3, {more}}}"#);
            let options = tatp22::LinformerLMOptions::from_json(&json).unwrap();
            let model = LanguageModel::<f32>::new(&options.language_model_config().unwrap(), 1).unwrap();
            let dict = changed(&shapes(&tatp22::language_model_state_dict(&model, &options).unwrap()));
            let _ = tatp22::language_model(&dict, &options);
        }

        let json = r#"{"vocab": 5, "max_positions": 4, "encoder_layers": 1, "encoder_embed_dim": 4, "encoder_ffn_embed_dim": 3, "encoder_attention_heads": 2, "compressed": 2}"#;
        let options = fairseq::RobertaOptions::from_json(json).unwrap();
        let model = LanguageModel::<f32>::new(&options.config().unwrap(), 1).unwrap();
        let dict = changed(&shapes(&fairseq::linformer_roberta_state_dict(&model).unwrap()));
        let _ = fairseq::linformer_roberta(&dict, &options);
        let _ = fairseq::classifier(&dict, &options, "head");

        let options = rifath95::Options::from_json(r#"{"vocab": 5, "d_hidden": 4, "n_heads": 2, "n_layers": 1, "block_size": 4, "num_global_blocks": 2}"#).unwrap();
        let model = LanguageModel::<f32>::new(&options.config().unwrap(), 1).unwrap();
        let dict = changed(&shapes(&rifath95::language_model_state_dict(&model, &options).unwrap()));
        let _ = rifath95::language_model(&dict, &options);
    }
}
