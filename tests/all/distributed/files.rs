//! Files: the same as those of one process, and read by any number of ranks.

use std::fs;
use std::path::PathBuf;

use linformer::checkpoint::Checkpoint;
use linformer::distributed::{Communicator, Sharded, Shards, ThreadGroup};
use linformer::ndarray::{Array2, s};
use linformer::training::{AdamW, AdamWConfig, CrossEntropy, Optimizer, Step, TokenBatch, Trainable, load_training, save_training};
use linformer::{
    EncoderConfig, Error, LanguageModel, LanguageModelConfig, LinformerConfig, LocalGlobalConfig, Parameters, PositionKind, ProjectionKind,
    Sharing, TrainingPass,
};

use super::{part_difference, ranks};
use crate::common::scramble;

const LENGTH: usize = 21;

fn config(sharing: Sharing) -> LanguageModelConfig {
    let attention = LinformerConfig::new(8, 2, LENGTH, 3).with_sharing(sharing);
    LanguageModelConfig::new(7, EncoderConfig::new(attention, 2)).with_position(PositionKind::None)
}

/// A folder that is gone when the test is.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("linformer-distributed-{name}-{}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[test]
fn saved_files_are_those_of_one_process() {
    let folder = Folder::new("save");
    let mut cases: Vec<_> = [Sharing::None, Sharing::Headwise, Sharing::KeyValue, Sharing::Layerwise]
        .map(config)
        .into();
    let pooling = LinformerConfig::new(8, 2, LENGTH, 3);
    for kind in [ProjectionKind::MeanPooling, ProjectionKind::Random] {
        let encoder = EncoderConfig::new(pooling.clone().with_kind(kind), 2);
        cases.push(LanguageModelConfig::new(7, encoder));
    }
    for (case, config) in cases.iter().enumerate() {
        let mut whole = LanguageModel::<f64>::new(config, 1).unwrap();
        scramble(&mut whole, case as u64);
        let (alone, together) = (folder.file("alone"), folder.file("together"));
        whole.save(&alone).unwrap();
        for size in 1..=4 {
            ranks(size, |rank| {
                let model = Sharded::<LanguageModel<f64>>::load(&alone, rank)?;
                assert_eq!(part_difference(model.model(), &whole, &model.range()), 0.0);
                model.save(&together)?;
                let lengths = vec![LENGTH - (size - 1); 1]
                    .into_iter()
                    .chain(vec![1; size - 1])
                    .collect::<Vec<_>>();
                let other = Sharded::<LanguageModel<f64>>::load_with_shards(&together, Shards::from_lengths(&lengths)?, rank)?;
                assert_eq!(part_difference(other.model(), &whole, &other.range()), 0.0);
                Ok(())
            });
            assert_eq!(fs::read(&alone).unwrap(), fs::read(&together).unwrap(), "case {case} over {size}");
        }
    }
}

/// Three steps on so many ranks, with files before and after: what is in the last file.
fn three_steps(folder: &Folder, from: &str, to: &str, size: usize) {
    let tokens = Array2::from_shape_fn((2, LENGTH), |(item, position)| (item + position * position) % 7);
    ranks(size, |rank| {
        let shards = Shards::even(LENGTH, size)?;
        let mut model = Sharded::<LanguageModel<f64>>::new(&config(Sharing::Layerwise), 99, shards, rank)?;
        let mut optimizer = AdamW::new(model.model(), AdamWConfig::new())?;
        let mut step = model.load_training(folder.file(from), &mut optimizer)?;
        let tokens = tokens.slice(s![.., model.range()]).to_owned();
        let targets: Vec<_> = tokens.iter().map(|token| Some((token + 1) % 7)).collect();
        for _ in 0..3 {
            let pass = TrainingPass::new(step);
            let (_, gradients) = model.loss_and_gradients(&TokenBatch::new(&tokens, &targets), &CrossEntropy::new(), &pass)?;
            optimizer.step(model.model_mut(), &gradients, 1e-2)?;
            step.index += 1;
        }
        model.save_training(folder.file(to), &optimizer, step)
    });
}

/// A model of any length is spread as the caller says.
#[test]
fn files_of_local_global_models() {
    let folder = Folder::new("local-global");
    let encoder = EncoderConfig::new(LocalGlobalConfig::new(8, 2).with_block(2).with_slots(3), 2);
    let mut whole = LanguageModel::<f64>::new(&LanguageModelConfig::new(7, encoder), 1).unwrap();
    scramble(&mut whole, 1);
    let (alone, together) = (folder.file("alone"), folder.file("together"));
    whole.save(&alone).unwrap();
    ranks(3, |rank| {
        let refused = Sharded::<LanguageModel<f64>>::load(&alone, rank).unwrap_err();
        assert!(refused.to_string().contains("load_with_shards"), "{refused}");
        let model = Sharded::<LanguageModel<f64>>::load_with_shards(&alone, Shards::even(LENGTH, 3)?, rank)?;
        assert_eq!(part_difference(model.model(), &whole, &model.range()), 0.0);
        model.save(&together)
    });
    assert_eq!(fs::read(&alone).unwrap(), fs::read(&together).unwrap());
}

