//! Files that do not fit a model, or mean harm: an error that says why, and a model that is as it was.

use crate::common::{model_bits, small_model};
use linformer::checkpoint::{Checkpoint, Tensors};
use linformer::ndarray::{Array2, ArrayD};
use linformer::{
    Classifier, ClassifierConfig, ClassifierInput, Convolution, ConvolutionKernel, Encoder, EncoderConfig, Error, Initialization,
    LanguageModel, LanguageModelConfig, LinformerConfig, PositionKind, ProjectionKind, SinusoidLayout,
};
use proptest::prelude::*;
use safetensors::tensor::{Dtype, TensorView};
use serde_json::{Value, json};

/// The bytes of a file with another description in its metadata.
fn described(bytes: &[u8], description: &Value) -> Vec<u8> {
    let mut tensors = Tensors::<f64>::from_bytes(bytes).unwrap();
    tensors.set_metadata("linformer", description.to_string());
    tensors.to_bytes().unwrap()
}

fn description(bytes: &[u8]) -> Value {
    serde_json::from_str(&Tensors::<f64>::from_bytes(bytes).unwrap().metadata()["linformer"]).unwrap()
}

fn problems<T: std::fmt::Debug>(result: Result<T, Error>) -> Vec<String> {
    match result {
        Err(Error::Checkpoint { problems }) => problems,
        other => panic!("expected a checkpoint that does not fit, got {other:?}"),
    }
}

/// The bytes before the numbers.
fn header_len(bytes: &[u8]) -> usize {
    8 + usize::try_from(u64::from_le_bytes(*bytes.first_chunk().unwrap())).unwrap()
}

#[test]
fn everything_that_does_not_fit_is_listed_and_nothing_is_changed() {
    let mut model = small_model();
    let bytes = model.to_bytes().unwrap();
    let original = Tensors::<f64>::from_bytes(&bytes).unwrap();
    let numbers = [1_i64, 2, 3, 4, 5, 6, 7].map(i64::to_le_bytes).concat();
    let integers = TensorView::new(Dtype::I64, vec![7], &numbers).unwrap();
    let integers = safetensors::serialize([("head.bias", integers)], None).unwrap();
    let mut changed = Tensors::<f64>::from_bytes(&integers).unwrap();
    changed.set_metadata("linformer", original.metadata()["linformer"].clone());
    changed.insert("surplus", ArrayD::zeros(vec![2])).unwrap();
    changed.insert("embedding.weight", ArrayD::zeros(vec![4, 7])).unwrap();
    for name in original
        .names()
        .filter(|&name| !["head.bias", "embedding.weight", "position.weight"].contains(&name))
    {
        changed.insert(name, original.get(name).unwrap().mapv(|x| x + 1.0)).unwrap();
    }
    let expected = [
        "`embedding.weight` has shape [4, 7], expected [7, 4]",
        "`position.weight` [6, 4] is missing",
        "`head.bias` is stored as I64, expected floating-point numbers",
        "`surplus` is not part of the model",
    ];
    let before = model_bits(&model);
    assert_eq!(problems(model.load_parameters(&changed)), expected);
    assert_eq!(model_bits(&model), before);
    // An F64 file forgets what was an integer, so this one is put together by hand.
    let header = safetensors_with_integers(&bytes);
    assert_eq!(
        problems(LanguageModel::<f64>::from_bytes(&header)),
        ["`head.bias` is stored as I64, expected floating-point numbers"]
    );
    model.load_parameters(&original).unwrap();
}

