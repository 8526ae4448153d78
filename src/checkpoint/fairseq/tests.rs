use ndarray::{ArrayD, IxDyn, array};

use super::*;
use crate::config::{
    BiasPlace, EncoderConfig, FeedForwardConfig, HeadKind, LanguageModelConfig, LinformerConfig, NormPlacement, PositionKind,
    ProjectionKind, Sharing,
};
use crate::ops::Activation;
use crate::parameters::{Parameters, Role};

fn options(extra: &str) -> RobertaOptions {
    RobertaOptions::from_json(&format!(
        r#"{{"vocab": 11, "max_positions": 7, "encoder_layers": 2, "encoder_embed_dim": 6, "encoder_ffn_embed_dim": 5,
            "encoder_attention_heads": 2, "compressed": 2{extra}}}"#
    ))
    .unwrap()
}

fn attention_options(extra: &str) -> AttentionOptions {
    AttentionOptions::from_json(&format!(
        r#"{{"embed_dim": 6, "num_heads": 2, "compressed": 2, "max_seq_len": 7, "self_attention": true{extra}}}"#
    ))
    .unwrap()
}

fn state_dict(options: &RobertaOptions) -> Tensors<f64> {
    linformer_roberta_state_dict(&LanguageModel::new(&options.config().unwrap(), 1).unwrap()).unwrap()
}

/// `tensors` with `name` replaced, or left out.
fn with(tensors: &Tensors<f64>, name: &str, replacement: Option<ArrayD<f64>>) -> Tensors<f64> {
    let mut changed = Tensors::new();
    for kept in tensors.names().filter(|&kept| kept != name) {
        changed.insert(kept, tensors.get(kept).unwrap().to_owned()).unwrap();
    }
    if let Some(replacement) = replacement {
        changed.insert(name, replacement).unwrap();
    }
    changed
}

fn message<T>(result: Result<T>) -> String {
    result.err().expect("an error").to_string()
}

fn loads(tensors: &Tensors<f64>, extra: &str) -> Result<LanguageModel<f64>> {
    linformer_roberta(tensors, &options(extra))
}

#[test]
fn defaults_are_fairseqs() {
    let options = RobertaOptions::new(11, 512);
    let config = options.config().unwrap();
    let crate::config::AttentionKind::Linformer(attention) = &config.encoder.attention else {
        panic!("Linformer attention");
    };
    assert_eq!(
        (attention.seq_len, attention.k, attention.bias_place),
        (512, 128, BiasPlace::AfterCompression)
    );
    assert_eq!(
        (config.encoder.depth, config.encoder.dim(), config.encoder.norm),
        (12, 768, NormPlacement::Post)
    );
    assert_eq!(config.encoder.feed_forward, Some(FeedForwardConfig::new(3072)));
    assert!(!config.encoder.final_norm && config.embedding_norm);
    assert_eq!(config.zeroed_token, Some(1));
    assert_eq!(
        config.head,
        HeadKind::Roberta {
            tied: true,
            activation: Activation::Gelu
        }
    );
    assert_eq!(RobertaOptions::large(11, 512).config().unwrap().encoder.dim(), 1024);
    let layer = AttentionOptions::new(8, 2);
    assert_eq!(
        (layer.compressed, layer.max_seq_len, layer.bias, layer.self_attention),
        (1, 256, true, false)
    );
}

