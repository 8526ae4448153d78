//! How many directions do the attention maps of a model have on a text? It says how large k should be.
//!
//! `cargo run --release --features analysis --example spectrum`, or `-- --model FILE --file TEXT` with a byte-level model of your own.

#[path = "../train_language_model/baseline.rs"]
#[allow(dead_code)] // this example has no use for counts
mod baseline;
#[path = "../train_language_model/corpus.rs"]
#[allow(dead_code)]
mod corpus;
mod draw;
#[path = "../support/mod.rs"]
mod support;

use std::process::ExitCode;

use corpus::Corpus;
use draw::{Curve, HeatMap};
use linformer::analysis::{Map, Spectrum, attention_map};
use linformer::checkpoint::Checkpoint;
use linformer::ndarray::{Array2, Array4, s};
use linformer::training::Step;
use linformer::{Attention, AttentionConfig, LanguageModel, LanguageModelConfig, PositionKind, TrainingPass};
use support::{AnyError, Budget, Options, Plan};

const ABOUT: &str = "Draws what each layer of a byte-level language model looks at in a text, and the cumulative singular values of its
exact attention maps (the paper's Figure 1). Where the curves rise early, a small k loses little. Without --model it first trains a small
model with exact attention on the text.";

/// The share of all singular values that is asked for.
const SHARE: f64 = 0.9;

fn main() -> ExitCode {
    support::run(example)
}

fn example() -> Result<(), AnyError> {
    let options = options();
    let text = match options.text("file") {
        "" => support::novel()?,
        file => std::fs::read(file).map_err(|error| format!("{file}: {error}"))?,
    };
    let n = options.count("n");
    let model = match options.text("model") {
        "" => trained(&options, &text, n)?,
        file => LanguageModel::<f32>::load(file)?,
    };
    if model.config().vocab_size < 256 {
        return Err(format!("the model has {} tokens; bytes take 256", model.config().vocab_size).into());
    }
    let start = text.len() / 2;
    let Some(window) = text.get(start..start + n) else {
        return Err(format!("a text of {} bytes has no {n} after its middle", text.len()).into());
    };
    let tokens = Array2::from_shape_fn((1, n), |(_, position)| usize::from(window[position]));
    let inputs = model.attention_inputs(&tokens, None)?;

    let (mut curves, mut maps) = (Vec::new(), Vec::new());
    println!("singular values that make up {:.0} % of all, of {n}:", 100.0 * SHARE);
    println!("| layer | fewest | mean over heads | most |\n|---:|---:|---:|---:|");
    for (layer, input) in inputs.iter().enumerate() {
        let encoder = model.encoder();
        let exact = attention_map(encoder, layer, Map::Exact, input, None)?;
        curves.push(spectra(layer, &exact)?);
        maps.push(HeatMap::of_first_head(format!("layer {layer}, head 0: P"), &exact));
        if matches!(encoder.blocks()[layer].attention(), Attention::Linformer(_)) {
            let compressed = attention_map(encoder, layer, Map::Compressed, input, None)?;
            maps.push(HeatMap::of_first_head(format!("layer {layer}, head 0: P\u{304}"), &compressed));
            let effective = attention_map(encoder, layer, Map::Effective, input, None)?;
            maps.push(HeatMap::of_first_head(format!("layer {layer}, head 0: P\u{304}·F"), &effective));
        }
    }
    draw::curves(options.text("curves"), &curves)?;
    draw::heat_maps(options.text("maps"), &maps)?;
    println!("curves: {}\nmaps: {}", options.text("curves"), options.text("maps"));
    Ok(())
}

fn options() -> Options {
    Options::parse(
        ABOUT,
        &[
            (
                "model",
                "",
                "a language model of bytes that this crate saved; one is trained if none",
            ),
            ("file", "", "the text; examples/data/moby_dick.txt if none"),
            ("n", "128", "bytes that the maps are of"),
            ("steps", "300", "training steps, where a model is trained"),
            ("seed", "1", "seed of model and batches"),
            ("curves", "target/spectrum.svg", "where the curves are drawn"),
            ("maps", "target/attention_maps.svg", "where the maps are drawn"),
        ],
    )
}

/// A small model with exact attention, trained to guess hidden bytes.
fn trained(options: &Options, text: &[u8], n: usize) -> Result<LanguageModel<f32>, AnyError> {
    const WINDOWS: usize = 16;
    let corpus = Corpus::new(text, n)?;
    let encoder = support::encoder(AttentionConfig::new(64, 4), 2);
    let config = LanguageModelConfig::new(corpus::VOCABULARY, encoder)
        .with_position(PositionKind::sinusoidal())
        .with_embedding_deviation(support::AS_LARGE_AS_POSITIONS);
    let mut model = LanguageModel::<f32>::new(&config, options.seed())?;
    let plan = Plan {
        name: "a model to look at".into(),
        budget: Budget::Steps(options.count("steps") as u64),
        rate: 0.005,
        pass: TrainingPass::new(Step::new(options.seed(), 0)),
        label_smoothing: 0.0,
    };
    support::train(&mut model, &plan, |step| corpus.training_batch(WINDOWS, step))?;
    println!("it needs {:.2} bits for a hidden byte", corpus.bits(&model)?);
    Ok(model)
}

/// A row of the table, and the mean curve of a layer's heads.
fn spectra(layer: usize, map: &Array4<f32>) -> Result<Curve, AnyError> {
    let (_, heads, _, n) = map.dim();
    let mut sums = vec![0.0; n];
    let mut ranks = Vec::new();
    for head in 0..heads {
        let spectrum = Spectrum::of(map.slice(s![0, head, .., ..]))?;
        ranks.push(spectrum.rank_for(SHARE)?);
        sums.iter_mut().zip(spectrum.cumulative()).for_each(|(sum, value)| *sum += value);
    }
    let (fewest, most) = (ranks.iter().min().unwrap_or(&0), ranks.iter().max().unwrap_or(&0));
    let mean = ranks.iter().sum::<usize>() as f64 / heads as f64;
    println!("| {layer} | {fewest} | {mean:.0} | {most} |");
    let points = sums.iter().enumerate().map(|(index, sum)| ((index + 1) as f64, sum / heads as f64));
    Ok(Curve {
        name: format!("layer {layer}"),
        points: points.collect(),
    })
}
