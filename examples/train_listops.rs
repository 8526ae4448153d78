//! Learns ListOps, the Long Range Arena's task of nested list operations, with Linformer and with exact attention in the same time.
//!
//! `cargo run --release --example train_listops`, and `-- --full 1` for sequences of 500 to 2,000 tokens
//!
//! The task is that of Nangia and Bowman (arXiv 1804.06028) as the Long Range Arena (arXiv 2011.04006) uses it: the value, 0 to 9, of an
//! expression such as `[MAX 2 9 [MIN 4 7 ] 0 ]` with the operators minimum, maximum, median and sum modulo 10. The generator is our own.

mod support;

use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use linformer::ndarray::Array2;
use linformer::training::{AdamW, AdamWConfig, CrossEntropy, Optimizer, Schedule, Step};
use linformer::{
    AttentionConfig, AttentionKind, Classifier, ClassifierConfig, EncoderConfig, FeedForwardConfig, LanguageModelConfig, LinformerConfig,
    PaddingMask, Pooling, PositionKind, SinusoidLayout, TrainingPass,
};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use support::Options;

type AnyError = Box<dyn std::error::Error>;

const ABOUT: &str = "Trains a small classifier of ListOps expressions with Linformer, then with exact attention for the same time, and
reports both accuracies on expressions that were not trained on, beside that of the commonest answer.";

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

struct Expressions {
    tokens: Array2<usize>,
    mask: PaddingMask,
    values: Vec<Option<usize>>,
}

fn main() -> Result<(), AnyError> {
    let options = Options::parse(
        ABOUT,
        &[
            ("seconds", "20", "training time of each model"),
            ("full", "0", "1 for the Long Range Arena's lengths, 500 to 2,000 tokens"),
            ("batch", "32", "expressions of a step"),
            ("seed", "1", "seed of models, batches and test"),
        ],
    );
    let size = if options.number("full") == 1 {
        Size {
            shortest: 500,
            longest: 2000,
            depth: 10,
            arguments: 10,
        }
    } else {
        Size {
            shortest: 4,
            longest: 32,
            depth: 3,
            arguments: 4,
        }
    };
    let seed = u64::try_from(options.number("seed"))?;
    let test: Vec<Expressions> = (0..16)
        .map(|index| expressions(&size, 32, seed ^ 0x7e57, index))
        .collect::<Result<_, _>>()?;
    let majority = majority(&test);
    println!("the commonest answer is right in {:.1} %", 100.0 * majority);
    let linformer = LinformerConfig::new(64, 4, size.longest, size.longest / 2);
    let exact = AttentionConfig::new(64, 4);
    let mut results = Vec::new();
    for (name, attention) in [
        ("Linformer", AttentionKind::from(linformer)),
        ("exact attention", AttentionKind::from(exact)),
    ] {
        let (accuracy, steps) = train(name, attention, &size, &options, seed, &test)?;
        println!("{name}: {:.1} % after {steps} steps", 100.0 * accuracy);
        results.push(accuracy);
    }
    if results[0] <= majority + 0.03 {
        return Err("Linformer did not beat the commonest answer".into());
    }
    Ok(())
}

/// Trains for the given time; the accuracy on the test, and the number of steps.
fn train(
    name: &'static str,
    attention: AttentionKind,
    size: &Size,
    options: &Options,
    seed: u64,
    test: &[Expressions],
) -> Result<(f64, u64), AnyError> {
    let encoder = EncoderConfig::new(attention, 2).with_feed_forward(Some(FeedForwardConfig::new(128)));
    let position = PositionKind::Sinusoidal {
        base: 10_000.0,
        layout: SinusoidLayout::Interleaved,
        stored: false,
    };
    let body = LanguageModelConfig::new(VOCABULARY, encoder).with_position(position);
    let mut model = Classifier::<f32>::new(&ClassifierConfig::tokens(body, 10).with_pooling(Pooling::First), seed)?;
    let mut optimizer = AdamW::new(&model, AdamWConfig::new())?;
    let schedule = Schedule::constant(2e-3).with_warmup(100);
    let time = Duration::from_secs(options.number("seconds") as u64);
    let bar = ProgressBar::new(time.as_secs()).with_message(name);
    bar.set_style(ProgressStyle::with_template("{msg:16} {bar:30} {pos}/{len} s  loss {prefix}")?);
    let (start, mut steps, mut average) = (Instant::now(), 0, f64::NAN);
    while start.elapsed() < time {
        let batch = expressions(size, options.number("batch"), seed, steps)?;
        let pass = TrainingPass::new(Step::new(seed, steps));
        let loss = CrossEntropy::new();
        let (loss, mut gradients) = model.loss_and_gradients(&batch.tokens, &batch.values, &loss, Some(&batch.mask), &pass)?;
        optimizer.clip_gradient_norm(&mut gradients, 1.0)?;
        optimizer.step(&mut model, &gradients, schedule.at(steps))?;
        average = if average.is_nan() { loss } else { 0.98 * average + 0.02 * loss };
        bar.set_position(start.elapsed().as_secs());
        bar.set_prefix(format!("{average:.3}"));
        steps += 1;
    }
    bar.finish();
    Ok((accuracy(&model, test)?, steps))
}

fn accuracy(model: &Classifier<f32>, test: &[Expressions]) -> Result<f64, AnyError> {
    let (mut right, mut all) = (0, 0);
    for batch in test {
        let scores = model.forward(&batch.tokens, Some(&batch.mask))?;
        for (scores, value) in scores.outer_iter().zip(&batch.values) {
            let best = (0..scores.len()).max_by(|&a, &b| scores[a].total_cmp(&scores[b]));
            right += usize::from(best == *value);
            all += 1;
        }
    }
    Ok(f64::from(u32::try_from(right)?) / f64::from(u32::try_from(all)?))
}

/// The share of the commonest value.
fn majority(test: &[Expressions]) -> f64 {
    let mut counts = [0_u32; 10];
    for value in test.iter().flat_map(|batch| batch.values.iter().flatten()) {
        counts[*value] += 1;
    }
    f64::from(*counts.iter().max().unwrap_or(&0)) / f64::from(counts.iter().sum::<u32>())
}

/// The expressions of batch `index`, all from one stream of numbers.
fn expressions(size: &Size, count: usize, seed: u64, index: u64) -> Result<Expressions, AnyError> {
    let mut generator = ChaCha8Rng::seed_from_u64(seed);
    generator.set_stream(index);
    let mut all = Vec::with_capacity(count);
    while all.len() < count {
        let mut tokens = Vec::new();
        let value = expression(size, 1, &mut generator, &mut tokens);
        if (size.shortest..=size.longest).contains(&tokens.len()) {
            all.push((tokens, value));
        }
    }
    let lengths: Vec<usize> = all.iter().map(|(tokens, _)| tokens.len()).collect();
    let longest = lengths.iter().copied().max().unwrap_or(0);
    Ok(Expressions {
        tokens: Array2::from_shape_fn((count, longest), |(item, position)| all[item].0.get(position).copied().unwrap_or(0)),
        mask: PaddingMask::from_lengths(&lengths, longest)?,
        values: all.iter().map(|&(_, value)| Some(value)).collect(),
    })
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