#[test]
fn unknown_and_missing_options_are_errors() {
    assert!(message(RobertaOptions::from_json(r#"{"vocab": 9, "k": 3}"#)).contains("unknown field `k`"));
    assert!(message(RobertaOptions::from_json("{}")).contains("missing field `vocab`"));
    assert!(message(RobertaOptions::from_json(r#"{"vocab": 9}"#).and_then(|options| options.config())).contains("`max_positions`"));
    assert!(message(AttentionOptions::from_json(r#"{"embed_dim": 9, "num_heads": 3, "causal": true}"#)).contains("unknown field `causal`"));
}

#[test]
fn options_that_change_what_is_computed_are_refused_by_name() {
    for (option, value) in [
        ("encoder_learned_pos", "false"),
        ("no_scale_embedding", "false"),
        ("spectral_norm_classification_head", "true"),
        ("encoder_layers_to_keep", r#""0,1""#),
        ("quant_noise_pq", "0.1"),
        ("quant_noise_scalar", "0.1"),
        ("mha_heads_to_keep", "1"),
        ("ffn_blocks_to_remove", "1"),
        ("shared_kv_compressed", "2"),
        ("shared_layer_kv_compressed", "2"),
        ("freeze_compress", "2"),
        ("activation_fn", r#""swish""#),
        ("activation_fn", r#""relu_squared""#),
        ("activation_fn", r#""softmax""#),
        ("pooler_activation_fn", r#""swish""#),
        ("dropout", "-0.1"),
    ] {
        let refused = message(options(&format!(r#", "{option}": {value}"#)).config());
        assert!(refused.contains(&format!("`{option}`")), "{refused}");
    }
    for (option, value) in [
        ("self_attention", "false"),
        ("encoder_decoder_attention", "true"),
        ("add_bias_kv", "true"),
        ("add_zero_attn", "true"),
        ("kdim", "5"),
        ("vdim", "5"),
        ("shared_kv_compressed", "2"),
        ("freeze_compress", "2"),
    ] {
        let json = format!(r#"{{"embed_dim": 6, "num_heads": 2, "{option}": {value}}}"#);
        let mut options = AttentionOptions::from_json(&json).unwrap();
        options.self_attention |= option != "self_attention";
        let refused = message(options.config());
        assert!(refused.contains(&format!("`{option}`")), "{refused}");
    }
    let mut ratio = options("");
    ratio.compressed = 0;
    assert!(message(ratio.config()).contains("ratio of n to k"));
    ratio.compressed = 8;
    assert!(message(ratio.config()).contains("k = 0"));
}

#[test]
fn options_of_training_alone_change_nothing() {
    let training = options(
        r#", "dropout": 0.3, "attention_dropout": 0.2, "activation_dropout": 0.1, "pooler_dropout": 0.4, "encoder_layerdrop": 0.2,
            "mha_reg_scale_factor": 0.1, "checkpoint_activations": true, "max_source_positions": 99"#,
    );
    assert_eq!(training.config().unwrap(), options("").config().unwrap());
}

#[test]
fn frozen_compression_is_a_buffer() {
    let model = loads(&state_dict(&options("")), r#", "freeze_compress": 1"#).unwrap();
    model.visit("", &mut |name, role, _| {
        assert_eq!(role == Role::Buffer, name.contains("projections"), "{name}");
    });
    assert_eq!(RobertaOptions::of(model.config()).unwrap().freeze_compress, 1);
}

#[test]
fn missing_and_left_over_tensors_are_all_listed() {
    let complete = state_dict(&options(""));
    let tensors = with(&complete, "encoder.sentence_encoder.layers.0.fc1.bias", None);
    let tensors = with(&tensors, "encoder.lm_head.bias", None);
    let tensors = with(
        &tensors,
        "encoder.sentence_encoder.layers.2.version",
        Some(ArrayD::ones(IxDyn(&[]))),
    );
    let listed = message(loads(&tensors, ""));
    for expected in [
        "`encoder.sentence_encoder.layers.0.fc1.bias` is missing",
        "`encoder.lm_head.bias` is missing",
        "`encoder.sentence_encoder.layers.2.version` is not part of the model",
    ] {
        assert!(listed.contains(expected), "{listed}");
    }
    let shorter = options(r#", "untie_weights_roberta": false, "shared_kv_compressed": 1"#);
    assert!(message(linformer_roberta(&complete, &shorter)).contains("compress_v.weight` is not part"));
}

#[test]
fn copies_that_disagree_are_errors() {
    let tied = "encoder.lm_head.weight";
    let changed = with(&state_dict(&options("")), tied, Some(ArrayD::ones(IxDyn(&[11, 6]))));
    assert!(message(loads(&changed, "")).contains("`encoder.lm_head.weight` are one tensor"));
    assert!(loads(&changed, r#", "untie_weights_roberta": true"#).is_ok());

    let shared = r#", "shared_layer_kv_compressed": 1, "shared_kv_compressed": 1"#;
    let copy = "encoder.sentence_encoder.layers.1.self_attn.compress_k.weight";
    let complete = state_dict(&options(shared));
    assert!(loads(&complete, shared).is_ok());
    let changed = with(&complete, copy, Some(ArrayD::ones(IxDyn(&[3, 7]))));
    assert!(message(loads(&changed, shared)).contains(&format!("`{copy}` are one tensor")));
}

#[test]
fn versions_decide_what_old_checkpoints_mean() {
    let pre = r#", "encoder_normalize_before": true"#;
    let complete = state_dict(&options(pre));
    assert!(loads(&complete, pre).unwrap().config().encoder.final_norm);
    let old = with(&complete, "encoder.sentence_encoder.version", None);
    // fairseq of that time had no such norm.
    assert!(message(loads(&old, pre)).contains("`encoder.sentence_encoder.layer_norm.weight` is not part"));
    let old = with(&old, "encoder.sentence_encoder.layer_norm.weight", None);
    let old = with(&old, "encoder.sentence_encoder.layer_norm.bias", None);
    let model = loads(&old, pre).unwrap();
    assert!(!model.config().encoder.final_norm);
    // What is written says so again.
    let written = linformer_roberta_state_dict(&model).unwrap();
    assert_eq!(written.get("encoder.sentence_encoder.version").unwrap(), array![1.0].into_dyn());
    assert!(!loads(&written, pre).unwrap().config().encoder.final_norm);

    let untied = with(
        &state_dict(&options("")),
        "encoder.lm_head.weight",
        Some(ArrayD::ones(IxDyn(&[11, 6]))),
    );
    let untied = with(&untied, "encoder.version", Some(ArrayD::ones(IxDyn(&[]))));
    assert!(
        RobertaOptions::of(loads(&untied, "").unwrap().config())
            .unwrap()
            .untie_weights_roberta
    );
}

#[test]
fn some_layers_that_share_and_some_that_do_not_are_an_error() {
    let shared = r#", "shared_layer_kv_compressed": 1, "shared_kv_compressed": 1"#;
    let layer = "encoder.sentence_encoder.layers.1";
    let tensors = with(&state_dict(&options(shared)), &format!("{layer}.version"), None);
    let own = Some(ArrayD::ones(IxDyn(&[3, 7])));
    let tensors = with(&tensors, &format!("{layer}.shared_compress_layer.weight"), own);
    assert!(message(loads(&tensors, shared)).contains("1 of 2 layers"));
}

#[test]
fn a_name_in_both_its_old_and_its_new_form_is_an_error() {
    let old = with(&state_dict(&options("")), "decoder.lm_head.bias", Some(ArrayD::ones(IxDyn(&[11]))));
    assert!(message(loads(&old, "")).contains("`encoder.lm_head.bias`"));
}

#[test]
fn what_is_written_loads_as_the_same_model() {
    for extra in [
        "",
        r#", "shared_kv_compressed": 1, "layernorm_embedding": false"#,
        r#", "shared_layer_kv_compressed": 1, "shared_kv_compressed": 1"#,
        r#", "encoder_normalize_before": true, "activation_fn": "gelu_accurate", "padding_idx": 3"#,
        r#", "untie_weights_roberta": true, "no_token_positional_embeddings": true, "freeze_compress": 1"#,
    ] {
        let options = options(extra);
        let written = state_dict(&options);
        let model = linformer_roberta(&written, &options).unwrap();
        assert_eq!(RobertaOptions::of(model.config()).unwrap(), options);
        let again = linformer_roberta_state_dict(&model).unwrap();
        assert!(again.names().eq(written.names()));
        assert!(again.names().all(|name| again.get(name) == written.get(name)));
    }
    for extra in ["", r#", "bias": false"#, r#", "shared_kv_compressed": 1, "freeze_compress": 1"#] {
        let options = attention_options(extra);
        let layer = LinformerAttention::<f64>::new(&options.config().unwrap(), 1).unwrap();
        let written = attention_state_dict(&layer).unwrap();
        let layer = attention(&written, &options).unwrap();
        assert_eq!(AttentionOptions::of(layer.config()).unwrap(), options);
        let again = attention_state_dict(&layer).unwrap();
        assert!(again.names().all(|name| again.get(name) == written.get(name)));
    }
}

#[test]
fn a_layer_that_was_given_its_compression_ties_keys_and_values() {
    let options = attention_options(r#", "shared_compress_layer": true"#);
    let layer = LinformerAttention::<f64>::new(&options.config().unwrap(), 1).unwrap();
    let mut tensors = attention_state_dict(&layer).unwrap();
    let matrix = tensors.get("compress_k.weight").unwrap().to_owned();
    tensors.insert("compress_v.weight", matrix).unwrap();
    tensors.insert("compress_k.bias", ArrayD::ones(IxDyn(&[3]))).unwrap();
    assert!(attention(&tensors, &options).unwrap().projections().is_some());
    let changed = with(&tensors, "compress_v.weight", Some(ArrayD::ones(IxDyn(&[3, 7]))));
    assert!(message(attention(&changed, &options)).contains("one tensor"));
    assert!(message(attention(&tensors, &attention_options(""))).contains("`compress_k.bias` is not part"));
}

#[test]
fn a_classification_head_that_is_not_there_is_an_error() {
    let tensors = state_dict(&options(""));
    assert!(message(classifier(&tensors, &options(""), "mnli")).contains("`classification_heads.mnli.out_proj.weight`"));
}

#[test]
fn a_model_that_fairseq_cannot_be_is_refused_by_name() {
    let attention = || options("").config().unwrap().encoder.attention;
    let layer = || match attention() {
        crate::config::AttentionKind::Linformer(config) => config,
        _ => unreachable!("Linformer attention"),
    };
    let model = || options("").config().unwrap();
    let encoder = |encoder: EncoderConfig| LanguageModelConfig { encoder, ..model() };
    let attended = |attention: LinformerConfig| {
        let mut config = model();
        config.encoder.attention = attention.into();
        config
    };
    assert!(RobertaOptions::of(&model()).is_ok());
    for (config, name) in [
        (model().with_head(HeadKind::Plain), "head"),
        (model().with_zeroed_token(None), "zeroed_token"),
        (model().with_position(PositionKind::Learned { max_len: 7 }), "position"),
        (model().with_embedding_dim(Some(4)), "embedding_dim"),
        (encoder(model().encoder.with_final_norm(true)), "final_norm"),
        (encoder(model().encoder.with_norm_eps(1e-6)), "norm_eps"),
        (encoder(model().encoder.with_feed_forward(None)), "feed_forward"),
        (
            encoder(
                model()
                    .encoder
                    .with_feed_forward(Some(FeedForwardConfig::new(5).with_activation(Activation::Silu))),
            ),
            "activation_fn",
        ),
        (
            encoder(model().encoder.with_feed_forward(Some(FeedForwardConfig::new(5).with_gated(true)))),
            "gated",
        ),
        (attended(layer().with_bias_place(BiasPlace::BeforeCompression)), "bias_place"),
        (attended(layer().with_sharing(Sharing::None)), "sharing"),
        (
            attended(layer().with_kind(ProjectionKind::Learned).with_projection_bias(true)),
            "bias",
        ),
        (attended(layer().with_kv_heads(1)), "kv_heads"),
        (attended(LinformerConfig { k: 5, ..layer() }), "k"),
    ] {
        let refused = message(RobertaOptions::of(&config));
        assert!(refused.contains(name) && refused.starts_with(PEER), "{name}: {refused}");
    }
    assert!(message(AttentionOptions::of(&layer().with_head_dim(Some(5)))).contains("head_dim"));
}
