//! Are the numbers of several processes those of one?
//!
//! `mpirun -n 2 target/release/examples/agreement`; every process checks for itself, and any that finds a difference ends the job with an error.
#![allow(clippy::float_cmp)] // what is compared so is exact

use std::path::{Path, PathBuf};

use linformer::distributed::{Combine, Communicator, Numbers, Sharded, Shards, all_reduce_gradients};
use linformer::ndarray::{Array2, Array3, ArrayD, Axis, s};
use linformer::training::{CrossEntropy, Step, TokenBatch, Trainable};
use linformer::{
    Encoder, EncoderConfig, Error, LanguageModel, LanguageModelConfig, Linear, LinformerConfig, PaddingMask, Parameters, ProjectionKind,
    Result, Sharing, TrainingPass,
};
use linformer_mpi::Mpi;

const LENGTH: usize = 301;
const VOCABULARY: usize = 11;

fn main() -> Result<()> {
    Mpi::run(|world| all(world))
}

fn all(world: &dyn Communicator) -> Result<()> {
    collective_calls(world)?;
    for sharing in [Sharing::None, Sharing::Headwise, Sharing::KeyValue, Sharing::Layerwise] {
        let attention = LinformerConfig::new(8, 2, LENGTH, 5).with_sharing(sharing);
        encoders(world, attention.with_key_value_bias(true, true))?;
    }
    for kind in [
        ProjectionKind::MeanPooling,
        ProjectionKind::MaxPooling,
        ProjectionKind::AttentionPooling,
    ] {
        encoders(world, LinformerConfig::new(8, 2, LENGTH, 5).with_kind(kind))?;
    }
    language_models(world)?;
    failures(world)?;
    if world.size().is_multiple_of(2) {
        a_grid(world)?;
    }
    files(world)?;
    if world.rank() == 0 {
        println!("{} processes agree with one", world.size());
    }
    Ok(())
}

fn check(holds: bool, what: &str) {
    assert!(holds, "{what}");
}

fn collective_calls(world: &dyn Communicator) -> Result<()> {
    let (rank, size) = (world.rank(), world.size());
    let mut sum = vec![rank as f32; 70_000];
    world.all_reduce(Numbers::F32(&mut sum), Combine::Sum)?;
    check(sum.iter().all(|&sum| sum == (size * (size - 1) / 2) as f32), "sums");
    let mut most = [-(rank as f64), rank as f64];
    world.all_reduce(Numbers::F64(&mut most), Combine::Maximum)?;
    check(most == [0.0, size as f64 - 1.0], "maxima");
    let mut word = [rank as u64];
    world.broadcast(Numbers::U64(&mut word), size - 1)?;
    check(word == [size as u64 - 1], "a broadcast");
    let all = world.gather(&vec![7; rank], 0)?;
    check(all.is_some() == (rank == 0), "where bytes are gathered");
    for (rank, bytes) in all.into_iter().flatten().enumerate() {
        check(bytes == vec![7; rank], "gathered bytes");
    }
    check(world.broadcast(Numbers::U64(&mut word), size).is_err(), "a rank that there is not");
    let group = world.split(rank % 2)?;
    check((group.rank(), group.size()) == (rank / 2, (size + 1 - rank % 2) / 2), "groups");
    Ok(())
}

fn sequence(shape: (usize, usize, usize), seed: f64) -> Array3<f64> {
    Array3::from_shape_fn(shape, |(item, position, feature)| {
        let index = ((item * shape.1 + position) * shape.2 + feature) as f64;
        (index * 0.734 + seed).sin() + 0.3 * (index * 1.931).cos()
    })
}

/// The largest difference, over the size of what was expected where that is more than 1.
fn difference(found: &ArrayD<f64>, expected: &ArrayD<f64>) -> f64 {
    let scale = expected.iter().fold(1.0, |most: f64, value| most.max(value.abs()));
    let differences = found.iter().zip(expected).map(|(found, expected)| (found - expected).abs() / scale);
    differences.fold(0.0, |most, difference| {
        if difference > most || difference.is_nan() {
            difference
        } else {
            most
        }
    })
}

