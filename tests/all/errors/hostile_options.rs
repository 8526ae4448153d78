//! Options of a peer that describe far more than the file holds: an error that says so, before anything of that size is allocated or walked
//! through.

use std::collections::BTreeSet;

use linformer::checkpoint::{Tensors, bert, fairseq, lucidrains, rifath95, tatp22};
use linformer::ndarray::ArrayD;
use linformer::{Decoder, DecoderLanguageModel, Encoder, Error, LanguageModel, Result};
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

/// A loader, by its name, and the options of a small model that it can make.
type Loader = (&'static str, Value, fn(&Tensors<f32>, &str) -> Result<()>);

/// Every loader.
fn loaders() -> Vec<Loader> {
    [of_lucidrains(), of_tatp22(), of_fairseq(), of_rifath95(), of_bert()].concat()
}

fn of_lucidrains() -> Vec<Loader> {
    let lucid = json!({"dim": 8, "seq_len": 6, "k": 3, "heads": 2});
    let lucid_stack = with(&lucid, &json!({"depth": 1}));
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
    ]
}

fn of_tatp22() -> Vec<Loader> {
    let tat = json!({"input_size": 6, "channels": 8, "dim_k": 3, "dim_ff": 5, "nhead": 2});
    vec![
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
            "tatp22::decoder",
            with(
                &tat,
                &json!({"k_reduce_by_layer": 1, "depth": 1, "parameter_sharing": "none", "decoder_mode": true}),
            ),
            |t, o| tatp22::decoder(t, &tatp22::LinformerOptions::from_json(o)?).map(drop),
        ),
        (
            "tatp22::decoder_language_model",
            with(&tat, &json!({"num_tokens": 9, "depth": 1, "decoder_mode": true})),
            |t, o| tatp22::decoder_language_model(t, &tatp22::LinformerLMOptions::from_json(o)?).map(drop),
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
    ]
}

fn of_fairseq() -> Vec<Loader> {
    let attention = json!({"embed_dim": 8, "num_heads": 2, "max_seq_len": 6, "compressed": 2, "self_attention": true});
    let roberta = json!({
        "vocab": 9, "max_positions": 6, "encoder_layers": 1, "encoder_embed_dim": 8, "encoder_ffn_embed_dim": 5,
        "encoder_attention_heads": 2, "compressed": 2,
    });
    vec![
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
    ]
}

fn of_rifath95() -> Vec<Loader> {
    let rifath = json!({"vocab": 9, "d_hidden": 8, "n_heads": 2, "n_layers": 1, "block_size": 6, "num_global_blocks": 3});
    vec![("rifath95::language_model", rifath, |t, o| {
        rifath95::language_model(t, &rifath95::Options::from_json(o)?).map(drop)
    })]
}

fn of_bert() -> Vec<Loader> {
    let roberta = json!({
        "model_type": "roberta", "vocab_size": 9, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 5,
        "max_position_embeddings": 6, "type_vocab_size": 1, "pad_token_id": 1,
    });
    let electra = json!({
        "model_type": "electra", "vocab_size": 9, "embedding_size": 4, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2,
        "intermediate_size": 5, "max_position_embeddings": 6, "type_vocab_size": 2,
    });
    vec![
        ("bert::encoder", roberta.clone(), |t, o| {
            bert::encoder(t, &bert::Options::from_json(o)?).map(drop)
        }),
        ("bert::encoder", electra.clone(), |t, o| {
            bert::encoder(t, &bert::Options::from_json(o)?).map(drop)
        }),
        ("bert::masked_language_model", electra, |t, o| {
            bert::masked_language_model(t, &bert::Options::from_json(o)?).map(drop)
        }),
        ("bert::classifier", roberta.clone(), |t, o| {
            bert::classifier(t, &bert::Options::from_json(o)?).map(drop)
        }),
        ("bert::token_classifier", roberta.clone(), |t, o| {
            bert::token_classifier(t, &bert::Options::from_json(o)?).map(drop)
        }),
        ("bert::pooler", roberta, |t, o| {
            bert::pooler(t, &bert::Options::from_json(o)?).map(drop)
        }),
    ]
}

fn with(options: &Value, more: &Value) -> Value {
    let all = options.as_object().into_iter().chain(more.as_object()).flatten();
    Value::Object(all.map(|(key, value)| (key.clone(), value.clone())).collect::<Map<_, _>>())
}

