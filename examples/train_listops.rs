//! Learns ListOps, the Long Range Arena's task of nested list operations, with Linformer, and with local-global and exact attention in the same time.
//!
//! `cargo run --release --example train_listops`, and `-- --full` for sequences of 500 to 2,000 tokens.
//!
//! The task is that of Nangia and Bowman (arXiv 1804.06028) as the Long Range Arena (arXiv 2011.04006) uses it: the value, 0 to 9, of an
//! expression such as `[MAX 2 9 [MIN 4 7 ] 0 ]` with the operators minimum, maximum, median and sum modulo 10. The generator is our own.

mod support;

use std::process::ExitCode;

use linformer::training::{Step, TokenBatch};
use linformer::{Classifier, ClassifierConfig, FeedForwardConfig, LanguageModelConfig, Pooling, PositionKind, TrainingPass};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use support::{AnyError, BLOCK, Budget, FLAG, Kind, Options, Plan, SLOTS, Spent, TRAINED_LEN};

const ABOUT: &str = "Trains a small classifier of ListOps expressions with Linformer for some steps, then with local-global and with exact
attention for as many processor seconds as those took (or for as many steps), and reports all accuracies on expressions that were not trained on, beside that of the most frequent
answer. With --attention it trains only one. Fails where Linformer, or the only one, does not beat it by three points.";

/// Tokens: padding, ten digits, four operators, the closing bracket.
const VOCABULARY: usize = 16;
const OPERATOR: usize = 11;
const CLOSE: usize = 15;

/// How large the expressions are.
struct Size {
    shortest: usize,
    longest: usize,
    depth: usize,
    arguments: usize,
}

const SHORT: Size = Size {
    shortest: 16,
    longest: 128,
    depth: 4,
    arguments: 5,
};

/// The Long Range Arena's.
const FULL: Size = Size {
    shortest: 500,
    longest: 2000,
    depth: 10,
    arguments: 10,
};

fn main() -> ExitCode {
    support::run(example)
}

fn example() -> Result<(), AnyError> {
    let options = options();
    let size = if options.flag("full") { FULL } else { SHORT };
    let seed = options.seed();
    let batch = options.count("batch");
    let test = (0..options.count("test").div_ceil(batch) as u64)
        .map(|index| expressions(&size, batch, Step::new(seed ^ 0x7e57, index)))
        .collect::<Result<Vec<_>, _>>()?;
    let majority = support::majority(&test, 10);
    println!("the majority answer: {:.1} %", 100.0 * majority);
    let steps = Budget::Steps(options.count("steps") as u64);
    if options.given("attention") {
        options.refuse_without_effect(&["equal-steps"], "with --attention");
        let kind = Kind::of(&options)?;
        let (accuracy, _) = train(kind, steps, &size, &options, &test)?;
        return beats(kind, accuracy, majority);
    }
    let (accuracy, spent) = train(Kind::Linformer, steps, &size, &options, &test)?;
    let budget = if options.flag("equal-steps") {
        steps
    } else {
        Budget::Seconds(spent.seconds)
    };
    for kind in [Kind::LocalGlobal, Kind::Exact] {
        train(kind, budget, &size, &options, &test)?;
    }
    beats(Kind::Linformer, accuracy, majority)
}

fn beats(kind: Kind, accuracy: f64, majority: f64) -> Result<(), AnyError> {
    if accuracy <= majority + 0.03 {
        return Err(format!("{} did not beat the majority answer", kind.name()).into());
    }
    Ok(())
}

fn options() -> Options {
    Options::parse(
        ABOUT,
        &[
            (
                "full",
                FLAG,
                "the Long Range Arena's lengths, 500 to 2,000 tokens, instead of 16 to 128",
            ),
            ("attention", "", "only this one: linformer, local-global or exact; all if none"),
            ("steps", "300", "training steps of Linformer, or of the only one"),
            ("equal-steps", FLAG, "as many steps of the others, instead of the same time"),
            ("mean", FLAG, "pool by the mean of all positions instead of the first one"),
            ("ff-dim", "0", "width of the feed-forwards; twice the model's if 0"),
            BLOCK,
            SLOTS,
            TRAINED_LEN,
            ("batch", "32", "expressions of a step"),
            ("test", "1024", "expressions that are tested on"),
            ("k", "32", "rows that keys and values are compressed to"),
            ("dim", "64", "model width"),
            ("heads", "4", "heads"),
            ("depth", "2", "blocks"),
            ("rate", "0.002", "the highest learning rate"),
            ("seed", "1", "seed of models, batches and test"),
        ],
    )
}

/// Trains, tests and prints: the accuracy, and what it took.
fn train(kind: Kind, budget: Budget, size: &Size, options: &Options, test: &[TokenBatch]) -> Result<(f64, Spent), AnyError> {
    let attention = kind.config(options, size.longest, options.count("k"));
    let mut encoder = support::encoder(attention, options.count("depth"));
    if options.number("ff-dim") > 0 {
        encoder = encoder.with_feed_forward(FeedForwardConfig::new(options.number("ff-dim")));
    }
    let body = LanguageModelConfig::new(VOCABULARY, encoder)
        .with_position(PositionKind::sinusoidal())
        .with_embedding_deviation(support::AS_LARGE_AS_POSITIONS);
    let pooling = if options.flag("mean") { Pooling::Mean } else { Pooling::First };
    let config = ClassifierConfig::tokens(body, 10).with_pooling(pooling);
    let mut model = Classifier::<f32>::new(&config, options.seed())?;
    let plan = Plan {
        name: kind.name().into(),
        budget,
        rate: options.positive("rate"),
        pass: TrainingPass::new(Step::new(options.seed(), 0)),
        label_smoothing: 0.0,
    };
    let spent = support::train(&mut model, &plan, |step| expressions(size, options.count("batch"), step))?;
    let accuracy = linformer::training::accuracy(&model, test)?;
    println!(
        "{}: {:.1} % after {} steps, {:.0} processor seconds",
        kind.name(),
        100.0 * accuracy,
        spent.steps,
        spent.seconds
    );
    Ok((accuracy, spent))
}

/// The expressions of a step, all from one stream of numbers.
fn expressions(size: &Size, count: usize, step: Step) -> Result<TokenBatch, AnyError> {
    let mut generator = ChaCha8Rng::seed_from_u64(step.seed);
    generator.set_stream(step.index);
    let mut all = Vec::with_capacity(count);
    while all.len() < count {
        let mut tokens = Vec::new();
        let value = expression(size, 1, &mut generator, &mut tokens);
        if (size.shortest..=size.longest).contains(&tokens.len()) {
            all.push((tokens, value));
        }
    }
    support::batch(&all)
}

/// Writes an expression's tokens, and gives its value.
fn expression(size: &Size, depth: usize, generator: &mut ChaCha8Rng, tokens: &mut Vec<usize>) -> usize {
    if depth > 1 && (depth > size.depth || generator.random_bool(0.75)) {
        let digit = generator.random_range(0..10);
        tokens.push(1 + digit);
        return digit;
    }
    let operator = generator.random_range(0..4);
    tokens.push(OPERATOR + operator);
    let count = generator.random_range(2..=size.arguments);
    let mut values: Vec<usize> = (0..count).map(|_| expression(size, depth + 1, generator, tokens)).collect();
    tokens.push(CLOSE);
    values.sort_unstable();
    match operator {
        0 => values[0],
        1 => values[count - 1],
        2 => values[count / 2],
        _ => values.iter().sum::<usize>() % 10,
    }
}
