#![allow(clippy::redundant_closure_for_method_calls)] // the method alone is not general enough in its lifetimes

use ndarray::{ArrayD, IxDyn};

use super::super::foreign::{self, Entry};
use super::*;
use crate::config::PositionKind;
use crate::parameters::Parameters;

/// A small model's options: `more` are fields of their own.
fn json(model_type: &str, more: &str) -> String {
    let sizes = if model_type == "distilbert" {
        r#""dim": 8, "n_layers": 2, "n_heads": 2, "hidden_dim": 12"#
    } else {
        r#""hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 12"#
    };
    format!(
        r#"{{"model_type": "{model_type}", "vocab_size": 13, "embedding_size": 6, "max_position_embeddings": 11, "pad_token_id": 1, {sizes}{more}}}"#
    )
}

fn options(model_type: &str, more: &str) -> Options {
    Options::from_json(&json(model_type, more)).unwrap()
}

const TYPES: [&str; 5] = ["bert", "roberta", "xlm-roberta", "distilbert", "electra"];

/// The model's tensors under the names of a file with the prefix.
fn file(model: &impl Parameters<f64>, options: &Options, entries: fn(&Names<'_, f64>) -> Vec<Entry>) -> Tensors<f64> {
    let mut hint = Tensors::new();
    let prefix = match options.model_type {
        ModelType::XlmRoberta => "roberta",
        other => other.name(),
    };
    hint.insert(format!("{prefix}."), ArrayD::zeros(IxDyn(&[]))).unwrap();
    foreign::write(model, &entries(&Names::new(options, &hint))).unwrap()
}

fn encoder_file(options: &Options) -> (LanguageModel<f64>, Tensors<f64>) {
    let model = LanguageModel::new(&options.config().unwrap(), 3).unwrap();
    let tensors = file(&model, options, |names| names.encoder());
    (model, tensors)
}

/// `tensors` under other names; a name that becomes `None` is left out.
fn renamed(tensors: &Tensors<f64>, rename: impl Fn(&str) -> Option<String>) -> Tensors<f64> {
    let mut changed = Tensors::new();
    for name in tensors.names() {
        if let Some(new) = rename(name) {
            changed.insert(new, tensors.get(name).unwrap().to_owned()).unwrap();
        }
    }
    changed
}

fn message<T>(result: Result<T>) -> String {
    result.err().expect("an error").to_string()
}

#[test]
fn defaults_are_those_of_the_model_type() {
    let of = |model_type: &str| Options::from_json(&format!(r#"{{"model_type": "{model_type}"}}"#)).unwrap();
    let bert = of("bert");
    assert_eq!(
        (bert.vocab_size, bert.hidden_size, bert.num_hidden_layers, bert.layer_norm_eps),
        (30_522, 768, 12, 1e-12)
    );
    assert_eq!(bert.config().unwrap().position, PositionKind::Learned { max_len: 512 });
    let roberta = of("roberta");
    assert_eq!(
        (roberta.vocab_size, roberta.pad_token_id, roberta.type_vocab_size),
        (50_265, 1, Some(2))
    );
    let after = PositionKind::LearnedAfterPadding {
        max_len: 510,
        padding_token: 1,
    };
    assert_eq!(roberta.config().unwrap().position, after);
    assert_eq!(of("xlm-roberta").vocab_size, 30_522);
    let small = of("distilbert");
    assert_eq!((small.num_hidden_layers, small.type_vocab_size), (6, None));
    assert_eq!(small.config().unwrap().token_types, None);
    let electra = of("electra").config().unwrap();
    assert_eq!(
        (electra.embedding_dim, electra.encoder.dim(), electra.feature_dim()),
        (Some(128), 256, 256)
    );
}

#[test]
fn fields_that_change_the_numbers_are_refused_by_name() {
    for (field, value) in [
        ("position_embedding_type", r#""relative_key_query""#),
        ("is_decoder", "true"),
        ("add_cross_attention", "true"),
        ("hidden_act", r#""quick_gelu""#),
        ("pruned_heads", r#"{"0": [1]}"#),
        ("quantization_config", r#"{"bits": 8}"#),
        ("auto_map", r#"{"AutoModel": "modeling.Model"}"#),
    ] {
        let result = Options::from_json(&json("bert", &format!(r#", "{field}": {value}"#)));
        let Err(Error::Refused { peer, option, .. }) = result else {
            panic!("{field}: {result:?}");
        };
        assert_eq!((peer, option.as_str()), (PEER, field));
    }
    for (model_type, field) in [("distilbert", "activation"), ("electra", "hidden_act")] {
        let refused = message(Options::from_json(&json(model_type, &format!(r#", "{field}": "mish""#))));
        assert!(refused.contains(&format!("`{field}`")) && refused.contains("mish"), "{refused}");
    }
    assert!(message(Options::from_json(&json("deberta-v2", ""))).contains("`model_type` is refused"));
    assert!(message(Options::from_json(r#"{"vocab_size": 3}"#)).contains("missing field `model_type`"));
    assert!(message(Options::from_json("[]")).contains("bert::Options"));
}

#[test]
fn fields_without_influence_are_ignored() {
    for model_type in TYPES {
        let more = r#", "use_cache": true, "chunk_size_feed_forward": 7, "hidden_dropout_prob": 0.3, "torch_dtype": "float16",
            "sinusoidal_pos_embds": true, "position_embedding_type": "absolute", "is_decoder": false, "pruned_heads": {},
            "quantization_config": null, "id2label": {"7": "odd"}, "a_field_of_tomorrow": [1, {"x": null}]"#;
        assert_eq!(options(model_type, more), options(model_type, ""));
    }
}

#[test]
fn labels_are_in_the_order_of_their_ids() {
    let ids: Vec<String> = (0..11).map(|id| format!(r#""{id}": "L{id}""#)).collect();
    let own = options("bert", &format!(r#", "id2label": {{{}}}"#, ids.join(", ")));
    assert_eq!(own.labels.len(), 11);
    assert_eq!((own.labels[2].as_str(), own.labels[10].as_str()), ("L2", "L10"));
}

#[test]
fn names_are_read_with_and_without_prefix_and_in_their_old_form() {
    for model_type in TYPES {
        let options = options(model_type, "");
        let (model, prefixed) = encoder_file(&options);
        let first = prefixed.names().next().unwrap();
        let prefix = &first[..=first.find('.').unwrap()];
        let plain = renamed(&prefixed, |name| name.strip_prefix(prefix).map(str::to_owned));
        let old = renamed(&prefixed, |name| {
            let name = name.replace("LayerNorm.weight", "LayerNorm.gamma");
            Some(name.replace("LayerNorm.bias", "LayerNorm.beta"))
        });
        for tensors in [&prefixed, &plain, &old] {
            assert_eq!(encoder(tensors, &options).unwrap().named(), model.named(), "{model_type}");
        }
    }
}

#[test]
fn buffers_and_other_heads_are_left_out_and_nothing_else() {
    let options = options("bert", "");
    let (_, mut tensors) = encoder_file(&options);
    for name in [
        "bert.embeddings.position_ids",
        "bert.pooler.dense.weight",
        "cls.predictions.bias",
        "cls.seq_relationship.weight",
        "classifier.weight",
        "qa_outputs.bias",
    ] {
        tensors.insert(name, ArrayD::zeros(IxDyn(&[3]))).unwrap();
    }
    assert!(encoder(&tensors, &options).is_ok());
    tensors
        .insert("bert.encoder.layer.2.output.dense.bias", ArrayD::zeros(IxDyn(&[8])))
        .unwrap();
    tensors.insert("lm_head.bias", ArrayD::zeros(IxDyn(&[8]))).unwrap();
    let listed = message(encoder(&tensors, &options));
    for name in ["`bert.encoder.layer.2.output.dense.bias`", "`lm_head.bias`"] {
        assert!(listed.contains(&format!("{name} is not part of the model")), "{listed}");
    }
}

#[test]
fn missing_and_misshapen_tensors_are_all_named() {
    for (model_type, missing, wrong) in [
        (
            "bert",
            "bert.encoder.layer.1.output.LayerNorm.bias",
            "bert.embeddings.position_embeddings.weight",
        ),
        (
            "distilbert",
            "distilbert.transformer.layer.1.ffn.lin2.bias",
            "distilbert.embeddings.word_embeddings.weight",
        ),
        (
            "electra",
            "electra.embeddings_project.bias",
            "electra.embeddings.token_type_embeddings.weight",
        ),
    ] {
        let options = options(model_type, "");
        let (_, tensors) = encoder_file(&options);
        let mut tensors = renamed(&tensors, |name| (name != missing && name != wrong).then(|| name.to_owned()));
        tensors.insert(wrong, ArrayD::zeros(IxDyn(&[2, 3]))).unwrap();
        let listed = message(encoder(&tensors, &options));
        assert!(listed.contains(&format!("`{missing}` is missing")), "{listed}");
        assert!(listed.contains(&format!("`{wrong}` has shape [2, 3], expected")), "{listed}");
    }
}

#[test]
fn a_tied_weight_is_the_embedding_or_missing() {
    for (model_type, weight) in [
        ("bert", "cls.predictions.decoder.weight"),
        ("roberta", "lm_head.decoder.weight"),
        ("distilbert", "vocab_projector.weight"),
        ("electra", "generator_lm_head.weight"),
    ] {
        let tied = options(model_type, "");
        let head = |tied| HeadKind::Roberta {
            tied,
            activation: Activation::Gelu,
        };
        let model = LanguageModel::new(&tied.unchecked(head(true)).unwrap(), 5).unwrap();
        let mut tensors = file(&model, &tied, |names| names.masked_language_model());
        assert_eq!(masked_language_model(&tensors, &tied).unwrap().named(), model.named());
        let own = model.embedding().weight().to_owned();
        tensors.insert(weight, own.clone().into_dyn()).unwrap();
        assert_eq!(masked_language_model(&tensors, &tied).unwrap().named(), model.named());
        let untied = options(model_type, r#", "tie_word_embeddings": false"#);
        let loaded = masked_language_model(&tensors, &untied).unwrap();
        assert_eq!(loaded.config().head, head(false));
        let mut changed = renamed(&tensors, |name| (name != weight).then(|| name.to_owned()));
        assert!(message(masked_language_model(&changed, &untied)).contains(&format!("`{weight}` is missing")));
        changed.insert(weight, (own * 2.0).into_dyn()).unwrap();
        assert!(message(masked_language_model(&changed, &tied)).contains("are one tensor"));
        assert!(masked_language_model(&changed, &untied).is_ok());
    }
}

#[test]
fn classifiers_have_as_many_classes_as_their_weight_has_rows() {
    for model_type in TYPES {
        let options = options(model_type, "");
        let config = ClassifierConfig::tokens(options.config().unwrap(), 1)
            .with_pooling(Pooling::First)
            .with_hidden_dim(8);
        let model = Classifier::new(&config, 7).unwrap();
        let tensors = file(&model, &options, |names| names.classifier());
        assert_eq!(classifier(&tensors, &options).unwrap().named(), model.named());
        let named = Options {
            labels: vec!["yes".into(), "no".into()],
            ..options.clone()
        };
        assert!(message(classifier(&tensors, &named)).contains("`id2label` names 2"));
        let tokens = Options {
            architectures: vec!["XForTokenClassification".into()],
            ..options.clone()
        };
        assert!(message(classifier(&tensors, &tokens)).contains("`architectures` is refused"));

        let config = options.unchecked(HeadKind::Labels { count: 5 }).unwrap();
        let model = LanguageModel::new(&config, 7).unwrap();
        let tensors = file(&model, &options, |names| names.token_classifier());
        assert_eq!(token_classifier(&tensors, &options).unwrap().named(), model.named());
        assert!(message(classifier(&tensors, &options)).contains("missing"));
        let (_, bare) = encoder_file(&options);
        assert!(message(token_classifier(&bare, &options)).contains("`classifier.weight`"));
        assert!(message(pooler(&bare, &options)).contains("pooler.dense.weight` is missing"));
    }
}

#[test]
fn absurd_sizes_are_errors_before_anything_is_allocated() {
    let (_, tensors) = encoder_file(&options("bert", ""));
    for field in [
        "vocab_size",
        "hidden_size",
        "num_hidden_layers",
        "num_attention_heads",
        "intermediate_size",
        "max_position_embeddings",
        "type_vocab_size",
        "embedding_size",
        "pad_token_id",
    ] {
        for model_type in ["bert", "roberta", "electra"] {
            for value in [0, 1 << 40, usize::MAX] {
                let fields: serde_json::Value = serde_json::from_str(&json(model_type, "")).unwrap();
                let mut fields = fields.as_object().unwrap().clone();
                fields.insert(field.to_owned(), value.into());
                let odd = Options::from_json(&serde_json::to_string(&fields).unwrap()).unwrap();
                let has_effect = match field {
                    "embedding_size" => model_type == "electra",
                    "pad_token_id" => model_type == "roberta" && value > 0,
                    _ => true,
                };
                assert!(
                    !has_effect || encoder(&tensors, &odd).is_err(),
                    "{model_type} with {field} = {value}"
                );
                let _ = (odd.config(), pooler(&tensors, &odd), masked_language_model(&tensors, &odd));
            }
        }
        let negative = json("bert", "").replace(r#""vocab_size": 13"#, &format!(r#""{field}": -1"#));
        assert!(Options::from_json(&negative).is_err(), "{field}");
    }
    for eps in ["-1.0", "1e400", "\"1e-12\""] {
        let odd = Options::from_json(&json("bert", &format!(r#", "layer_norm_eps": {eps}"#)));
        assert!(odd.and_then(|odd| odd.config()).is_err(), "{eps}");
    }
}
