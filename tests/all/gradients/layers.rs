//! The public backward passes of single layers and blocks.

use crate::common::gradients::{check, mask, pass, weights};
use crate::common::{bits, model_bits, scramble, sequence};
use linformer::ndarray::{Array3, array};
use linformer::{
    Activation, AttentionConfig, AttentionKind, CausalConfig, Embedding, Encoder, EncoderBlock, EncoderConfig, FeedForward,
    FeedForwardConfig, LayerNorm, Linear, LinformerConfig, LocalGlobalConfig, NormPlacement, Parameters, Position, PositionKind,
    ProjectionKind, SinusoidLayout,
};

#[test]
fn linear() {
    for bias in [true, false] {
        let layer = Linear::<f64>::new(5, 3, bias, 1).unwrap();
        let (x, mut gradients) = (sequence((2, 4, 5), 1), layer.zeros_like());
        let (y, cache) = layer.forward_train(&x).unwrap();
        assert_eq!(y, layer.forward(&x).unwrap());
        let dx = layer.backward(cache, weights(y.dim()), &mut gradients).unwrap();
        check(&layer, &x, &dx, &gradients, |layer, x| layer.forward(x).unwrap());
    }
}

#[test]
fn layer_norm() {
    let mut layer = LayerNorm::<f64>::new(5, 1e-3).unwrap();
    scramble(&mut layer, 3);
    let (x, mut gradients) = (sequence((2, 4, 5), 1), layer.zeros_like());
    let (y, cache) = layer.forward_train(&x).unwrap();
    assert_eq!(y, layer.forward(&x).unwrap());
    let dx = layer.backward(cache, weights(y.dim()), &mut gradients).unwrap();
    check(&layer, &x, &dx, &gradients, |layer, x| layer.forward(x).unwrap());
}

#[test]
fn feed_forward() {
    for (activation, gated, bias) in [
        (Activation::Gelu, false, true),
        (Activation::Silu, true, true),
        (Activation::Tanh, true, false),
    ] {
        let config = FeedForwardConfig::new(7)
            .with_activation(activation)
            .with_gated(gated)
            .with_bias(bias);
        let layer = FeedForward::<f64>::new(5, 3, &config, 1).unwrap();
        let (x, mut gradients) = (sequence((2, 4, 5), 1), layer.zeros_like());
        let (y, cache) = layer.forward_train(&x).unwrap();
        let dx = layer.backward(cache, weights(y.dim()), &mut gradients).unwrap();
        check(&layer, &x, &dx, &gradients, |layer, x| layer.forward(x).unwrap());
    }
}

#[test]
fn embedding() {
    let (layer, tokens) = (Embedding::<f64>::new(6, 4, 1).unwrap(), array![[2, 5, 2], [2, 0, 1]]);
    let mut gradients = layer.zeros_like();
    let (y, cache) = layer.forward_train(&tokens).unwrap();
    assert_eq!(y, layer.forward(&tokens).unwrap());
    layer.backward(cache, weights(y.dim()), &mut gradients).unwrap();
    // Tokens have no gradient.
    let nothing = Array3::zeros((0, 0, 0));
    check(&layer, &nothing, &nothing, &gradients, |layer, _| layer.forward(&tokens).unwrap());
}

#[test]
fn positions_of_every_kind() {
    let tokens = array![[7, 1, 8, 9], [1, 1, 2, 1]];
    let kinds = [
        PositionKind::None,
        PositionKind::Learned { max_len: 6 },
        PositionKind::LearnedAfterPadding {
            max_len: 4,
            padding_token: 1,
        },
        PositionKind::LearnedRepeating {
            max_len: 3,
            padding_token: None,
        },
        PositionKind::LearnedRepeating {
            max_len: 2,
            padding_token: Some(1),
        },
        PositionKind::Sinusoidal {
            base: 100.0,
            layout: SinusoidLayout::Halves,
            stored: true,
        },
    ];
    for kind in kinds {
        for tokens in [None, Some(&*tokens)] {
            let layer = Position::<f64>::new(kind, 5, 1).unwrap();
            let (x, mut gradients) = (sequence((2, 4, 5), 1), layer.zeros_like());
            let (y, cache) = layer.forward_train(&x, tokens).unwrap();
            assert_eq!(y, layer.forward(&x, tokens).unwrap());
            let dx = layer.backward(cache, weights(y.dim()), &mut gradients).unwrap();
            check(&layer, &x, &dx, &gradients, |layer, x| layer.forward(x, tokens).unwrap());
        }
    }
}

