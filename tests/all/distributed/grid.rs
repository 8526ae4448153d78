//! What fails in one sequence of a grid, all ranks of the grid learn of.

use linformer::distributed::{Communicator, Sharded, Shards, ThreadGroup};
use linformer::ndarray::Array2;
use linformer::training::{CrossEntropy, Step, TokenBatch, Trainable};
use linformer::{Error, LanguageModel, LanguageModelConfig, PaddingMask, Parameters, Result, TrainingPass};

use super::failures::{LENGTH, config};

type Model<'c> = Sharded<'c, LanguageModel<f64>>;

/// Ranks 0 and 1 have one sequence, 2 and 3 the other. `prepare` may change a model before it meets its replica.
fn on_grid<T: Send>(
    prepare: impl Fn(usize, &mut LanguageModel<f64>) + Sync,
    work: impl Fn(usize, Result<Model<'_>>) -> Result<T> + Sync,
) -> Vec<Result<T>> {
    ThreadGroup::run(4, |rank| {
        let sequence = rank.split(rank.rank() / 2)?;
        let replicas = rank.split(rank.rank() % 2)?;
        let config = LanguageModelConfig::new(7, config());
        let mut model = Model::new(&config, 0, Shards::even(LENGTH, 2)?, &*sequence)?;
        prepare(rank.rank(), model.model_mut());
        work(rank.rank(), model.with_replicas(&*replicas))
    })
}

/// What one rank does otherwise than the others.
#[derive(Clone, Copy, Debug)]
enum Odd {
    Nothing,
    Batch,
    Mask,
    Smoothing,
    Pass,
}

fn train(model: &Model<'_>, odd: Odd) -> Result<f64> {
    let length = model.range().len();
    let batch = if matches!(odd, Odd::Batch) { 2 } else { 1 };
    let mask = PaddingMask::all_real(1, length - usize::from(matches!(odd, Odd::Mask)))?;
    let loss = CrossEntropy::new().with_label_smoothing(if matches!(odd, Odd::Smoothing) { 0.1 } else { 0.0 });
    let pass = TrainingPass::new(Step::new(0, u64::from(matches!(odd, Odd::Pass))));
    let tokens = Array2::ones((batch, length));
    let targets = vec![Some(1); tokens.len()];
    Ok(model
        .loss_and_gradients(&TokenBatch::new(&tokens, &targets).with_mask(&mask), &loss, &pass)?
        .0)
}

#[test]
fn an_error_before_any_work_in_one_sequence_stops_all_of_the_grid() {
    for odd in [Odd::Batch, Odd::Mask, Odd::Smoothing, Odd::Pass] {
        for odd_rank in 0..4 {
            let results = on_grid(
                |_, _| (),
                |rank, model| {
                    let model = model?;
                    let failed = train(&model, if rank == odd_rank { odd } else { Odd::Nothing });
                    match failed {
                        Err(error @ Error::Communication { .. }) => Err(error),
                        // None of them waits for another any more.
                        Err(_) => train(&model, Odd::Nothing),
                        Ok(_) => panic!("{odd:?} of rank {odd_rank} was not found by rank {rank}"),
                    }
                },
            );
            for result in results {
                assert!(result.is_ok(), "{odd:?} of rank {odd_rank}: {result:?}");
            }
        }
    }
}

#[test]
fn sequences_that_are_trained_otherwise_are_found() {
    for odd in [Odd::Smoothing, Odd::Pass] {
        let results = on_grid(|_, _| (), |rank, model| train(&model?, if rank < 2 { odd } else { Odd::Nothing }));
        for result in results {
            assert!(matches!(result, Err(Error::Disagreement { .. })), "{odd:?}: {result:?}");
        }
    }
}

#[test]
fn replicas_that_differ_are_found_on_all_of_the_grid() {
    for odd_rank in 0..4 {
        let change = |rank: usize, model: &mut LanguageModel<f64>| {
            model.visit_mut("", &mut |name, _, mut tensor| {
                if rank == odd_rank && name.ends_with("projections.key.weight") {
                    tensor.fill(0.5);
                }
            });
        };
        let results = on_grid(change, |_, model| model.map(|_| ()));
        for (rank, result) in results.into_iter().enumerate() {
            match result {
                Err(Error::Disagreement { what, .. }) if rank % 2 == odd_rank % 2 => assert_eq!(what, "the parameters"),
                Err(Error::Rank { .. }) if rank % 2 != odd_rank % 2 => {}
                other => panic!("rank {rank}: {other:?}"),
            }
        }
    }
}
