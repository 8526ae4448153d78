//! Warm starts: what one model takes over from another.

use crate::common::{scramble, small_language_model, tensors};
use linformer::{Classifier, ClassifierConfig, LanguageModel, Parameters};

fn trained() -> LanguageModel<f64> {
    let mut model = LanguageModel::new(&small_language_model(), 1).unwrap();
    scramble(&mut model, 5);
    model
}

fn classifier(classes: usize) -> Classifier<f64> {
    Classifier::new(&ClassifierConfig::tokens(small_language_model(), classes), 2).unwrap()
}

/// A classifier starts from the backbone of a language model: every tensor but those of its own output.
#[test]
fn a_classifier_from_the_backbone_of_a_language_model() {
    let (source, mut model) = (trained(), classifier(3));
    let before = tensors(&model);
    let copied = model.copy_matching(&source);
    assert_eq!(copied.missing, ["output.weight", "output.bias"]);
    assert_eq!(copied.unused, ["head.bias", "head.weight"]);
    assert!(copied.other_shape.is_empty());
    assert_eq!(copied.taken.len() + 2, before.len());
    let source: std::collections::HashMap<_, _> = tensors(&source).into_iter().collect();
    for ((name, now), (_, before)) in tensors(&model).into_iter().zip(before) {
        let expected = source.get(&name).unwrap_or(&before);
        assert_eq!(&now, expected, "{name}");
    }
}

/// What has another shape stays as it is, and is named.
#[test]
fn tensors_of_another_shape_stay() {
    let (source, mut model) = (classifier(3), classifier(4));
    let before = tensors(&model);
    let copied = model.copy_matching(&source);
    assert_eq!(copied.other_shape, ["output.weight", "output.bias"]);
    assert!(copied.missing.is_empty() && copied.unused.is_empty());
    let kept = tensors(&model)
        .into_iter()
        .zip(before)
        .filter(|((name, _), _)| name.starts_with("output"));
    assert!(kept.clone().count() == 2 && kept.into_iter().all(|(now, before)| now == before));
}

/// A model and its file are the same source; so is the file of a run. Integers are refused, and change nothing.
#[cfg(feature = "checkpoint")]
#[test]
fn from_a_file_as_from_the_model() {
    use crate::common::directory::Directory;
    use crate::common::model_bits;
    use linformer::checkpoint::{Checkpoint, load_matching};
    use linformer::training::{AdamW, AdamWConfig, Step, save_training};
    use safetensors::tensor::{Dtype, TensorView};

    let (source, directory) = (trained(), Directory::new("warm"));
    let mut expected = classifier(3);
    let copied = expected.copy_matching(&source);

    let file = directory.join("model.safetensors");
    source.save(&file).unwrap();
    let run = directory.join("run.safetensors");
    save_training(&run, &source, &AdamW::new(&source, AdamWConfig::new()).unwrap(), Step::new(0, 0)).unwrap();
    for path in [&file, &run] {
        let mut model = classifier(3);
        assert_eq!(load_matching(path, &mut model).unwrap(), copied);
        assert_eq!(model_bits(&model), model_bits(&expected));
    }

    let mut model = classifier(3);
    let before = model_bits(&model);
    let data = [0; 3];
    let integers = TensorView::new(Dtype::I8, vec![3], &data).unwrap();
    let file = directory.file(
        "integers.safetensors",
        safetensors::serialize([("output.bias", integers)], None).unwrap(),
    );
    let error = load_matching(&file, &mut model).unwrap_err().to_string();
    assert!(error.contains("`output.bias` is stored as I8"), "{error}");
    assert_eq!(model_bits(&model), before);
}
