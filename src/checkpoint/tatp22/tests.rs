use ndarray::{Array1, Array3, ArrayD, IxDyn, s};

use super::*;
use crate::attention::{ExactAttention, LinformerAttention, PaddingMask};
use crate::checkpoint::Tensors;
use crate::config::{AttentionConfig, Convolution, ConvolutionKernel, LinformerConfig, ProjectionKind};
use crate::error::{Error, Result};
use crate::parameters::Parameters;
use crate::{Attention, Decoder, DecoderLanguageModel, Encoder, FeedForward, LanguageModel};

const LINFORMER: &str = r#"{"input_size": 7, "channels": 6, "dim_k": 3, "nhead": 2, "depth": 2, "dim_ff": 5"#;

fn linformer_options(more: &str) -> LinformerOptions {
    LinformerOptions::from_json(&format!("{LINFORMER}{more}}}")).expect("these are its options")
}

/// The state dict of a drawn model.
fn drawn(options: &LinformerOptions) -> Tensors<f64> {
    let encoder = Encoder::new(&options.encoder_config().unwrap(), 1).unwrap();
    linformer_state_dict(&encoder, options).unwrap()
}

/// `tensors` with the one of this name changed, or left out.
fn changed(tensors: &Tensors<f64>, name: &str, change: impl Fn(ArrayD<f64>) -> Option<ArrayD<f64>>) -> Tensors<f64> {
    assert!(tensors.get(name).is_some(), "there is no {name}");
    let mut result = Tensors::new();
    for own in tensors.names() {
        let tensor = tensors.get(own).unwrap().to_owned();
        if let Some(tensor) = if own == name { change(tensor) } else { Some(tensor) } {
            result.insert(own, tensor).unwrap();
        }
    }
    result
}

fn problems<T>(result: Result<T>) -> Vec<String> {
    match result {
        Err(Error::Checkpoint { problems }) => problems,
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("it was loaded"),
    }
}

fn refused<T>(result: Result<T>) -> (String, String) {
    match result {
        Err(Error::Refused { option, reason, .. }) => (option, reason),
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("it was accepted"),
    }
}

fn assert_same(written: &Tensors<f64>, read: &Tensors<f64>) {
    assert!(written.names().eq(read.names()));
    for name in read.names() {
        assert_eq!(written.get(name), read.get(name), "{name}");
    }
}

