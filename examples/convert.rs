//! Turns a model with exact attention into one of linear cost without training it: what that costs in quality, by block and slots.
//!
//! `cargo run --release --features analysis --example convert`

#[path = "train_language_model/baseline.rs"]
mod baseline;
#[path = "train_language_model/corpus.rs"]
#[allow(dead_code)] // this example has no use for its size
mod corpus;
mod support;

use std::process::ExitCode;

use corpus::Corpus;
use linformer::analysis::{Bound, Fidelity, fidelity, plan};
use linformer::ndarray::{Array2, Array3, Axis, stack};
use linformer::training::Step;
use linformer::{
    AttentionConfig, LanguageModel, LanguageModelConfig, LocalGlobalConfig, PaddingMask, Parameters, PositionKind, ProjectionConfig,
    ProjectionKind, TrainingPass,
};
use support::{AnyError, Budget, Options, Plan, Spent};

const ABOUT: &str =
    "Trains a masked model of the bytes of a text with exact attention, first on short windows and then on long ones. Then it converts
the model, without training it further: to a Linformer that pools keys and values, and to local-global attention, with u measured on a few windows
of the training part. Prints, for windows that were held out, the bits that a hidden byte costs, and how near the outputs and each layer's attention
are to the exact ones. Fails where no local-global form is nearer than the Linformer.";

/// Of a language model.
type Texts = Vec<(Array2<usize>, Option<PaddingMask>)>;
/// Of its encoder.
type Inputs = Vec<(Array3<f32>, Option<PaddingMask>)>;

fn main() -> ExitCode {
    support::run(example)
}

fn example() -> Result<(), AnyError> {
    let options = options();
    let text = match options.text("file") {
        "" => support::novel()?,
        file => std::fs::read(file).map_err(|error| format!("{file}: {error}"))?,
    };
    let corpus = Corpus::new(&text, options.count("n"))?;
    let (exact, spent) = trained(&options, &text, &corpus)?;
    println!(
        "exact attention, n = {}, {} steps, {:.0} processor seconds\ncounts of order 0: {:.3} bits a byte\n",
        options.count("n"),
        spent.steps,
        spent.seconds,
        corpus.bits_of_counts(0)?
    );
    let calibration = calibration(&options, &corpus)?;
    let held_out = inputs(&exact, &held_out(&options, &corpus)?)?;

    println!(
        "| attention | rows | bits a byte | error of the output | the same with u = 0 | mean cosine | least cosine | layer by layer |"
    );
    println!("|---|---:|---:|---:|---:|---:|---:|---|");
    println!("| exact | {} | {:.3} | 0 | | 1 | 1 | |", options.count("n"), corpus.bits(&exact)?);
    let comparison = Comparison {
        exact: &exact,
        held_out: &held_out,
        corpus: &corpus,
    };
    let pooling = ProjectionConfig::new(ProjectionKind::MeanPooling);
    let k = options.count("k");
    let linformer = LanguageModel::from_exact(&exact, options.count("n"), k, pooling, 0)?;
    let pooled = comparison.row(&format!("Linformer, pooled, k = {k}"), k, &linformer)?;
    let mut best = f64::INFINITY;
    for block in sizes(&options, "block")? {
        for slots in sizes(&options, "slots")? {
            let form = form(&exact).with_block(block).with_slots(slots);
            let converted = exact.to_local_global(&form, if slots > 0 { &calibration } else { &[] })?;
            let name = format!("local-global, block {block}, {slots} slots");
            best = comparison.row(&name, 3 * block + slots, &converted)?.min(best);
        }
    }

    let bound = Bound::Error(options.positive("error"));
    println!("\nthe cheapest form within {bound:?}:");
    println!("{}", plan(exact.encoder(), &inputs(&exact, &calibration)?, &held_out, bound)?);
    if best >= pooled {
        return Err("no local-global form is nearer to exact attention than the pooled Linformer".into());
    }
    Ok(())
}

fn options() -> Options {
    Options::parse(
        ABOUT,
        &[
            ("file", "", "the text; examples/data/moby_dick.txt if none"),
            ("n", "128", "bytes of a window"),
            ("dim", "64", "model width"),
            ("heads", "4", "heads"),
            ("depth", "2", "blocks"),
            ("short-n", "64", "bytes of a window in the first steps"),
            ("short-batch", "32", "short windows of a step"),
            ("short-steps", "700", "training steps on short windows"),
            ("batch", "8", "windows of a step"),
            ("steps", "50", "training steps on windows of n bytes"),
            ("rate", "0.005", "the highest learning rate; a fifth of it on windows of n bytes"),
            ("calibration", "12", "windows that u is measured on"),
            ("held-out", "32", "windows that outputs are compared on"),
            ("k", "32", "rows that the Linformer pools to"),
            ("block", "8,16", "blocks of the local-global form, with commas between them"),
            ("slots", "0,8,16", "its slots"),
            ("error", "0.15", "the error of outputs that a form is looked for within"),
            ("seed", "1", "seed of the model and its batches"),
        ],
    )
}

