//! What fails on one rank, all ranks learn of, and none waits.

use linformer::distributed::{Communicator, Sharded, Shards, ThreadGroup, ThreadRank, all_reduce_gradients};
use linformer::ndarray::{Array2, Array3, s};
use linformer::training::{CrossEntropy, Step, TokenBatch, Trainable};
use linformer::{
    AttentionConfig, AttentionKind, Encoder, EncoderConfig, Error, LanguageModel, LanguageModelConfig, LinformerConfig, PaddingMask,
    Result, Sharing, TrainingPass,
};

pub(super) const LENGTH: usize = 20;

pub(super) fn config() -> EncoderConfig {
    EncoderConfig::new(LinformerConfig::new(4, 2, LENGTH, 3), 2)
}

fn encoder(rank: &ThreadRank) -> Result<Sharded<'_, Encoder<f64>>> {
    Sharded::new(&config(), 0, Shards::even(LENGTH, rank.size())?, rank)
}

pub(super) fn errors<T: Send + std::fmt::Debug>(size: usize, work: impl Fn(&ThreadRank) -> Result<T> + Sync) -> Vec<Error> {
    ThreadGroup::run(size, work).into_iter().map(|result| result.unwrap_err()).collect()
}

/// All ranks return the same disagreement, which names `odd` and `what`.
pub(super) fn assert_disagree(errors: &[Error], odd: usize, about: &str) {
    for error in errors {
        assert_eq!(error.to_string(), errors[0].to_string());
        match error {
            Error::Disagreement { rank, what, .. } => assert!(*rank == odd && what.contains(about), "{error}"),
            other => panic!("{other}"),
        }
    }
}

#[test]
fn models_that_differ_are_found_before_any_work() {
    let odd = |rank: &ThreadRank| rank.rank() == 2;
    let with_config = |change: fn(EncoderConfig) -> EncoderConfig| {
        errors(3, |rank| {
            let config = if odd(rank) { change(config()) } else { config() };
            Sharded::<Encoder<f64>>::new(&config, 0, Shards::even(LENGTH, 3)?, rank).map(|_| ())
        })
    };
    assert_disagree(&with_config(|config| config.with_final_norm(false)), 2, "configuration");
    assert_disagree(&with_config(|config| config.with_norm_eps(1e-4)), 2, "configuration");
    let seeds = errors(3, |rank| {
        let seed = u64::from(odd(rank));
        Sharded::<Encoder<f64>>::new(&config(), seed, Shards::even(LENGTH, 3)?, rank).map(|_| ())
    });
    assert_disagree(&seeds, 2, "seed");
    let shards = errors(3, |rank| {
        let lengths = if odd(rank) { [10, 5, 5] } else { [5, 10, 5] };
        Sharded::<Encoder<f64>>::new(&config(), 0, Shards::from_lengths(&lengths)?, rank).map(|_| ())
    });
    assert_disagree(&shards, 2, "shards");
    let models = errors(3, |rank| {
        let model = Encoder::<f64>::new(&config(), u64::from(odd(rank)))?;
        Sharded::of(&model, Shards::even(LENGTH, 3)?, rank).map(|_| ())
    });
    assert_disagree(&models, 2, "parameters");
}

#[test]
fn batches_that_differ_are_found_before_any_work() {
    let odd = |rank: &ThreadRank| rank.rank() == 2;
    let x = |length: usize| Array3::<f64>::ones((1, length, 4));
    let batches = errors(3, |rank| {
        let encoder = encoder(rank)?;
        let batch = if odd(rank) { 2 } else { 1 };
        encoder.forward(&Array3::ones((batch, encoder.range().len(), 4)), None)
    });
    assert_disagree(&batches, 2, "batch");
    let masks = errors(3, |rank| {
        let encoder = encoder(rank)?;
        let length = encoder.range().len();
        let mask = PaddingMask::all_real(1, length)?;
        encoder.forward(&x(length), odd(rank).then_some(&mask))
    });
    assert_disagree(&masks, 2, "mask");
    let lengths = errors(3, |rank| {
        let encoder = encoder(rank)?;
        encoder.forward(&x(encoder.range().len() - usize::from(rank.rank() == 1)), None)
    });
    assert_disagree(&lengths, 1, "length");
    let operations = errors(3, |rank| {
        let encoder = encoder(rank)?;
        let length = encoder.range().len();
        if odd(rank) {
            encoder
                .forward_train(&x(length), None, &TrainingPass::new(Step::new(0, 0)))
                .map(|_| ())
        } else {
            encoder.forward(&x(length), None).map(|_| ())
        }
    });
    assert!(
        matches!(&operations[..], [Error::Disagreement { rank: 2, .. }, ..]),
        "{operations:?}"
    );
    let passes = errors(3, |rank| {
        let encoder = encoder(rank)?;
        let pass = TrainingPass::new(Step::new(0, u64::from(odd(rank))));
        encoder.forward_train(&x(encoder.range().len()), None, &pass).map(|_| ())
    });
    assert_disagree(&passes, 2, "pass");
}

