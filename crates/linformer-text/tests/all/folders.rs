//! Folders, and what is in them.

use std::fs;
use std::path::{Path, PathBuf};

use linformer::checkpoint::{Tensors, bert};
use linformer::ndarray::{Array1, Array2, Axis};
use linformer_text::{Error, Pooling, TextEncoder};

use crate::{difference, tiny};

const TEXTS: [&str; 3] = [
    "Call me Ishmael.",
    "",
    "Some years ago, never mind how long precisely, I went to sea.",
];

type Pooled<'p> = &'p dyn Fn(&Array2<f32>) -> Array1<f32>;

/// The features of a text by the core alone.
fn features(folder: &Path, text: &str) -> Array2<f32> {
    let options = bert::Options::from_json(&fs::read_to_string(folder.join("config.json")).unwrap()).unwrap();
    let model = bert::load::<f32>(folder.join("model.safetensors"), &options).unwrap();
    let tokens = linformer_text::Tokenizer::open(folder).unwrap().encode(text).unwrap();
    let ids = Array2::from_shape_vec((1, tokens.len()), tokens.ids().to_vec()).unwrap();
    model.features(&ids, None).unwrap().index_axis_move(Axis(0), 0)
}

fn check(folder: &Path, pooled: impl Fn(&Array2<f32>) -> Array1<f32>) {
    let found = TextEncoder::open(folder).unwrap().embed(&TEXTS).unwrap();
    for (text, found) in TEXTS.iter().zip(found.outer_iter()) {
        let expected = pooled(&features(folder, text));
        assert!(
            difference(&found.insert_axis(Axis(0)), &expected.insert_axis(Axis(0))) < 2e-6,
            "{text}"
        );
    }
}

fn unit(vector: Array1<f32>) -> Array1<f32> {
    let length = vector.dot(&vector).sqrt();
    vector / length
}

fn mean(features: &Array2<f32>) -> Array1<f32> {
    features.mean_axis(Axis(0)).unwrap()
}

fn replace(folder: &Path, name: &str, text: &str) {
    fs::create_dir_all(folder.join(name).parent().unwrap()).unwrap();
    fs::write(folder.join(name), text).unwrap();
}

fn message(folder: &Path) -> String {
    TextEncoder::open(folder).unwrap_err().to_string()
}