/// Of a model's part, whose matrices have these columns.
fn model_difference<M: Parameters<f64>>(part: &M, whole: &M, columns: &std::ops::Range<usize>) -> f64 {
    let pairs = part.named().into_iter().zip(whole.named());
    let differences = pairs.map(|((_, part), (_, whole))| {
        let expected = if part.shape() == whole.shape() {
            whole
        } else {
            let last = Axis(whole.ndim() - 1);
            whole.slice_axis_move(last, columns.clone().into())
        };
        difference(&part.to_owned(), &expected.to_owned())
    });
    differences.fold(0.0, f64::max)
}

fn pass() -> TrainingPass {
    TrainingPass::new(Step::new(1, 2))
}

fn encoders(world: &dyn Communicator, attention: LinformerConfig) -> Result<()> {
    let encoder = Encoder::<f64>::new(&EncoderConfig::new(attention, 2), 3)?;
    let (x, dy) = (sequence((2, LENGTH, 8), 1.0), sequence((2, LENGTH, 8), 2.0));
    // Of the second item the last process of four has nothing but padding.
    let mask = PaddingMask::from_lengths(&[LENGTH, 200], LENGTH)?;
    let (y, cache) = encoder.forward_train(&x, Some(&mask), &pass())?;
    let mut gradients = encoder.zeros_like();
    let dx = encoder.backward(cache, dy.clone(), &mut gradients)?;

    let part = Sharded::of(&encoder, Shards::even(LENGTH, world.size())?, world)?;
    let own = part.range();
    let rows = s![.., own.clone(), ..];
    let real = |(item, position): (usize, usize)| mask.is_real(item, own.start + position);
    let own_mask = PaddingMask::from_bools(&Array2::from_shape_fn((2, own.len()), real));
    let run = || {
        let own_x = x.slice(rows).to_owned();
        let inferred = part.forward(&own_x, Some(&own_mask))?;
        let (_, cache) = part.forward_train(&own_x, Some(&own_mask), &pass())?;
        let mut own_gradients = part.model().zeros_like();
        let own_dx = part.backward(cache, dy.slice(rows).to_owned(), &mut own_gradients)?;
        part.reduce_gradients(&mut own_gradients)?;
        Ok::<_, Error>((inferred, own_dx, own_gradients))
    };
    let (inferred, own_dx, own_gradients) = run()?;
    let largest = [
        difference(&inferred.clone().into_dyn(), &y.slice(rows).to_owned().into_dyn()),
        difference(&own_dx.into_dyn(), &dx.slice(rows).to_owned().into_dyn()),
        model_difference(&own_gradients, &gradients, &own),
    ];
    check(largest.iter().all(|&difference| difference < 1e-12), &format!("{largest:?}"));
    let again = run()?;
    check(
        again.0 == inferred && again.2.named() == own_gradients.named(),
        "bits from run to run",
    );
    Ok(())
}

fn tokens(batch: usize) -> Array2<usize> {
    Array2::from_shape_fn((batch, LENGTH), |(item, position)| (item * 5 + position * position) % VOCABULARY)
}

fn language_model() -> Result<LanguageModel<f64>> {
    let encoder = EncoderConfig::new(LinformerConfig::new(8, 2, LENGTH, 5), 2);
    LanguageModel::new(&LanguageModelConfig::new(VOCABULARY, encoder), 3)
}

fn language_models(world: &dyn Communicator) -> Result<()> {
    let model = language_model()?;
    let tokens = tokens(2);
    let targets: Vec<_> = tokens.iter().map(|token| (token % 3 > 0).then_some(*token)).collect();
    let (expected, gradients) = model.loss_and_gradients(&TokenBatch::new(&tokens, &targets), &CrossEntropy::new(), &pass())?;
    let part = Sharded::of(&model, Shards::even(LENGTH, world.size())?, world)?;
    let own = tokens.slice(s![.., part.range()]).to_owned();
    let targets: Vec<_> = own.iter().map(|token| (token % 3 > 0).then_some(*token)).collect();
    let (found, own_gradients) = part.loss_and_gradients(&TokenBatch::new(&own, &targets), &CrossEntropy::new(), &pass())?;
    check((found - expected).abs() < 1e-12, "the loss");
    check(model_difference(&own_gradients, &gradients, &part.range()) < 1e-12, "gradients");
    let mut gradients = Linear::<f64>::from_parts(Array2::ones((1, 1)) * world.rank() as f64, None)?;
    let size = world.size() as f64;
    let loss = all_reduce_gradients(world, world.rank() as f64, &mut gradients, 1.0)?;
    check(
        (loss - (size - 1.0) / 2.0).abs() < 1e-12 && (gradients.weight()[[0, 0]] - loss).abs() < 1e-12,
        "means",
    );
    Ok(())
}

