//! Models in several files.

use std::fs;

use crate::common::directory::Directory;
use crate::common::{model_bits, small_model};
use linformer::LanguageModel;
use linformer::checkpoint::{Checkpoint, Tensors};
use linformer::ndarray::ArrayD;
use serde_json::{Value, json};

pub const PARTS: [&str; 2] = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"];
pub const INDEX: &str = "model.safetensors.index.json";

/// A model's tensors in two parts, and their index.
pub fn parts(directory: &Directory) -> (Tensors<f64>, Value) {
    let whole = Tensors::<f64>::from_bytes(&small_model().to_bytes().unwrap()).unwrap();
    let mut files = [Tensors::<f64>::new(), Tensors::new()];
    let mut map = serde_json::Map::new();
    for (index, name) in whole.names().enumerate() {
        files[index % 2].insert(name, whole.get(name).unwrap().to_owned()).unwrap();
        map.insert(name.to_owned(), json!(PARTS[index % 2]));
    }
    files[1].set_metadata("linformer", whole.metadata()["linformer"].clone());
    for (file, part) in files.iter_mut().zip(PARTS) {
        file.set_metadata("format", "pt");
        file.set_metadata("part", part);
        file.write(directory.join(part)).unwrap();
    }
    let index = json!({"metadata": {"total_size": 1}, "weight_map": map});
    directory.file(INDEX, index.to_string());
    (whole, index)
}

#[test]
fn parts_load_as_one() {
    let directory = Directory::new("parts");
    let (whole, _) = parts(&directory);
    let read = Tensors::<f64>::read(directory.join(INDEX)).unwrap();
    assert!(read.names().eq(whole.names()));
    for name in whole.names() {
        assert_eq!(read.get(name), whole.get(name), "{name}");
    }
    assert_eq!(
        (read.metadata()["format"].as_str(), read.metadata()["part"].as_str()),
        ("pt", PARTS[0])
    );
    let model = LanguageModel::<f64>::load(directory.join(INDEX)).unwrap();
    assert_eq!(model_bits(&model), model_bits(&small_model()));
    // As people save them: in another place, and under a name that says nothing.
    fs::rename(directory.join(INDEX), directory.join("x")).unwrap();
    assert_eq!(Tensors::<f32>::read(directory.join("x")).unwrap().len(), whole.len());
    let empty = directory.file("empty.json", r#"{"weight_map": {}}"#);
    assert!(Tensors::<f32>::read(empty).unwrap().is_empty());
}

#[test]
fn names_besides_are_those_of_their_part() {
    let directory = Directory::new("aliases");
    let mut part = Tensors::<f64>::new();
    part.insert("embedding.weight", ArrayD::ones(vec![2])).unwrap();
    part.set_metadata("head.weight", "embedding.weight");
    part.write(directory.join("part")).unwrap();
    let map = json!({"weight_map": {"embedding.weight": "part", "head.weight": "part"}});
    let read = Tensors::<f64>::read(directory.file(INDEX, map.to_string())).unwrap();
    assert_eq!(read.get("head.weight"), read.get("embedding.weight"));
    assert_eq!(read.len(), 1);
}
