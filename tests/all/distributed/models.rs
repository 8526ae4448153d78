//! Language models and classifiers: positions at the seams, pooling, losses, a grid of ranks.

use linformer::distributed::{Communicator, Sharded, Shards, ThreadRank, all_reduce_gradients};
use linformer::ndarray::{Array2, Array3, s};
use linformer::training::{AdamW, AdamWConfig, CrossEntropy, FeatureBatch, Optimizer, Reduction, Step, TokenBatch, Trainable};
use linformer::{
    Classifier, ClassifierConfig, EncoderConfig, HeadKind, LanguageModel, LanguageModelConfig, LinformerConfig, PaddingMask, Pooling,
    PositionKind, SinusoidLayout, TrainingPass,
};

use super::{cut, part_difference, ranks};
use crate::common::{difference, scramble, sequence};

const LENGTH: usize = 23;
const VOCABULARY: usize = 7;

fn encoder() -> EncoderConfig {
    EncoderConfig::new(LinformerConfig::new(8, 2, LENGTH, 3), 2)
}

fn tokens(batch: usize) -> Array2<usize> {
    Array2::from_shape_fn((batch, LENGTH), |(item, position)| {
        (item * 5 + position * position + 1) % VOCABULARY
    })
}

fn mask() -> PaddingMask {
    PaddingMask::from_lengths(&[LENGTH, 9], LENGTH).unwrap()
}

fn positions() -> [PositionKind; 6] {
    [
        PositionKind::None,
        PositionKind::Learned { max_len: LENGTH },
        PositionKind::LearnedAfterPadding {
            max_len: LENGTH,
            padding_token: 1,
        },
        PositionKind::LearnedRepeating {
            max_len: 5,
            padding_token: None,
        },
        PositionKind::LearnedRepeating {
            max_len: 5,
            padding_token: Some(1),
        },
        PositionKind::Sinusoidal {
            base: 10_000.0,
            layout: SinusoidLayout::Interleaved,
            stored: false,
        },
    ]
}

fn pass() -> TrainingPass {
    TrainingPass::new(Step::new(1, 2))
}

fn own(rank: &ThreadRank, shards: &Shards) -> std::ops::Range<usize> {
    shards.part(rank.rank(), LENGTH)
}

#[test]
fn language_models() {
    for (position, head) in positions()
        .into_iter()
        .zip([HeadKind::Plain, HeadKind::Tied, HeadKind::None, HeadKind::Plain])
    {
        let config = LanguageModelConfig::new(VOCABULARY, encoder())
            .with_position(position)
            .with_head(head)
            .with_embedding_dim(Some(6))
            .with_embedding_norm(true)
            .with_token_types(2)
            .with_zeroed_token(Some(1));
        let mut model = LanguageModel::<f64>::new(&config, 1).unwrap();
        scramble(&mut model, 1);
        let (tokens, mask) = (tokens(2), mask());
        for mask in [None, Some(&mask)] {
            let whole = model.forward(&tokens, mask).unwrap();
            for size in 1..=4 {
                let shards = Shards::even(LENGTH, size).unwrap();
                let differences = ranks(size, |rank| {
                    let sharded = Sharded::of(&model, shards.clone(), rank)?;
                    let own = own(rank, &shards);
                    let mask = mask.map(|mask| cut(mask, own.clone()));
                    let y = sharded.forward(&tokens.slice(s![.., own.clone()]), mask.as_ref())?;
                    Ok(difference(y.view(), whole.slice(s![.., own, ..])))
                });
                assert!(
                    differences.iter().all(|&difference| difference < 1e-12),
                    "{position:?}, {size}: {differences:?}"
                );
            }
        }
    }
}

