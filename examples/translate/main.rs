//! Learns to translate one sequence into another with an encoder–decoder: dates in words and digits of four languages into numbers.
//!
//! `cargo run --release --example translate` trains for less than a minute, `-- --full` for a few. `-- --pairs FILE` learns from a file of your own,
//! one pair a line, source and target parted by a tab.

mod dates;
mod pairs;
#[path = "../support/mod.rs"]
mod support;

use std::path::Path;
use std::process::ExitCode;

use indicatif::{ProgressBar, ProgressStyle};
use linformer::training::{PairBatch, Step};
use linformer::{
    AttentionConfig, CausalConfig, DecoderConfig, DecoderLanguageModelConfig, EncoderDecoder, EncoderDecoderConfig, FeedForwardConfig,
    LanguageModelConfig, LinformerConfig, PositionKind, TrainingPass, Translation, TranslationConfig,
};
use pairs::{Alphabet, Corpus, END, Pair, START, longest, nearest_neighbour};
use rand::SeedableRng;
use rand::seq::IndexedRandom;
use rand_chacha::ChaCha8Rng;
use support::{AnyError, Budget, FLAG, Options, Plan};

const ABOUT: &str = "Trains an encoder-decoder on pairs of texts, character by character, and prints the share of held-out sources whose target it
writes exactly. Without --pairs it makes up dates: `3 de marzo de 1987`, `dritter M\u{e4}rz neunzehnhundertsiebenundachtzig` or `Mar 3, 1987` becomes
`1987-03-03`. The decoder attends to its own past blockwise, and to the source through k rows. Fails where the model is not better than the target of
the most similar source it was trained on.";

/// Pairs that are translated at a time.
const AT_ONCE: usize = 64;

fn main() -> ExitCode {
    support::run(example)
}

fn example() -> Result<(), AnyError> {
    let options = options();
    let corpus = corpus(&options)?;
    let sides = Sides::of(&corpus);
    println!(
        "{} pairs to learn from, {} held out; sources of up to {} characters, targets of up to {}",
        corpus.training.len(),
        corpus.test.len(),
        sides.lengths.0,
        sides.lengths.1
    );
    let baseline = nearest_neighbour(&corpus);
    let mut model = EncoderDecoder::<f32>::new(&config(&options, &sides), options.seed())?;
    println!("{} parameters", linformer::Parameters::parameter_count(&model));
    let plan = Plan {
        name: "training".into(),
        budget: Budget::Seconds(times_full(&options, options.positive("seconds"))),
        rate: options.positive("rate"),
        pass: TrainingPass::new(Step::new(options.seed(), 0)).with_residual_dropout(options.share("dropout")),
        label_smoothing: 0.0,
    };
    let spent = support::train(&mut model, &plan, |step| {
        sides.batch(&drawn(&corpus.training, options.count("batch"), step))
    })?;
    println!("{} steps in {:.0} processor seconds", spent.steps, spent.seconds);
    let found = translate(&model, &options, &sides, &corpus.test)?;
    let right = corpus
        .test
        .iter()
        .zip(&found)
        .filter(|((_, target), found)| *target == **found)
        .count();
    for ((source, target), found) in corpus.test.iter().zip(&found).take(8) {
        println!("  {} {source} -> {found}", if target == found { "   " } else { "not" });
    }
    let accuracy = right as f64 / corpus.test.len() as f64;
    println!(
        "exactly right: {:.1} % of {} held-out pairs (the most similar source's target: {:.1} %)",
        100.0 * accuracy,
        corpus.test.len(),
        100.0 * baseline
    );
    if accuracy <= baseline {
        return Err("the model is not better than the most similar source's target".into());
    }
    Ok(())
}

fn options() -> Options {
    Options::parse(
        ABOUT,
        &[
            ("pairs", "", "a file of lines `source TAB target`; made-up dates if none"),
            ("full", FLAG, "eight times the time and the made-up pairs"),
            ("seconds", "40", "processor seconds of training"),
            ("count", "8000", "made-up pairs to learn from"),
            ("test", "400", "held-out pairs, at most a fifth of a file"),
            ("dim", "64", "model width"),
            ("k", "32", "rows that a source is compressed to"),
            ("depth", "2", "blocks on either side"),
            ("exact", FLAG, "exact attention to the source and in the decoder's past"),
            ("batch", "32", "pairs of a step"),
            ("rate", "0.004", "the highest learning rate"),
            ("dropout", "0", "of the residual stream"),
            ("beams", "4", "beginnings of a target that are followed at a time"),
            ("seed", "1", "seed of model, pairs and batches"),
        ],
    )
}

