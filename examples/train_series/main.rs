//! Learns to tell the classes of time series from their patches.
//!
//! `cargo run --release --example train_series` makes up its series. Real ones, of the UCR archive:
//!
//! ```sh
//! pip download --no-deps --dest target/data aeon==1.6.0
//! unzip -n target/data/aeon-1.6.0-py3-none-any.whl 'aeon/datasets/data/*' -d target/data
//! cargo run --release --example train_series -- --series target/data/aeon/datasets/data/OSULeaf --window 64 --reverse --steps 2500
//! ```

mod patches;
mod series;
#[path = "../support/mod.rs"]
mod support;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use linformer::ndarray::{Array2, ArrayView1, Axis};
use linformer::training::{Epochs, FeatureBatch, Step};
use linformer::{
    AttentionConfig, AttentionKind, Classifier, ClassifierConfig, LinformerConfig, LocalGlobalConfig, Pooling, Sharing, TrainingPass,
};
use patches::{Changes, Cut};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use series::Series;
use support::{AnyError, Budget, Clock, FLAG, Options, Plan};

const ABOUT: &str =
    "Trains a classifier of time series, cut into patches, and prints its accuracy on the test series beside that of the most similar
series for training and of the majority class. Without --series it makes up noise that hides one of four shapes.
Fails where the model does not beat the majority class by three points.";

fn main() -> ExitCode {
    support::run(example)
}

fn example() -> Result<(), AnyError> {
    let options = options();
    let mut accuracies = Vec::new();
    let mut majority = 0.0_f64;
    for seed in (0..options.count("seeds") as u64).map(|run| options.seed().wrapping_add(run)) {
        let [mut training, mut test] = series(&options, seed)?;
        if training.length() != test.length() || training.names != test.names {
            return Err("the series for training and for the test have different lengths or classes".into());
        }
        if !training.length().is_multiple_of(options.count("period")) {
            return Err(format!("--period does not divide the {} points of the series", training.length()).into());
        }
        let scale = training.mean_and_deviation();
        training.standardize(scale);
        test.standardize(scale);
        if accuracies.is_empty() {
            println!(
                "{} series to learn from, {} to test, of {} points in {} classes; the most similar series: {:.1} %, the majority class: {:.1} %",
                training.values.len(),
                test.values.len(),
                test.length(),
                test.names.len(),
                100.0 * test.nearest_neighbor(&training),
                100.0 * test.majority()
            );
        }
        majority = majority.max(test.majority());
        accuracies.push(train(&options, seed, &training, &test)?);
    }
    let (mean, deviation) = support::mean_and_deviation(&accuracies);
    if accuracies.len() > 1 {
        println!(
            "{} seeds: {:.2} % ± {:.2} (mean, standard deviation)",
            accuracies.len(),
            100.0 * mean,
            100.0 * deviation
        );
    }
    if mean <= majority + 0.03 {
        return Err("the model did not beat the majority class".into());
    }
    Ok(())
}

fn options() -> Options {
    Options::parse(
        ABOUT,
        &[
            (
                "series",
                "",
                "a folder with one file *_TRAIN.ts and one *_TEST.ts; made-up series if none",
            ),
            ("train", "", "instead of a folder: the file to learn from"),
            ("test", "", "and the file to test"),
            (
                "validate",
                FLAG,
                "hold out a quarter of the series to learn from, another one for each seed, and do not look at the test",
            ),
            ("attention", "linformer", "linformer, local-global or exact"),
            ("window", "16", "points of a patch"),
            ("stride", "8", "points from one patch to the next"),
            (
                "period",
                "1",
                "points after which the series repeats itself: differences are over as many, and shifts whole periods",
            ),
            ("k", "32", "rows that keys and values are compressed to"),
            ("dim", "64", "model width"),
            ("heads", "4", "heads"),
            ("depth", "2", "blocks"),
            ("pooling", "max", "max or mean: how positions become one vector"),
            ("batch", "16", "series of a step"),
            ("steps", "200", "training steps"),
            ("rate", "0.002", "the highest learning rate"),
            ("dropout", "0.1", "of the residual stream"),
            (
                "fixed",
                FLAG,
                "series begin where they begin; otherwise at any point, and go round in a circle",
            ),
            ("reverse", FLAG, "half of the series run backward"),
            ("stretch", "0", "the largest part by which series are made longer or shorter"),
            ("scale", "0.1", "the largest part by which series are made higher or lower"),
            ("jitter", "0.05", "the largest number added to each point, in standard deviations"),
            ("views", "8", "shifts of a test series whose scores are added up"),
            (
                "models",
                "1",
                "models that are trained one after another, and whose scores are added up",
            ),
            ("seed", "1", "seed of model, batches and made-up series"),
            ("seeds", "1", "runs, each with the next seed"),
        ],
    )
}

/// Series to learn from and to test.
fn series(options: &Options, seed: u64) -> Result<[Series; 2], AnyError> {
    let [train, test] = if options.given("series") {
        let folder = Path::new(options.text("series"));
        [file(folder, "_TRAIN.ts")?, file(folder, "_TEST.ts")?]
    } else if options.given("train") || options.given("test") {
        if !(options.given("train") && options.given("test")) {
            return Err("--train and --test go together; or name a folder with --series".into());
        }
        ["train", "test"].map(|name| PathBuf::from(options.text(name)))
    } else {
        return Ok(Series::made_up(600, 192, seed).split(3, 0));
    };
    if options.flag("validate") {
        return Ok(Series::read(&train)?.split(4, usize::try_from(seed % 4)?));
    }
    Ok([Series::read(&train)?, Series::read(&test)?])
}

