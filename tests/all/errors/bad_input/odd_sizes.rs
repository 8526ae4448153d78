//! What is odd but means something.

use super::*;

#[test]
fn empty_batches_and_sequences_are_defined() {
    for config in every_kind() {
        let mut layer = LinformerAttention::<f64>::new(&config, 0).unwrap();
        scramble(&mut layer, 1);
        assert_eq!(layer.forward(&sequence((0, 5, 8), 0), None).unwrap().dim(), (0, 5, 8));
        assert_eq!(layer.forward(&sequence((2, 0, 8), 0), None).unwrap().dim(), (2, 0, 8));
        let nothing = layer.compress(&sequence((2, 0, 8), 0), None).unwrap();
        let masked = PaddingMask::from_lengths(&[0, 0], 5).unwrap();
        let all_padding = layer.compress(&Array3::from_elem((2, 5, 8), f64::NAN), Some(&masked)).unwrap();
        let queries = sequence((2, 3, 8), 4);
        for context in [nothing, all_padding] {
            let answers = layer.attend(&queries, &context).unwrap();
            assert!(answers.iter().all(|value| value.is_finite()), "{config:?}");
            // The empty sum attends alike from everywhere: all rows are equal.
            assert!(answers.outer_iter().all(|item| {
                item.rows()
                    .into_iter()
                    .all(|row| (&row - &item.row(0)).iter().all(|d| d.abs() < 1e-12))
            }));
        }
        let encoder = Encoder::<f64>::new(&EncoderConfig::new(config, 2), 0).unwrap();
        assert_eq!(encoder.forward(&sequence((0, 0, 8), 0), None).unwrap().dim(), (0, 0, 8));
        assert_eq!(encoder.forward(&sequence((3, 0, 8), 0), None).unwrap().dim(), (3, 0, 8));
    }
    assert_eq!(model().forward(&Array2::zeros((0, 3)), None).unwrap().dim(), (0, 3, 11));
    assert_eq!(model().forward(&Array2::zeros((2, 0)), None).unwrap().dim(), (2, 0, 11));
    let classifier = Classifier::<f64>::new(&ClassifierConfig::features(3, EncoderConfig::new(config(), 1), 2), 0).unwrap();
    assert!(
        classifier
            .forward(&Array3::zeros((2, 0, 3)), None)
            .unwrap()
            .iter()
            .all(|score| score.is_finite())
    );
}

#[test]
fn odd_but_meaningful_sizes() {
    // k ≥ n, one head, heads · head_dim ≠ dim, one position, depth 0.
    for config in [
        LinformerConfig::new(8, 1, 3, 7),
        LinformerConfig::new(8, 3, 6, 4).with_head_dim(Some(5)),
        LinformerConfig::new(8, 8, 1, 1),
    ] {
        let n = config.seq_len;
        let layer = LinformerAttention::<f64>::new(&config, 0).unwrap();
        assert_eq!(layer.forward(&sequence((1, n, 8), 0), None).unwrap().dim(), (1, n, 8));
    }
    let encoder = Encoder::<f64>::new(&EncoderConfig::new(config(), 0).with_final_norm(false), 0).unwrap();
    let x = sequence((1, 4, 8), 0);
    assert_eq!(encoder.forward(&x, None).unwrap(), x);
}

#[test]
fn pooling_and_convolution_take_any_length() {
    for config in every_kind().into_iter().skip(2) {
        let mut layer = LinformerAttention::<f64>::new(&config, 0).unwrap();
        scramble(&mut layer, 1);
        let x = sequence((2, 50, 8), 0);
        let together = layer.forward(&x, Some(&PaddingMask::from_lengths(&[50, 33], 50).unwrap())).unwrap();
        let alone = layer.forward(&x.slice(s![1..2, ..33, ..]), None).unwrap();
        let difference = crate::common::difference(alone.view(), together.slice(s![1..2, ..33, ..]));
        assert!(difference < 1e-10, "{config:?}: {difference}");
    }
}

#[test]
fn numbers_that_are_no_numbers_propagate_and_large_scores_do_not_overflow() {
    for value in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
        for config in every_kind() {
            let mut layer = LinformerAttention::<f64>::new(&config, 0).unwrap();
            layer.visit_mut("", &mut |name, _, mut tensor| {
                if name == "key.weight" {
                    tensor.fill(value);
                }
            });
            let output = layer.forward(&sequence((1, 6, 8), 0), None).unwrap();
            assert!(output.iter().any(|x| !x.is_finite()), "{config:?}");
        }
    }
    let mut layer = layer();
    layer.visit_mut("", &mut |name, _, mut tensor| {
        if name == "query.weight" || name == "key.weight" {
            tensor.mapv_inplace(|x| x * 300.0);
        }
    });
    let x = sequence((1, 6, 8), 0);
    let scores = layer.attention_map(&x, &layer.compress(&x, None).unwrap()).unwrap();
    assert!(scores.iter().all(|p| p.is_finite()));
    assert!(layer.forward(&x, None).unwrap().iter().all(|value| value.is_finite()));
}

/// Broadcast and empty views have more elements than any copy could: they are refused before the first one is made.
#[test]
fn views_larger_than_any_memory_are_refused() {
    let one = ndarray::arr0(1.0_f64);
    for shape in [(1 << 29, 1 << 29, 8), (1 << 59, 1, 8), (1, 1 << 59, 8)] {
        let x = one.broadcast(shape).unwrap();
        for config in every_kind() {
            let layer = LinformerAttention::<f64>::new(&config, 0).unwrap();
            refused!(layer.forward(&x, None), Error::Overflow { .. }, "LinformerAttention::");
            refused!(layer.forward_train(&x, None), Error::Overflow { .. }, "LinformerAttention::");
            refused!(
                layer.forward_train_cross(&x, &x, None),
                Error::Overflow { .. },
                "LinformerAttention::"
            );
        }
        let config = EncoderConfig::new(config(), 1);
        refused!(
            Encoder::<f64>::new(&config, 0).unwrap().forward(&x, None),
            Error::Overflow { .. },
            "forward"
        );
        refused!(
            EncoderBlock::<f64>::new(&config, 0).unwrap().forward(&x, None),
            Error::Overflow { .. },
            "forward"
        );
        let exact = ExactAttention::<f64>::new(&AttentionConfig::new(8, 2), 0).unwrap();
        refused!(exact.forward(&x, None), Error::Overflow { .. }, "ExactAttention::attend");
        refused!(exact.forward_train(&x, None), Error::Overflow { .. }, "forward");
        let feed_forward = FeedForward::<f64>::new(8, 8, &FeedForwardConfig::new(8), 0).unwrap();
        refused!(feed_forward.forward(&x), Error::Overflow { .. }, "forward");
        refused!(feed_forward.forward_train(&x), Error::Overflow { .. }, "forward");
    }
    for (batch, length) in [(1 << 62, 0), (1 << 61, 0), (usize::MAX, 1), (1 << 40, 1 << 40)] {
        refused!(
            PaddingMask::all_real(batch, length),
            Error::Overflow { .. },
            "PaddingMask::all_real"
        );
    }
}
