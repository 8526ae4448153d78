//! A user's own entries in the file of a model.

use std::collections::BTreeMap;

use crate::common::directory::Directory;
use crate::common::{model_bits, small_model};
use linformer::checkpoint::{Checkpoint, read_metadata};
use linformer::{Error, LanguageModel};

/// What is saved with a model is read back, and nothing of the crate's own with it; the model is the same, and so is a file without any.
#[test]
fn entries_come_back_beside_the_model() {
    let (model, directory) = (small_model(), Directory::new("metadata"));
    let path = directory.join("model.safetensors");
    model.save_with_metadata(&path, [("classes", "a,b"), ("window", "8")]).unwrap();
    let expected = [("classes", "a,b"), ("window", "8")].map(|(key, value)| (key.to_owned(), value.to_owned()));
    assert_eq!(read_metadata(&path).unwrap(), BTreeMap::from(expected));
    assert_eq!(model_bits(&LanguageModel::<f64>::load(&path).unwrap()), model_bits(&model));

    model.save(&path).unwrap();
    let plain = std::fs::read(&path).unwrap();
    assert!(read_metadata(&path).unwrap().is_empty());
    model.save_with_metadata(&path, [("", ""); 0]).unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), plain);
}

/// A key of the crate's own is refused, and nothing is written.
#[test]
fn keys_of_the_crate_are_refused() {
    let (model, directory) = (small_model(), Directory::new("metadata"));
    let path = directory.join("model.safetensors");
    let error = model.save_with_metadata(&path, [("linformer", "mine")]).unwrap_err();
    assert!(
        matches!(
            error,
            Error::Argument {
                operation: "Checkpoint::save_with_metadata",
                ..
            }
        ),
        "{error}"
    );
    assert!(!path.exists());
}