fn times_full(options: &Options, seconds: f64) -> f64 {
    if options.flag("full") { 8.0 * seconds } else { seconds }
}

fn corpus(options: &Options) -> Result<Corpus, AnyError> {
    let test = options.count("test");
    if options.given("pairs") {
        return Corpus::read(Path::new(options.text("pairs")), test, options.seed());
    }
    let count = options.count("count") * if options.flag("full") { 8 } else { 1 };
    Ok(Corpus::of_dates(count, test, options.seed()))
}

/// The alphabets and longest texts of sources and of targets.
struct Sides {
    alphabets: (Alphabet, Alphabet),
    lengths: (usize, usize),
}

impl Sides {
    fn of(corpus: &Corpus) -> Self {
        let (sources, targets) = (
            || corpus.training.iter().map(|pair| &pair.0),
            || corpus.training.iter().map(|pair| &pair.1),
        );
        Self {
            alphabets: (Alphabet::of(sources()), Alphabet::of(targets())),
            lengths: (longest(sources()), longest(targets())),
        }
    }

    fn source(&self, (source, _): &Pair) -> Vec<usize> {
        self.alphabets.0.tokens(source, self.lengths.0)
    }

    fn batch(&self, pairs: &[&Pair]) -> Result<PairBatch, AnyError> {
        let tokens: Vec<_> = pairs
            .iter()
            .map(|pair| (self.source(pair), self.alphabets.1.tokens(&pair.1, self.lengths.1)))
            .collect();
        Ok(PairBatch::from_sequences(&tokens, START, END)?)
    }
}

fn drawn(pairs: &[Pair], count: usize, step: Step) -> Vec<&Pair> {
    let mut generator = ChaCha8Rng::seed_from_u64(step.seed);
    generator.set_stream(step.index + 1);
    (0..count).filter_map(|_| pairs.choose(&mut generator)).collect()
}

fn config(options: &Options, sides: &Sides) -> EncoderDecoderConfig {
    let (dim, depth) = (options.count("dim"), options.count("depth"));
    let heads = 4;
    let ((source_len, target_len), feed_forward) = (sides.lengths, Some(FeedForwardConfig::new(2 * dim)));
    let compressed = LinformerConfig::new(dim, heads, source_len, options.count("k"));
    let encoder = support::encoder(compressed.clone(), depth);
    let decoder = if options.flag("exact") {
        DecoderConfig::new(
            AttentionConfig::new(dim, heads).with_causal(true),
            AttentionConfig::new(dim, heads),
            depth,
        )
    } else {
        DecoderConfig::new(CausalConfig::new(dim, heads, target_len + 1, 2), compressed, depth)
    };
    let source = LanguageModelConfig::new(sides.alphabets.0.size(), encoder).with_position(PositionKind::Learned { max_len: source_len });
    let target = DecoderLanguageModelConfig::new(sides.alphabets.1.size(), decoder.with_feed_forward(feed_forward))
        .with_position(PositionKind::Learned { max_len: target_len + 1 });
    EncoderDecoderConfig::new(source, target)
}

/// The best target that was found for each source.
fn translate(model: &EncoderDecoder<f32>, options: &Options, sides: &Sides, pairs: &[Pair]) -> Result<Vec<String>, AnyError> {
    let config = TranslationConfig::new(START, END, sides.lengths.1 + 1).with_beams(options.count("beams"));
    let style = ProgressStyle::with_template("{msg:24} {bar:30} {percent:>3} %  {elapsed}")?;
    let bar = ProgressBar::new(pairs.len() as u64).with_style(style).with_message("translating");
    let mut found = Vec::new();
    for part in pairs.chunks(AT_ONCE) {
        let sources: Vec<Vec<usize>> = part.iter().map(|pair| sides.source(pair)).collect();
        let best = |found: Vec<Translation>| {
            found
                .into_iter()
                .next()
                .map_or_else(String::new, |best| sides.alphabets.1.text(&best.tokens))
        };
        found.extend(model.translate(&sources, &config)?.into_iter().map(best));
        bar.inc(part.len() as u64);
    }
    bar.finish();
    Ok(found)
}
