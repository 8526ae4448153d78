use ndarray::{ArrayD, IxDyn};

use super::*;
use crate::config::{
    EncoderConfig, FeedForwardConfig, HeadKind, LanguageModelConfig, LinformerConfig, NormPlacement, ProjectionKind, Sharing,
};
use crate::ops::Activation;

fn options(extra: &str) -> Options {
    Options::from_json(&format!(
        r#"{{"num_tokens": 11, "dim": 6, "seq_len": 7, "depth": 2, "k": 3, "heads": 2{extra}}}"#
    ))
    .unwrap()
}

fn state_dict(options: &Options) -> Tensors<f64> {
    let model = LanguageModel::new(&options.language_model_config().unwrap(), 1).unwrap();
    language_model_state_dict(&model).unwrap()
}

fn without(tensors: &Tensors<f64>, name: &str) -> Tensors<f64> {
    let mut rest = Tensors::new();
    for kept in tensors.names().filter(|&kept| kept != name) {
        rest.insert(kept, tensors.get(kept).unwrap().to_owned()).unwrap();
    }
    rest
}

fn message<T>(result: Result<T>) -> String {
    result.err().expect("an error").to_string()
}

#[test]
fn defaults_are_the_packages() {
    let options = Options::from_json(r#"{"dim": 16, "seq_len": 9}"#).unwrap();
    assert_eq!(options, Options::new(16, 9));
    assert_eq!((options.k, options.heads, options.dim_head), (256, 8, None));
    assert_eq!(FeedForwardOptions::from_json(r#"{"dim": 5}"#).unwrap(), FeedForwardOptions::new(5));
    assert_eq!(FeedForwardOptions::new(5).config().unwrap(), FeedForwardConfig::new(20));
}

#[test]
fn unknown_options_are_errors() {
    let swallowed = message(Options::from_json(r#"{"dim": 16, "seq_len": 9, "causal": true}"#));
    assert!(swallowed.contains("unknown field `causal`"), "{swallowed}");
    assert!(message(Options::from_json(r#"{"dim": 16}"#)).contains("missing field `seq_len`"));
    assert!(message(FeedForwardOptions::from_json(r#"{"dim": 16, "heads": 2}"#)).contains("unknown field `heads`"));
}

#[test]
fn options_of_another_class_are_refused_by_name() {
    let tensors = Tensors::<f64>::new();
    assert!(message(attention(&tensors, &options(""))).contains("`depth`"));
    assert!(message(linformer(&tensors, &options(""))).contains("`num_tokens`"));
    let mut without_depth = Options::new(8, 4);
    assert!(message(linformer(&tensors, &without_depth)).contains("`depth` is missing"));
    assert!(message(language_model(&tensors, &without_depth)).contains("`num_tokens` is missing"));
    without_depth.reversible = true;
    assert!(message(attention(&tensors, &without_depth)).contains("`reversible`"));
    let mut softmax = FeedForwardOptions::new(4);
    softmax.activation = Some("Softmax".into());
    assert!(message(softmax.config()).contains("Softmax"));
    let mut dropout = options("");
    dropout.dropout = 1.5;
    assert!(message(dropout.language_model_config()).contains("dropout"));
}

#[test]
fn heads_need_not_divide_the_width_where_their_own_is_given() {
    let uneven = |dim_head| {
        let mut options = Options::new(6, 7);
        (options.heads, options.dim_head) = (4, dim_head);
        options.attention_config()
    };
    assert!(message(uneven(None)).contains("heads"));
    assert_eq!(uneven(Some(5)).unwrap().attention.query_dim(), 20);
}

#[test]
fn missing_and_left_over_tensors_are_all_listed() {
    let options = options("");
    let complete = state_dict(&options);
    let name = "linformer.net.layers.1.0.fn.proj_k";
    let mut tensors = without(&without(&complete, name), "to_logits.bias");
    tensors
        .insert("linformer.net.layers.2.0.norm.weight", ArrayD::zeros(IxDyn(&[6])))
        .unwrap();
    let listed = message(language_model(&tensors, &options));
    for expected in [
        "`linformer.net.layers.1.0.fn.proj_k` is missing",
        "`to_logits.bias` is missing",
        "`linformer.net.layers.2.0.norm.weight` is not part of the model",
    ] {
        assert!(listed.contains(expected), "{listed}");
    }
}

#[test]
fn a_tensor_of_another_shape_is_an_error() {
    let complete = state_dict(&options(""));
    let longer = Options { seq_len: 8, ..options("") };
    let listed = message(language_model(&complete, &longer));
    for expected in [
        "`pos_emb.weight` has shape [7, 6], expected [8, 6]",
        "`linformer.net.layers.1.0.fn.proj_v` has shape [7, 3], expected [8, 3]",
    ] {
        assert!(listed.contains(expected), "{listed}");
    }
}

#[test]
fn integers_are_no_weights() {
    let header = r#"{"w1.bias":{"dtype":"I8","shape":[1],"data_offsets":[0,1]},"w1.weight":{"dtype":"I8","shape":[1,1],"data_offsets":[1,2]},
        "w2.bias":{"dtype":"I8","shape":[1],"data_offsets":[2,3]},"w2.weight":{"dtype":"I8","shape":[1,1],"data_offsets":[3,4]}}"#;
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.as_bytes());
    bytes.extend([1, 2, 3, 4]);
    let tensors = Tensors::<f64>::from_bytes(&bytes).unwrap();
    let options = FeedForwardOptions::from_json(r#"{"dim": 1, "mult": 1}"#).unwrap();
    assert!(message(feed_forward(&tensors, &options)).contains("`w2.weight` is stored as I8"));
}

#[test]
fn what_is_written_loads_as_the_same_model() {
    for extra in [
        "",
        r#", "reversible": true"#,
        r#", "share_kv": true, "dim_head": 5"#,
        r#", "one_kv_head": true"#,
    ] {
        let options = options(extra);
        let written = state_dict(&options);
        let model = language_model(&written, &options).unwrap();
        assert_eq!(Options::of_language_model(model.config()).unwrap(), options);
        let again = language_model_state_dict(&model).unwrap();
        assert!(again.names().eq(written.names()));
        assert!(again.names().all(|name| again.get(name) == written.get(name)));
    }
}

#[test]
fn a_model_that_the_package_cannot_be_is_refused_by_name() {
    let attention = || LinformerConfig::new(8, 2, 6, 3);
    let encoder = || EncoderConfig::new(attention(), 1).with_final_norm(false);
    assert!(Options::of_encoder(&encoder()).is_ok());
    for (config, name) in [
        (encoder().with_final_norm(true), "final_norm"),
        (encoder().with_norm(NormPlacement::Post), "norm"),
        (encoder().with_norm_eps(1e-6), "norm_eps"),
        (encoder().with_feed_forward(None), "feed_forward"),
        (encoder().with_feed_forward(Some(FeedForwardConfig::new(8))), "ff_dim"),
        (
            EncoderConfig::new(attention().with_kind(ProjectionKind::Random), 1).with_final_norm(false),
            "kind",
        ),
        (
            EncoderConfig::new(attention().with_sharing(Sharing::None), 1).with_final_norm(false),
            "sharing",
        ),
        (
            EncoderConfig::new(attention().with_query_bias(true), 1).with_final_norm(false),
            "query_bias",
        ),
        (EncoderConfig::new(attention().attention, 1).with_final_norm(false), "attention"),
        (encoder().with_k_by_layer(Some(vec![2])), "k_by_layer"),
    ] {
        let refused = message(Options::of_encoder(&config));
        assert!(refused.contains(name) && refused.starts_with(PEER), "{name}: {refused}");
    }
    let model = LanguageModelConfig::new(9, encoder());
    assert!(message(Options::of_language_model(&model.with_head(HeadKind::Tied))).contains("head"));
    let layer = |dim, out_dim, config: FeedForwardConfig| {
        message(feed_forward_state_dict(&FeedForward::<f64>::new(dim, out_dim, &config, 0).unwrap()))
    };
    assert!(layer(4, 5, FeedForwardConfig::new(8)).contains("out_dim"));
    assert!(layer(4, 4, FeedForwardConfig::new(6)).contains("mult"));
    assert!(layer(4, 4, FeedForwardConfig::new(8).with_bias(false)).contains("bias"));
    assert!(layer(4, 4, FeedForwardConfig::new(8).with_activation(Activation::GeluTanh)).contains("GeluTanh"));
}
