//! Encoders of every kind.

use linformer::distributed::{Sharded, Shards};
use linformer::ndarray::{Array2, Array3, s};
use linformer::training::Step;
use linformer::{AttentionKind, Encoder, EncoderConfig, LinformerConfig, PaddingMask, ProjectionKind, Sharing, TrainingPass};
use proptest::prelude::*;

use super::{cut, part_difference, ranks, uneven};
use crate::common::{bits, difference, encoder_config, scramble, sequence};
use linformer::Parameters;

/// What one process computes: output, gradient of the input, gradients.
struct Expected {
    encoder: Encoder<f64>,
    y: Array3<f64>,
    dx: Array3<f64>,
    gradients: Encoder<f64>,
}

pub(super) fn pass() -> TrainingPass {
    TrainingPass::new(Step::new(1, 2))
}

fn expected(config: &EncoderConfig, x: &Array3<f64>, dy: &Array3<f64>, mask: Option<&PaddingMask>, pass: &TrainingPass) -> Expected {
    let mut encoder = Encoder::new(config, 3).unwrap();
    scramble(&mut encoder, 1);
    let y = encoder.forward(x, mask).unwrap();
    let (_, cache) = encoder.forward_train(x, mask, pass).unwrap();
    let mut gradients = encoder.zeros_like();
    let dx = encoder.backward(cache, dy.clone(), &mut gradients).unwrap();
    Expected { encoder, y, dx, gradients }
}

/// The largest difference of outputs, of input gradients and of gradients between ranks and a single process.
pub(super) fn largest_difference(
    config: &EncoderConfig,
    shards: &Shards,
    x: &Array3<f64>,
    mask: Option<&PaddingMask>,
    pass: &TrainingPass,
) -> f64 {
    let dy = sequence(x.dim(), 5);
    let expected = expected(config, x, &dy, mask, pass);
    let length = x.dim().1;
    let differences = ranks(shards.ranks(), |rank| {
        let encoder = Sharded::of(&expected.encoder, shards.clone(), rank)?;
        let own = shards.part(linformer::distributed::Communicator::rank(rank), length);
        let mask = mask.map(|mask| cut(mask, own.clone()));
        let x = x.slice(s![.., own.clone(), ..]).to_owned();
        let y = encoder.forward(&x, mask.as_ref())?;
        let (trained, cache) = encoder.forward_train(&x, mask.as_ref(), pass)?;
        let mut gradients = encoder.model().zeros_like();
        let dx = encoder.backward(cache, dy.slice(s![.., own.clone(), ..]).to_owned(), &mut gradients)?;
        encoder.reduce_gradients(&mut gradients)?;
        let rows = s![.., own, ..];
        Ok([
            difference(y.view(), expected.y.slice(rows)),
            difference(trained.view(), expected.y.slice(rows)),
            difference(dx.view(), expected.dx.slice(rows)),
            part_difference(&gradients, &expected.gradients, &encoder.range()),
        ])
    });
    let worst = |most: f64, difference: f64| {
        if difference > most || difference.is_nan() {
            difference
        } else {
            most
        }
    };
    differences.into_iter().flatten().fold(0.0, worst)
}

pub(super) fn attention(config: &EncoderConfig) -> &LinformerConfig {
    match &config.attention {
        AttentionKind::Linformer(attention) => attention,
        other => panic!("{other:?}"),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(192))]

    #[test]
    fn every_kind_is_as_in_one_process(
        config in encoder_config(1..=11),
        batch in 0..=2_usize,
        size in 1..=4_usize,
        length in 0..=11_usize,
        seed in 0..1000_u64,
        (masked, even) in any::<(bool, bool)>(),
    ) {
        let seq_len = attention(&config).seq_len;
        let length = length.min(seq_len);
        let shards = if even { Shards::even(seq_len, size).unwrap() } else { uneven(seq_len, size, seed) };
        let x = sequence((batch, length, 5), seed);
        let hidden = |item: usize, position: usize| (seed as usize + item * 3 + position * position).is_multiple_of(3);
        let mask = masked.then(|| PaddingMask::from_bools(&Array2::from_shape_fn((batch, length), |(item, position)| !hidden(item, position))));
        let difference = largest_difference(&config, &shards, &x, mask.as_ref(), &pass());
        prop_assert!(difference < 1e-12, "{difference}");
    }
}

