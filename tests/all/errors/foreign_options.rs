//! Options of foreign files: unknown ones are named all at once, and tatp22's fixed matrices load under each name that they get.

use crate::common::{model_bits, small_model};
use linformer::checkpoint::{Checkpoint, Tensors, fairseq, lucidrains, rifath95, tatp22};
use linformer::ndarray::ArrayD;
use linformer::{Encoder, Error, LanguageModel};
use serde_json::{Value, json};

const SHARINGS: [&str; 4] = ["none", "headwise", "kv", "layerwise"];

/// What is wrong with options that have these fields besides.
fn message<T>(parse: impl Fn(&str) -> Result<T, Error>, mut options: Value) -> String {
    assert!(parse(&options.to_string()).is_ok(), "{options}");
    for field in ["surplus", "another", "dimension"] {
        options[field] = json!(1);
    }
    parse(&options.to_string()).map(|_| ()).unwrap_err().to_string()
}

#[test]
fn all_unknown_options_are_named_at_once() {
    let tat = json!({"input_size": 6, "channels": 8, "dim_k": 3});
    let with = |mut options: Value, field: &str| {
        options[field] = json!(9);
        options
    };
    let layer = json!({"input_size": 6, "dim": 4, "channels": 8, "dim_k": 3, "nhead": 2, "parameter_sharing": "kv"});
    let forward = json!({"input_channels": 8, "output_channels": 8, "ff_dim": 5});
    let rifath = json!({"vocab": 9, "d_hidden": 8, "n_heads": 2, "n_layers": 1, "block_size": 8, "num_global_blocks": 2});
    for message in [
        message(lucidrains::Options::from_json, json!({"dim": 8, "seq_len": 6})),
        message(lucidrains::FeedForwardOptions::from_json, json!({"dim": 8})),
        message(tatp22::LinformerOptions::from_json, tat.clone()),
        message(tatp22::LinformerLMOptions::from_json, with(tat, "num_tokens")),
        message(tatp22::MHAttentionOptions::from_json, layer),
        message(tatp22::FeedForwardOptions::from_json, forward),
        message(fairseq::AttentionOptions::from_json, json!({"embed_dim": 8, "num_heads": 2})),
        message(fairseq::RobertaOptions::from_json, json!({"vocab": 9})),
        message(rifath95::Options::from_json, rifath),
    ] {
        assert!(
            message.contains("unknown fields `another`, `dimension`, `surplus`, expected some of `"),
            "{message}"
        );
    }
    // With what else is wrong, too: they are what is looked at first.
    let both = lucidrains::Options::from_json(r#"{"dim": "8", "x": 1, "y": {"z": 2}}"#)
        .unwrap_err()
        .to_string();
    assert!(both.contains("unknown fields `x`, `y`"), "{both}");
    let missing = lucidrains::Options::from_json("{}").unwrap_err().to_string();
    assert!(missing.contains("missing field `dim`"), "{missing}");
}

#[test]
fn all_unknown_fields_of_a_stored_configuration_are_named_at_once() {
    let bytes = small_model().to_bytes().unwrap();
    let mut tensors = Tensors::<f64>::from_bytes(&bytes).unwrap();
    let mut description: Value = serde_json::from_str(&tensors.metadata()["linformer"]).unwrap();
    let config = &mut description["config"];
    (config["one"], config["two"]) = (json!(1), json!([]));
    config["encoder"]["three"] = json!({"deep": 1});
    config["encoder"]["attention"]["Linformer"]["four"] = json!(null);
    description["five"] = json!("5");
    tensors.set_metadata("linformer", description.to_string());
    let error = LanguageModel::<f64>::from_bytes(&tensors.to_bytes().unwrap())
        .unwrap_err()
        .to_string();
    for field in [
        "unknown field `five`",
        "unknown fields `config.one`, `config.two`",
        "unknown field `config.encoder.three`",
        "unknown field `config.encoder.attention.Linformer.four`",
    ] {
        assert!(error.contains(field), "{field}: {error}");
    }
}

#[test]
fn fixed_matrices_load_under_each_name_that_the_tool_gives() {
    for sharing in SHARINGS {
        for heads in [1, 2, 4] {
            for full in [false, true] {
                let json = json!({"input_size": 6, "channels": 8, "dim_k": 3, "nhead": heads, "depth": 2, "parameter_sharing": sharing,
                    "method": "no_params", "full_attention": full});
                let options = tatp22::LinformerOptions::from_json(&json.to_string()).unwrap();
                let encoder = Encoder::<f64>::new(&options.encoder_config().unwrap(), 1).unwrap();
                let state = tatp22::linformer_state_dict(&encoder, &options).unwrap();
                // The tool writes one matrix for all heads where theirs are equal, as for a single head; one a head otherwise.
                let is_own = sharing == "none" && heads > 1;
                let mut exported = Tensors::new();
                for name in state.names().filter(|name| !name.starts_with(['E', 'F'])) {
                    exported.insert(name, state.get(name).unwrap().to_owned()).unwrap();
                }
                for (side, place, head) in ["E", "F"].iter().flat_map(|side| {
                    [0, 2]
                        .iter()
                        .flat_map(move |place| (0..if is_own { heads } else { 1 }).map(move |head| (side, place, head)))
                }) {
                    let name = format!("{side}.{place}");
                    let name = if is_own { format!("{name}.{head}") } else { name };
                    let matrix = state.get(&name).or_else(|| state.get(&format!("{name}.0")));
                    let matrix = matrix.map_or_else(|| ArrayD::zeros(vec![6, 3]), |matrix| matrix.to_owned());
                    exported.insert(name, matrix).unwrap();
                }
                let loaded = tatp22::linformer(&exported, &options).unwrap_or_else(|error| panic!("{json}: {error}"));
                assert_eq!(model_bits(&loaded), model_bits(&encoder), "{json}");
            }
        }
    }
}

#[test]
fn a_layer_of_fixed_matrices_loads_under_each_name() {
    for (sharing, heads, full) in ["none", "headwise", "kv"].iter().flat_map(|sharing| {
        [1, 2]
            .iter()
            .flat_map(move |heads| [false, true].map(move |full| (sharing, *heads, full)))
    }) {
        let json = json!({"input_size": 6, "dim": 4, "channels": 8, "dim_k": 3, "nhead": heads, "parameter_sharing": sharing,
            "method": "no_params", "full_attention": full});
        let options = tatp22::MHAttentionOptions::from_json(&json.to_string()).unwrap();
        let mut state = Tensors::<f64>::new();
        for head in 0..heads {
            for part in ["q", "k", "v"] {
                state
                    .insert(format!("to_{part}.{head}.weight"), ArrayD::from_elem(vec![4, 8], 0.5))
                    .unwrap();
            }
        }
        state.insert("w_o.weight", ArrayD::zeros(vec![8, 4 * heads])).unwrap();
        state.insert("w_o.bias", ArrayD::zeros(vec![8])).unwrap();
        let own = state.clone();
        for side in ["E", "F"] {
            state.insert(side, ArrayD::ones(vec![6, 3])).unwrap();
        }
        let one = tatp22::attention(&state, &options).unwrap_or_else(|error| panic!("{json}: {error}"));
        let mut state = own;
        let is_own = *sharing == "none" || heads == 1;
        for side in ["E", "F"] {
            for head in 0..if is_own { heads } else { 0 } {
                state.insert(format!("{side}.{head}"), ArrayD::ones(vec![6, 3])).unwrap();
            }
        }
        if is_own || full {
            let each = tatp22::attention(&state, &options).unwrap_or_else(|error| panic!("{json}: {error}"));
            assert_eq!(model_bits(&one), model_bits(&each), "{json}");
        } else {
            assert!(tatp22::attention(&state, &options).is_err(), "{json}");
        }
    }
}