fn sizes(options: &Options, name: &str) -> Result<Vec<usize>, AnyError> {
    let text = options.text(name);
    let sizes = text.split(',').map(|size| size.trim().parse::<usize>()).collect::<Result<_, _>>();
    sizes.map_err(|_| format!("--{name} must be whole numbers with commas between them, not `{text}`").into())
}

fn form(model: &LanguageModel<f32>) -> LocalGlobalConfig {
    LocalGlobalConfig::of(model.encoder().config().attention.attention())
}

/// The exact model: guessing a byte is mostly learned from its neighbors, and so in short windows.
fn trained(options: &Options, text: &[u8], corpus: &Corpus) -> Result<(LanguageModel<f32>, Spent), AnyError> {
    let attention = AttentionConfig::new(options.count("dim"), options.count("heads"));
    let config = LanguageModelConfig::new(corpus::VOCABULARY, support::encoder(attention, options.count("depth")))
        .with_position(PositionKind::sinusoidal())
        .with_embedding_deviation(support::AS_LARGE_AS_POSITIONS);
    let mut model = LanguageModel::<f32>::new(&config, options.seed())?;
    let mut all = Spent { steps: 0, seconds: 0.0 };
    let short = Corpus::new(text, options.count("short-n"))?;
    let stages = [
        (&short, options.count("short-batch"), options.count("short-steps"), 1.0),
        (corpus, options.count("batch"), options.count("steps"), 0.2),
    ];
    for (corpus, batch, steps, share) in stages {
        let plan = Plan {
            name: format!("{steps} steps of {batch} windows"),
            budget: Budget::Steps(steps as u64),
            rate: options.positive("rate") * share,
            pass: TrainingPass::new(Step::new(options.seed(), 0)),
            label_smoothing: 0.0,
        };
        let spent = support::train(&mut model, &plan, |step| corpus.training_batch(batch, step))?;
        all.steps += spent.steps;
        all.seconds += spent.seconds;
    }
    Ok((model, all))
}

/// Windows of the training part.
fn calibration(options: &Options, corpus: &Corpus) -> Result<Texts, AnyError> {
    let windows = corpus.training_batch(options.count("calibration"), Step::new(!options.seed(), 0))?;
    Ok(vec![(windows.tokens, None)])
}

/// Windows that the model was not trained on.
fn held_out(options: &Options, corpus: &Corpus) -> Result<Texts, AnyError> {
    let (mut texts, mut missing) = (Texts::new(), options.count("held-out"));
    for question in corpus.questions() {
        let (_, windows) = question?;
        let tokens: Vec<_> = windows.tokens.outer_iter().take(missing).collect();
        missing -= tokens.len();
        if tokens.is_empty() {
            break;
        }
        texts.push((stack(Axis(0), &tokens)?, None));
    }
    Ok(texts)
}

fn inputs(model: &LanguageModel<f32>, texts: &Texts) -> Result<Inputs, AnyError> {
    let of = |(tokens, mask): &(Array2<usize>, Option<PaddingMask>)| Ok((model.encoder_input(tokens, mask.as_ref())?, mask.clone()));
    texts.iter().map(of).collect()
}

/// What converted models are measured by.
struct Comparison<'m> {
    exact: &'m LanguageModel<f32>,
    held_out: &'m Inputs,
    corpus: &'m Corpus,
}

impl Comparison<'_> {
    /// Prints the row of a converted model: the error of its outputs.
    fn row(&self, name: &str, rows: usize, converted: &LanguageModel<f32>) -> Result<f64, AnyError> {
        let Fidelity { layers, output, .. } = self.fidelity(converted)?;
        let mut at_zero = converted.clone();
        let mut has_query = false;
        at_zero.visit_mut("", &mut |name, _, mut tensor| {
            if name.ends_with("pooling_query") {
                tensor.fill(0.0);
                has_query = true;
            }
        });
        let at_zero = if has_query {
            format!("{:.3}", self.fidelity(&at_zero)?.output.error)
        } else {
            String::new()
        };
        let layers: Vec<String> = layers.iter().map(|error| format!("{error:.3}")).collect();
        println!(
            "| {name} | {rows} | {:.3} | {:.3} | {at_zero} | {:.4} | {:.4} | {} |",
            self.corpus.bits(converted)?,
            output.error,
            output.mean_cosine,
            output.least_cosine,
            layers.join(", ")
        );
        Ok(output.error)
    }

    fn fidelity(&self, converted: &LanguageModel<f32>) -> Result<Fidelity, AnyError> {
        Ok(fidelity(self.exact.encoder(), converted.encoder(), self.held_out)?)
    }
}