#[test]
fn defaults_are_those_of_the_package() {
    let linformer = LinformerOptions::from_json(r#"{"input_size": 7, "channels": 8, "dim_k": 3}"#).unwrap();
    assert_eq!(linformer, LinformerOptions::new(7, 8, 3));
    let lm = LinformerLMOptions::from_json(r#"{"num_tokens": 11, "input_size": 7, "channels": 8}"#).unwrap();
    assert_eq!(lm, LinformerLMOptions::new(11, 7, 8));
    assert_eq!(
        (lm.dim_k, lm.dim_ff, lm.depth, linformer.dim_ff, linformer.depth),
        (64, 1024, 2, 256, 1)
    );
    let attention =
        MHAttentionOptions::from_json(r#"{"input_size": 7, "dim": 3, "channels": 8, "dim_k": 3, "nhead": 2, "parameter_sharing": "kv"}"#);
    assert_eq!(attention.unwrap(), MHAttentionOptions::new(7, 3, 8, 3, 2, ParameterSharing::Kv));
    let feed_forward = FeedForwardOptions::from_json(r#"{"input_channels": 3, "output_channels": 4, "ff_dim": 5}"#).unwrap();
    assert_eq!(feed_forward, FeedForwardOptions::new(3, 4, 5));
    let json = serde_json::to_string(&lm).unwrap();
    assert_eq!(LinformerLMOptions::from_json(&json).unwrap(), lm);
}

#[test]
fn every_sharing_and_method_comes_back_as_it_was() {
    for sharing in ["none", "headwise", "kv", "layerwise"] {
        for method in ["learnable", "convolution", "no_params"] {
            for more in [
                "",
                r#", "k_reduce_by_layer": 1"#,
                r#", "include_ff": false"#,
                r#", "w_o_intermediate_dim": 4"#,
            ] {
                let options = linformer_options(&format!(r#", "parameter_sharing": "{sharing}", "method": "{method}"{more}"#));
                let tensors = drawn(&options);
                let encoder = linformer(&tensors, &options).unwrap();
                assert_same(&linformer_state_dict(&encoder, &options).unwrap(), &tensors);
            }
        }
    }
}

#[test]
fn other_classes_come_back_as_they_were() {
    let mut options = LinformerLMOptions::new(11, 7, 8);
    options.emb_dim = Some(6);
    let model = LanguageModel::<f64>::new(&options.language_model_config().unwrap(), 1).unwrap();
    let tensors = language_model_state_dict(&model, &options).unwrap();
    let loaded = language_model(&tensors, &options).unwrap();
    assert_same(&language_model_state_dict(&loaded, &options).unwrap(), &tensors);

    let options = MHAttentionOptions::new(7, 3, 8, 4, 2, ParameterSharing::Layerwise);
    let crate::AttentionKind::Linformer(config) = options.attention_config().unwrap() else {
        panic!("it compresses");
    };
    let layer = Attention::Linformer(LinformerAttention::<f64>::new(&config, 1).unwrap());
    let tensors = attention_state_dict(&layer, &options).unwrap();
    let loaded = attention(&tensors, &options).unwrap();
    assert_same(&attention_state_dict(&loaded, &options).unwrap(), &tensors);

    let mut options = FeedForwardOptions::new(3, 4, 5);
    options.activation = None;
    let layer = FeedForward::<f64>::new(3, 4, &options.config().unwrap(), 1).unwrap();
    let tensors = feed_forward_state_dict(&layer, &options).unwrap();
    let loaded = feed_forward(&tensors, &options).unwrap();
    assert_same(&feed_forward_state_dict(&loaded, &options).unwrap(), &tensors);
    assert!(feed_forward_state_dict(&layer, &FeedForwardOptions::new(3, 4, 5)).is_err());
}

#[test]
fn full_attention_drops_e_and_f_and_writes_zeros() {
    let options = linformer_options(r#", "full_attention": true, "method": "convolution""#);
    let tensors = drawn(&options);
    let unused = tensors.get("seq.2.fn.heads.1.F.weight").unwrap();
    assert_eq!(unused, ArrayD::<f64>::zeros(IxDyn(&[3, 3, 2])));
    assert!(linformer(&tensors, &options).is_ok());
    let without = changed(&tensors, "seq.2.fn.heads.1.F.weight", |_| None);
    assert!(linformer(&without, &options).is_ok());
}

#[test]
fn shared_tensors_must_agree() {
    for (sharing, name) in [
        ("headwise", "seq.2.fn.heads.1.F.weight"),
        ("kv", "seq.0.fn.heads.0.F.bias"),
        ("layerwise", "seq.2.fn.heads.0.E.weight"),
    ] {
        let options = linformer_options(&format!(r#", "parameter_sharing": "{sharing}""#));
        let tensors = changed(&drawn(&options), name, |tensor| Some(tensor + 1.0));
        let problems = problems(linformer(&tensors, &options));
        assert_eq!(problems.len(), 1, "{problems:?}");
        assert!(problems[0].contains(name) && problems[0].contains("differ"), "{problems:?}");
    }
}

#[test]
fn all_that_does_not_fit_is_listed() {
    let options = linformer_options("");
    let tensors = drawn(&options);
    let mut tensors = changed(&tensors, "seq.1.fn.w_1.bias", |_| None);
    tensors.insert("seq.4.norm.bias", Array1::zeros(6).into_dyn()).unwrap();
    tensors.insert("E.0", Array1::zeros(6).into_dyn()).unwrap();
    let listed = problems(linformer(&tensors, &options)).join("\n");
    for name in ["seq.1.fn.w_1.bias", "seq.4.norm.bias", "E.0"] {
        assert!(listed.contains(name), "{listed}");
    }
}

#[test]
fn shapes_must_fit() {
    let options = linformer_options("");
    for name in ["seq.0.norm.weight", "seq.1.fn.w_2.weight", "seq.0.fn.to_q.1.weight"] {
        for shape in [&[7, 7][..], &[1], &[]] {
            let tensors = changed(&drawn(&options), name, |_| Some(ArrayD::zeros(IxDyn(shape))));
            assert!(!problems(linformer(&tensors, &options)).is_empty());
        }
    }
    // Together they have the rows that two heads have.
    let tensors = changed(&drawn(&options), "seq.0.fn.to_k.0.weight", |_| Some(ArrayD::zeros(IxDyn(&[2, 6]))));
    let tensors = changed(&tensors, "seq.0.fn.to_k.1.weight", |_| Some(ArrayD::zeros(IxDyn(&[4, 6]))));
    assert!(problems(linformer(&tensors, &options))[0].contains("to_k"));
    let other_k = linformer_options(r#", "k_reduce_by_layer": 1, "parameter_sharing": "kv""#);
    let tensors = drawn(&linformer_options(r#", "parameter_sharing": "kv""#));
    assert!(!problems(linformer(&tensors, &other_k)).is_empty());
}

#[test]
fn matrices_that_are_not_saved_must_be_handed() {
    for (sharing, name) in [("headwise", "F.2"), ("none", "E.0.1"), ("layerwise", "E.0")] {
        let options = linformer_options(&format!(r#", "method": "no_params", "parameter_sharing": "{sharing}""#));
        let tensors = drawn(&options);
        assert_eq!(tensors.get(name).unwrap().shape(), [7, 3]);
        let problems = problems(linformer(changed(&tensors, name, |_| None), &options));
        assert!(problems[0].contains(name) && problems[0].contains("no_params"), "{problems:?}");
        let turned = changed(&tensors, name, |matrix| Some(matrix.reversed_axes()));
        assert!(linformer(&turned, &options).is_err());
    }
}

#[test]
fn what_is_wrong_in_the_package_is_refused_by_name() {
    let causal = linformer_options(r#", "causal": true"#).encoder_config();
    let (option, reason) = refused(causal);
    assert!(option == "causal" && reason.contains("leaks"));
    let decoder = linformer_options(r#", "causal": true, "decoder_mode": true"#).encoder_config();
    assert_eq!(refused(decoder).0, "causal");
    let encoder_decoder = r#"{"enc_num_tokens": 11, "enc_input_size": 7, "enc_channels": 8, "dec_channels": 8}"#;
    assert!(refused(LinformerLMOptions::from_json(encoder_decoder)).0.ends_with("_channels"));
    let mut attention = MHAttentionOptions::new(7, 3, 8, 4, 2, ParameterSharing::Kv);
    attention.causal_mask = true;
    assert_eq!(refused(attention.attention_config()).0, "causal_mask");
}

#[test]
fn encoders_and_decoders_are_told_apart() {
    let decoder_options = linformer_options(r#", "decoder_mode": true"#);
    let found = refused(decoder_options.encoder_config());
    assert!(found.0 == "decoder_mode" && found.1.contains("tatp22::decoder"), "{found:?}");
    assert!(matches!(linformer_options("").decoder_config(), Err(Error::Config { .. })));
    for more in [r#", "causal": true"#, r#", "causal": true, "full_attention": true"#] {
        let causal = linformer_options(&format!(r#", "decoder_mode": true{more}"#));
        assert_eq!(refused(causal.decoder_config()).0, "causal");
    }
    let wider = linformer_options(r#", "decoder_mode": true, "ff_intermediate": 8, "parameter_sharing": "kv""#);
    assert!(matches!(wider.decoder_config(), Err(Error::Config { .. })));
    let mut attention = MHAttentionOptions::new(7, 3, 8, 4, 2, ParameterSharing::Kv);
    (attention.decoder_mode, attention.causal_mask, attention.full_attention) = (true, true, true);
    assert_eq!(refused(attention.attention_config()).0, "causal_mask");
}

#[test]
fn decoders_come_back_as_they_were() {
    for sharing in ["none", "headwise", "kv", "layerwise"] {
        for method in ["learnable", "convolution", "no_params"] {
            for more in [
                "",
                r#", "k_reduce_by_layer": 1"#,
                r#", "include_ff": false"#,
                r#", "full_attention": true"#,
            ] {
                let options = format!(r#", "decoder_mode": true, "parameter_sharing": "{sharing}", "method": "{method}"{more}"#);
                let options = linformer_options(&options);
                let drawn = Decoder::<f64>::new(&options.decoder_config().unwrap(), 1).unwrap();
                let tensors = decoder_state_dict(&drawn, &options).unwrap();
                let loaded = decoder(&tensors, &options).unwrap();
                assert_same(&decoder_state_dict(&loaded, &options).unwrap(), &tensors);
            }
        }
    }
    let mut options = LinformerLMOptions::new(11, 7, 8);
    (options.emb_dim, options.decoder_mode) = (Some(6), true);
    let model = DecoderLanguageModel::<f64>::new(&options.decoder_language_model_config().unwrap(), 1).unwrap();
    let tensors = decoder_language_model_state_dict(&model, &options).unwrap();
    let loaded = decoder_language_model(&tensors, &options).unwrap();
    assert_same(&decoder_language_model_state_dict(&loaded, &options).unwrap(), &tensors);
    options.decoder_mode = false;
    assert!(decoder_language_model(&tensors, &options).is_err());
}

#[test]
fn unknown_options_are_errors() {
    for more in [
        r#", "use_pos_emb": true"#,
        r#", "method": "other""#,
        r#", "parameter_sharing": "all""#,
        r#", "checkpoint_level": "C3""#,
        r#", "depth": -1"#,
    ] {
        assert!(LinformerOptions::from_json(&format!("{LINFORMER}{more}}}")).is_err(), "{more}");
    }
    assert!(LinformerOptions::from_json(r#"{"input_size": 7}"#).is_err());
    assert!(LinformerOptions::from_json("[]").is_err());
    assert!(linformer_options(r#", "activation": "tanh""#).encoder_config().is_err());
    assert!(linformer_options(r#", "ff_intermediate": 8"#).encoder_config().is_err());
    assert!(LinformerLMOptions::new(11, 7, 9).language_model_config().is_err());
}

#[test]
fn options_without_effect_have_none() {
    let plain = linformer_options("").encoder_config().unwrap();
    for more in [
        r#", "k_reduce_by_layer": 2"#,
        r#", "checkpoint_level": "C2""#,
        r#", "dropout": 0.5, "dropout_ff": 0.5"#,
    ] {
        assert_eq!(linformer_options(more).encoder_config().unwrap(), plain, "{more}");
    }
}

#[test]
fn no_layers_are_the_identity() {
    let mut options = LinformerOptions::new(7, 8, 3);
    options.depth = 0;
    let encoder = linformer(Tensors::<f64>::new(), &options).unwrap();
    assert_eq!(encoder.parameter_count(), 0);
    assert!(linformer_state_dict(&encoder, &options).unwrap().is_empty());
}

#[test]
fn wild_numbers_are_errors() {
    let mut options = LinformerOptions::new(usize::MAX, usize::MAX, usize::MAX);
    assert!(linformer(Tensors::<f32>::new(), &options).is_err());
    options = linformer_options("");
    let tensors = drawn(&options);
    options.depth = usize::MAX;
    options.k_reduce_by_layer = usize::MAX;
    assert!(linformer(&tensors, &options).is_err());
    options.parameter_sharing = ParameterSharing::Kv;
    assert!(options.encoder_config().is_err());
    options.depth = 2;
    options.nhead = usize::MAX;
    assert!(linformer(&tensors, &options).is_err());
    options.nhead = 0;
    assert!(linformer(&tensors, &options).is_err());
}

#[test]
fn models_of_other_options_are_not_written() {
    let options = linformer_options("");
    let encoder = linformer(drawn(&options), &options).unwrap();
    for more in [
        r#", "activation": "relu""#,
        r#", "parameter_sharing": "kv""#,
        r#", "include_ff": false"#,
        r#", "full_attention": true"#,
    ] {
        refused(linformer_state_dict(&encoder, &linformer_options(more)));
    }
    let explicit = linformer_options(r#", "dim_d": 3"#);
    assert!(linformer_state_dict(&encoder, &explicit).is_ok());
}

/// The package's sequences have one length: a window that padding cuts short is attended to, as if zeros followed.
#[test]
fn windows_that_padding_cuts_short_are_kept() {
    for kernel in [
        ConvolutionKernel::Scalar,
        ConvolutionKernel::Depthwise,
        ConvolutionKernel::ChannelMixing,
    ] {
        let kind = ProjectionKind::Convolution(Convolution::new(kernel).with_all_windows(true));
        let layer = LinformerAttention::<f64>::new(&LinformerConfig::new(4, 2, 10, 3).with_kind(kind), 1).unwrap();
        let mut x = Array3::from_shape_fn((1, 10, 4), |(_, position, feature)| ((position * 4 + feature) as f64).sin());
        x.slice_mut(s![.., 5.., ..]).fill(0.0);
        let whole = layer.compress(&x, None).unwrap();
        let mask = PaddingMask::from_lengths(&[5], 10).unwrap();
        assert_eq!(layer.compress(&x, Some(&mask)).unwrap(), whole);
        assert_eq!(layer.compress(&x.slice(s![.., ..5, ..]), None).unwrap(), whole);
        assert!(
            (layer.compress(&x.slice(s![.., ..4, ..]), None).unwrap().keys().to_owned() - whole.keys())
                .iter()
                .any(|&d| d != 0.0)
        );
    }
}

/// The package's full attention gives padding the score 0 and the value 0.
#[test]
fn padding_can_stay_in_the_softmax() {
    let config = AttentionConfig::new(4, 2).with_masked_keys_stay(true);
    let layer = ExactAttention::<f64>::new(&config, 1).unwrap();
    let x = Array3::from_shape_fn((2, 5, 4), |(item, position, feature)| {
        ((item * 20 + position * 4 + feature) as f64).sin()
    });
    let mask = PaddingMask::from_lengths(&[3, 0], 5).unwrap();
    let mut zeroed = x.clone();
    zeroed.slice_mut(s![0, 3.., ..]).fill(0.0);
    zeroed.slice_mut(s![1, .., ..]).fill(0.0);
    let difference = layer.attend(&x, &x, Some(&mask)).unwrap() - layer.attend(&x, &zeroed, None).unwrap();
    assert!(difference.iter().all(|difference| difference.abs() < 1e-14));
    let compressing = LinformerConfig::new(4, 2, 5, 2).with_attention(config);
    assert!(compressing.check().is_err());
}