#[test]
fn every_sharing_mode_with_a_rank_without_tokens() {
    for sharing in [Sharing::None, Sharing::Headwise, Sharing::KeyValue, Sharing::Layerwise] {
        let attention = LinformerConfig::new(8, 2, 301, 5)
            .with_sharing(sharing)
            .with_key_value_bias(true, true);
        let config = EncoderConfig::new(attention, 2);
        let x = sequence((2, 301, 8), 3);
        // The last rank has positions, but only padding stands there.
        let mask = PaddingMask::from_lengths(&[201, 120], 301).unwrap();
        for size in 1..=4 {
            let shards = Shards::even(301, size).unwrap();
            let checkpointing = pass().with_gradient_checkpointing(true);
            for (mask, pass) in [(None, pass()), (Some(&mask), pass()), (Some(&mask), checkpointing)] {
                let difference = largest_difference(&config, &shards, &x, mask, &pass);
                assert!(difference < 1e-12, "{sharing:?} over {size}: {difference}");
            }
        }
    }
}

#[test]
fn windows_beyond_seq_len_lie_across_ranks() {
    for kind in [
        ProjectionKind::MeanPooling,
        ProjectionKind::MaxPooling,
        ProjectionKind::AttentionPooling,
    ] {
        let config = EncoderConfig::new(LinformerConfig::new(8, 2, 16, 5).with_kind(kind), 2);
        let x = sequence((2, 37, 8), 3);
        let mask = PaddingMask::from_lengths(&[37, 14], 37).unwrap();
        for size in 1..=4 {
            let shards = Shards::even(37, size).unwrap();
            let difference = largest_difference(&config, &shards, &x, Some(&mask), &pass());
            assert!(difference < 1e-12, "{kind:?} over {size}: {difference}");
        }
    }
}

#[test]
fn equal_maxima_in_several_parts_give_their_gradient_once() {
    let config = EncoderConfig::new(LinformerConfig::new(4, 2, 12, 2).with_kind(ProjectionKind::MaxPooling), 1);
    let x = Array3::from_shape_fn((1, 12, 4), |(_, _, feature)| feature as f64 - 1.0);
    let difference = largest_difference(&config, &Shards::even(12, 4).unwrap(), &x, None, &pass());
    assert!(difference < 1e-12, "{difference}");
}

#[test]
fn bits_do_not_change_from_run_to_run() {
    let config = EncoderConfig::new(LinformerConfig::new(8, 2, 101, 5), 2);
    let x = sequence((2, 101, 8), 3);
    let run = || {
        ranks(3, |rank| {
            let encoder = Sharded::<Encoder<f64>>::new(&config, 7, Shards::even(101, 3)?, rank)?;
            let x = x.slice(s![.., encoder.range(), ..]).to_owned();
            let (y, cache) = encoder.forward_train(&x, None, &pass().with_residual_dropout(0.2))?;
            let mut gradients = encoder.model().zeros_like();
            let dx = encoder.backward(cache, y.clone(), &mut gradients)?;
            encoder.reduce_gradients(&mut gradients)?;
            let y = encoder.forward(&x, None)?;
            Ok((bits(&y), bits(&dx), crate::common::model_bits(&gradients)))
        })
    };
    assert_eq!(run(), run());
}

#[test]
fn drawn_numbers_are_those_of_one_process() {
    for initialization in [
        linformer::Initialization::MeanPooling,
        linformer::Initialization::UniformInverseSqrtK,
        linformer::Initialization::XavierNormal,
    ] {
        let attention = LinformerConfig::new(8, 2, 50, 5)
            .with_sharing(Sharing::None)
            .with_initialization(initialization);
        let config = EncoderConfig::new(attention, 2);
        let whole = Encoder::<f64>::new(&config, 11).unwrap();
        let differences = ranks(3, |rank| {
            let part = Sharded::<Encoder<f64>>::new(&config, 11, Shards::even(50, 3)?, rank)?;
            Ok(part_difference(part.model(), &whole, &part.range()))
        });
        assert!(differences.iter().all(|&difference| difference == 0.0), "{differences:?}");
    }
}
