//! Writes the seeds of the targets into `seeds/`: one small valid input of each kind. `cargo run --example seeds`, from this folder.

use std::fs;
use std::path::Path;

use linformer::checkpoint::{Checkpoint, Tensors, fairseq, lucidrains, rifath95, tatp22};
use linformer::{
    AttentionConfig, AttentionKind, BlockwiseCausalAttention, CausalConfig, Classifier, ClassifierConfig, Decoder, DecoderConfig,
    DecoderLanguageModel, DecoderLanguageModelConfig, Encoder, EncoderConfig, EncoderDecoder, EncoderDecoderConfig, ExactAttention,
    FeedForward, FeedForwardConfig, HeadKind, LanguageModel, LanguageModelConfig, LinformerAttention, LinformerConfig, Result,
};
use linformer::ndarray::ArrayD;
use linformer_fuzz::join;

fn write(target: &str, name: &str, bytes: impl AsRef<[u8]>) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("seeds").join(target);
    fs::create_dir_all(&folder)
        .and_then(|()| fs::write(folder.join(name), bytes))
        .expect("the seeds' folder can be written");
}

fn encoder() -> EncoderConfig {
    EncoderConfig::new(LinformerConfig::new(4, 2, 3, 2), 1).with_feed_forward(Some(FeedForwardConfig::new(3)))
}

fn causal() -> EncoderConfig {
    EncoderConfig::new(CausalConfig::new(4, 2, 4, 1), 1).with_feed_forward(None)
}

fn native() -> Result<()> {
    let model = LanguageModelConfig::new(5, encoder());
    write(
        "native",
        "linformer",
        LinformerAttention::<f32>::new(&LinformerConfig::new(4, 2, 3, 2), 0)?.to_bytes()?,
    );
    write(
        "native",
        "exact",
        ExactAttention::<f32>::new(&AttentionConfig::new(4, 2), 0)?.to_bytes()?,
    );
    write(
        "native",
        "causal",
        BlockwiseCausalAttention::<f32>::new(&CausalConfig::new(4, 2, 4, 1), 0)?.to_bytes()?,
    );
    write(
        "native",
        "feed_forward",
        FeedForward::<f32>::new(4, 4, &FeedForwardConfig::new(3), 0)?.to_bytes()?,
    );
    write("native", "encoder", Encoder::<f32>::new(&encoder(), 0)?.to_bytes()?);
    write(
        "native",
        "language_model",
        LanguageModel::<f32>::new(&model.clone().with_head(HeadKind::Tied), 0)?.to_bytes()?,
    );
    write(
        "native",
        "causal_language_model",
        LanguageModel::<f32>::new(&LanguageModelConfig::new(5, causal()), 0)?.to_bytes()?,
    );
    write(
        "native",
        "tokens",
        Classifier::<f32>::new(&ClassifierConfig::tokens(model, 2), 0)?.to_bytes()?,
    );
    write(
        "native",
        "features",
        Classifier::<f32>::new(&ClassifierConfig::features(4, encoder(), 2), 0)?.to_bytes()?,
    );
    Ok(())
}

fn configurations() {
    let json = |value: serde_json::Result<String>| value.expect("finite numbers");
    let model = LanguageModelConfig::new(5, encoder());
    write(
        "config",
        "linformer",
        json(serde_json::to_string(&LinformerConfig::new(4, 2, 3, 2))),
    );
    write("config", "attention", json(serde_json::to_string(&AttentionConfig::new(4, 2))));
    write("config", "causal", json(serde_json::to_string(&CausalConfig::new(4, 2, 4, 1))));
    write("config", "feed_forward", json(serde_json::to_string(&FeedForwardConfig::new(3))));
    write("config", "encoder", json(serde_json::to_string(&encoder())));
    write("config", "causal_encoder", json(serde_json::to_string(&causal())));
    write(
        "config",
        "classifier",
        json(serde_json::to_string(&ClassifierConfig::tokens(model.clone(), 2))),
    );
    write(
        "config",
        "features",
        json(serde_json::to_string(&ClassifierConfig::features(4, encoder(), 2))),
    );
    write("config", "language_model", json(serde_json::to_string(&model)));
}