#[test]
fn caches_of_different_passes_are_found_before_any_work() {
    let caches = errors(3, |rank| {
        let encoder = encoder(rank)?;
        let x = Array3::ones((1, encoder.range().len(), 4));
        let train = |index| encoder.forward_train(&x, None, &TrainingPass::new(Step::new(0, index)));
        let (first, second) = (train(0)?.1, train(1)?.1);
        let cache = if rank.rank() == 2 { second } else { first };
        let mut gradients = linformer::Parameters::zeros_like(encoder.model());
        encoder.backward(cache, x.clone(), &mut gradients)
    });
    assert_disagree(&caches, 2, "pass");
}

/// `odd` returns an error of its own, all others one that names it.
pub(super) fn assert_named(errors: &[Error], odd: usize, part: &str) {
    for (rank, error) in errors.iter().enumerate() {
        assert!(error.to_string().contains(part), "{error}");
        if rank != odd {
            assert!(matches!(error, Error::Rank { rank, .. } if *rank == odd), "{error}");
        }
    }
}

#[test]
fn an_error_on_one_rank_is_named_on_all() {
    for size in 2..=4 {
        for odd in 0..size {
            let wide = errors(size, |rank| {
                let encoder = encoder(rank)?;
                let width = if rank.rank() == odd { 5 } else { 4 };
                encoder.forward(&Array3::ones((1, encoder.range().len(), width)), None)
            });
            assert_named(&wide, odd, "must have shape");
            let config = LanguageModelConfig::new(7, config());
            let token = errors(size, |rank| {
                let model = Sharded::<LanguageModel<f64>>::new(&config, 0, Shards::even(LENGTH, size)?, rank)?;
                let token = if rank.rank() == odd { 7 } else { 1 };
                model.forward(&Array2::from_elem((1, model.range().len()), token), None)
            });
            assert_named(&token, odd, "outside the vocabulary");
            let target = errors(size, |rank| {
                let model = Sharded::<LanguageModel<f64>>::new(&config, 0, Shards::even(LENGTH, size)?, rank)?;
                let length = model.range().len();
                let targets = vec![Some(if rank.rank() == odd { 7 } else { 1 }); length];
                let pass = TrainingPass::new(Step::new(0, 0));
                let tokens = Array2::ones((1, length));
                model
                    .loss_and_gradients(&TokenBatch::new(&tokens, &targets), &CrossEntropy::new(), &pass)
                    .map(|_| ())
            });
            assert_named(&target, odd, "outside the 7 classes");
        }
    }
}

#[test]
fn bad_numbers_on_one_rank_are_reported_on_all() {
    for bad in [f64::NAN, f64::INFINITY] {
        let sums = errors(3, |rank| {
            let encoder = encoder(rank)?;
            let mut x = Array3::ones((1, encoder.range().len(), 4));
            if rank.rank() == 1 {
                x[[0, 2, 1]] = bad;
            }
            encoder.forward(&x, None)
        });
        assert_eq!(sums[0].to_string(), sums[1].to_string());
        assert_named(&sums, 1, "not finite");
        let gradients = errors(3, |rank| {
            let encoder = encoder(rank)?;
            let x = Array3::ones((1, encoder.range().len(), 4));
            let (mut dy, cache) = encoder.forward_train(&x, None, &TrainingPass::new(Step::new(0, 0)))?;
            if rank.rank() == 2 {
                dy[[0, 0, 0]] = bad;
            }
            let mut gradients = linformer::Parameters::zeros_like(encoder.model());
            encoder.backward(cache, dy, &mut gradients)
        });
        assert_named(&gradients, 2, "not finite");
        let parallel = errors(3, |rank| {
            let mut gradients = linformer::Linear::<f64>::new(2, 2, false, 0)?;
            let loss = if rank.rank() == 0 { bad } else { 1.0 };
            all_reduce_gradients(rank, loss, &mut gradients, 1.0)
        });
        assert_named(&parallel, 0, "not finite");
    }
}