#[test]
fn pools_and_normalizes_as_the_folder_says() {
    let folder = tiny("poolings");
    check(&folder, |features| unit(mean(features)));
    let last = |features: &Array2<f32>| features.row(features.nrows() - 1).to_owned();
    let largest = |features: &Array2<f32>| features.fold_axis(Axis(0), f32::NEG_INFINITY, |&largest, &value| largest.max(value));
    let ways: [(&str, &str, Pooled); 5] = [
        ("cls_token", "cls", &|features| features.row(0).to_owned()),
        ("max_tokens", "max", &largest),
        ("mean_tokens", "mean", &mean),
        ("mean_sqrt_len_tokens", "mean_sqrt_len_tokens", &|features| {
            features.sum_axis(Axis(0)) / (features.nrows() as f32).sqrt()
        }),
        ("lasttoken", "lasttoken", &last),
    ];
    let modules = r#"[{"path": "", "type": "sentence_transformers.models.Transformer"}, {"path": "1_Pooling", "type": "a.b.Pooling"}]"#;
    replace(&folder, "modules.json", modules);
    for (older, newer, pooled) in ways {
        let flags = format!(r#"{{"pooling_mode_{older}": true, "pooling_mode_weightedmean_tokens": false, "include_prompt": true}}"#);
        replace(&folder, "1_Pooling/config.json", &flags);
        check(&folder, pooled);
        replace(&folder, "1_Pooling/config.json", &format!(r#"{{"pooling_mode": "{newer}"}}"#));
        check(&folder, pooled);
    }
}

#[test]
fn without_modules_it_is_the_mean() {
    let folder = tiny("plain");
    fs::remove_file(folder.join("modules.json")).unwrap();
    check(&folder, mean);
    let encoder = TextEncoder::open(&*folder).unwrap();
    assert_eq!(
        (encoder.pooling(), encoder.normalizes(), encoder.dimension()),
        (Pooling::Mean, false, 32)
    );
    assert_eq!(encoder.trained_len(), Some(64));
}

#[test]
fn dense_modules_are_applied() {
    let folder = tiny("dense");
    let layer = [("linear.weight".to_owned(), vec![5, 32]), ("linear.bias".to_owned(), vec![5])];
    fs::create_dir_all(folder.join("2_Dense")).unwrap();
    crate::tiny_model::write_tensors(&folder.join("2_Dense/model.safetensors"), &layer, 3);
    let modules = r#"[{"path": "", "type": "x.Transformer"}, {"path": "1_Pooling", "type": "x.Pooling"},
        {"path": "2_Dense", "type": "x.Dense"}, {"path": "3_Normalize", "type": "x.Normalize"}]"#;
    replace(&folder, "modules.json", modules);
    let tensors = Tensors::<f32>::read(folder.join("2_Dense/model.safetensors")).unwrap();
    let weight = tensors
        .get("linear.weight")
        .unwrap()
        .to_owned()
        .into_shape_with_order((5, 32))
        .unwrap();
    let bias = tensors.get("linear.bias").unwrap().to_owned().into_shape_with_order(5).unwrap();
    for (function, tanh) in [("Tanh", true), ("Identity", false)] {
        let config = format!(
            r#"{{"in_features": 32, "out_features": 5, "bias": true, "activation_function": "torch.nn.modules.activation.{function}"}}"#
        );
        replace(&folder, "2_Dense/config.json", &config);
        check(&folder, |features| {
            let product = weight.dot(&mean(features)) + &bias;
            unit(if tanh { product.mapv(f32::tanh) } else { product })
        });
    }
    let encoder = TextEncoder::open(&*folder).unwrap();
    assert_eq!(encoder.dimension(), 5);
    let path = crate::tiny_model::temporary("dense_file").with_extension("safetensors");
    encoder.save(&path).unwrap();
    let opened = TextEncoder::open(&path).unwrap();
    fs::remove_file(&path).unwrap();
    assert_eq!(opened.embed(&TEXTS).unwrap(), encoder.embed(&TEXTS).unwrap());

    // Its vectors are not those that a plan compares.
    let error = encoder.plan_local_global(&TEXTS, &TEXTS, 0.9).unwrap_err().to_string();
    assert!(error.contains("Dense"), "{error}");

    let mut broken = Tensors::<f32>::new();
    broken
        .insert("linear.weight", Array2::from_elem((5, 32), f32::NAN).into_dyn())
        .unwrap();
    broken.write(folder.join("2_Dense/model.safetensors")).unwrap();
    let error = TextEncoder::open(&*folder).unwrap().save(&path).unwrap_err().to_string();
    assert!(error.contains("not finite") && !path.exists(), "{error}");

    replace(
        &folder,
        "2_Dense/config.json",
        r#"{"activation_function": "torch.nn.modules.activation.GELU"}"#,
    );
    assert!(message(&folder).contains("GELU"));
}

/// ELECTRA's small models have token vectors of half the width, and features of the whole.
#[test]
fn token_vectors_may_be_narrower_than_features() {
    let folder = tiny("electra");
    let bert = Tensors::<f32>::read(folder.join("model.safetensors")).unwrap();
    let mut electra = Tensors::new();
    for name in bert.names() {
        let tensor = bert.get(name).unwrap();
        let own = if name.starts_with("embeddings.") {
            tensor.slice_axis(Axis(tensor.ndim() - 1), (..16).into()).to_owned()
        } else {
            tensor.to_owned()
        };
        electra.insert(name, own).unwrap();
    }
    let project = Array2::from_shape_fn((32, 16), |(i, j)| ((i * 16 + j) as f32).sin());
    electra.insert("embeddings_project.weight", project.into_dyn()).unwrap();
    electra.insert("embeddings_project.bias", Array1::ones(32).into_dyn()).unwrap();
    electra.write(folder.join("model.safetensors")).unwrap();
    let config = fs::read_to_string(folder.join("config.json")).unwrap();
    let config = config.replace(r#""model_type": "bert""#, r#""model_type": "electra", "embedding_size": 16"#);
    replace(&folder, "config.json", &config.replace("BertModel", "ElectraModel"));
    assert_eq!(TextEncoder::open(&*folder).unwrap().dimension(), 32);
    check(&folder, |features| unit(mean(features)));
}

#[test]
fn the_transformer_may_have_a_folder_of_its_own() {
    let folder = tiny("own_folder");
    let before = TextEncoder::open(&*folder).unwrap().embed(&TEXTS).unwrap();
    fs::create_dir_all(folder.join("0_Transformer")).unwrap();
    for name in ["config.json", "model.safetensors", "tokenizer.json", "sentence_bert_config.json"] {
        fs::rename(folder.join(name), folder.join("0_Transformer").join(name)).unwrap();
    }
    let modules = fs::read_to_string(folder.join("modules.json")).unwrap();
    replace(
        &folder,
        "modules.json",
        &modules.replacen(r#""path": """#, r#""path": "0_Transformer""#, 1),
    );
    let encoder = TextEncoder::open(&*folder).unwrap();
    assert_eq!(encoder.embed(&TEXTS).unwrap(), before);
    assert_eq!(encoder.trained_len(), Some(64));
}

#[test]
fn weights_may_be_in_parts_and_the_tokenizer_a_vocabulary() {
    let folder = tiny("parts");
    let before = TextEncoder::open(&*folder).unwrap().embed(&TEXTS).unwrap();
    let tokenizer = linformer_text::Tokenizer::open(&*folder).unwrap();
    let vocabulary: String = (0..tokenizer.vocab_size())
        .map(|id| tokenizer.id_to_token(id).unwrap() + "\n")
        .collect();
    fs::remove_file(folder.join("tokenizer.json")).unwrap();
    replace(&folder, "vocab.txt", &vocabulary);
    replace(
        &folder,
        "tokenizer_config.json",
        r#"{"do_lower_case": true, "tokenizer_class": "BertTokenizer"}"#,
    );

    let all = Tensors::<f32>::read(folder.join("model.safetensors")).unwrap();
    let names: Vec<String> = all.names().map(str::to_owned).collect();
    let mut map = Vec::new();
    for (part, names) in names.chunks(names.len().div_ceil(2)).enumerate() {
        let file = format!("model-{part}.safetensors");
        let mut tensors = Tensors::<f32>::new();
        for name in names {
            tensors.insert(name, all.get(name).unwrap().to_owned()).unwrap();
            map.push(format!(r#""{name}": "{file}""#));
        }
        tensors.write(folder.join(file)).unwrap();
    }
    fs::remove_file(folder.join("model.safetensors")).unwrap();
    replace(
        &folder,
        "model.safetensors.index.json",
        &format!(r#"{{"metadata": {{}}, "weight_map": {{{}}}}}"#, map.join(",")),
    );
    assert_eq!(TextEncoder::open(&*folder).unwrap().embed(&TEXTS).unwrap(), before);
}

/// Opens the folder with another text of one file each time; the error must have the word.
fn check_refusals(folder: &Path, wrong: &[(&str, String, &str)]) {
    for (name, text, word) in wrong {
        let before = fs::read_to_string(folder.join(name)).ok();
        replace(folder, name, text);
        let message = message(folder);
        assert!(message.contains(word), "{name} {text}: {message}");
        match before {
            Some(before) => replace(folder, name, &before),
            None => fs::remove_file(folder.join(name)).unwrap(),
        }
    }
    assert!(TextEncoder::open(folder).is_ok());
}

#[test]
fn what_is_not_reproduced_is_refused_by_name() {
    let folder = tiny("refusals");
    let transformer = r#"{"path": "", "type": "x.Transformer"}"#;
    let pooling = r#"{"path": "1_Pooling", "type": "x.Pooling"}"#;
    let wrong = [
        (
            "1_Pooling/config.json",
            r#"{"pooling_mode_weightedmean_tokens": true}"#.to_owned(),
            "weightedmean",
        ),
        (
            "1_Pooling/config.json",
            r#"{"pooling_mode": "weightedmean"}"#.to_owned(),
            "weightedmean",
        ),
        (
            "1_Pooling/config.json",
            r#"{"pooling_mode_new": true}"#.to_owned(),
            "pooling_mode_new",
        ),
        (
            "1_Pooling/config.json",
            r#"{"pooling_mode_cls_token": true, "pooling_mode_mean_tokens": true}"#.to_owned(),
            "cls_token and",
        ),
        ("1_Pooling/config.json", "{".to_owned(), "EOF"),
        (
            "modules.json",
            format!("[{transformer}, {pooling}, {{\"path\": \"2\", \"type\": \"x.LSTM\"}}]"),
            "LSTM",
        ),
        ("modules.json", format!("[{pooling}, {transformer}]"), "Pooling, Transformer"),
        (
            "modules.json",
            format!("[{}, {pooling}]", transformer.replace("\"\"", "\"../x\"")),
            "../x",
        ),
        ("modules.json", "[3]".to_owned(), "`type`"),
        (
            "sentence_bert_config.json",
            r#"{"max_seq_length": 8, "do_lower_case": true}"#.to_owned(),
            "do_lower_case",
        ),
        (
            "config_sentence_transformers.json",
            r#"{"prompts": {"q": "query: "}, "default_prompt_name": "q"}"#.to_owned(),
            "default_prompt_name",
        ),
        ("tokenizer_config.json", r#"{"do_lower_case": false}"#.to_owned(), "do_lower_case"),
        ("config.json", r#"{"model_type": "t5"}"#.to_owned(), "t5"),
    ];
    check_refusals(&folder, &wrong);
}

#[test]
fn flags_of_pooling_are_never_guessed() {
    let folder = tiny("flags");
    let config = |text: &str, word| ("1_Pooling/config.json", text.to_owned(), word);
    let wrong = [
        config("{}", "no pooling_mode_"),
        config(
            r#"{"pooling_mode_cls_token": false, "pooling_mode_mean_tokens": false}"#,
            "no pooling_mode_",
        ),
        config(r#"{"pooling_mode_cls_token": 1}"#, "true or false"),
        config(r#"{"pooling_mode_mean_tokens": true, "include_prompt": false}"#, "include_prompt"),
    ];
    check_refusals(&folder, &wrong);
}

#[test]
fn what_is_missing_is_named() {
    for name in ["config.json", "tokenizer.json", "model.safetensors", "1_Pooling/config.json"] {
        let folder = tiny("missing");
        fs::remove_file(folder.join(name)).unwrap();
        let error = TextEncoder::open(&*folder).unwrap_err();
        assert!(matches!(&error, Error::Missing { .. }), "{error}");
        let file = name.rsplit('/').next().unwrap();
        assert!(error.to_string().contains(file), "{error}");
    }
    let folder = tiny("pickled");
    fs::rename(folder.join("model.safetensors"), folder.join("pytorch_model.bin")).unwrap();
    assert!(message(&folder).contains("safe_serialization"));
    assert!(matches!(TextEncoder::open("no/such/folder"), Err(Error::Io { .. })));
    let lone = tiny("lone_file");
    let error = TextEncoder::open(lone.join("model.safetensors")).unwrap_err();
    assert!(error.to_string().contains("no tokenizer"), "{error}");
}

#[test]
fn a_tokenizer_of_another_model_is_refused() {
    let folder = tiny("other_tokenizer");
    let config = fs::read_to_string(folder.join("config.json")).unwrap();
    let tokenizer = linformer_text::Tokenizer::open(&*folder).unwrap();
    let more: String = (0..=tokenizer.vocab_size())
        .map(|id| tokenizer.id_to_token(id).unwrap_or("extra".into()) + "\n")
        .collect();
    fs::remove_file(folder.join("tokenizer.json")).unwrap();
    replace(&folder, "vocab.txt", &more);
    assert!(config.contains(&tokenizer.vocab_size().to_string()));
    assert!(message(&folder).contains("`extra`"), "{}", message(&folder));
}

#[test]
fn no_texts_have_no_vectors() {
    let folder = tiny("none");
    let encoder = TextEncoder::open(&*folder).unwrap();
    assert_eq!(encoder.embed::<&str>(&[]).unwrap().dim(), (0, 32));
    assert_eq!(encoder.embed(&[""]).unwrap().dim(), (1, 32));
}

/// With LINFORMER_TEXT_MODEL, a model's folder: texts that mean the same are nearer than others.
#[test]
fn a_real_model_knows_what_texts_mean() {
    let Some(folder) = std::env::var_os("LINFORMER_TEXT_MODEL").map(PathBuf::from) else {
        println!("left out: set LINFORMER_TEXT_MODEL");
        return;
    };
    let encoder = TextEncoder::open(folder).unwrap();
    let vectors = encoder
        .embed(&[
            "A whale swims in the sea.",
            "A large marine mammal in the ocean.",
            "Interest rates rose by a quarter.",
        ])
        .unwrap();
    let cosines = linformer_text::similarity(&vectors, &vectors).unwrap();
    assert!(cosines[[0, 1]] > cosines[[0, 2]] + 0.2, "{cosines}");
}
