//! Trains causal models of bytes on a text with local-global, blockwise and exact attention, each for the same time, and continues a prompt.
//!
//! `cargo run --release --example generate`, and `-- --text FILE --seconds 60` for a text of your own

mod support;

use std::io::Write;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use linformer::ndarray::Array2;
use linformer::training::{AdamW, AdamWConfig, CrossEntropy, Optimizer, Schedule, Step, TokenBatch, Trainable};
use linformer::{
    AttentionConfig, AttentionKind, CausalConfig, ContextOverflow, EncoderConfig, GenerationConfig, LanguageModel, LanguageModelConfig,
    LocalGlobalConfig, PositionKind, TrainingPass,
};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use support::{AnyError, BLOCK, Clock, Options, novel};

const ABOUT: &str =
    "Trains a model of bytes with local-global causal attention on a text, then models of the same size with blockwise and with exact
causal attention, each for the same time or the same steps; reports the bits per byte of all on text they were not trained on, and continues a
prompt with the first.";

/// Byte values.
const VOCABULARY: usize = 256;

/// A text, cut into what is trained on and what is not.
struct Text {
    training: Vec<u8>,
    test: Vec<u8>,
}

fn main() -> ExitCode {
    support::run(example)
}

fn example() -> Result<(), AnyError> {
    let options = Options::parse(
        ABOUT,
        &[
            ("text", "", "a file to learn from; examples/data/moby_dick.txt if none"),
            ("seconds", "12", "training time of each model"),
            ("steps", "0", "training steps of each model, instead of seconds"),
            BLOCK,
            ("slots", "8", "segments of each length that local-global attention summarizes"),
            ("length", "256", "bytes of a sequence"),
            ("batch", "8", "sequences of a step"),
            ("dim", "96", "model width"),
            ("depth", "2", "blocks"),
            ("seed", "1", "seed of models, batches and text"),
            ("prompt", "The ship ", "what to go on from"),
            ("tokens", "300", "bytes to write"),
            ("temperature", "70", "hundredths; 0 always takes the likeliest"),
        ],
    );
    let text = read(&options)?;
    let order_0 = order_0(&text);
    println!(
        "{} bytes to learn from, {} to test on; their frequencies alone: {order_0:.3} bits per byte",
        text.training.len(),
        text.test.len()
    );
    let (dim, length) = (options.number("dim"), options.number("length"));
    let local_global = LocalGlobalConfig::new(dim, 4)
        .with_causal(true)
        .with_block(options.count("block"))
        .with_slots(options.number("slots"));
    let blockwise = CausalConfig::new(dim, 4, length, 4);
    let exact = AttentionConfig::new(dim, 4).with_causal(true);
    let (model, bits) = train("local-global", local_global.into(), &text, &options)?;
    let (_, blockwise_bits) = train("blockwise", blockwise.into(), &text, &options)?;
    let (_, exact_bits) = train("exact", exact.into(), &text, &options)?;
    println!("bits per byte: {bits:.3} local-global, {blockwise_bits:.3} blockwise, {exact_bits:.3} exact, {order_0:.3} by frequencies\n");
    write_on(&model, &options)?;
    if bits >= order_0 {
        return Err("the model did not beat the frequencies of the bytes".into());
    }
    Ok(())
}

fn read(options: &Options) -> Result<Text, AnyError> {
    let bytes = match options.text("text") {
        "" => novel()?,
        file => std::fs::read(file)?,
    };
    let length = options.number("length");
    if length < 2 || bytes.len() < 20 * length {
        return Err(format!("{} bytes are too few for sequences of {length}", bytes.len()).into());
    }
    let test = (bytes.len() / 10).min(16 * length);
    let (training, test) = bytes.split_at(bytes.len() - test);
    Ok(Text {
        training: training.to_vec(),
        test: test.to_vec(),
    })
}