/// The list above has all of them: what a peer's module offers in lower case, but for the writers and for `bert::load`, which reads a file.
#[test]
fn every_loader_is_tried() {
    let tried: BTreeSet<&str> = loaders().into_iter().map(|(name, ..)| name).collect();
    let peers = ["lucidrains", "tatp22", "fairseq", "rifath95", "bert"];
    let loaders: BTreeSet<&str> = include_str!("../../public_names.txt")
        .lines()
        .filter_map(|line| line.strip_prefix("linformer::checkpoint::"))
        .filter(|&name| name != "bert::load")
        .filter(|name| {
            let parts: Vec<&str> = name.split("::").collect();
            parts.len() == 2 && peers.contains(&parts[0]) && parts[1].starts_with(char::is_lowercase) && !parts[1].ends_with("state_dict")
        })
        .collect();
    assert_eq!(tried, loaders);
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

/// What a model of these options writes, where it is one of those that can be made of them.
fn written(name: &str, options: &str) -> Option<Tensors<f32>> {
    Some(match name {
        "tatp22::linformer" => {
            let options = tatp22::LinformerOptions::from_json(options).unwrap();
            tatp22::linformer_state_dict(&Encoder::new(&options.encoder_config().unwrap(), 0).unwrap(), &options).unwrap()
        }
        "tatp22::decoder" => {
            let options = tatp22::LinformerOptions::from_json(options).unwrap();
            tatp22::decoder_state_dict(&Decoder::new(&options.decoder_config().unwrap(), 0).unwrap(), &options).unwrap()
        }
        "tatp22::decoder_language_model" => {
            let options = tatp22::LinformerLMOptions::from_json(options).unwrap();
            let model = DecoderLanguageModel::new(&options.decoder_language_model_config().unwrap(), 0).unwrap();
            tatp22::decoder_language_model_state_dict(&model, &options).unwrap()
        }
        "rifath95::language_model" => {
            let options = rifath95::Options::from_json(options).unwrap();
            rifath95::language_model_state_dict(&LanguageModel::new(&options.config().unwrap(), 0).unwrap(), &options).unwrap()
        }
        _ => return None,
    })
}

/// The same where no tensor is missing, so that only their shapes can tell.
#[test]
fn options_beyond_a_whole_file_are_refused_before_anything_is_allocated() {
    let mut count = 0;
    for (name, options, load) in loaders() {
        let Some(tensors) = written(name, &options.to_string()) else {
            continue;
        };
        load(&tensors, &options.to_string()).unwrap();
        let numbers = options.as_object().unwrap().iter().filter(|(_, value)| value.is_u64());
        for (option, _) in numbers.filter(|(option, _)| *option != "k_reduce_by_layer") {
            for large in LARGE {
                let loaded = load(&tensors, &with(&options, &json!({ option: large })).to_string());
                assert!(loaded.is_err(), "{name}: {option} = {large} was loaded");
            }
        }
        count += 1;
    }
    assert_eq!(count, 4);
}

/// Full attention has matrices of `input_size` and `dim_k` in its files and no use for them, so that its configuration knows nothing of their size.
#[test]
fn what_is_written_and_not_used_can_be_addressed() {
    for (n, k) in [(usize::MAX, 3), (1 << 61, 5), (3, usize::MAX)] {
        for decoder_mode in [false, true] {
            let options = json!({
                "num_tokens": 9, "input_size": n, "channels": 8, "dim_k": k, "dim_ff": 5, "nhead": 2, "depth": 1, "full_attention": true,
                "decoder_mode": decoder_mode,
            });
            let options = tatp22::LinformerLMOptions::from_json(&options.to_string()).unwrap();
            let written = if decoder_mode {
                let config = options.decoder_language_model_config().unwrap();
                tatp22::decoder_language_model_state_dict(&DecoderLanguageModel::<f32>::new(&config, 0).unwrap(), &options)
            } else {
                let config = options.language_model_config().unwrap();
                tatp22::language_model_state_dict(&LanguageModel::<f32>::new(&config, 0).unwrap(), &options)
            };
            assert!(matches!(written, Err(Error::Checkpoint { .. })), "{n} {k}");
        }
    }
}
