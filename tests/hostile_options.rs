//! Options of a peer that describe far more than the file holds: an error that says so, before anything of that size is allocated or walked
//! through.

#![cfg(feature = "checkpoint")]

use linformer::checkpoint::{Tensors, fairseq, lucidrains, rifath95, tatp22};
use linformer::ndarray::ArrayD;
use linformer::{Error, Result};
use serde_json::{Map, Value, json};

/// Too much for any memory, or for anybody's patience, and yet few enough that a product of two can be addressed.
const LARGE: [u64; 3] = [1 << 30, 1 << 40, u64::MAX];

/// A few tensors, as a file of another model has them.
fn tensors() -> Tensors<f32> {
    let mut tensors = Tensors::new();
    for name in ["to_q.weight", "proj_k", "classification_heads.a.out_proj.weight"] {
        tensors.insert(name, ArrayD::zeros(vec![2, 3])).unwrap();
    }
    tensors
}

type Load = fn(&Tensors<f32>, &str) -> Result<()>;

/// Every loader, and the options of a small model that it can make.
fn loaders() -> Vec<(&'static str, Value, Load)> {
    let lucid = json!({"dim": 8, "seq_len": 6, "k": 3, "heads": 2});
    let lucid_stack = with(&lucid, &json!({"depth": 1}));
    let tat = json!({"input_size": 6, "channels": 8, "dim_k": 3, "dim_ff": 5, "nhead": 2});
    let attention = json!({"embed_dim": 8, "num_heads": 2, "max_seq_len": 6, "compressed": 2, "self_attention": true});
    let roberta = json!({
        "vocab": 9, "max_positions": 6, "encoder_layers": 1, "encoder_embed_dim": 8, "encoder_ffn_embed_dim": 5,
        "encoder_attention_heads": 2, "compressed": 2,
    });
    let rifath = json!({"vocab": 9, "d_hidden": 8, "n_heads": 2, "n_layers": 1, "block_size": 6, "num_global_blocks": 3});
    vec![
        ("lucidrains::attention", lucid, |t, o| {
            lucidrains::attention(t, &lucidrains::Options::from_json(o)?).map(drop)
        }),
        ("lucidrains::linformer", lucid_stack.clone(), |t, o| {
            lucidrains::linformer(t, &lucidrains::Options::from_json(o)?).map(drop)
        }),
        (
            "lucidrains::language_model",
            with(&lucid_stack, &json!({"num_tokens": 9})),
            |t, o| lucidrains::language_model(t, &lucidrains::Options::from_json(o)?).map(drop),
        ),
        ("lucidrains::feed_forward", json!({"dim": 8, "mult": 2}), |t, o| {
            lucidrains::feed_forward(t, &lucidrains::FeedForwardOptions::from_json(o)?).map(drop)
        }),
        (
            "tatp22::linformer",
            with(&tat, &json!({"k_reduce_by_layer": 1, "depth": 1, "parameter_sharing": "kv"})),
            |t, o| tatp22::linformer(t, &tatp22::LinformerOptions::from_json(o)?).map(drop),
        ),
        (
            "tatp22::language_model",
            with(&tat, &json!({"num_tokens": 9, "depth": 1, "full_attention": true})),
            |t, o| tatp22::language_model(t, &tatp22::LinformerLMOptions::from_json(o)?).map(drop),
        ),
        (
            "tatp22::attention",
            json!({"input_size": 6, "dim": 4, "channels": 8, "dim_k": 3, "nhead": 2, "parameter_sharing": "none"}),
            |t, o| tatp22::attention(t, &tatp22::MHAttentionOptions::from_json(o)?).map(drop),
        ),
        (
            "tatp22::feed_forward",
            json!({"input_channels": 8, "output_channels": 8, "ff_dim": 5}),
            |t, o| tatp22::feed_forward(t, &tatp22::FeedForwardOptions::from_json(o)?).map(drop),
        ),
        ("fairseq::attention", attention, |t, o| {
            fairseq::attention(t, &fairseq::AttentionOptions::from_json(o)?).map(drop)
        }),
        ("fairseq::linformer_roberta", roberta.clone(), |t, o| {
            fairseq::linformer_roberta(t, &fairseq::RobertaOptions::from_json(o)?).map(drop)
        }),
        (
            "fairseq::linformer_roberta",
            with(&roberta, &json!({"shared_layer_kv_compressed": 1})),
            |t, o| fairseq::linformer_roberta(t, &fairseq::RobertaOptions::from_json(o)?).map(drop),
        ),
        ("fairseq::classifier", roberta, |t, o| {
            fairseq::classifier(t, &fairseq::RobertaOptions::from_json(o)?, "a").map(drop)
        }),
        ("rifath95::language_model", rifath, |t, o| {
            rifath95::language_model(t, &rifath95::Options::from_json(o)?).map(drop)
        }),
    ]
}

fn with(options: &Value, more: &Value) -> Value {
    let all = options.as_object().into_iter().chain(more.as_object()).flatten();
    Value::Object(all.map(|(key, value)| (key.clone(), value.clone())).collect::<Map<_, _>>())
}

#[test]
fn options_beyond_the_file_are_refused_before_anything_is_allocated() {
    let tensors = tensors();
    for (name, options, load) in loaders() {
        assert!(
            matches!(load(&tensors, &options.to_string()), Err(Error::Checkpoint { .. })),
            "{name}: the small model's tensors are missing"
        );
        let numbers = options.as_object().unwrap().iter().filter(|(_, value)| value.is_u64());
        for (option, _) in numbers {
            for large in LARGE {
                let options = with(&options, &json!({ option: large }));
                let Err(error) = load(&tensors, &options.to_string()) else {
                    panic!("{name}: {option} = {large} was loaded");
                };
                assert!(error.to_string().len() < 10_000, "{name}: {option} = {large}");
            }
        }
        // Two at once, whose product is what is large.
        let all: Vec<&String> = options.as_object().unwrap().keys().filter(|key| options[*key].is_u64()).collect();
        for (place, first) in all.iter().enumerate() {
            for second in &all[..place] {
                let options = with(&options, &json!({ *first: 1 << 20, *second: 1 << 20 }));
                assert!(load(&tensors, &options.to_string()).is_err(), "{name}: {first}, {second}");
            }
        }
    }
}