/// What fails on the last process, all know of.
fn failures(world: &dyn Communicator) -> Result<()> {
    let last = world.size() - 1;
    let part = Sharded::of(&language_model()?, Shards::even(LENGTH, world.size())?, world)?;
    let token = if world.rank() == last { VOCABULARY } else { 1 };
    match part.forward(&Array2::from_elem((1, part.range().len()), token), None) {
        Err(Error::Token { .. }) if world.rank() == last => {}
        Err(Error::Rank { rank, reason }) if rank == last && reason.contains("vocabulary") => {}
        other => check(false, &format!("{other:?}")),
    }
    let batch = if world.rank() == last && last > 0 { 2 } else { 1 };
    let found = part.forward(&Array2::ones((batch, part.range().len())), None);
    let disagrees = matches!(found, Err(Error::Disagreement { rank, .. }) if rank == last);
    check(disagrees || last == 0, "a disagreement");
    let encoder = Encoder::<f64>::new(&EncoderConfig::new(LinformerConfig::new(8, 2, LENGTH, 5), 1), 3)?;
    let encoder = Sharded::of(&encoder, Shards::even(LENGTH, world.size())?, world)?;
    let mut x = Array3::ones((1, encoder.range().len(), 8));
    if world.rank() == last {
        x[[0, 0, 0]] = f64::NAN;
    }
    let found = encoder.forward(&x, None);
    check(matches!(found, Err(Error::Rank { rank, .. }) if rank == last), "NaN");
    // Nothing is left over of it.
    part.forward(&Array2::ones((1, part.range().len())), None).map(|_| ())
}

/// The halves of a batch, each over half of the processes.
fn a_grid(world: &dyn Communicator) -> Result<()> {
    let model = language_model()?;
    let tokens = tokens(2);
    let targets: Vec<_> = tokens.iter().map(|token| Some(*token)).collect();
    let (expected, gradients) = model.loss_and_gradients(&TokenBatch::new(&tokens, &targets), &CrossEntropy::new(), &pass())?;
    let half = world.size() / 2;
    let sequence = world.split(world.rank() / half)?;
    let replicas = world.split(world.rank() % half)?;
    let part = Sharded::of(&model, Shards::even(LENGTH, half)?, &*sequence)?.with_replicas(&*replicas)?;
    let item = replicas.rank();
    let own = tokens.slice(s![item..=item, part.range()]).to_owned();
    let targets: Vec<_> = own.iter().map(|token| Some(*token)).collect();
    let (found, own_gradients) = part.loss_and_gradients(&TokenBatch::new(&own, &targets), &CrossEntropy::new(), &pass())?;
    check((found - expected).abs() < 1e-12, "the loss over a grid");
    check(
        model_difference(&own_gradients, &gradients, &part.range()) < 1e-12,
        "gradients over a grid",
    );
    Ok(())
}

/// A file that this test made, removed when it ends.
struct Temporary(PathBuf);

impl Drop for Temporary {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

impl AsRef<Path> for Temporary {
    fn as_ref(&self) -> &Path {
        &self.0
    }
}

fn files(world: &dyn Communicator) -> Result<()> {
    // All processes of this test are on one machine, and the first one's number names the file.
    let mut number = [u64::from(std::process::id())];
    world.broadcast(Numbers::U64(&mut number), 0)?;
    let file = Temporary(std::env::temp_dir().join(format!("linformer-mpi-{}.safetensors", number[0])));
    let model = language_model()?;
    let part = Sharded::of(&model, Shards::even(LENGTH, world.size())?, world)?;
    part.save(&file)?;
    let loaded = Sharded::<LanguageModel<f64>>::load(&file, world)?;
    check(loaded.model().named() == part.model().named(), "a file");
    Ok(())
}