/// Trains for the given time; the model and its bits per byte on the test.
fn train(name: &'static str, attention: AttentionKind, text: &Text, options: &Options) -> Result<(LanguageModel<f32>, f64), AnyError> {
    let (length, seed) = (options.number("length"), u64::try_from(options.number("seed"))?);
    let config = LanguageModelConfig::new(VOCABULARY, EncoderConfig::new(attention, options.number("depth")))
        .with_position(PositionKind::Learned { max_len: length });
    let mut model = LanguageModel::<f32>::new(&config, seed)?;
    let mut optimizer = AdamW::new(&model, AdamWConfig::new())?;
    let schedule = Schedule::constant(3e-3).with_warmup(20);
    let time = Duration::from_secs(options.number("seconds") as u64);
    let most = options.number("steps") as u64;
    let bar = ProgressBar::new(if most > 0 { most } else { time.as_secs() }).with_message(name);
    bar.set_style(ProgressStyle::with_template(
        "{msg:12} {bar:30} {pos}/{len}  {prefix} bits per byte",
    )?);
    let (start, clock) = (Instant::now(), Clock::start());
    let (mut steps, mut average) = (0, f64::NAN);
    while if most > 0 { steps < most } else { start.elapsed() < time } {
        let tokens = batch(&text.training, options.number("batch"), length, seed, steps);
        let targets = model.next_tokens(&tokens, None)?;
        let pass = TrainingPass::new(Step::new(seed, steps));
        let (loss, mut gradients) = model.loss_and_gradients(&TokenBatch::new(&tokens, &targets), &CrossEntropy::new(), &pass)?;
        optimizer.clip_gradient_norm(&mut gradients, 1.0)?;
        optimizer.step(&mut model, &gradients, schedule.at(steps))?;
        let bits = loss / std::f64::consts::LN_2;
        average = if average.is_nan() { bits } else { 0.95 * average + 0.05 * bits };
        bar.set_position(if most > 0 { steps } else { start.elapsed().as_secs() });
        bar.set_prefix(format!("{average:.2}"));
        steps += 1;
    }
    bar.finish();
    let seconds = clock.seconds();
    let bits = bits_per_byte(&model, &text.test, length)?;
    println!("{name}: {bits:.3} bits per byte after {steps} steps, {seconds:.0} processor seconds");
    Ok((model, bits))
}

/// Sequences from places of the text that are drawn for step `index`.
fn batch(text: &[u8], count: usize, length: usize, seed: u64, index: u64) -> Array2<usize> {
    let mut generator = ChaCha8Rng::seed_from_u64(seed);
    generator.set_stream(index);
    let starts: Vec<usize> = (0..count).map(|_| generator.random_range(0..=text.len() - length)).collect();
    Array2::from_shape_fn((count, length), |(item, position)| text[starts[item] + position].into())
}

/// The cross-entropy of the test, sequence after sequence, without the first byte of each.
fn bits_per_byte(model: &LanguageModel<f32>, test: &[u8], length: usize) -> Result<f64, AnyError> {
    let (mut sum, mut count) = (0.0, 0.0);
    for part in test.chunks_exact(length) {
        let tokens = Array2::from_shape_fn((1, length), |(_, position)| part[position].into());
        let scores = model.forward(&tokens, None)?.index_axis_move(linformer::ndarray::Axis(0), 0);
        let targets = model.next_tokens(&tokens, None)?;
        let predicted = (length - 1) as f64;
        sum += CrossEntropy::new().loss(&scores, &targets)? * predicted;
        count += predicted;
    }
    Ok(sum / count / std::f64::consts::LN_2)
}

/// The bits per byte of the test by how often each byte is in the training text.
fn order_0(text: &Text) -> f64 {
    let mut counts = [1.0_f64; VOCABULARY];
    for &byte in &text.training {
        counts[usize::from(byte)] += 1.0;
    }
    let total: f64 = counts.iter().sum();
    let bits: f64 = text.test.iter().map(|&byte| -(counts[usize::from(byte)] / total).log2()).sum();
    bits / text.test.len() as f64
}

/// Writes on from the prompt, each byte as soon as it is there.
fn write_on(model: &LanguageModel<f32>, options: &Options) -> Result<(), AnyError> {
    let temperature = options.number("temperature") as f64 / 100.0;
    let config = GenerationConfig::new(options.number("tokens"))
        .with_temperature(temperature)
        .with_top_p((temperature > 0.0).then_some(0.95))
        .with_seed(u64::try_from(options.number("seed"))?)
        .with_overflow(ContextOverflow::Slide);
    let prompt: Vec<usize> = options.text("prompt").bytes().map(usize::from).collect();
    let mut terminal = std::io::stdout().lock();
    write!(terminal, "{}", options.text("prompt"))?;
    for token in model.generate_one(&prompt, &config)? {
        terminal.write_all(&[u8::try_from(token?)?])?;
        terminal.flush()?;
    }
    writeln!(terminal)?;
    Ok(())
}