#[test]
fn padding_may_be_anything() {
    let results = ThreadGroup::run(2, |rank| {
        let encoder = encoder(rank)?;
        let length = encoder.range().len();
        let mut x = Array3::ones((1, length, 4));
        if rank.rank() == 1 {
            x.slice_mut(s![.., 3.., ..]).fill(f64::NAN);
        }
        let mask = PaddingMask::from_lengths(&[if rank.rank() == 1 { 3 } else { length }], length)?;
        encoder.forward(&x, Some(&mask))
    });
    for (rank, result) in results.into_iter().enumerate() {
        let real = if rank == 1 { 3 } else { LENGTH / 2 };
        assert!(result.unwrap().slice(s![.., ..real, ..]).iter().all(|value| value.is_finite()));
    }
}

#[test]
fn an_error_in_one_replica_stops_all_of_the_grid() {
    let config = LanguageModelConfig::new(7, config());
    for odd in 0..4 {
        let errors = errors(4, |rank| {
            let sequence = rank.split(rank.rank() / 2)?;
            let replicas = rank.split(rank.rank() % 2)?;
            let model = Sharded::<LanguageModel<f64>>::new(&config, 0, Shards::even(LENGTH, 2)?, &*sequence)?.with_replicas(&*replicas)?;
            let token = if rank.rank() == odd { 7 } else { 1 };
            let length = model.range().len();
            let tokens = Array2::from_elem((1, length), token);
            let pass = TrainingPass::new(Step::new(0, 0));
            model
                .loss_and_gradients(&TokenBatch::new(&tokens, vec![Some(1); length]), &CrossEntropy::new(), &pass)
                .map(|_| ())
        });
        assert!(
            errors.iter().all(|error| error.to_string().contains("outside the vocabulary")),
            "{errors:?}"
        );
    }
}

#[test]
fn what_cannot_be_sharded_is_refused() {
    let make = |attention: AttentionKind, lengths: &[usize]| {
        let mut config = config();
        config.attention = attention;
        let shards = Shards::from_lengths(lengths).unwrap();
        let result = ThreadGroup::run(2, |rank| Sharded::<Encoder<f64>>::new(&config, 0, shards.clone(), rank).map(|_| ()));
        assert!(result.iter().all(Result::is_err));
        result.into_iter().next().map(|result| result.unwrap_err().to_string()).unwrap()
    };
    assert!(make(AttentionConfig::new(4, 2).into(), &[10, 10]).contains("take Linformer or bidirectional local-global attention"));
    let linformer = || LinformerConfig::new(4, 2, LENGTH, 3).with_sharing(Sharing::KeyValue);
    assert!(make(linformer().into(), &[10, 11]).contains("seq_len"));
    assert!(make(linformer().into(), &[10, 5, 5]).contains("3 ranks"));
    assert!(Shards::even(5, 0).is_err() && Shards::from_lengths(&[]).is_err());
    assert!(Shards::from_lengths(&[usize::MAX, 1]).is_err());
    assert!(Shards::even(5, usize::MAX).is_err() && Shards::even(5, 1 << 50).is_err());
}

/// Weights that are finite one by one, but not their sum, nor with the losses: all ranks find it, and no gradient changes.
#[test]
fn weights_whose_sum_is_not_finite_are_refused() {
    for (loss, weight) in [(1.0, 1.7e308), (1e10, 1e305)] {
        let errors = errors(2, |rank| {
            let mut gradients = linformer::Linear::from_parts(linformer::ndarray::array![[3.0_f64]], None)?;
            let result = all_reduce_gradients(rank, loss, &mut gradients, weight);
            assert_eq!(gradients.weight()[[0, 0]].to_bits(), 3.0_f64.to_bits());
            result
        });
        assert!(
            errors.iter().all(|error| error.to_string().contains("use smaller weights")),
            "{errors:?}"
        );
    }
}