#[test]
fn losses_and_gradients_of_language_models() {
    let chosen = [vec![0, 4, 11, 22], vec![3]];
    for (position, reduction) in positions()
        .into_iter()
        .flat_map(|position| [(position, Reduction::Mean), (position, Reduction::Sum)])
    {
        let config = LanguageModelConfig::new(VOCABULARY, encoder())
            .with_position(position)
            .with_head(HeadKind::Tied);
        let mut model = LanguageModel::<f64>::new(&config, 1).unwrap();
        scramble(&mut model, 1);
        let (tokens, mask) = (tokens(2), mask());
        let targets = [Some(1), None, Some(6), Some(0), Some(3)];
        let loss = CrossEntropy::new().with_reduction(reduction).with_label_smoothing(0.1);
        let (expected, gradients) = model
            .loss_and_gradients(&TokenBatch::new(&tokens, &targets).at(&chosen).with_mask(&mask), &loss, &pass())
            .unwrap();
        for size in 1..=4 {
            let shards = Shards::even(LENGTH, size).unwrap();
            ranks(size, |rank| {
                let sharded = Sharded::of(&model, shards.clone(), rank)?;
                let own = own(rank, &shards);
                let mut own_targets = Vec::new();
                let mut all = targets.iter();
                let mut own_chosen = vec![Vec::new(); 2];
                for (item, positions) in chosen.iter().enumerate() {
                    for (&position, &target) in positions.iter().zip(&mut all) {
                        if own.contains(&position) {
                            own_chosen[item].push(position - own.start);
                            own_targets.push(target);
                        }
                    }
                }
                let tokens = tokens.slice(s![.., own.clone()]).to_owned();
                let mask = cut(&mask, own);
                let (found, own_gradients) = sharded.loss_and_gradients(
                    &TokenBatch::new(&tokens, &own_targets).at(&own_chosen).with_mask(&mask),
                    &loss,
                    &pass(),
                )?;
                assert!((found - expected).abs() < 1e-12 * expected.abs().max(1.0));
                let difference = part_difference(&own_gradients, &gradients, &sharded.range());
                assert!(difference < 1e-12, "{position:?}, {size}: {difference}");
                Ok(())
            });
        }
    }
}

#[test]
fn classifiers_pool_over_ranks() {
    for pooling in [Pooling::Mean, Pooling::Max, Pooling::First] {
        let model = LanguageModelConfig::new(VOCABULARY, encoder());
        let config = ClassifierConfig::tokens(model, 3).with_pooling(pooling).with_hidden_dim(Some(5));
        let mut model = Classifier::<f64>::new(&config, 1).unwrap();
        scramble(&mut model, 1);
        // Left padding puts the first real position elsewhere, and the third item has none.
        let real = |(item, position): (usize, usize)| item == 0 || (item == 1 && position > 8);
        let mask = PaddingMask::from_bools(&Array2::from_shape_fn((3, LENGTH), real));
        let (tokens, targets) = (tokens(3), [Some(2), Some(0), None]);
        for mask in [None, Some(&mask)] {
            let scores = model.forward(&tokens, mask).unwrap();
            let (expected, gradients) = model
                .loss_and_gradients(&TokenBatch::new(&tokens, &targets).with_mask(mask), &CrossEntropy::new(), &pass())
                .unwrap();
            for size in 1..=4 {
                let shards = Shards::even(LENGTH, size).unwrap();
                ranks(size, |rank| {
                    let sharded = Sharded::of(&model, shards.clone(), rank)?;
                    let own = own(rank, &shards);
                    let mask = mask.map(|mask| cut(mask, own.clone()));
                    let tokens = tokens.slice(s![.., own]).to_owned();
                    let found = sharded.forward(&tokens, mask.as_ref())?;
                    assert!(difference(found.view(), scores.view()) < 1e-12);
                    let (found, own_gradients) = sharded.loss_and_gradients(
                        &TokenBatch::new(&tokens, &targets).with_mask(mask.as_ref()),
                        &CrossEntropy::new(),
                        &pass(),
                    )?;
                    assert!((found - expected).abs() < 1e-12);
                    let difference = part_difference(&own_gradients, &gradients, &sharded.range());
                    assert!(difference < 1e-12, "{pooling:?}, {size}: {difference}");
                    Ok(())
                });
            }
        }
    }
}

