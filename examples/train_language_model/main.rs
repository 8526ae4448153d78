//! Learns to guess hidden bytes of a text from the bytes around them, and compares with tables of counts.
//!
//! `cargo run --release --example train_language_model`, and `-- --sweep` for the paper's Figure 3 in small.

mod baseline;
mod corpus;
#[path = "../support/mod.rs"]
mod support;
mod sweep;

use std::process::ExitCode;

use corpus::Corpus;
use linformer::training::Step;
use linformer::{AttentionKind, LanguageModel, LanguageModelConfig, PositionKind, Sharing, TrainingPass};
use support::{AnyError, BLOCK, Budget, FLAG, HeldOut, Kind, Options, Plan, SLOTS, Spent, TRAINED_LEN};

const ABOUT: &str =
    "Trains a masked model of the bytes of a text: 15 % of them are hidden and guessed from all others. Prints the bits that a
hidden byte costs in a part of the text that was held out, beside two tables of counts that are asked for the same bytes: order 0
(how common a byte is) and order 2 (what follows the two bytes on its left, which it sees even where they are hidden from the model).";

/// What one model is.
#[derive(Clone)]
struct Shape {
    n: usize,
    k: usize,
    depth: usize,
    sharing: Sharing,
    kind: Kind,
}

fn main() -> ExitCode {
    support::run(example)
}

fn example() -> Result<(), AnyError> {
    let options = options();
    let shape = shape(&options)?;
    let text = match options.text("file") {
        "" => support::novel()?,
        file => std::fs::read(file).map_err(|error| format!("{file}: {error}"))?,
    };
    let corpus = Corpus::new(&text, shape.n)?;
    let (order_0, order_2) = (corpus.bits_of_counts(0)?, corpus.bits_of_counts(2)?);
    println!("{} bytes, {} of them held out", text.len(), corpus.held_out());
    println!("counts of order 0: {order_0:.3} bits a byte");
    println!("counts of order 2: {order_2:.3} bits a byte");
    if options.flag("sweep") {
        return sweep::run(&options, &shape, &corpus, [order_0, order_2]);
    }
    let (bits, spent) = train(&options, &shape, &corpus)?;
    println!(
        "{}: {bits:.3} bits a byte after {} steps, {:.0} processor seconds",
        shape.kind.name(),
        spent.steps,
        spent.seconds
    );
    if bits > order_2 {
        println!("order 2 is still ahead: that takes more steps (--steps)");
    }
    if bits >= order_0 {
        return Err("the model did not beat the counts of order 0".into());
    }
    Ok(())
}

fn options() -> Options {
    Options::parse(
        ABOUT,
        &[
            ("file", "", "the text; examples/data/moby_dick.txt if none"),
            ("n", "64", "bytes that the model sees at once"),
            ("k", "32", "rows that keys and values are compressed to"),
            ("dim", "64", "model width"),
            ("heads", "4", "heads"),
            ("depth", "2", "blocks"),
            ("sharing", "headwise", "who shares E and F: none, headwise, keyvalue or layerwise"),
            ("attention", "linformer", "linformer, local-global or exact"),
            BLOCK,
            SLOTS,
            TRAINED_LEN,
            ("batch", "32", "windows of a step"),
            ("steps", "600", "training steps"),
            ("seconds", "0", "processor seconds to train for, instead of steps"),
            (
                "evaluate-every",
                "0",
                "steps between two tests on the part that is held out; only at the end if 0",
            ),
            ("rate", "0.005", "the highest learning rate"),
            ("seed", "1", "seed of models and batches"),
            (
                "sweep",
                FLAG,
                "train one model for each k (16, 32, 64, 128) and sharing, and draw the curves",
            ),
            ("plot", "target/language_model.svg", "where the sweep's curves are drawn"),
        ],
    )
}

fn shape(options: &Options) -> Result<Shape, AnyError> {
    Ok(Shape {
        n: options.count("n"),
        k: options.count("k"),
        depth: options.count("depth"),
        sharing: match options.text("sharing") {
            "none" => Sharing::None,
            "headwise" => Sharing::Headwise,
            "keyvalue" => Sharing::KeyValue,
            "layerwise" => Sharing::Layerwise,
            other => return Err(format!("--sharing is none, headwise, keyvalue or layerwise, not `{other}`").into()),
        },
        kind: Kind::of(options)?,
    })
}

/// Trains a model; the bits it needs for a hidden byte of the part that was held out.
fn train(options: &Options, shape: &Shape, corpus: &Corpus) -> Result<(f64, Spent), AnyError> {
    let mut attention = shape.kind.config(options, shape.n, shape.k);
    if let AttentionKind::Linformer(linformer) = &mut attention {
        linformer.projection.sharing = Some(shape.sharing);
    }
    let budget = match options.number("seconds") {
        0 => Budget::Steps(options.count("steps") as u64),
        seconds => Budget::Seconds(seconds as f64),
    };
    let config = LanguageModelConfig::new(corpus::VOCABULARY, support::encoder(attention, shape.depth))
        .with_position(PositionKind::sinusoidal())
        .with_embedding_deviation(support::AS_LARGE_AS_POSITIONS);
    let mut model = LanguageModel::<f32>::new(&config, options.seed())?;
    let plan = Plan {
        name: match shape.kind {
            Kind::Linformer => format!("{:?}, k {}", shape.sharing, shape.k),
            kind => kind.name().into(),
        },
        budget,
        rate: options.positive("rate"),
        pass: TrainingPass::new(Step::new(options.seed(), 0)),
        label_smoothing: 0.0,
    };
    let questions: Vec<_> = corpus
        .questions()
        .map(|question| Ok(question?.1))
        .collect::<Result<_, AnyError>>()?;
    let mut report = |step, loss: f64| println!("step {step}: {:.3} bits a byte", loss / std::f64::consts::LN_2);
    let every = options.number("evaluate-every") as u64;
    let held_out = (every > 0).then(|| HeldOut {
        batches: &questions,
        every,
        report: &mut report,
    });
    let training = |step| corpus.training_batch(options.count("batch"), step);
    let spent = support::train_and_test(&mut model, &plan, training, held_out)?;
    Ok((corpus.bits(&model)?, spent))
}
