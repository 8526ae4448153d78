//! Cosines, and the largest of them.

use linformer::ndarray::{Array2, array, s};
use linformer_text::{Error, similarity, top_k};

fn vectors(rows: usize, seed: usize) -> Array2<f32> {
    Array2::from_shape_fn((rows, 24), |(row, column)| {
        ((row * 37 + column * 11 + seed * 5 + row * column) as f32).sin()
    })
}

#[test]
fn cosines_are_those_of_the_definition() {
    let (a, b) = (vectors(5, 1), vectors(9, 2));
    let found = similarity(&a, &b).unwrap();
    for ((row, column), &cosine) in found.indexed_iter() {
        let (x, y) = (a.row(row).mapv(f64::from), b.row(column).mapv(f64::from));
        let expected = x.dot(&y) / (x.dot(&x) * y.dot(&y)).sqrt();
        assert!((f64::from(cosine) - expected).abs() < 1e-6);
    }
    assert_eq!(similarity(&a, &Array2::zeros((2, 24))).unwrap(), Array2::<f32>::zeros((5, 2)));
    assert_eq!(similarity(&a, &Array2::zeros((0, 24))).unwrap().dim(), (5, 0));
}

#[test]
fn tiny_vectors_have_directions_too() {
    let cosines = similarity(&array![[1e38, 1e38], [f32::NAN, 1.0]], &array![[1e-44, 0.0]]).unwrap();
    assert!((cosines[[0, 0]] - 0.5_f32.sqrt()).abs() < 1e-6, "{cosines}");
    assert!(cosines[[1, 0]].is_nan());
}

#[test]
fn the_nearest_are_those_of_all_cosines() {
    // More than are compared at a time.
    let (queries, corpus) = (vectors(3, 1), vectors(9000, 2));
    let (indices, cosines) = top_k(&queries, &corpus, 10).unwrap();
    assert_eq!((indices.dim(), cosines.dim()), ((3, 10), (3, 10)));
    let all = similarity(&queries, &corpus).unwrap();
    for query in 0..3 {
        let mut expected: Vec<f32> = all.row(query).to_vec();
        expected.sort_by(|a, b| b.total_cmp(a));
        for rank in 0..10 {
            assert!((cosines[[query, rank]] - expected[rank]).abs() < 1e-6);
            assert!((all[[query, indices[[query, rank]]]] - cosines[[query, rank]]).abs() < 1e-6);
        }
    }
    assert_eq!(top_k(&queries, &corpus.slice(s![..4, ..]), 10).unwrap().0.dim(), (3, 4));
    assert_eq!(top_k(&queries, &corpus, 0).unwrap().0.dim(), (3, 0));
}

#[test]
fn equal_ones_stay_in_order_and_nan_comes_last() {
    let corpus = array![[f32::NAN, 1.0], [0.0, 1.0], [1.0, 0.0], [0.0, 1.0], [0.0, 1.0]];
    let (indices, cosines) = top_k(&array![[0.0, 1.0]], &corpus, 5).unwrap();
    assert_eq!(indices, array![[1, 3, 4, 2, 0]]);
    assert!(cosines[[0, 4]].is_nan());
}

#[test]
fn vectors_of_other_widths_are_errors() {
    let (a, b) = (Array2::<f32>::zeros((1, 3)), Array2::zeros((1, 4)));
    assert!(matches!(similarity(&a, &b), Err(Error::Argument { .. })));
    assert!(matches!(top_k(&a, &b, 1), Err(Error::Argument { .. })));
}
