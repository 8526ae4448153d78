//! Files that hold no run, or that of another model.

use crate::training::resume::{Scratch, edited, model, same};
use linformer::Error;
use linformer::checkpoint::Tensors;
use linformer::ndarray::{array, s};
use linformer::training::{AdamW, AdamWConfig, Optimizer, Sgd, SgdConfig, load_training};

/// Loads `tensors`, which must fail and change nothing.
fn refused(tensors: &Tensors<f32>, name: &str) -> Error {
    let file = Scratch::new(name);
    tensors.write(&file.0).unwrap();
    let mut loaded = model::<f32>();
    let mut optimizer = AdamW::new(&loaded, AdamWConfig::new().with_eps(0.5)).unwrap();
    let error = load_training(&file.0, &mut loaded, &mut optimizer).unwrap_err();
    assert!(same(&loaded, &model()));
    assert_eq!((optimizer.steps(), optimizer.config().eps), (0, 0.5));
    error
}

#[test]
fn another_model_is_refused() {
    let tensors = edited("edited", |name, matrix| match name {
        "model.weight" => Some(matrix.slice(s![..3, ..]).to_owned()),
        "moment2.weight" => None,
        _ => Some(matrix),
    });
    let mut tensors = tensors;
    tensors.insert("moment3.weight", array![1.0].into_dyn()).unwrap();
    match refused(&tensors, "refused") {
        Error::Checkpoint { problems } => {
            assert_eq!(problems.len(), 3, "{problems:?}");
            for name in ["model.weight", "moment2.weight", "moment3.weight"] {
                assert!(problems.iter().any(|problem| problem.contains(name)), "{problems:?}");
            }
        }
        other => panic!("{other}"),
    }
}

#[test]
fn other_files_are_refused() {
    let whole = edited("whole", |_, matrix| Some(matrix));
    let json = whole.metadata()["linformer_training"].clone();
    assert!(refused(&Tensors::new(), "empty").to_string().contains("no training run"));
    for (from, to, says) in [
        (r#""format":1"#, r#""format":2"#, "format 2"),
        (r#""optimizer":"AdamW""#, r#""optimizer":"Sgd""#, "one of Sgd"),
        (r#""eps":"#, r#""epsilon":"#, "epsilon"),
        (r#""eps":1e-8"#, r#""eps":-1.0"#, "`eps`"),
        (r#""frozen":[]"#, r#""frozen":["head"]"#, "`frozen`"),
        (r#""steps":1"#, r#""steps":-1"#, "-1"),
        (r#""seed":0"#, r#""seed":0,"more":1"#, "more"),
        (r#"{"format""#, r#"["format""#, "metadata"),
        (r#"{"format""#, r#"{"other""#, "format null"),
    ] {
        let mut tensors = whole.clone();
        let edited = json.replacen(from, to, 1);
        assert_ne!(edited, json, "{from} in {json}");
        tensors.set_metadata("linformer_training", edited);
        let error = refused(&tensors, "metadata").to_string();
        assert!(error.contains(says), "{from} → {to}: {error}");
    }
    let mut model = model::<f32>();
    let mut optimizer = Sgd::new(&model, SgdConfig::new()).unwrap();
    let missing = std::env::temp_dir().join("linformer-no-such-file.safetensors");
    assert!(matches!(load_training(missing, &mut model, &mut optimizer), Err(Error::Io { .. })));
}
