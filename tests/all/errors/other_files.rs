//! What is given as safetensors and is none, and indexes of parts that are not there.

use std::fs;
use std::path::Path;

use crate::checkpoint::parts::{INDEX, PARTS, parts};
use crate::common::directory::Directory;
use crate::common::small_model;
use linformer::checkpoint::{Checkpoint, Tensors};
use linformer::ndarray::ArrayD;
use linformer::{Error, LanguageModel};
use serde_json::{Value, json};

/// The local header of a zip archive's first file.
fn zip(name: &str) -> Vec<u8> {
    let mut bytes = vec![0; 30];
    bytes[..4].copy_from_slice(b"PK\x03\x04");
    bytes[26] = u8::try_from(name.len()).unwrap();
    [&bytes, name.as_bytes(), &[0; 90]].concat()
}

fn tar() -> Vec<u8> {
    let mut bytes = vec![0; 1024];
    bytes[..7].copy_from_slice(b"storage");
    bytes[257..262].copy_from_slice(b"ustar");
    bytes
}

/// Files of other formats, with words that must be said of them.
fn other_formats() -> Vec<(Vec<u8>, [&'static str; 2])> {
    let export = "tools/export_checkpoint.py";
    let with = |start: &[u8]| [start, &[7; 600]].concat();
    vec![
        (
            zip("model/data.pkl"),
            ["this is a zip archive, probably a PyTorch .pt file", export],
        ),
        (zip("archive/data/0"), ["zip archive", export]),
        (zip("weight.npy"), ["NumPy arrays (.npz)", "safetensors.numpy.save_file"]),
        (b"PK\x05\x06".repeat(6), ["empty zip archive", "download"]),
        (with(b"\x80\x02}q\0(X"), ["is a pickle", export]),
        (with(b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M"), ["is a pickle", export]),
        (with(b"\x80\x04\x95\x10\0\0\0\0\0\0\0}"), ["is a pickle", export]),
        (with(b"ccollections\nOrderedDict\n"), ["is a pickle", export]),
        (tar(), ["tar archive", export]),
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12\n".to_vec(),
            ["Git LFS pointer", "git lfs pull"],
        ),
        (b"<!DOCTYPE html>\n<html><body>".to_vec(), ["HTML page", "download the file"]),
        (b"\n  <HTML lang=en>".to_vec(), ["HTML page", "download the file"]),
        (b"\xef\xbb\xbf<!doctype HTML>".to_vec(), ["HTML page", "download the file"]),
        (b"<?xml version=\"1.0\"?><Error>".to_vec(), ["XML", "download"]),
        (b"Invalid username or password.".to_vec(), ["is text", "download"]),
        (b"Not Found".to_vec(), ["is text", "download"]),
        (with(b"\x1f\x8b\x08\0\0\0\0\0\0\x03"), ["gzip", "unpack"]),
        ([[0x1f, 0x8b, 0x08].as_slice(), &[0; 700_000]].concat(), ["gzip", "unpack"]),
        (with(b"\x89HDF\r\n\x1a\n"), ["HDF5", "h5py"]),
        (with(b"GGUF\x03\0\0\0"), ["GGUF", "llama.cpp"]),
        (with(b"\x93NUMPY\x01\0v\0{"), ["NumPy array (.npy)", "safetensors.numpy.save_file"]),
        (with(b"BZh91AY"), ["bzip2", "unpack"]),
        (with(b"\xfd7zXZ\0"), ["xz", "unpack"]),
        (with(b"\x28\xb5\x2f\xfd"), ["zstd", "unpack"]),
        (vec![], ["the file is empty", ""]),
        (b"PK\x03\x04".to_vec(), ["4 bytes are too few", ""]),
    ]
}

#[test]
fn other_formats_are_named_with_what_to_do() {
    let directory = Directory::new("formats");
    for (bytes, words) in other_formats() {
        let path = directory.file("model.safetensors", &bytes);
        let errors = [
            Tensors::<f32>::from_bytes(&bytes).map(drop),
            Tensors::<f64>::read(&path).map(drop),
            LanguageModel::<f32>::load(&path).map(drop),
            LanguageModel::<f64>::from_bytes(&bytes).map(drop),
        ];
        for result in errors {
            let Err(error @ Error::Malformed { .. }) = result else {
                panic!("{words:?}: {result:?}");
            };
            let error = error.to_string();
            assert!(words.iter().all(|word| error.contains(word)), "{words:?}: {error}");
        }
    }
}

#[test]
fn json_is_an_index_or_named() {
    let directory = Directory::new("json");
    for json in [
        "{\"a\": 1, \"b\": 2}",
        "[1, 2, 3, 4, 5]",
        " \n{\"weight_map\": [\"x\"]}",
        "{\"weight_map\": {\"a\": 1}}",
        "{{{{{{{{{{",
    ] {
        let path = directory.file("config.json", json);
        let error = Tensors::<f32>::read(&path).unwrap_err().to_string();
        assert!(error.contains("this is JSON, but no index"), "{error}");
        let error = Tensors::<f32>::from_bytes(json.as_bytes()).unwrap_err().to_string();
        assert!(error.contains("this is JSON") && error.contains("Tensors::read"), "{error}");
    }
    let twice = directory.file("twice.json", r#"{"weight_map": {"a": "x", "a": "y"}}"#);
    assert!(Tensors::<f32>::read(twice).unwrap_err().to_string().contains("comes twice"));
    let long = format!("{{\"weight_map\": {{}}, \"x\": \"{}\"}}", "x".repeat(17 << 20));
    assert!(
        Tensors::<f32>::read(directory.file("long.json", long))
            .unwrap_err()
            .to_string()
            .contains("limit")
    );
}

#[test]
fn directories_and_missing_files_are_named_with_what_is_there() {
    let directory = Directory::new("directories");
    let message = |path: &Path| match Tensors::<f32>::read(path) {
        Err(error @ Error::Io { .. }) => error.to_string(),
        other => panic!("{other:?}"),
    };
    let model = directory.join("model.safetensors");
    assert!(message(directory.path()).contains("directory: give the path of a file"));
    assert!(!message(&model).contains("index"));
    directory.file("other.safetensors", "");
    assert!(message(directory.path()).contains("`other.safetensors` perhaps"));
    directory.file("model.safetensors.index.json", "");
    assert!(message(directory.path()).contains("`model.safetensors.index.json` perhaps"));
    assert!(message(&model).contains("`model.safetensors.index.json` perhaps"));
}

/// What is wrong with an index after a change.
fn refused(directory: &Directory, index: &Value) -> String {
    let path = directory.file(INDEX, index.to_string());
    match Tensors::<f64>::read(&path) {
        Err(error @ Error::Malformed { .. }) => error.to_string(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_index_that_its_parts_contradict_is_refused() {
    let directory = Directory::new("contradictions");
    let (whole, index) = parts(&directory);
    let names: Vec<&str> = whole.names().collect();
    let mut changed = index.clone();
    changed["weight_map"]["surplus"] = json!(PARTS[0]);
    changed["weight_map"][names[1]] = json!(PARTS[0]);
    changed["weight_map"].as_object_mut().unwrap().remove(names[0]);
    let error = refused(&directory, &changed);
    for problem in [
        format!("part `{}` has no `surplus`", PARTS[0]),
        format!("part `{}` has no `{}`", PARTS[0], names[1]),
        format!(
            "`{}` is in part `{}`, and the index says that part `{}` has it",
            names[1], PARTS[1], PARTS[0]
        ),
        format!("part `{}` has `{}`, which the index does not name", PARTS[0], names[0]),
    ] {
        assert!(error.contains(&problem), "{problem}: {error}");
    }
    // One tensor in both parts.
    let mut second = Tensors::<f64>::read(directory.join(PARTS[1])).unwrap();
    second.insert(names[0], ArrayD::zeros(vec![1])).unwrap();
    second.write(directory.join(PARTS[1])).unwrap();
    assert!(refused(&directory, &index).contains(&format!("`{}` is in part `{}`", names[0], PARTS[1])));
}

#[test]
fn missing_and_broken_parts_are_all_named() {
    let directory = Directory::new("broken");
    let (_, mut index) = parts(&directory);
    fs::remove_file(directory.join(PARTS[0])).unwrap();
    directory.file(PARTS[1], zip("archive/data.pkl"));
    let error = refused(&directory, &index);
    assert!(error.contains(&format!("part `{}`: cannot open", PARTS[0])), "{error}");
    assert!(error.contains(&format!("part `{}`: this is a zip archive", PARTS[1])), "{error}");
    fs::create_dir(directory.join("folder")).unwrap();
    index["weight_map"] = json!({"a": "folder", "b": INDEX});
    let error = refused(&directory, &index);
    assert!(error.contains("part `folder`: ") && error.contains("directory"), "{error}");
    assert!(error.contains(&format!("part `{INDEX}`: this is JSON")), "{error}");
}

#[test]
fn parts_outside_the_folder_are_refused() {
    let directory = Directory::new("outside");
    let (_, mut index) = parts(&directory);
    fs::create_dir(directory.join("sub")).unwrap();
    fs::copy(directory.join(PARTS[0]), directory.join("sub").join(PARTS[0])).unwrap();
    let absolute = directory.join(PARTS[0]).to_str().unwrap().to_owned();
    for part in [
        "",
        ".",
        "..",
        "../model.safetensors",
        &format!("../outside/{}", PARTS[0]),
        &format!("sub/{}", PARTS[0]),
        &format!("./{}", PARTS[0]),
        &format!("sub/../{}", PARTS[0]),
        &format!("{}/", PARTS[0]),
        "a\\b",
        "..\\b",
        "C:b",
        "a\0b",
        &absolute,
    ] {
        index["weight_map"]["x"] = json!(part);
        let error = refused(&directory, &index);
        assert!(error.contains("a part is a file in the folder of the index"), "{part}: {error}");
    }
}

#[test]
fn truncated_files() {
    let directory = Directory::new("truncated");
    let path = directory.join("model");
    let mut bytes = small_model().to_bytes().unwrap();
    for len in (0..bytes.len()).step_by(61).chain([bytes.len() - 1]) {
        fs::write(&path, &bytes[..len]).unwrap();
        assert!(matches!(LanguageModel::<f64>::load(&path), Err(Error::Malformed { .. })), "{len}");
    }
    bytes[..8].copy_from_slice(&(1_u64 << 60).to_le_bytes());
    fs::write(&path, &bytes).unwrap();
    assert!(matches!(LanguageModel::<f64>::load(&path), Err(Error::Malformed { .. })));
}
