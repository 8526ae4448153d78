//! Training of single layers and blocks: foreign caches and gradients, and gradients of another shape, are refused and change nothing.

use crate::common::gradients::pass;
use crate::common::{model_bits, sequence};
use linformer::ndarray::{Array2, Array3, array};
use linformer::{
    AttentionConfig, Embedding, EncoderBlock, EncoderConfig, Error, FeedForwardConfig, LayerNorm, Linear, LinformerConfig, NormPlacement,
    Parameters, Position, PositionKind, Result,
};

fn refused<T: std::fmt::Debug>(result: Result<T>, operation: &str) {
    let Err(error) = result else { panic!("{operation} takes it") };
    assert!(
        matches!(error, Error::Argument { .. } | Error::Shape { .. } | Error::Token { .. }),
        "{error:?}"
    );
    assert!(
        matches!(error, Error::Token { .. }) || error.to_string().contains(operation),
        "{error}"
    );
}

#[test]
fn linear() {
    let x = sequence((2, 3, 4), 1);
    let new = |input, output, bias| Linear::<f64>::new(input, output, bias, 1).unwrap();
    let layer = new(4, 5, true);
    refused(layer.forward_train(&sequence((1, 1, 3), 1)), "Linear::forward");
    let (y, cache) = layer.forward_train(&x).unwrap();
    for strange in [new(4, 6, true), new(4, 5, false), new(3, 5, true)] {
        refused(
            layer.backward(cache.clone(), y.clone(), &mut strange.zeros_like()),
            "Linear::backward",
        );
    }
    let mut gradients = layer.zeros_like();
    refused(layer.backward(cache.clone(), x.clone(), &mut gradients), "Linear::backward");
    let (y, foreign) = new(3, 5, true).forward_train(&sequence((2, 3, 3), 1)).unwrap();
    refused(layer.backward(foreign, y.clone(), &mut gradients), "Linear::backward");
    assert_eq!(model_bits(&gradients), model_bits(&layer.zeros_like()));
}

#[test]
fn layer_norm() {
    let [layer, strange] = [4, 5].map(|dim| LayerNorm::<f64>::new(dim, 1e-5).unwrap());
    refused(layer.forward_train(&sequence((1, 1, 3), 1)), "LayerNorm::forward");
    let (y, cache) = layer.forward_train(&sequence((2, 3, 4), 1)).unwrap();
    refused(
        layer.backward(cache.clone(), y.clone(), &mut strange.zeros_like()),
        "LayerNorm::backward",
    );
    let mut gradients = layer.zeros_like();
    refused(
        layer.backward(cache.clone(), sequence((2, 2, 4), 1), &mut gradients),
        "LayerNorm::backward",
    );
    refused(strange.backward(cache, y.clone(), &mut strange.zeros_like()), "LayerNorm::backward");
    assert_eq!(model_bits(&gradients), model_bits(&layer.zeros_like()));
}

#[test]
fn embedding() {
    let [layer, fewer] = [7, 3].map(|vocab_size| Embedding::<f64>::new(vocab_size, 4, 1).unwrap());
    refused(fewer.forward_train(&array![[3]]), "Embedding::forward");
    let (y, cache) = layer.forward_train(&array![[6, 0, 1]]).unwrap();
    // Token 6 has no row there.
    refused(
        fewer.backward(cache.clone(), y.clone(), &mut fewer.zeros_like()),
        "Embedding::backward",
    );
    refused(
        layer.backward(cache.clone(), y.clone(), &mut fewer.zeros_like()),
        "Embedding::backward",
    );
    let mut gradients = layer.zeros_like();
    refused(
        layer.backward(cache, Array3::zeros((1, 2, 4)), &mut gradients),
        "Embedding::backward",
    );
    assert_eq!(model_bits(&gradients), model_bits(&layer.zeros_like()));
}

#[test]
fn position() {
    let new = |max_len| Position::<f64>::new(PositionKind::Learned { max_len }, 4, 1).unwrap();
    let (layer, x) = (new(6), sequence((2, 5, 4), 1));
    refused(new(4).forward_train(&x, None), "Position");
    refused(layer.forward_train(&x, Some(&Array2::zeros((2, 4)))), "Position::forward");
    let (y, cache) = layer.forward_train(&x, None).unwrap();
    // Position 4 has no vector there.
    refused(
        new(4).backward(cache.clone(), y.clone(), &mut new(4).zeros_like()),
        "Position::backward",
    );
    refused(
        layer.backward(cache.clone(), y.clone(), &mut new(4).zeros_like()),
        "Position::backward",
    );
    let mut gradients = layer.zeros_like();
    refused(layer.backward(cache, sequence((2, 4, 4), 1), &mut gradients), "Position::backward");
    assert_eq!(model_bits(&gradients), model_bits(&layer.zeros_like()));
}

#[test]
fn encoder_block() {
    let feed_forward = |ff_dim| Some(FeedForwardConfig::new(ff_dim));
    let base = EncoderConfig::new(LinformerConfig::new(8, 2, 6, 3), 1).with_feed_forward(feed_forward(9));
    let new = |config: &EncoderConfig| EncoderBlock::<f64>::new(config, 1).unwrap();
    let (block, x) = (new(&base), sequence((2, 4, 8), 1));
    let (y, cache) = block.forward_train(&x, None, &pass(1, false)).unwrap();
    refused(
        block.forward_train(&sequence((2, 4, 7), 1), None, &pass(1, false)),
        "EncoderBlock::forward_train",
    );
    let rate = block.forward_train(&x, None, &pass(1, false).with_residual_dropout(1.0));
    assert!(matches!(rate, Err(Error::Config { .. })), "{rate:?}");
    let strange = [
        base.clone().with_feed_forward(None),
        base.clone().with_feed_forward(feed_forward(10)),
        base.clone().with_norm(NormPlacement::Post),
        EncoderConfig::new(LinformerConfig::new(8, 4, 6, 3), 1).with_feed_forward(feed_forward(9)),
        EncoderConfig::new(AttentionConfig::new(8, 2), 1).with_feed_forward(feed_forward(9)),
    ];
    for strange in strange.iter().map(new) {
        refused(
            block.backward(cache.clone(), y.clone(), &mut strange.zeros_like()),
            "EncoderBlock::backward",
        );
        refused(
            strange.backward(cache.clone(), y.clone(), &mut strange.zeros_like()),
            "EncoderBlock::backward",
        );
    }
    let mut gradients = block.zeros_like();
    refused(
        block.backward(cache, sequence((2, 3, 8), 1), &mut gradients),
        "EncoderBlock::backward",
    );
    assert_eq!(model_bits(&gradients), model_bits(&block.zeros_like()));
}

#[test]
fn sums_of_what_does_not_match() {
    let new = |output, bias| Linear::<f64>::new(4, output, bias, 1).unwrap();
    let mut sum = new(5, true);
    let before = model_bits(&sum);
    for other in [new(6, true), new(5, false)] {
        refused(sum.scaled_add(1.0, &other), "scaled_add");
    }
    assert_eq!(model_bits(&sum), before);
    let (mut short, long) = (vec![new(5, true)], vec![new(5, true), new(5, true)]);
    refused(short.scaled_add(1.0, &long), "scaled_add");
    refused(long.clone().scaled_add(1.0, &short), "scaled_add");
    sum.scaled_add(-1.0, &sum.clone()).unwrap();
    assert_eq!(model_bits(&sum), model_bits(&sum.zeros_like()));
}