/// The file `bytes` with its dtype for `head.bias` renamed: the numbers are as wide.
fn safetensors_with_integers(bytes: &[u8]) -> Vec<u8> {
    let from = br#""head.bias":{"dtype":"F64""#;
    let place = bytes.windows(from.len()).position(|window| window == from).unwrap();
    let mut bytes = bytes.to_vec();
    bytes[place..place + from.len()].copy_from_slice(br#""head.bias":{"dtype":"I64""#);
    bytes
}

#[test]
fn truncated_files_are_refused() {
    let bytes = small_model().to_bytes().unwrap();
    let header = header_len(&bytes);
    for len in (0..=header).chain((header..bytes.len()).step_by(97)).chain([bytes.len() - 1]) {
        assert!(
            matches!(LanguageModel::<f64>::from_bytes(&bytes[..len]), Err(Error::Malformed { .. })),
            "{len}"
        );
    }
}

#[test]
fn other_kinds_and_formats_are_refused() {
    let bytes = small_model().to_bytes().unwrap();
    assert_eq!(
        problems(Encoder::<f64>::from_bytes(&bytes)),
        ["the file holds `LanguageModel`, expected `Encoder`"]
    );
    let malformed = |bytes: &[u8]| match LanguageModel::<f64>::from_bytes(bytes) {
        Err(Error::Malformed { reason }) => reason,
        other => panic!("expected a malformed file, got {other:?}"),
    };
    let mut other = description(&bytes);
    other["format"] = json!(2);
    assert!(malformed(&described(&bytes, &other)).contains("format 2"));
    for broken in [
        json!(null),
        json!([1]),
        json!({"format": 1}),
        json!({"format": 1, "model": "LanguageModel"}),
        json!("\u{0}"),
    ] {
        malformed(&described(&bytes, &broken));
    }
    assert!(malformed(&Tensors::<f64>::new().to_bytes().unwrap()).contains("load_parameters"));
}

/// Every object, or number, somewhere in `value`, as a path to it.
fn places(value: &Value, wanted: fn(&Value) -> bool) -> Vec<String> {
    let below = |key: String, inner: &Value| places(inner, wanted).into_iter().map(move |path| format!("/{key}{path}"));
    let mut found: Vec<String> = match value {
        Value::Object(map) => map.iter().flat_map(|(key, inner)| below(key.clone(), inner)).collect(),
        Value::Array(list) => list
            .iter()
            .enumerate()
            .flat_map(|(index, inner)| below(index.to_string(), inner))
            .collect(),
        _ => Vec::new(),
    };
    if wanted(value) {
        found.push(String::new());
    }
    found
}

/// A model whose configuration has every field that holds a number.
fn classifier_bytes() -> Vec<u8> {
    let attention = LinformerConfig::new(4, 2, 6, 3)
        .with_head_dim(Some(2))
        .with_output_rank(Some(2))
        .with_initialization(Initialization::Normal { standard_deviation: 0.1 });
    let encoder = EncoderConfig::new(attention, 2)
        .with_k_by_layer(Some(vec![3, 2]))
        .with_hidden_dim(Some(5));
    let model = LanguageModelConfig::new(7, encoder)
        .with_embedding_dim(Some(3))
        .with_zeroed_token(Some(1))
        .with_position(PositionKind::LearnedAfterPadding {
            max_len: 6,
            padding_token: 1,
        });
    let config = ClassifierConfig::tokens(model, 3).with_hidden_dim(Some(5));
    Classifier::<f64>::new(&config, 0).unwrap().to_bytes().unwrap()
}

fn features_bytes(kind: ConvolutionKernel) -> Vec<u8> {
    let convolution = ProjectionKind::Convolution(Convolution::new(kind));
    let encoder = EncoderConfig::new(LinformerConfig::new(4, 2, 6, 3).with_kind(convolution), 2);
    let position = PositionKind::Sinusoidal {
        base: 100.0,
        layout: SinusoidLayout::Halves,
        stored: true,
    };
    let config = ClassifierConfig::new(
        ClassifierInput::Features {
            features: 3,
            encoder,
            position,
        },
        2,
    );
    Classifier::<f64>::new(&config, 0).unwrap().to_bytes().unwrap()
}

#[test]
fn unknown_fields_are_refused_everywhere() {
    let files = [classifier_bytes(), features_bytes(ConvolutionKernel::Scalar)];
    for bytes in &files {
        let original = description(bytes);
        let objects = places(&original, Value::is_object);
        assert!(objects.len() > 8);
        for path in objects {
            let mut changed = original.clone();
            changed.pointer_mut(&path).unwrap()["surplus"] = json!(1);
            let result = Classifier::<f64>::from_bytes(&described(bytes, &changed));
            assert!(matches!(result, Err(Error::Malformed { .. })), "{path}: {result:?}");
        }
    }
}

#[test]
fn configurations_beyond_the_file_are_refused_before_anything_is_allocated() {
    let kernels = [
        ConvolutionKernel::Scalar,
        ConvolutionKernel::Depthwise,
        ConvolutionKernel::ChannelMixing,
    ];
    for bytes in kernels.map(features_bytes).into_iter().chain([classifier_bytes()]) {
        let original = description(&bytes);
        for path in places(&original["config"], Value::is_number) {
            for size in [0, 1, 1 << 13, 1 << 24, 1 << 40, 1 << 60, 1 << 62, u64::MAX] {
                let mut changed = original.clone();
                *changed["config"].pointer_mut(&path).unwrap() = json!(size);
                // Either it does not matter to the tensors, or it is an error: nothing panics and nothing runs out of memory.
                let _ = Classifier::<f64>::from_bytes(&described(&bytes, &changed));
            }
        }
    }
    let bytes = small_model().to_bytes().unwrap();
    let mut changed = description(&bytes);
    changed["config"]["vocab_size"] = json!(1_u64 << 40);
    let problems = problems(LanguageModel::<f64>::from_bytes(&described(&bytes, &changed)));
    assert!(
        problems[0].contains("the configuration describes") && problems[0].contains("numbers, but the file holds"),
        "{problems:?}"
    );
    changed = description(&bytes);
    changed["config"]["encoder"]["attention"]["Linformer"]["attention"]["heads"] = json!(3);
    assert!(matches!(
        LanguageModel::<f64>::from_bytes(&described(&bytes, &changed)),
        Err(Error::Config { option: "heads", .. })
    ));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn a_changed_byte_is_an_error_or_a_model(place: prop::sample::Index, bit in 0..8_u32) {
        let mut bytes = small_model().to_bytes().unwrap();
        let header = header_len(&bytes);
        let place = place.index(header);
        bytes[place] ^= 1 << bit;
        if let Ok(model) = LanguageModel::<f64>::from_bytes(&bytes) {
            let _ = model.forward(&Array2::zeros((1, 2)), None);
        }
    }
}
