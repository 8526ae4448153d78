//! Converts an encoder to linear time, measures how near its vectors stay to the exact ones, and trains it to come nearer.
//!
//! ```sh
//! cargo run --release -p linformer-text --example convert -- --model FOLDER --texts FOLDER --steps 100
//! ```
//!
//! A fifth of the texts is held out for what is printed, another fifth decides on form and training.

mod support;

use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use linformer_text::{Agreement, DistillationOptions, EmbedOptions, LongText, TextEncoder, Tokens};
use plotters::prelude::*;

const HELP: &str = "Converts an encoder to local-global attention, and measures how near its vectors stay to the exact ones.

    --model FOLDER      a model as it comes from the model hub (default: the tiny one that the example tiny_model writes)
    --texts FOLDER      files that end with .txt or .md (default: the data of this repository's examples)
    --block N           tokens of a block (default: 32)
    --slots N           summaries, at most (default: 64)
    --cosine C          take the cheapest form whose mean cosine is at least C instead
    --steps N           steps of training (default: 0)
    --batch-tokens N    tokens of a step (default: 4096)
    --long N            tokens of the long texts of the report, at least (default: 2048)
    --enough C          end the training where the mean cosine is at least C
    --save FILE         write the encoder with tokenizer and pooling
    --plot FILE         cosines against seconds of training (default: target/convert_text.svg)";

/// Characters of a text at least: more than most models read at once.
const CHARACTERS: usize = 4000;

/// Texts that are measured for the conversion.
const CALIBRATION: usize = 12;

/// Texts that decide, and texts that the report is about, at most: measuring takes time, too.
const MEASURED: usize = 40;

struct Options {
    model: PathBuf,
    texts: PathBuf,
    block: usize,
    slots: usize,
    cosine: Option<f64>,
    steps: u64,
    enough: Option<f64>,
    batch_tokens: usize,
    long: usize,
    save: Option<PathBuf>,
    plot: PathBuf,
}

impl Options {
    /// Reads the command line; `None` if it asks for help.
    fn from_arguments() -> Result<Option<Self>, Box<dyn Error>> {
        let mut options = Self {
            model: PathBuf::from(support::TINY),
            texts: PathBuf::from(support::TEXTS),
            block: 32,
            slots: 64,
            cosine: None,
            steps: 0,
            enough: None,
            batch_tokens: 4096,
            long: 2048,
            save: None,
            plot: PathBuf::from("target/convert_text.svg"),
        };
        let is_help = support::arguments(|name, value| {
            match name {
                "--model" => options.model = value.into(),
                "--texts" => options.texts = value.into(),
                "--block" => options.block = value.parse()?,
                "--slots" => options.slots = value.parse()?,
                "--cosine" => options.cosine = Some(value.parse()?),
                "--steps" => options.steps = value.parse()?,
                "--enough" => options.enough = Some(value.parse()?),
                "--batch-tokens" => options.batch_tokens = value.parse()?,
                "--long" => options.long = value.parse()?,
                "--save" => options.save = Some(value.into()),
                "--plot" => options.plot = value.into(),
                _ => return Ok(false),
            }
            Ok(true)
        })?;
        if is_help {
            return Ok(None);
        }
        support::check_model(&options.model)?;
        Ok(Some(options))
    }
}

/// Texts for training, for decisions, and for the report.
struct Parts {
    training: Vec<String>,
    deciding: Vec<String>,
    held_out: Vec<String>,
}

impl Parts {
    fn of(texts: Vec<String>) -> Result<Self, Box<dyn Error>> {
        if texts.len() < 5 {
            return Err(format!(
                "there is text for {} parts of {CHARACTERS} characters, and at least 5 are needed",
                texts.len()
            )
            .into());
        }
        let mut parts = Self {
            training: Vec::new(),
            deciding: Vec::new(),
            held_out: Vec::new(),
        };
        for (index, text) in texts.into_iter().enumerate() {
            match index % 5 {
                3 => parts.deciding.push(text),
                4 => parts.held_out.push(text),
                _ => parts.training.push(text),
            }
        }
        parts.deciding = spread(parts.deciding, MEASURED);
        parts.held_out = spread(parts.held_out, MEASURED);
        Ok(parts)
    }
}

/// At most so many of the texts, from all of them alike.
fn spread(texts: Vec<String>, most: usize) -> Vec<String> {
    let step = texts.len().div_ceil(most);
    texts.into_iter().step_by(step.max(1)).collect()
}

fn main() -> ExitCode {
    support::run(Options::from_arguments(), HELP, example)
}

fn example(options: Options) -> Result<(), Box<dyn Error>> {
    let exact = TextEncoder::open(&options.model)?;
    let parts = Parts::of(support::passages(&options.texts, CHARACTERS)?)?;
    let calibration = &spread(parts.training.clone(), CALIBRATION);
    let (block, slots) = form(&exact, &options, calibration, &parts.deciding)?;
    let converted = exact.to_local_global(block, slots, calibration)?;
    println!(
        "block {block}, {slots} slots, without training, {} held-out texts",
        parts.held_out.len()
    );
    report(&exact, &converted, &parts.held_out, options.long)?;
    let encoder = if options.steps > 0 {
        let trained = train(&exact, &converted, &parts, &options)?;
        println!("\ntrained");
        report(&exact, &trained, &parts.held_out, options.long)?;
        trained
    } else {
        converted
    };
    if let Some(path) = &options.save {
        encoder.save(path)?;
        println!("\n{}: opens like a folder", path.display());
    }
    Ok(())
}

/// The form that was asked for, or the cheapest within the bound.
fn form(exact: &TextEncoder, options: &Options, calibration: &[String], deciding: &[String]) -> Result<(usize, usize), Box<dyn Error>> {
    let Some(cosine) = options.cosine else {
        return Ok((options.block, options.slots));
    };
    let plan = exact.plan_local_global(calibration, deciding, cosine)?;
    println!("{plan}\n");
    let chosen = plan.chosen().ok_or("no form is within the bound; ask for less, or train")?;
    Ok((chosen.form.block, chosen.form.slots))
}

/// Prints how near the vectors are: of pieces of the model's own length, and of texts of `long` tokens in one pass beside the mean over chunks.
fn report(exact: &TextEncoder, encoder: &TextEncoder, held_out: &[String], long: usize) -> Result<(), Box<dyn Error>> {
    println!("{}", encoder.fidelity(exact, held_out)?);
    let Some(limit) = exact.max_len() else { return Ok(()) };
    let texts = joined(exact, held_out, long.max(limit + 1))?;
    if texts.is_empty() {
        return Ok(());
    }
    let tokens = texts.iter().map(|text| exact.tokenize(text)).collect::<Result<Vec<_>, _>>()?;
    let count: usize = tokens.iter().map(Tokens::len).sum();
    let speed = |start: Instant| count as f64 / start.elapsed().as_secs_f64();
    let embed = |encoder: &TextEncoder, long| -> Result<_, Box<dyn Error>> {
        let start = Instant::now();
        let vectors = encoder.embed_with(&texts, &EmbedOptions::new().with_long(long))?;
        Ok((vectors, speed(start)))
    };
    let (of_chunks, chunks_speed) = embed(exact, LongText::Chunks { overlap: 0 })?;
    let (of_whole, whole_speed) = embed(encoder, LongText::OnePass)?;
    let endless = exact.model().clone().with_repeating_positions()?;
    let start = Instant::now();
    for tokens in &tokens {
        endless.features_ragged(&[tokens.ids()])?;
    }
    println!(
        "{} long texts of {} tokens on average, one pass beside the mean of the exact model's chunks",
        texts.len(),
        count / texts.len()
    );
    println!("cosine           {}", Agreement::of(of_chunks.view(), of_whole.view())?);
    println!(
        "tokens a second  {whole_speed:.0}, chunks {chunks_speed:.0}, exact attention in one pass {:.0}",
        speed(start)
    );
    Ok(())
}

/// Texts one after the other, as many as make `long` tokens; those at the end that do not are left out.
fn joined(encoder: &TextEncoder, texts: &[String], long: usize) -> Result<Vec<String>, Box<dyn Error>> {
    let (mut found, mut rest) = (Vec::new(), String::new());
    for text in texts {
        rest.push_str(text);
        rest.push(' ');
        if encoder.count_tokens(&rest)? >= long {
            found.push(std::mem::take(&mut rest));
        }
    }
    Ok(found)
}

fn train(exact: &TextEncoder, converted: &TextEncoder, parts: &Parts, options: &Options) -> Result<TextEncoder, Box<dyn Error>> {
    let how = DistillationOptions::new(options.steps)
        .with_enough(options.enough)
        .with_batch_tokens(options.batch_tokens)
        .with_evaluate_every((options.steps / 10).max(1));
    let (start, mut curve) = (Instant::now(), Vec::new());
    println!("\n  step  seconds     loss  cosine, and its 5th percentile");
    let distilled = converted.distill(exact, (&parts.training, &parts.deciding), &how, |progress| {
        let Some(agreement) = progress.held_out else { return };
        let seconds = start.elapsed().as_secs_f64();
        println!(
            "{:>6}  {seconds:>7.0}  {:>7.4}  {:.4}  {:.4}",
            progress.step, progress.loss, agreement.mean, agreement.low
        );
        curve.push((seconds, agreement));
    })?;
    draw(&options.plot, &curve)?;
    println!(
        "best after step {}; cosine against seconds: {}",
        distilled.step,
        options.plot.display()
    );
    Ok(distilled.encoder)
}

fn draw(path: &Path, curve: &[(f64, Agreement)]) -> Result<(), Box<dyn Error>> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)?;
    }
    let end = curve.last().map_or(1.0, |&(seconds, _)| seconds);
    let least = curve.iter().map(|(_, agreement)| agreement.low).fold(1.0, f64::min);
    let canvas = SVGBackend::new(path, (800, 500)).into_drawing_area();
    canvas.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&canvas)
        .margin(16)
        .x_label_area_size(40)
        .y_label_area_size(60)
        .build_cartesian_2d(0.0..end, least - 0.005..1.0)?;
    chart
        .configure_mesh()
        .x_desc("seconds of training")
        .y_desc("cosine to the exact vectors")
        .draw()?;
    let points_of = |of: fn(&Agreement) -> f64| {
        curve
            .iter()
            .map(|(seconds, agreement)| (*seconds, of(agreement)))
            .collect::<Vec<_>>()
    };
    for (name, color, points) in [
        ("mean", BLUE, points_of(|agreement| agreement.mean)),
        ("5th percentile", RED, points_of(|agreement| agreement.low)),
    ] {
        chart
            .draw_series(LineSeries::new(points, color.stroke_width(2)).point_size(3))?
            .label(name)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 20, y)], color));
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::LowerRight)
        .border_style(BLACK)
        .draw()?;
    canvas.present()?;
    Ok(())
}
