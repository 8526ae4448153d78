//! Losses and their gradients.

use linformer::Scalar;
use linformer::ndarray::{Array2, s};
use linformer::training::{CrossEntropy, MeanSquaredError, Reduction};
use serde_json::Value;

use super::{close, fixtures, matrix};

fn reduction(case: &Value) -> Reduction {
    if case["reduction"] == "sum" {
        Reduction::Sum
    } else {
        Reduction::Mean
    }
}

#[test]
fn cross_entropy_is_pytorchs() {
    for case in fixtures()["cross_entropy"].as_array().unwrap() {
        let targets: Vec<Option<usize>> = case["targets"]
            .as_array()
            .unwrap()
            .iter()
            .map(|target| usize::try_from(target.as_i64().unwrap()).ok())
            .collect();
        let loss = CrossEntropy::new()
            .with_label_smoothing(case["label_smoothing"].as_f64().unwrap())
            .with_reduction(reduction(case));
        let (logits, expected) = (matrix(&case["logits"]), case["loss"].as_f64().unwrap());
        let (value, gradient) = loss.loss_and_gradient(logits.clone(), &targets).unwrap();
        assert!((value - expected).abs() < 1e-13);
        assert!(close(gradient, matrix(&case["gradient"]), 1e-15));
        assert_eq!(loss.loss(&logits, &targets).unwrap(), value);
        // Other strides, the same numbers.
        let columns = logits.t().as_standard_layout().into_owned().reversed_axes();
        assert_eq!(loss.loss_and_gradient(columns, &targets).unwrap().0, value);
        let narrow = loss.loss_and_gradient(logits.mapv(f32::cast), &targets).unwrap();
        assert!((narrow.0 - expected).abs() < 1e-6 * expected.max(1.0));
        assert!(close(narrow.1.mapv(f64::from), matrix(&case["gradient"]), 1e-6));
    }
}

#[test]
fn mean_squared_error_is_pytorchs() {
    for case in fixtures()["mean_squared_error"].as_array().unwrap() {
        let loss = MeanSquaredError::new().with_reduction(reduction(case));
        let (prediction, target) = (matrix(&case["prediction"]), matrix(&case["target"]));
        let (value, gradient) = loss.loss_and_gradient(&prediction, &target).unwrap();
        assert!((value - case["loss"].as_f64().unwrap()).abs() < 1e-14);
        assert!(close(gradient, matrix(&case["gradient"]), 1e-15));
        assert_eq!(loss.loss(&prediction, &target).unwrap(), value);
    }
}

#[test]
fn nothing_that_counts() {
    for reduction in [Reduction::Mean, Reduction::Sum] {
        let cross_entropy = CrossEntropy::new().with_reduction(reduction).with_label_smoothing(0.1);
        let logits = Array2::from_elem((3, 4), f32::NAN);
        assert_eq!(cross_entropy.loss(&logits, &[None; 3]).unwrap(), 0.0);
        assert_eq!(
            cross_entropy.loss_and_gradient(logits, &[None; 3]).unwrap(),
            (0.0, Array2::zeros((3, 4)))
        );
        for shape in [(0, 4), (0, 0), (3, 0)] {
            let (empty, targets) = (Array2::<f64>::zeros(shape), vec![None; shape.0]);
            assert_eq!(cross_entropy.loss(&empty, &targets).unwrap(), 0.0);
            assert_eq!(cross_entropy.loss_and_gradient(empty.clone(), &targets).unwrap(), (0.0, empty));
        }
        let empty = Array2::<f64>::zeros((0, 3));
        let squared = MeanSquaredError::new().with_reduction(reduction);
        assert_eq!(squared.loss_and_gradient(&empty, &empty).unwrap(), (0.0, empty));
    }
}

#[test]
fn rows_over_many_tasks() {
    let logits = Array2::from_shape_fn((1000, 300), |(i, j)| ((i * 37 + j * 101) % 1009) as f32 / 100.0);
    let targets: Vec<Option<usize>> = (0..1000).map(|row| (row % 7 != 0).then_some(row % 300)).collect();
    let sum = CrossEntropy::new().with_reduction(Reduction::Sum);
    let (loss, gradient) = sum.loss_and_gradient(logits.clone(), &targets).unwrap();
    let mut alone = 0.0;
    for row in 0..1000 {
        let one = logits.slice(s![row..=row, ..]).to_owned();
        let (loss, own) = sum.loss_and_gradient(one, &targets[row..=row]).unwrap();
        alone += loss;
        assert_eq!(own.row(0), gradient.row(row));
    }
    assert_eq!(loss, alone);
}