#[test]
fn runs_go_on_over_another_number_of_ranks() {
    let folder = Folder::new("resume");
    let mut model = LanguageModel::<f64>::new(&config(Sharing::Layerwise), 1).unwrap();
    // A large ε: where gradients are next to nothing, rounding would otherwise decide the sign of a whole step.
    let mut optimizer = AdamW::new(&model, AdamWConfig::new().with_eps(1e-3).with_weight_decay(0.1)).unwrap();
    save_training(folder.file("0"), &model, &optimizer, Step::new(5, 0)).unwrap();
    three_steps(&folder, "0", "one", 1);
    three_steps(&folder, "one", "one more", 1);
    three_steps(&folder, "0", "three", 3);
    three_steps(&folder, "three", "two", 2);
    assert_eq!(
        load_training(folder.file("one more"), &mut model, &mut optimizer).unwrap(),
        Step::new(5, 6)
    );
    let mut other = model.zeros_like();
    let mut other_optimizer = AdamW::new(&model, AdamWConfig::new()).unwrap();
    assert_eq!(
        load_training(folder.file("two"), &mut other, &mut other_optimizer).unwrap(),
        Step::new(5, 6)
    );
    let difference = part_difference(&other, &model, &(0..LENGTH));
    assert!(difference < 1e-12, "{difference}");
    assert_eq!(optimizer.steps(), other_optimizer.steps());
}

#[test]
fn bad_files_are_errors_on_all_ranks() {
    let folder = Folder::new("bad");
    let model = LanguageModel::<f64>::new(&config(Sharing::Headwise), 1).unwrap();
    let other = LanguageModel::<f64>::new(&config(Sharing::Headwise), 2).unwrap();
    let shared = LanguageModel::<f64>::new(&config(Sharing::KeyValue), 1).unwrap();
    model.save(folder.file("model")).unwrap();
    other.save(folder.file("other")).unwrap();
    shared.save(folder.file("shared")).unwrap();
    fs::write(folder.file("cut"), &model.to_bytes().unwrap()[..3000]).unwrap();
    for odd_file in ["other", "shared", "cut", "missing"] {
        let results = ThreadGroup::run(3, |rank| {
            let file = folder.file(if rank.rank() == 1 { odd_file } else { "model" });
            Sharded::<LanguageModel<f64>>::load(file, rank).map(|_| ())
        });
        for (rank, result) in results.into_iter().enumerate() {
            match result.unwrap_err() {
                Error::Disagreement { rank: 1, .. } => assert!(odd_file == "other" || odd_file == "shared"),
                Error::Rank { rank: 1, .. } if rank != 1 => assert!(odd_file == "cut" || odd_file == "missing"),
                error => assert!(rank == 1, "{odd_file}: {error}"),
            }
        }
    }
    // The first rank writes, and all learn that it could not.
    let results = ThreadGroup::run(3, |rank| {
        let model = Sharded::of(&model, Shards::even(LENGTH, 3)?, rank)?;
        model.save(folder.file("no such folder").join("file"))
    });
    assert!(matches!(results[0], Err(Error::Io { .. })));
    assert!(results[1..].iter().all(|result| matches!(result, Err(Error::Rank { rank: 0, .. }))));
}

#[test]
fn runs_of_longer_sequences_are_refused() {
    let folder = Folder::new("longer");
    let model = |length: usize| {
        let attention = LinformerConfig::new(8, 2, length, 3);
        let config = LanguageModelConfig::new(7, EncoderConfig::new(attention, 2)).with_position(PositionKind::None);
        LanguageModel::<f64>::new(&config, 1).unwrap()
    };
    let longer = model(LENGTH + 9);
    let optimizer = AdamW::new(&longer, AdamWConfig::new()).unwrap();
    save_training(folder.file("run"), &longer, &optimizer, Step::new(5, 0)).unwrap();
    for size in 1..=3 {
        let results = ThreadGroup::run(size, |rank| {
            let mut part = Sharded::of(&model(LENGTH), Shards::even(LENGTH, size)?, rank)?;
            let mut optimizer = AdamW::new(part.model(), AdamWConfig::new())?;
            part.load_training(folder.file("run"), &mut optimizer)
        });
        for result in results {
            assert!(matches!(result, Err(Error::Checkpoint { .. })), "{result:?}");
        }
    }
}
