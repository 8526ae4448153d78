//! Attention to a window and to summaries: windows and segments lie across ranks.

use linformer::distributed::{Communicator, Sharded, Shards};
use linformer::ndarray::{Array2, Array3, s};
use linformer::{
    AttentionKind, Encoder, EncoderConfig, Error, LocalGlobalConfig, NormPlacement, PaddingMask, Parameters, PoolingQuery, TrainingPass,
};
use proptest::prelude::*;
use proptest::sample::select;

use super::encoders::{attention, largest_difference, pass};
use super::failures::{assert_named, errors};
use super::{cut, ranks, uneven};
use crate::common::{bits, difference, encoder_config, scramble, sequence, tensors};

const LENGTH: usize = 53;

fn layer() -> LocalGlobalConfig {
    LocalGlobalConfig::new(8, 2).with_block(4).with_slots(3)
}

fn encoder(attention: LocalGlobalConfig) -> EncoderConfig {
    EncoderConfig::new(attention, 2)
}

/// Segments of several blocks and of parts of one, a window alone, summaries alone, and what needs the whole item.
fn forms() -> Vec<LocalGlobalConfig> {
    vec![
        layer(),
        layer().with_slots(30),
        layer().with_slots(0),
        layer().with_window(false),
        layer().with_window(false).with_slots(30),
        layer().with_pooling_query(PoolingQuery::MeanOfItem).with_slots(5),
        layer().with_mass_shift(-0.5).with_trained_len(Some(20)),
        layer().with_block(16).with_slots(1),
        layer().with_block(64),
        layer().with_block(1).with_slots(2),
        layer().with_kv_heads(1).with_tied_key_value(true).with_output_rank(Some(3)),
        layer()
            .with_query_bias(true)
            .with_key_value_bias(true, true)
            .with_kv_heads(1)
            .with_pooling_query(PoolingQuery::MeanOfItem),
    ]
}

/// Splits within blocks and at their bounds, parts shorter than a block, and empty ones, also at the ends.
fn splits() -> Vec<Shards> {
    let mut all: Vec<_> = [1, 2, 3, 5].map(|ranks| Shards::even(LENGTH, ranks).unwrap()).into();
    for lengths in [
        &[24, 29][..],
        &[22, 1, 30],
        &[0, 40, 13],
        &[53, 0, 0],
        &[17, 0, 2, 1, 33],
        &[1, 1, 1, 1, 49],
        &[4, 4, 4, 4, 37],
        &[30, 3, 0, 3, 17],
    ] {
        all.push(Shards::from_lengths(lengths).unwrap());
    }
    all
}

/// Padding at both ends and between, and an item without a real position.
fn holes() -> PaddingMask {
    PaddingMask::from_bools(&Array2::from_shape_fn((3, LENGTH), |(item, position)| match item {
        // Whole blocks and whole segments of padding.
        0 => !(8..25).contains(&position) && position % 5 != 2 && position < 50,
        1 => (6..31).contains(&position),
        _ => false,
    }))
}

#[test]
fn every_form_and_every_split() {
    let x = sequence((3, LENGTH, 8), 3);
    let (holes, short) = (holes(), PaddingMask::from_lengths(&[LENGTH, 26, 3], LENGTH).unwrap());
    for form in forms() {
        let config = encoder(form);
        for shards in splits() {
            for mask in [None, Some(&holes), Some(&short)] {
                let difference = largest_difference(&config, &shards, &x, mask, &pass());
                assert!(difference < 1e-12, "{config:?}, {shards:?}, {mask:?}: {difference}");
            }
        }
    }
}

#[test]
fn every_form_of_block() {
    let (x, holes) = (sequence((3, LENGTH, 8), 3), holes());
    let checkpointing = pass().with_gradient_checkpointing(true);
    let shapes = [
        (encoder(layer()).with_reversible(true), pass()),
        (encoder(layer()).with_norm(NormPlacement::Post), checkpointing),
        (encoder(layer()).with_hidden_dim(Some(12)).with_norm(NormPlacement::Post), pass()),
        (encoder(layer()).with_feed_forward(None), checkpointing),
    ];
    for (config, pass) in shapes {
        for shards in splits() {
            let difference = largest_difference(&config, &shards, &x, Some(&holes), &pass);
            assert!(difference < 1e-12, "{config:?}, {shards:?}: {difference}");
        }
    }
}

/// A sequence shorter than the shards leaves later ranks without rows.
#[test]
fn short_sequences() {
    for (length, form) in [0, 1, 5, 20]
        .into_iter()
        .flat_map(|length| forms().into_iter().map(move |form| (length, form)))
    {
        let x = sequence((2, length, 8), 1);
        let config = encoder(form);
        for shards in splits() {
            let difference = largest_difference(&config, &shards, &x, None, &pass());
            assert!(difference < 1e-12, "{length} of {config:?}, {shards:?}: {difference}");
        }
    }
}

