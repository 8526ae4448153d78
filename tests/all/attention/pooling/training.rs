//! Gradients.

use super::{config, holes, layer};
use crate::common::gradients::{check, pass, weights};
use crate::common::{difference, scramble, sequence, tensors};
use linformer::ndarray::{Array3, s};
use linformer::{Encoder, EncoderConfig, LinformerAttention, PaddingMask, Parameters};

/// A padded item is what it is alone, in gradients, too, whatever stands behind the mask.
#[test]
fn a_padded_item_is_what_it_is_alone() {
    let lengths = [13, 4, 0];
    for k in [1, 3, 20] {
        let encoder_config = EncoderConfig::new(config(4, 2, 10, k), 2);
        let mut encoder = Encoder::<f64>::new(&encoder_config, 1).unwrap();
        scramble(&mut encoder, 4);
        let clean = sequence((3, 13, 8), 1);
        let dy = weights(clean.dim());
        let (mut x, mut own_dy) = (clean.clone(), dy.clone());
        for (item, &length) in lengths.iter().enumerate() {
            x.slice_mut(s![item, length.., ..]).fill(f64::NAN);
            own_dy.slice_mut(s![item, length.., ..]).fill(0.0);
        }
        let mask = PaddingMask::from_lengths(&lengths, 13).unwrap();
        let pass = pass(1, false);
        let mut together = encoder.zeros_like();
        let (y, cache) = encoder.forward_train(&x, Some(&mask), &pass).unwrap();
        let dx = encoder.backward(cache, own_dy, &mut together).unwrap();
        let mut apart = encoder.zeros_like();
        for (item, &length) in lengths.iter().enumerate() {
            let at = s![item..=item, ..length, ..];
            let (alone, cache) = encoder.forward_train(&clean.slice(at), None, &pass).unwrap();
            let dalone = encoder.backward(cache, dy.slice(at).to_owned(), &mut apart).unwrap();
            assert!(difference(alone.view(), y.slice(at)) < 1e-12);
            assert!(difference(dalone.view(), dx.slice(at)) < 1e-12);
        }
        for ((name, together), (_, apart)) in tensors(&together).into_iter().zip(tensors(&apart)) {
            assert!(difference(together.view(), apart.view()) < 1e-10, "{name}");
        }
    }
}

/// Every gradient, with shared keys, ties and dropout; of segments of one position and of many.
#[test]
fn gradients_match_central_differences() {
    for (heads, kv_heads, tied, k) in [(4, 2, false, 3), (2, 1, true, 2), (2, 2, false, 9), (1, 1, false, 1)] {
        let attention = config(heads, kv_heads, 9, k).with_tied_key_value(tied);
        let own = layer(&attention, 7);
        let (x, mask) = (sequence((2, 9, 8), 1), holes(9));
        let mut gradients = own.zeros_like();
        let (y, cache) = own.forward_train(&x, Some(&mask)).unwrap();
        assert!(difference(y.view(), own.forward(&x, Some(&mask)).unwrap().view()) < 1e-12);
        let dx = own.backward(cache, weights(y.dim()), &mut gradients).unwrap();
        assert!(
            gradients
                .projections()
                .unwrap()
                .key()
                .pooling_query()
                .unwrap()
                .iter()
                .any(|&du| du.abs() > 1e-4)
                || k == 9
        );
        check(&own, &x, &dx, &gradients, |layer, x| layer.forward(x, Some(&mask)).unwrap());

        let mut encoder = Encoder::<f64>::new(&EncoderConfig::new(attention, 1).with_feed_forward(None), 1).unwrap();
        scramble(&mut encoder, 2);
        let pass = pass(3, false).with_attention_dropout(0.3);
        let mut gradients = encoder.zeros_like();
        let (y, cache) = encoder.forward_train(&x, Some(&mask), &pass).unwrap();
        let dx = encoder.backward(cache, weights(y.dim()), &mut gradients).unwrap();
        check(&encoder, &x, &dx, &gradients, |encoder, x| {
            encoder.forward_train(x, Some(&mask), &pass).unwrap().0
        });
    }
}

/// Of queries and context apart, with the gradients of both.
#[test]
fn cross_attention() {
    let layer = layer(&config(2, 2, 9, 3), 7);
    let (queries, context, mask) = (sequence((2, 4, 8), 5), sequence((2, 9, 8), 1), holes(9));
    let mut gradients = layer.zeros_like();
    let (y, cache) = layer.forward_train_cross(&queries, &context, Some(&mask)).unwrap();
    let expected = layer.attend(&queries, &layer.compress(&context, Some(&mask)).unwrap()).unwrap();
    assert!(difference(y.view(), expected.view()) < 1e-12);
    let (dqueries, dcontext) = layer.backward_cross(cache, weights(y.dim()), &mut gradients).unwrap();
    let of = |layer: &LinformerAttention<f64>, queries: &Array3<f64>, context: &Array3<f64>| {
        layer.forward_train_cross(queries, context, Some(&mask)).unwrap().0
    };
    check(&layer, &queries, &dqueries, &gradients, |layer, x| of(layer, x, &context));
    check(&layer, &context, &dcontext, &gradients, |layer, x| of(layer, &queries, x));
}