fn lucidrains_seeds() -> Result<()> {
    for (name, more) in [
        ("plain", ""),
        ("reversible", r#", "reversible": true, "share_kv": true, "dim_head": 1"#),
    ] {
        let json = format!(r#"{{"num_tokens": 5, "dim": 4, "seq_len": 3, "k": 2, "heads": 2, "depth": 1{more}}}"#);
        let model = LanguageModel::<f32>::new(&lucidrains::Options::from_json(&json)?.language_model_config()?, 0)?;
        write(
            "lucidrains",
            name,
            join(&json, &lucidrains::language_model_state_dict(&model)?.to_bytes()?),
        );
    }
    let json = r#"{"dim": 4, "seq_len": 3, "k": 2, "heads": 2, "one_kv_head": true}"#;
    let layer = LinformerAttention::<f32>::new(&lucidrains::Options::from_json(json)?.attention_config()?, 0)?;
    write(
        "lucidrains",
        "attention",
        join(json, &lucidrains::attention_state_dict(&layer)?.to_bytes()?),
    );
    Ok(())
}

fn tatp22_seeds() -> Result<()> {
    for (name, more) in [
        ("layerwise", ""),
        ("none", r#", "parameter_sharing": "none", "emb_dim": 2"#),
        ("no_params", r#", "method": "no_params", "parameter_sharing": "headwise""#),
        (
            "convolution",
            r#", "method": "convolution", "parameter_sharing": "kv", "w_o_intermediate_dim": 2"#,
        ),
        ("full", r#", "full_attention": true, "causal": true, "return_emb": true"#),
    ] {
        let json = format!(r#"{{"num_tokens": 5, "input_size": 3, "channels": 4, "dim_k": 2, "dim_ff": 3, "nhead": 2, "depth": 1{more}}}"#);
        let options = tatp22::LinformerLMOptions::from_json(&json)?;
        let model = LanguageModel::<f32>::new(&options.language_model_config()?, 0)?;
        write(
            "tatp22",
            name,
            join(&json, &tatp22::language_model_state_dict(&model, &options)?.to_bytes()?),
        );
    }
    let json = r#"{"input_size": 3, "dim": 2, "channels": 4, "dim_k": 2, "nhead": 2, "parameter_sharing": "kv"}"#;
    let options = tatp22::MHAttentionOptions::from_json(json)?;
    if let AttentionKind::Linformer(config) = options.attention_config()? {
        let layer = linformer::Attention::Linformer(LinformerAttention::<f32>::new(&config, 0)?);
        write(
            "tatp22",
            "attention",
            join(json, &tatp22::attention_state_dict(&layer, &options)?.to_bytes()?),
        );
    }
    Ok(())
}

fn decoder_seeds() -> Result<()> {
    let decoder = DecoderConfig::new(CausalConfig::new(4, 2, 4, 1), LinformerConfig::new(4, 2, 3, 2), 1);
    let target = DecoderLanguageModelConfig::new(5, decoder.clone());
    let pairs = EncoderDecoderConfig::new(LanguageModelConfig::new(5, encoder()), target.clone());
    write("decoders", "decoder", Decoder::<f32>::new(&decoder, 0)?.to_bytes()?);
    write(
        "decoders",
        "language_model",
        DecoderLanguageModel::<f32>::new(&target, 0)?.to_bytes()?,
    );
    write("decoders", "encoder_decoder", EncoderDecoder::<f32>::new(&pairs, 0)?.to_bytes()?);
    let json =
        r#"{"num_tokens": 5, "input_size": 3, "channels": 4, "dim_k": 2, "dim_ff": 3, "nhead": 2, "depth": 1, "decoder_mode": true}"#;
    let options = tatp22::LinformerLMOptions::from_json(json)?;
    let model = DecoderLanguageModel::<f32>::new(&options.decoder_language_model_config()?, 0)?;
    let tensors = tatp22::decoder_language_model_state_dict(&model, &options)?;
    write("decoders", "tatp22", join(json, &tensors.to_bytes()?));
    Ok(())
}

fn fairseq_seeds() -> Result<()> {
    for (name, more) in [
        ("plain", ""),
        ("shared", r#", "shared_layer_kv_compressed": 1"#),
        (
            "pre",
            r#", "encoder_normalize_before": true, "untie_weights_roberta": true, "shared_kv_compressed": 1"#,
        ),
    ] {
        let json = format!(
            r#"{{"vocab": 5, "max_positions": 4, "encoder_layers": 1, "encoder_embed_dim": 4, "encoder_ffn_embed_dim": 3, "encoder_attention_heads": 2, "compressed": 2{more}}}"#
        );
        let model = LanguageModel::<f32>::new(&fairseq::RobertaOptions::from_json(&json)?.config()?, 0)?;
        write(
            "fairseq",
            name,
            join(&json, &fairseq::linformer_roberta_state_dict(&model)?.to_bytes()?),
        );
    }
    let json = r#"{"embed_dim": 4, "num_heads": 2, "self_attention": true, "max_seq_len": 4, "compressed": 2}"#;
    let layer = LinformerAttention::<f32>::new(&fairseq::AttentionOptions::from_json(json)?.config()?, 0)?;
    write(
        "fairseq",
        "attention",
        join(json, &fairseq::attention_state_dict(&layer)?.to_bytes()?),
    );
    Ok(())
}

fn rifath95_seeds() -> Result<()> {
    for (name, more) in [("plain", ""), ("shared", r#", "share_E_F_across_heads": true, "local_window": 3"#)] {
        let json = format!(r#"{{"vocab": 5, "d_hidden": 4, "n_heads": 2, "n_layers": 1, "block_size": 4, "num_global_blocks": 2{more}}}"#);
        let options = rifath95::Options::from_json(&json)?;
        let model = LanguageModel::<f32>::new(&options.config()?, 0)?;
        write(
            "rifath95",
            name,
            join(&json, &rifath95::language_model_state_dict(&model, &options)?.to_bytes()?),
        );
    }
    Ok(())
}

/// The tensors of one block and of every head, all of them 0.
fn bert_tensors() -> Result<Tensors<f32>> {
    let mut tensors = Tensors::new();
    let mut add = |name: &str, shape: &[usize]| tensors.insert(name, ArrayD::zeros(shape));
    for (table, rows) in [("word", 5), ("position", 4), ("token_type", 2)] {
        add(&format!("bert.embeddings.{table}_embeddings.weight"), &[rows, 4])?;
    }
    let block = "bert.encoder.layer.0";
    let mut layers = vec![("bert.pooler.dense".to_owned(), 4, 4), ("classifier".to_owned(), 2, 4), ("cls.predictions.transform.dense".to_owned(), 4, 4)];
    for part in ["self.query", "self.key", "self.value", "output.dense"] {
        layers.push((format!("{block}.attention.{part}"), 4, 4));
    }
    layers.extend([(format!("{block}.intermediate.dense"), 3, 4), (format!("{block}.output.dense"), 4, 3)]);
    for (name, out, width) in layers {
        add(&format!("{name}.weight"), &[out, width])?;
        add(&format!("{name}.bias"), &[out])?;
    }
    let norms = ["bert.embeddings", "bert.encoder.layer.0.attention.output", "bert.encoder.layer.0.output", "cls.predictions.transform"];
    for norm in norms {
        add(&format!("{norm}.LayerNorm.weight"), &[4])?;
        add(&format!("{norm}.LayerNorm.bias"), &[4])?;
    }
    add("cls.predictions.bias", &[5])?;
    Ok(tensors)
}

fn bert_seeds() -> Result<()> {
    let file = bert_tensors()?.to_bytes()?;
    for (name, model_type) in [("bert", "bert"), ("electra", "electra"), ("roberta", "roberta"), ("distilbert", "distilbert")] {
        let json = format!(
            r#"{{"model_type": "{model_type}", "vocab_size": 5, "embedding_size": 4, "hidden_size": 4, "num_hidden_layers": 1, "num_attention_heads": 2,
            "intermediate_size": 3, "max_position_embeddings": 4, "type_vocab_size": 2, "pad_token_id": 1}}"#
        );
        write("bert", name, join(&json, &file));
    }
    Ok(())
}

fn main() -> Result<()> {
    native()?;
    configurations();
    lucidrains_seeds()?;
    tatp22_seeds()?;
    decoder_seeds()?;
    fairseq_seeds()?;
    rifath95_seeds()?;
    bert_seeds()?;
    for (index, seed) in [
        &[0; 8][..],
        &[23, 3, 1, 2, 3, 4, 5, 6, 7, 8, 9],
        &[255, 128, 64, 32, 16, 8, 4, 2, 1],
    ]
    .into_iter()
    .enumerate()
    {
        write("masks", &index.to_string(), seed);
        write("compressor", &index.to_string(), seed);
    }
    Ok(())
}