#[test]
fn classifiers_of_features() {
    let mut config = ClassifierConfig::features(3, encoder(), 4);
    if let linformer::ClassifierInput::Features { position, .. } = &mut config.input {
        *position = PositionKind::Learned { max_len: LENGTH };
    }
    let mut model = Classifier::<f64>::new(&config, 1).unwrap();
    scramble(&mut model, 1);
    let x: Array3<f64> = sequence((2, LENGTH, 3), 1);
    let (expected, gradients) = model
        .loss_and_gradients(&FeatureBatch::new(&x, &[Some(3), Some(1)]), &CrossEntropy::new(), &pass())
        .unwrap();
    let scores = model.forward(&x, None).unwrap();
    ranks(3, |rank| {
        let shards = Shards::even(LENGTH, 3)?;
        let sharded = Sharded::of(&model, shards.clone(), rank)?;
        let x = x.slice(s![.., own(rank, &shards), ..]).to_owned();
        assert!(difference(sharded.forward(&x, None)?.view(), scores.view()) < 1e-12);
        let (found, own_gradients) =
            sharded.loss_and_gradients(&FeatureBatch::new(&x, &[Some(3), Some(1)]), &CrossEntropy::new(), &pass())?;
        assert!((found - expected).abs() < 1e-12);
        assert!(part_difference(&own_gradients, &gradients, &sharded.range()) < 1e-12);
        assert!(sharded.forward(&tokens(2).slice(s![.., own(rank, &shards)]), None).is_err());
        Ok(())
    });
}

/// A batch's items over two replicas, each sequence over two ranks.
#[test]
fn a_grid_of_ranks() {
    let config = LanguageModelConfig::new(VOCABULARY, encoder());
    let mut model = LanguageModel::<f64>::new(&config, 1).unwrap();
    scramble(&mut model, 1);
    let tokens = tokens(3);
    let targets: Vec<_> = (0..3 * LENGTH).map(|row| (row % 3 > 0).then_some(row % VOCABULARY)).collect();
    let loss = CrossEntropy::new();
    let (expected, gradients) = model
        .loss_and_gradients(&TokenBatch::new(&tokens, &targets), &loss, &pass())
        .unwrap();
    ranks(4, |rank| {
        let sequence = rank.split(rank.rank() / 2)?;
        let replicas = rank.split(rank.rank() % 2)?;
        let shards = Shards::even(LENGTH, 2)?;
        let sharded = Sharded::of(&model, shards.clone(), &*sequence)?.with_replicas(&*replicas)?;
        let items = [0..1, 1..3][replicas.rank()].clone();
        let own = shards.range(sequence.rank());
        let own_targets: Vec<_> = items
            .clone()
            .flat_map(|item| own.clone().map(move |position| item * LENGTH + position))
            .map(|row| targets[row])
            .collect();
        let tokens = tokens.slice(s![items, own]).to_owned();
        let (found, own_gradients) = sharded.loss_and_gradients(&TokenBatch::new(&tokens, &own_targets), &loss, &pass())?;
        assert!((found - expected).abs() < 1e-12, "{found} {expected}");
        let difference = part_difference(&own_gradients, &gradients, &sharded.range());
        assert!(difference < 1e-12, "{difference}");
        Ok(())
    });
}