/// The only file of a folder whose name ends so.
fn file(folder: &Path, end: &str) -> Result<PathBuf, AnyError> {
    let entries = std::fs::read_dir(folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    let mut found = entries
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.to_string_lossy().ends_with(end));
    match (found.next(), found.next()) {
        (Some(path), None) => Ok(path),
        _ => Err(format!(
            "{} has no file *{end}, or several: name two with --train and --test",
            folder.display()
        )
        .into()),
    }
}

/// Trains models one after another, tests their sum and prints: the accuracy.
fn train(options: &Options, seed: u64, training: &Series, test: &Series) -> Result<f64, AnyError> {
    let clock = Clock::start();
    let cut = Cut::new(options.count("window"), options.count("stride"), options.count("period"), training);
    let changes = changes(options);
    let mut scores = Array2::zeros((test.values.len(), test.names.len()));
    for number in 0..options.count("models") as u64 {
        let seed = seed.wrapping_add(number << 32);
        let mut model = model(options, seed, &cut, training)?;
        let plan = Plan {
            name: format!("model {}", number + 1),
            budget: Budget::Steps(options.count("steps") as u64),
            rate: options.positive("rate"),
            pass: TrainingPass::new(Step::new(seed, 0)).with_residual_dropout(options.share("dropout")),
            label_smoothing: 0.0,
        };
        let mut epochs = Epochs::new(training.values.len(), options.count("batch"), seed)?;
        support::train(&mut model, &plan, |step| {
            let indices = epochs.next().unwrap_or_default();
            Ok(drawn(training, &indices, changes, &cut, step))
        })?;
        add_scores(&model, test, &cut, shifts(options, test.length()), &mut scores)?;
    }
    let accuracy = accuracy(&scores, &test.classes);
    println!("seed {seed}: {:.2} %, {:.0} processor seconds", 100.0 * accuracy, clock.seconds());
    Ok(accuracy)
}

fn model(options: &Options, seed: u64, cut: &Cut, training: &Series) -> Result<Classifier<f32>, AnyError> {
    let attention = attention(options, cut.positions(training.length()))?;
    let encoder = support::encoder(attention, options.count("depth"));
    let pooling = match options.text("pooling") {
        "max" => Pooling::Max,
        "mean" => Pooling::Mean,
        other => return Err(format!("--pooling must be max or mean, not `{other}`").into()),
    };
    let config = ClassifierConfig::features(cut.features(), encoder, training.names.len()).with_pooling(pooling);
    Ok(Classifier::new(&config, seed)?)
}

/// The attention of a model of `n` positions; another kind is another line here.
fn attention(options: &Options, n: usize) -> Result<AttentionKind, AnyError> {
    let (dim, heads, k) = (options.count("dim"), options.count("heads"), options.count("k"));
    Ok(match options.text("attention") {
        "linformer" => LinformerConfig::new(dim, heads, n, k.min(n))
            .with_sharing(Sharing::Layerwise)
            .into(),
        "local-global" => LocalGlobalConfig::new(dim, heads)
            .with_block(8)
            .with_slots(options.count("k"))
            .into(),
        "exact" => AttentionConfig::new(dim, heads).into(),
        other => return Err(format!("--attention must be linformer, local-global or exact, not `{other}`").into()),
    })
}

fn changes(options: &Options) -> Changes {
    #[allow(clippy::cast_possible_truncation)] // as precise as the points are
    let limit = |name| options.share(name) as f32;
    Changes {
        period: options.count("period"),
        shift: !options.flag("fixed"),
        reverse: options.flag("reverse"),
        stretch: limit("stretch"),
        scale: limit("scale"),
        jitter: limit("jitter"),
    }
}

/// The series of a step, each changed at random.
fn drawn(series: &Series, indices: &[usize], changes: Changes, cut: &Cut, step: Step) -> FeatureBatch {
    let mut generator = ChaCha8Rng::seed_from_u64(step.seed);
    generator.set_stream(step.index);
    let changed: Vec<Vec<f32>> = indices
        .iter()
        .map(|&index| changes.apply(&series.values[index], &mut generator))
        .collect();
    let classes: Vec<usize> = indices.iter().map(|&index| series.classes[index]).collect();
    cut.batch(&changed, &classes)
}

/// Where the test series begin, one after another: evenly over the series, in whole periods.
fn shifts(options: &Options, length: usize) -> impl Iterator<Item = usize> {
    let (views, period) = (options.count("views"), options.count("period"));
    (0..views).map(move |view| length / period * view / views * period)
}

/// Adds a model's scores of the test series at several shifts.
fn add_scores(
    model: &Classifier<f32>,
    test: &Series,
    cut: &Cut,
    shifts: impl Iterator<Item = usize>,
    sums: &mut Array2<f32>,
) -> Result<(), AnyError> {
    for shift in shifts {
        let mut series = test.values.clone();
        for values in &mut series {
            values.rotate_left(shift);
        }
        for (series, mut sums) in series.chunks(64).zip(sums.axis_chunks_iter_mut(Axis(0), 64)) {
            sums += &model.forward(&cut.patches(series), None)?;
        }
    }
    Ok(())
}

/// The share of rows whose class has the highest score.
fn accuracy(scores: &Array2<f32>, classes: &[usize]) -> f64 {
    let highest = |row: ArrayView1<f32>| (0..row.len()).max_by(|&a, &b| row[a].total_cmp(&row[b]));
    let right = scores
        .outer_iter()
        .zip(classes)
        .filter(|(row, class)| highest(*row) == Some(**class));
    right.count() as f64 / classes.len() as f64
}