/// Blocks of every attention, with either norm, with and without a feed-forward, of one width and of two.
fn blocks() -> Vec<EncoderBlock<f64>> {
    let attentions: [AttentionKind; 7] = [
        LinformerConfig::new(6, 2, 5, 3).into(),
        LinformerConfig::new(6, 2, 5, 3).with_kind(ProjectionKind::AttentionPooling).into(),
        AttentionConfig::new(6, 2).into(),
        AttentionConfig::new(6, 2).with_causal(true).into(),
        CausalConfig::new(6, 2, 4, 2).into(),
        LocalGlobalConfig::new(6, 2).with_block(1).with_slots(2).into(),
        LocalGlobalConfig::new(6, 2).with_causal(true).with_block(1).with_slots(1).into(),
    ];
    let mut blocks = Vec::new();
    for attention in attentions {
        let of_depth = |depth| EncoderConfig::new(attention.clone(), depth).with_feed_forward(Some(FeedForwardConfig::new(7)));
        let base = of_depth(1);
        let alone = [
            base.clone(),
            base.clone().with_norm(NormPlacement::Post),
            base.with_feed_forward(None),
        ];
        blocks.extend(alone.iter().map(|config| EncoderBlock::new(config, 1).unwrap()));
        let wider = of_depth(2).with_hidden_dim(Some(9)).with_norm(NormPlacement::Post);
        blocks.push(Encoder::new(&wider, 1).unwrap().blocks()[0].clone());
    }
    blocks
}

#[test]
fn blocks_of_every_kind() {
    for mut block in blocks() {
        scramble(&mut block, 1);
        let (x, mask) = (sequence((2, 4, 6), 1), mask(0b1101_0111, 4));
        for (dropout, checkpointing) in [(false, true), (true, false), (true, true)] {
            let pass = pass(1, dropout).with_layer_drop(0.0).with_gradient_checkpointing(checkpointing);
            let mut gradients = block.zeros_like();
            let (y, cache) = block.forward_train(&x, Some(&mask), &pass).unwrap();
            if !dropout {
                let plain = block.forward(&x, Some(&mask)).unwrap();
                assert!((&y - &plain).iter().all(|difference| difference.abs() < 1e-11));
            }
            let dx = block.backward(cache, weights(y.dim()), &mut gradients).unwrap();
            check(&block, &x, &dx, &gradients, |block, x| {
                block.forward_train(x, Some(&mask), &pass).unwrap().0
            });
        }
    }
}

/// Blocks one after another, each with a pass that says which it is, drop what the encoder of these blocks drops: the same numbers, bit for bit.
#[test]
fn blocks_in_a_row_are_an_encoder() {
    let config = EncoderConfig::new(LinformerConfig::new(6, 2, 5, 3), 6)
        .with_feed_forward(Some(FeedForwardConfig::new(7)))
        .with_final_norm(false);
    let encoder = Encoder::<f64>::new(&config, 1).unwrap();
    let (x, mask, pass) = (
        sequence((2, 5, 6), 1),
        mask(0b1101_0111_1011, 5),
        pass(1, true).with_layer_drop(0.5),
    );
    let (y, cache) = encoder.forward_train(&x, Some(&mask), &pass).unwrap();
    let mut whole = encoder.zeros_like();
    let dx = encoder.backward(cache, weights(y.dim()), &mut whole).unwrap();

    let (mut stream, mut caches) = (x.clone(), Vec::new());
    for (layer, block) in encoder.blocks().iter().enumerate() {
        let (next, cache) = block.forward_train(&stream, Some(&mask), &pass.with_first_layer(layer)).unwrap();
        stream = next;
        caches.push(cache);
    }
    assert_eq!(bits(&stream), bits(&y));
    let mut dstream = weights(y.dim());
    let zeros = encoder.zeros_like();
    let mut gradients = zeros.blocks().to_vec();
    for ((block, cache), own) in encoder.blocks().iter().zip(caches).zip(&mut gradients).rev() {
        dstream = block.backward(cache, dstream, own).unwrap();
    }
    assert_eq!(bits(&dstream), bits(&dx));
    assert_eq!(model_bits(&gradients), model_bits(&whole.blocks().to_vec()));
    let is_dropped = |block: &EncoderBlock<f64>| block.named().iter().all(|(_, tensor)| tensor.iter().all(|&value| value == 0.0));
    let dropped = gradients.iter().filter(|block| is_dropped(block)).count();
    assert!((1..6).contains(&dropped), "some blocks are left out: {dropped}");
}