/// Importances that differ by hundreds: a slot may count only what is next to nothing beside the rest of its segment.
#[test]
fn importances_far_apart() {
    let mut x = sequence((1, LENGTH, 8), 3);
    for (position, mut row) in x.index_axis_mut(linformer::ndarray::Axis(0), 0).outer_iter_mut().enumerate() {
        if position % 7 == 3 {
            row.mapv_inplace(|number| number * 40.0);
        }
    }
    let config = encoder(layer().with_slots(2)).with_norm(NormPlacement::Post);
    for shards in splits() {
        let difference = largest_difference(&config, &shards, &x, None, &pass());
        assert!(difference < 1e-10, "{shards:?}: {difference}");
    }
}

fn any_config() -> impl Strategy<Value = EncoderConfig> {
    let form = (
        select(vec![1, 2, 4, 8, 32]),
        0..=9_usize,
        any::<(bool, bool)>(),
        select(vec![None, Some(4)]),
    );
    (encoder_config(1..=11), form).prop_map(|(mut config, (block, slots, (window, mean), trained_len))| {
        let mut form = LocalGlobalConfig::of(&attention(&config).attention)
            .with_block(block)
            .with_slots(slots);
        if slots > 0 {
            let query = if mean { PoolingQuery::MeanOfItem } else { PoolingQuery::Fixed };
            form = form
                .with_window(window)
                .with_pooling_query(query)
                .with_mass_shift(0.25)
                .with_trained_len(trained_len);
        }
        config.attention = form.into();
        config
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn any_form_is_as_in_one_process(
        config in any_config(),
        batch in 0..=2_usize,
        size in 1..=5_usize,
        length in 0..=40_usize,
        spare in 0..=6_usize,
        seed in 0..1000_u64,
        (masked, even) in any::<(bool, bool)>(),
    ) {
        let total = length + spare;
        let shards = if even { Shards::even(total, size).unwrap() } else { uneven(total, size, seed) };
        let x = sequence((batch, length, 5), seed);
        let hidden = |item: usize, position: usize| (seed as usize + item * 3 + position * position).is_multiple_of(3);
        let mask = masked.then(|| PaddingMask::from_bools(&Array2::from_shape_fn((batch, length), |(item, position)| !hidden(item, position))));
        let difference = largest_difference(&config, &shards, &x, mask.as_ref(), &pass());
        prop_assert!(difference < 1e-11, "{difference}");
    }
}

/// What stands at padding reaches neither outputs nor gradients of any rank.
#[test]
fn padding_has_no_influence() {
    let mask = holes();
    let dy = sequence((3, LENGTH, 8), 5);
    let masked = |numbers: &Array3<f64>, value: f64| {
        let mut numbers = numbers.clone();
        for ((item, position, _), number) in numbers.indexed_iter_mut() {
            if !mask.is_real(item, position) {
                *number = value;
            }
        }
        numbers
    };
    for form in forms() {
        let mut model = Encoder::<f64>::new(&encoder(form), 3).unwrap();
        scramble(&mut model, 1);
        let run = |value: f64, shards: &Shards| {
            let (x, dy) = (masked(&sequence((3, LENGTH, 8), 3), value), masked(&dy, 0.0));
            ranks(shards.ranks(), |rank| {
                let encoder = Sharded::of(&model, shards.clone(), rank)?;
                let own = encoder.range();
                let (x, part) = (x.slice(s![.., own.clone(), ..]).to_owned(), cut(&mask, own.clone()));
                let mut y = encoder.forward(&x, Some(&part))?;
                let (mut trained, cache) = encoder.forward_train(&x, Some(&part), &pass())?;
                let mut gradients = encoder.model().zeros_like();
                let dx = encoder.backward(cache, dy.slice(s![.., own.clone(), ..]).to_owned(), &mut gradients)?;
                encoder.reduce_gradients(&mut gradients)?;
                for y in [&mut y, &mut trained] {
                    for ((item, position, _), number) in y.indexed_iter_mut() {
                        if !part.is_real(item, position) {
                            *number = 0.0;
                        }
                    }
                }
                Ok((bits(&y), bits(&trained), bits(&dx), tensors(&gradients)))
            })
        };
        for shards in [Shards::even(LENGTH, 3).unwrap(), Shards::from_lengths(&[17, 0, 2, 1, 33]).unwrap()] {
            let expected = run(0.0, &shards);
            for value in [f64::NAN, f64::INFINITY, f64::MAX] {
                assert!(run(value, &shards) == expected, "{value} in {:?}", model.config());
            }
        }
    }
}

/// Weights are dropped as in one process, and all else where one rank has everything.
#[test]
fn dropout_of_weights() {
    let (x, dy, mask) = (sequence((3, LENGTH, 8), 3), sequence((3, LENGTH, 8), 5), holes());
    let weights = pass().with_attention_dropout(0.3);
    for config in [
        encoder(layer().with_kv_heads(1)),
        encoder(layer().with_pooling_query(PoolingQuery::MeanOfItem)).with_reversible(true),
    ] {
        let mut model = Encoder::<f64>::new(&config, 3).unwrap();
        scramble(&mut model, 1);
        let all = Shards::even(LENGTH, 1).unwrap();
        let mut cases: Vec<_> = splits().into_iter().map(|shards| (shards, weights)).collect();
        cases.push((all, weights.with_residual_dropout(0.1)));
        for (shards, pass) in cases {
            let (y, cache) = model.forward_train(&x, Some(&mask), &pass).unwrap();
            assert!(difference(y.view(), model.forward(&x, Some(&mask)).unwrap().view()) > 1e-3);
            let mut gradients = model.zeros_like();
            let dx = model.backward(cache, dy.clone(), &mut gradients).unwrap();
            ranks(shards.ranks(), |rank| {
                let encoder = Sharded::of(&model, shards.clone(), rank)?;
                let own = encoder.range();
                let rows = s![.., own.clone(), ..];
                let (found, cache) = encoder.forward_train(&x.slice(rows).to_owned(), Some(&cut(&mask, own.clone())), &pass)?;
                let mut sums = encoder.model().zeros_like();
                let found_dx = encoder.backward(cache, dy.slice(rows).to_owned(), &mut sums)?;
                encoder.reduce_gradients(&mut sums)?;
                assert!(difference(found.view(), y.slice(rows)) < 1e-12, "{shards:?}");
                assert!(difference(found_dx.view(), dx.slice(rows)) < 1e-12, "{shards:?}");
                assert!(super::part_difference(&sums, &gradients, &(0..LENGTH)) < 1e-12, "{shards:?}");
                Ok(())
            });
        }
    }
}

/// Masks of any kind: the gradient is that of what was computed with them.
#[test]
fn gradients_with_dropout() {
    let mut model = Encoder::<f64>::new(&encoder(layer().with_pooling_query(PoolingQuery::MeanOfItem)), 3).unwrap();
    scramble(&mut model, 1);
    let (x, dy, step) = (sequence((1, 21, 8), 3), sequence((1, 21, 8), 5), sequence((1, 21, 8), 9));
    let pass: TrainingPass = pass().with_attention_dropout(0.3).with_residual_dropout(0.2);
    let shards = Shards::from_lengths(&[9, 2, 10]).unwrap();
    let run = |x: &Array3<f64>| {
        ranks(3, |rank| {
            let encoder = Sharded::of(&model, shards.clone(), rank)?;
            let own = s![.., encoder.range(), ..];
            let (y, cache) = encoder.forward_train(&x.slice(own).to_owned(), None, &pass)?;
            let loss = (&y * &dy.slice(own)).sum();
            let dx = encoder.backward(cache, dy.slice(own).to_owned(), &mut encoder.model().zeros_like())?;
            Ok([loss, (&dx * &step.slice(own)).sum()])
        })
        .into_iter()
        .fold([0.0; 2], |[loss, slope], [own, own_slope]| [loss + own, slope + own_slope])
    };
    let (after, before) = (run(&(&x + &(1e-5 * &step))), run(&(&x - &(1e-5 * &step))));
    let (found, expected) = (run(&x)[1], (after[0] - before[0]) / 2e-5);
    assert!((found - expected).abs() < 1e-6 * expected.abs().max(1.0), "{found} {expected}");
}

/// NaN in a row of one rank, wherever the others are, stops all of them.
#[test]
fn bad_numbers_of_one_rank() {
    let lengths = [9, 2, 0, 10];
    for form in forms() {
        let config = encoder(form);
        for odd in [0, 1, 3] {
            let errors = errors(4, |rank| {
                let shards = Shards::from_lengths(&lengths)?;
                let encoder = Sharded::<Encoder<f64>>::new(&config, 0, shards, rank)?;
                let mut x = Array3::ones((2, encoder.range().len(), 8));
                if rank.rank() == odd {
                    x[[1, 1, 3]] = f64::NAN;
                }
                let failure = encoder.forward(&x, None).unwrap_err();
                assert!(failure.to_string().contains("not finite"), "{failure}");
                assert!(matches!(failure, Error::Rank { rank, .. } if rank == odd), "{failure}");
                encoder.forward_train(&x, None, &pass()).map(|_| ())
            });
            assert_named(&errors, odd, "not finite");
        }
    }
}

#[test]
fn causal_rows_are_refused_by_name() {
    let errors = errors(2, |rank| {
        let config = encoder(layer().with_causal(true));
        Sharded::<Encoder<f64>>::new(&config, 0, Shards::even(LENGTH, 2)?, rank).map(|_| ())
    });
    assert!(
        errors.iter().all(|error| error.to_string().contains("causal local-global")),
        "{errors:?}"
    );
    assert!(matches!(encoder(layer()).attention, AttentionKind::LocalGlobal(_)));
}
