//! The layers that are no attention, against their definitions.

use crate::common::{difference, sequence};
use linformer::ndarray::{Array2, Array3, array, s};
use linformer::{Activation, Error, FeedForward, FeedForwardConfig, LayerNorm, Parameters, Position, PositionKind, SinusoidLayout};

#[test]
fn sinusoids_of_any_width_and_layout() {
    for (width, layout) in [4, 5]
        .into_iter()
        .flat_map(|width| [SinusoidLayout::Halves, SinusoidLayout::Interleaved].map(|layout| (width, layout)))
    {
        let kind = PositionKind::Sinusoidal {
            base: 100.0,
            layout,
            stored: false,
        };
        let placed = Position::<f64>::new(kind, width, 0)
            .unwrap()
            .forward(&Array3::zeros((1, 9, width)), None)
            .unwrap();
        let sines = width.div_ceil(2);
        for ((_, position, column), &value) in placed.indexed_iter() {
            let (index, is_sine) = match layout {
                SinusoidLayout::Halves => (column % sines, column < sines),
                _ => (column / 2, column % 2 == 0),
            };
            let angle = position as f64 * 100.0_f64.powf(-2.0 * index as f64 / width as f64);
            let expected = if is_sine { angle.sin() } else { angle.cos() };
            assert!((value - expected).abs() < 1e-14, "{layout:?} {width} {position} {column}");
        }
    }
}

#[test]
fn positions_after_padding_count_real_tokens_only() {
    let kind = PositionKind::LearnedAfterPadding {
        max_len: 3,
        padding_token: 1,
    };
    let position = Position::<f64>::new(kind, 2, 0).unwrap();
    let weight = position.named()[0].1.to_owned();
    assert_eq!(weight.shape(), [5, 2]);
    let tokens = array![[7, 1, 8, 9]];
    let placed = position.forward(&Array3::zeros((1, 4, 2)), Some(&tokens)).unwrap();
    for (place, row) in [2, 1, 3, 4].into_iter().enumerate() {
        assert_eq!(placed.slice(s![0, place, ..]), weight.slice(s![row, ..]));
    }
    let four = position.forward(&Array3::zeros((1, 4, 2)), Some(&Array2::zeros((1, 4))));
    assert!(matches!(four, Err(Error::Argument { .. })), "only three have a vector");
    assert!(matches!(
        position.forward(&Array3::zeros((1, 4, 3)), None),
        Err(Error::Shape { .. })
    ));
    assert!(matches!(
        position.forward(&Array3::zeros((1, 4, 2)), Some(&Array2::zeros((1, 3)))),
        Err(Error::Shape { .. })
    ));
}

#[test]
fn learned_positions_that_repeat_begin_anew_behind_the_last() {
    let kind = PositionKind::LearnedRepeating {
        max_len: 3,
        padding_token: None,
    };
    let position = Position::<f64>::new(kind, 2, 0).unwrap();
    let weight = position.named()[0].1.to_owned();
    assert_eq!(weight.shape(), [3, 2]);
    let placed = position.forward(&Array3::zeros((2, 8, 2)), None).unwrap();
    for place in 0..8 {
        assert_eq!(placed.slice(s![1, place, ..]), weight.slice(s![place % 3, ..]));
    }
    let kind = PositionKind::LearnedRepeating {
        max_len: 2,
        padding_token: Some(1),
    };
    let position = Position::<f64>::new(kind, 2, 0).unwrap();
    let weight = position.named()[0].1.to_owned();
    let placed = position
        .forward(&Array3::zeros((1, 6, 2)), Some(&array![[7, 1, 8, 9, 0, 1]]))
        .unwrap();
    for (place, row) in [2, 1, 3, 2, 3, 1].into_iter().enumerate() {
        assert_eq!(placed.slice(s![0, place, ..]), weight.slice(s![row, ..]));
    }
}

#[test]
fn learned_positions_and_none() {
    let x = sequence((2, 3, 4), 1);
    let nothing = Position::<f64>::new(PositionKind::None, 4, 0).unwrap();
    assert_eq!(nothing.forward(&x, None).unwrap(), x);
    let learned = Position::<f64>::new(PositionKind::Learned { max_len: 3 }, 4, 0).unwrap();
    let weight = learned.named()[0].1.to_owned();
    let placed = learned.forward(&x, None).unwrap();
    assert!((&placed - &x - &weight).iter().all(|difference| difference.abs() < 1e-14));
    assert!(matches!(
        learned.forward(&sequence((1, 4, 4), 0), None),
        Err(Error::Argument { .. })
    ));
}

#[test]
fn layer_norm_is_its_definition() {
    let x = sequence((2, 5, 7), 3);
    let normed = LayerNorm::<f64>::new(7, 1e-3).unwrap().forward(&x).unwrap();
    for (x, normed) in x.rows().into_iter().zip(normed.rows()) {
        let mean = x.sum() / 7.0;
        let variance = x.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / 7.0;
        for (value, normed) in x.iter().zip(normed) {
            assert!(((value - mean) / (variance + 1e-3).sqrt() - normed).abs() < 1e-13);
        }
    }
}

/// Every activation, plain and gated, with and without biases, to another width.
#[test]
fn feed_forward_is_its_definition() {
    let x = sequence((2, 5, 3), 3);
    for activation in [
        Activation::Gelu,
        Activation::GeluTanh,
        Activation::Relu,
        Activation::Silu,
        Activation::Tanh,
        Activation::Identity,
    ] {
        // The wider ones go through it in parts, some of which panels do not divide.
        for (gated, bias, ff_dim) in [(false, true), (true, true), (false, false), (true, false)]
            .into_iter()
            .flat_map(|(gated, bias)| [4, 515, 700].map(|ff_dim| (gated, bias, ff_dim)))
        {
            let config = FeedForwardConfig::new(ff_dim)
                .with_activation(activation)
                .with_gated(gated)
                .with_bias(bias);
            let layer = FeedForward::<f64>::new(3, 6, &config, 1).unwrap();
            let hidden = layer.input().forward(&x).unwrap();
            let act = |x: f64| match activation {
                Activation::Gelu => 0.5 * x * (1.0 + libm::erf(x / 2.0_f64.sqrt())),
                Activation::GeluTanh => 0.5 * x * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044_715 * x.powi(3))).tanh()),
                Activation::Relu => x.max(0.0),
                Activation::Silu => x / (1.0 + (-x).exp()),
                Activation::Tanh => x.tanh(),
                _ => x,
            };
            let mut between = hidden.slice(s![.., .., ..ff_dim]).mapv(act);
            if gated {
                between *= &hidden.slice(s![.., .., ff_dim..]);
            }
            let expected = layer.output().forward(&between).unwrap();
            assert!(
                difference(layer.forward(&x).unwrap().view(), expected.view()) < 1e-13,
                "{activation:?} {gated} {bias}"
            );
        }
    }
}
