//! Scores that are large, infinite or none; empty inputs and bad ones.

use super::*;

/// A layer of one head whose keys are the first feature times `key`, whose values the second, and whose queries the first.
fn plain_layer(key: f64) -> ExactAttention<f64> {
    let config = AttentionConfig::new(2, 1).with_head_dim(Some(1)).with_output_bias(false);
    let mut layer = ExactAttention::new(&config, 0).unwrap();
    layer.visit_mut("", &mut |name, _, mut tensor| {
        let weight = match name {
            "query.weight" => array![[1.0, 0.0]],
            "key.weight" => array![[key, 0.0]],
            "value.weight" => array![[0.0, 1.0]],
            _ => array![[1.0], [0.0]],
        };
        tensor.assign(&weight.into_dyn());
    });
    layer
}

#[test]
fn large_scores_stay_finite() {
    let layer = plain_layer(1.0);
    let queries = array![[[1.0, 0.0], [-1.0, 0.0], [0.1, 0.0]]];
    for length in [3, 512, 1100] {
        let mut context = sequence((1, length, 2), 1);
        context.slice_mut(s![.., .., 0]).mapv_inplace(|score| score * 1e4 / 1.3);
        // The largest score in the last block, and the smallest.
        context[[0, length - 1, 0]] = 1e4;
        context[[0, length - 2, 0]] = -1e4;
        let ours = layer.attend(&queries, &context, None).unwrap();
        let (expected, _) = by_definition(&layer, &queries, &context, None);
        assert!(ours.iter().all(|value| value.is_finite()));
        assert!(difference(ours.view(), expected.view()) < CLOSE);
    }
}

/// The sign of an infinite score at a position, or NaN; `None` for an ordinary score.
type Special = &'static dyn Fn(usize) -> Option<f64>;

/// Scores of −∞, +∞ and NaN, wherever they stand, give with blocks of keys what they give without.
#[test]
fn infinite_scores_propagate_as_without_blocks() {
    let layer = plain_layer(-1e200);
    let length = 1100;
    let x = |special: Special| {
        let mut x = sequence((1, length, 2), 1);
        for (t, mut row) in x.index_axis_mut(Axis(0), 0).outer_iter_mut().enumerate() {
            // The key overflows to the infinity of this sign, or is the score itself.
            row[0] = special(t).map_or(row[0] * -1e-200, |sign| sign * -1e200);
        }
        x
    };
    let queries = array![[[1.0, 0.0], [2.0, 0.0]]];
    let cases: [(Special, bool); 8] = [
        (&|_| None, true),
        (&|t| (t < 400).then_some(-1.0), true),
        (&|t| (t >= 700).then_some(-1.0), true),
        (&|t| (300..800).contains(&t).then_some(-1.0), true),
        (&|_| Some(-1.0), true),
        (&|t| (t == 3).then_some(1.0), false),
        (&|t| (t == 1099).then_some(1.0), false),
        (&|t| (t == 600).then_some(f64::NAN), false),
    ];
    for (index, (special, finite)) in cases.into_iter().enumerate() {
        let context = x(special);
        let ours = layer.attend(&queries, &context, None).unwrap();
        let stored = layer.attention_map(&queries, &context, None).unwrap();
        for row in 0..2_usize {
            let expected: f64 = (0..length).map(|t| stored[[0, 0, row, t]] * context[[0, t, 1]]).sum();
            let ours = ours[[0, row, 0]];
            assert_eq!((ours.is_finite(), expected.is_finite()), (finite, finite), "case {index}");
            assert!(!finite || (ours - expected).abs() < CLOSE, "case {index}: {ours} and {expected}");
        }
    }
}

/// Without anything to attend to only the output bias is left, or nothing.
#[test]
fn nothing_to_attend_to_gives_the_output_bias() {
    for config in &options() {
        let layer = layer(config);
        let queries = sequence((2, 3, config.dim), 1);
        let nothing = Array3::zeros((2, 0, config.dim));
        let (expected, _) = by_definition(&layer, &queries, &nothing, None);
        let is_bias = |output: Array3<f64>| difference(output.view(), expected.view()) < CLOSE;
        assert!(is_bias(layer.attend(&queries, &nothing, None).unwrap()));
        let mask = PaddingMask::from_lengths(&[0, 0], 600).unwrap();
        let padding = Array3::from_elem((2, 600, config.dim), f64::NAN);
        assert!(is_bias(layer.attend(&queries, &padding, Some(&mask)).unwrap()));
        let mask = PaddingMask::from_lengths(&[0, 0], 3).unwrap();
        assert!(is_bias(layer.forward(&queries, Some(&mask)).unwrap()));
        assert!(is_bias(layer.forward_materialized(&queries, Some(&mask)).unwrap()));
        let map = layer.attention_map(&queries, &queries, Some(&mask)).unwrap();
        assert!(map.iter().all(|&weight| weight == 0.0));
    }
}

#[test]
fn empty_batches_and_sequences_are_defined() {
    let layer = layer(&AttentionConfig::new(6, 2));
    for shape in [(0, 5, 6), (2, 0, 6), (0, 0, 6)] {
        let x = Array3::zeros(shape);
        let mask = PaddingMask::all_real(shape.0, shape.1).unwrap();
        for mask in [None, Some(&mask)] {
            assert_eq!(layer.forward(&x, mask).unwrap().dim(), shape);
            assert_eq!(layer.forward_materialized(&x, mask).unwrap().dim(), shape);
            assert_eq!(layer.attention_map(&x, &x, mask).unwrap().dim(), (shape.0, 2, shape.1, shape.1));
        }
    }
    let queries = Array3::zeros((2, 0, 6));
    assert_eq!(layer.attend(&queries, &sequence((2, 9, 6), 1), None).unwrap().dim(), (2, 0, 6));
}
