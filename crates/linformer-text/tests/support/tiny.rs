// A model of the hub's kind with random weights, made without downloads: for tests, examples and documentation.

use std::path::{Path, PathBuf};

use linformer_text::ndarray::{ArrayD, IxDyn};

/// The width, the blocks, the width of the feed-forward, the positions.
pub const SIZES: [usize; 4] = [32, 2, 64, 128];

/// The tensors of a BERT model: their names on the model hub, and their shapes.
fn tensors(vocab_size: usize) -> Vec<(String, Vec<usize>)> {
    let [dim, depth, ff, positions] = SIZES;
    let mut tensors = vec![
        ("embeddings.word_embeddings.weight".to_owned(), vec![vocab_size, dim]),
        ("embeddings.position_embeddings.weight".to_owned(), vec![positions, dim]),
        ("embeddings.token_type_embeddings.weight".to_owned(), vec![2, dim]),
        ("embeddings.LayerNorm.weight".to_owned(), vec![dim]),
        ("embeddings.LayerNorm.bias".to_owned(), vec![dim]),
    ];
    for layer in 0..depth {
        let mut add = |name: &str, shape: &[usize]| tensors.push((format!("encoder.layer.{layer}.{name}"), shape.to_vec()));
        for name in [
            "attention.self.query",
            "attention.self.key",
            "attention.self.value",
            "attention.output.dense",
        ] {
            add(&format!("{name}.weight"), &[dim, dim]);
            add(&format!("{name}.bias"), &[dim]);
        }
        for (name, out, width) in [("intermediate.dense", ff, dim), ("output.dense", dim, ff)] {
            add(&format!("{name}.weight"), &[out, width]);
            add(&format!("{name}.bias"), &[out]);
        }
        for name in ["attention.output.LayerNorm", "output.LayerNorm"] {
            add(&format!("{name}.weight"), &[dim]);
            add(&format!("{name}.bias"), &[dim]);
        }
    }
    tensors
}

/// Numbers that are the same everywhere: 1 ± 0.1 for the weights of norms, ± 0.3 for others.
#[allow(clippy::cast_precision_loss)]
fn numbers(name: &str, shape: &[usize], state: &mut u64) -> ArrayD<f32> {
    let (middle, width) = if name.ends_with("LayerNorm.weight") {
        (1.0, 0.1)
    } else {
        (0.0, 0.3)
    };
    let count = shape.iter().product();
    let draw = |_| {
        *state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        middle + width * ((*state >> 40) as f32 / (1 << 23) as f32 - 1.0)
    };
    ArrayD::from_shape_vec(IxDyn(shape), (0..count).map(draw).collect()).unwrap()
}

/// Writes tensors with numbers that `seed` decides.
pub fn write_tensors(path: &Path, tensors: &[(String, Vec<usize>)], seed: u64) {
    let mut state = seed;
    let mut all = linformer::checkpoint::Tensors::<f32>::new();
    for (name, shape) in tensors {
        all.insert(name, numbers(name, shape, &mut state)).unwrap();
    }
    all.write(path).unwrap();
}

/// Writes the folder of a tiny BERT model as `sentence-transformers` does, with mean pooling and normalization, and with `more` tensors.
pub fn write_folder(folder: &Path, architecture: &str, more: &[(String, Vec<usize>)]) {
    let [dim, depth, ff, positions] = SIZES;
    let tokenizer = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/word_piece.json"));
    let vocab_size = linformer_text::Tokenizer::from_json(tokenizer).unwrap().vocab_size();
    let config = format!(
        r#"{{"architectures": ["{architecture}"], "model_type": "bert", "hidden_size": {dim}, "num_hidden_layers": {depth},
            "num_attention_heads": 4, "intermediate_size": {ff}, "max_position_embeddings": {positions}, "vocab_size": {vocab_size},
            "type_vocab_size": 2, "hidden_act": "gelu", "layer_norm_eps": 1e-12, "pad_token_id": 0, "position_embedding_type": "absolute"}}"#
    );
    let modules = r#"[{"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
        {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
        {"idx": 2, "name": "2", "path": "2_Normalize", "type": "sentence_transformers.models.Normalize"}]"#;
    std::fs::create_dir_all(folder.join("1_Pooling")).unwrap();
    for (name, text) in [
        ("config.json", config.as_str()),
        ("tokenizer.json", tokenizer),
        ("modules.json", modules),
        (
            "1_Pooling/config.json",
            r#"{"word_embedding_dimension": 32, "pooling_mode_mean_tokens": true}"#,
        ),
        ("sentence_bert_config.json", r#"{"max_seq_length": 64, "do_lower_case": false}"#),
    ] {
        std::fs::write(folder.join(name), text).unwrap();
    }
    let prefix = if architecture == "BertModel" { "" } else { "bert." };
    let mut all: Vec<_> = tensors(vocab_size)
        .into_iter()
        .map(|(name, shape)| (format!("{prefix}{name}"), shape))
        .collect();
    all.extend_from_slice(more);
    write_tensors(&folder.join("model.safetensors"), &all, 7);
}

/// A folder of temporary files with this name, which is this process's own.
pub fn temporary(name: &str) -> PathBuf {
    std::env::temp_dir().join(format!("linformer-text-{name}-{}", std::process::id()))
}

/// Makes the tiny model in a folder of temporary files.
pub fn tiny_folder(name: &str) -> PathBuf {
    let folder = temporary(name);
    write_folder(&folder, "BertModel", &[]);
    folder
}

fn head(names: &[(&str, &[usize])]) -> Vec<(String, Vec<usize>)> {
    names.iter().map(|&(name, shape)| (name.to_owned(), shape.to_vec())).collect()
}

/// Makes a tiny cross-encoder.
pub fn tiny_scorer(name: &str) -> PathBuf {
    let (folder, dim) = (temporary(name), SIZES[0]);
    let more: &[(&str, &[usize])] = &[
        ("bert.pooler.dense.weight", &[dim, dim]),
        ("bert.pooler.dense.bias", &[dim]),
        ("classifier.weight", &[1, dim]),
        ("classifier.bias", &[1]),
    ];
    write_folder(&folder, "BertForSequenceClassification", &head(more));
    folder
}

/// Makes a tiny classifier of tokens with two labels.
pub fn tiny_labeler(name: &str) -> PathBuf {
    let (folder, dim) = (temporary(name), SIZES[0]);
    write_folder(
        &folder,
        "BertForTokenClassification",
        &head(&[("classifier.weight", &[2, dim]), ("classifier.bias", &[2])]),
    );
    let config = std::fs::read_to_string(folder.join("config.json")).unwrap();
    let labeled = config.replacen('{', r#"{"id2label": {"0": "O", "1": "NAME"}, "#, 1);
    std::fs::write(folder.join("config.json"), labeled).unwrap();
    folder
}

/// Makes a tiny masked language model.
pub fn tiny_masked(name: &str) -> PathBuf {
    let (folder, dim) = (temporary(name), SIZES[0]);
    let tokenizer = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/word_piece.json"));
    let vocab_size = linformer_text::Tokenizer::from_json(tokenizer).unwrap().vocab_size();
    let more: &[(&str, &[usize])] = &[
        ("cls.predictions.transform.dense.weight", &[dim, dim]),
        ("cls.predictions.transform.dense.bias", &[dim]),
        ("cls.predictions.transform.LayerNorm.weight", &[dim]),
        ("cls.predictions.transform.LayerNorm.bias", &[dim]),
        ("cls.predictions.bias", &[vocab_size]),
    ];
    write_folder(&folder, "BertForMaskedLM", &head(more));
    folder
}