#[test]
fn data_parallelism_is_one_large_batch() {
    let model = LanguageModel::<f64>::new(&LanguageModelConfig::new(VOCABULARY, encoder()), 1).unwrap();
    let tokens = tokens(5);
    let targets: Vec<_> = (0..5 * LENGTH).map(|row| (row % 4 > 0).then_some(row % VOCABULARY)).collect();
    let loss = CrossEntropy::new();
    let (expected, gradients) = model
        .loss_and_gradients(&TokenBatch::new(&tokens, &targets), &loss, &pass())
        .unwrap();
    ranks(4, |rank| {
        // The last has nothing.
        let items = [0..2, 2..3, 3..5, 5..5][rank.rank()].clone();
        let targets = &targets[items.start * LENGTH..items.end * LENGTH];
        let count = targets.iter().flatten().count() as f64;
        let (own, mut own_gradients) =
            model.loss_and_gradients(&TokenBatch::new(tokens.slice(s![items, ..]).to_owned(), targets), &loss, &pass())?;
        let found = all_reduce_gradients(rank, own, &mut own_gradients, count)?;
        assert!((found - expected).abs() < 1e-12);
        assert!(part_difference(&own_gradients, &gradients, &(0..LENGTH)) < 1e-12);
        Ok(())
    });
}

/// Fifty clipped steps of AdamW.
#[test]
fn loss_curves_are_those_of_one_process() {
    let config = LanguageModelConfig::new(VOCABULARY, encoder());
    let loss = CrossEntropy::new();
    let targets = |step: u64| move |row: usize| Some((row + step as usize) % 3);
    let curve = {
        let mut model = LanguageModel::<f64>::new(&config, 1).unwrap();
        let mut optimizer = AdamW::new(&model, AdamWConfig::new()).unwrap();
        let step = |step| {
            let targets: Vec<_> = (0..2 * LENGTH).map(targets(step)).collect();
            let (loss, mut gradients) = model
                .loss_and_gradients(&TokenBatch::new(tokens(2), &targets), &loss, &pass())
                .unwrap();
            let norm = optimizer.clip_gradient_norm(&mut gradients, 0.5).unwrap();
            optimizer.step(&mut model, &gradients, 1e-2).unwrap();
            (loss, norm)
        };
        (0..50).map(step).collect::<Vec<_>>()
    };
    for size in [2, 3] {
        ranks(size, |rank| {
            let shards = Shards::even(LENGTH, size)?;
            let mut sharded = Sharded::<LanguageModel<f64>>::new(&config, 1, shards, rank)?;
            let mut optimizer = AdamW::new(sharded.model(), AdamWConfig::new())?;
            let own = sharded.range();
            let tokens = tokens(2).slice(s![.., own.clone()]).to_owned();
            for (step, &(expected, expected_norm)) in curve.iter().enumerate() {
                let rows = (0..2).flat_map(|item| own.clone().map(move |position| item * LENGTH + position));
                let targets: Vec<_> = rows.map(targets(step as u64)).collect();
                let (found, mut gradients) = sharded.loss_and_gradients(&TokenBatch::new(&tokens, &targets), &loss, &pass())?;
                let norm = sharded.clip_gradient_norm(&optimizer, &mut gradients, 0.5)?;
                optimizer.step(sharded.model_mut(), &gradients, 1e-2)?;
                assert!(
                    (found - expected).abs() < 1e-9 && (norm - expected_norm).abs() < 1e-9,
                    "step {step}"
                );
            }
            Ok(())
        });
    }
    assert!(curve[49].0 < curve[0].0);
}

#[test]
fn parts_of_a_batch_drop_elements_of_their_own() {
    let config = EncoderConfig::new(LinformerConfig::new(8, 2, 40, 4), 1);
    let x = Array3::from_elem((1, 40, 8), 0.5);
    let outputs = ranks(2, |rank| {
        let encoder = Sharded::<linformer::Encoder<f64>>::new(&config, 0, Shards::even(40, 2)?, rank)?;
        let x = x.slice(s![.., encoder.range(), ..]).to_owned();
        let (dropped, _) = encoder.forward_train(&x, None, &pass().with_residual_dropout(0.5))?;
        Ok(dropped)
    });
    assert_ne!(outputs[0], outputs[1]);
    assert!(outputs[0].iter().all(|value| value.is_finite()));
}
