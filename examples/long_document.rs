//! Encodes a real text, byte by byte, with Linformer and with exact attention, and shows what each costs.
//!
//! `cargo run --release --example long_document`

mod support;

use std::process::Command;
use std::process::ExitCode;
use std::time::Instant;

use linformer::ndarray::{Array2, Array3};
use linformer::{Embedding, ExactAttention, LinformerAttention, LinformerConfig};
use plotters::prelude::*;
use support::{AnyError, Options, memory, own_text, peak_memory};

const ABOUT: &str = "Encodes a UTF-8 text as bytes with one attention layer: Linformer, exact attention with its scores stored, and exact
attention tile by tile. All three have the same weights. Prints seconds (the median of the runs), tokens a second, the peak of extra
memory (each figure from a process of its own) and the speed-up over tiled exact attention, and draws the curve.";

/// The forms, the longest text each is tried on, and the color of its curve.
const FORMS: [(&str, usize, RGBColor); 3] = [
    ("linformer", usize::MAX, BLUE),
    ("exact stored", 4096, RED),
    ("exact tiled", 16_384, BLACK),
];

fn options() -> Options {
    Options::parse(
        ABOUT,
        &[
            ("file", "", "the text; this repository's own README and sources if none"),
            ("dim", "512", "model width"),
            ("heads", "8", "heads"),
            ("k", "128", "rows that keys and values are compressed to"),
            ("max-n", "65536", "the longest part of the text that is encoded"),
            ("runs", "3", "timed runs of each"),
            ("plot", "target/long_document.svg", "where the curve is drawn"),
            (
                "measure",
                "",
                "used by the example itself: one form and length, measured in this process",
            ),
        ],
    )
}

fn main() -> ExitCode {
    support::run(example)
}

fn example() -> Result<(), AnyError> {
    let options = options();
    let text = match options.text("file") {
        "" => own_text(),
        file => std::fs::read(file)?,
    };
    if let Some((form, length)) = options.text("measure").split_once(':') {
        return measure(&options, &text, form, length.parse()?);
    }
    println!(
        "{} bytes of text; one layer, d {}, {} heads, k {}\n",
        text.len(),
        options.text("dim"),
        options.text("heads"),
        options.text("k")
    );
    println!(
        "{:>8}  {:<13} {:>10} {:>12} {:>12} {:>9}",
        "n", "attention", "seconds", "tokens/s", "extra MiB", "speed-up"
    );
    let mut curves = vec![Vec::new(); FORMS.len()];
    let longest = text.len().min(options.number("max-n"));
    let mut lengths: Vec<usize> = (10..usize::BITS)
        .map(|power| 1 << power)
        .take_while(|&length| length <= longest)
        .collect();
    if lengths.is_empty() {
        lengths.push(longest);
    }
    for length in lengths {
        let mut rows = Vec::new();
        for (index, &(form, most, _)) in FORMS.iter().enumerate() {
            if length <= most {
                let (seconds, extra) = in_own_process(form, length)?;
                curves[index].push((length as f64, seconds));
                rows.push((form, seconds, extra));
            }
        }
        let tiled = rows.iter().find(|row| row.0 == "exact tiled").map(|row| row.1);
        for (form, seconds, extra) in rows {
            let speed_up = tiled.map_or("-".into(), |tiled| format!("{:.1}×", tiled / seconds));
            let extra = extra.map_or("-".into(), |bytes| format!("{:.1}", bytes / f64::from(1 << 20)));
            println!(
                "{length:>8}  {form:<13} {seconds:>10.4} {:>12.0} {extra:>12} {speed_up:>9}",
                length as f64 / seconds
            );
        }
    }
    draw(options.text("plot"), &curves)?;
    println!("\nseconds against n, both logarithmic: {}", options.text("plot"));
    Ok(())
}

/// Runs this example again for one form and length: seconds, and bytes of extra memory where the system tells.
fn in_own_process(form: &str, length: usize) -> Result<(f64, Option<f64>), AnyError> {
    let output = Command::new(std::env::current_exe()?)
        .args(std::env::args().skip(1))
        .args(["--measure", &format!("{form}:{length}")])
        .output()?;
    let text = String::from_utf8(output.stdout)?;
    let mut figures = text.split_whitespace().map(str::parse::<f64>);
    match (figures.next(), figures.next()) {
        (Some(Ok(seconds)), Some(Ok(extra))) => Ok((seconds, (extra >= 0.0).then_some(extra))),
        _ => Err(format!("{form} at {length}: {}", String::from_utf8_lossy(&output.stderr)).into()),
    }
}

/// Prints the median seconds and the peak of extra bytes (−1 where unknown) of one form.
fn measure(options: &Options, text: &[u8], form: &str, length: usize) -> Result<(), AnyError> {
    let dim = options.number("dim");
    let config = LinformerConfig::new(dim, options.number("heads"), length, options.number("k"));
    let layer = LinformerAttention::<f32>::new(&config, 0)?;
    let exact = ExactAttention::from_linformer(&layer);
    let x = vectors(&text[..length], dim)?;
    let run = || match form {
        "linformer" => layer.forward(&x, None),
        "exact stored" => exact.forward_materialized(&x, None),
        _ => exact.forward(&x, None),
    };
    let before = memory();
    let mut seconds = Vec::new();
    let mut extra = -1.0;
    for round in 0..=options.number("runs").max(1) {
        let start = Instant::now();
        let output = run()?;
        seconds.push(start.elapsed().as_secs_f64());
        assert!(output.iter().all(|value| value.is_finite()));
        if let (0, Some(before), Some(peak)) = (round, before, peak_memory()) {
            extra = peak.saturating_sub(before) as f64;
        }
    }
    seconds.remove(0); // the first warms up
    seconds.sort_by(f64::total_cmp);
    println!("{} {extra}", seconds[seconds.len() / 2]);
    Ok(())
}

/// A vector for each byte, with sines and cosines of its position.
fn vectors(text: &[u8], dim: usize) -> Result<Array3<f32>, AnyError> {
    let tokens = Array2::from_shape_fn((1, text.len()), |(_, position)| usize::from(text[position]));
    let mut x = Embedding::<f32>::new(256, dim, 1)?.forward(&tokens)?;
    for ((_, position, feature), value) in x.indexed_iter_mut() {
        let angle = position as f32 * 10_000_f32.powf(-((feature / 2 * 2) as f32) / dim as f32);
        *value += if feature % 2 == 0 { angle.sin() } else { angle.cos() };
    }
    Ok(x)
}

fn draw(path: &str, curves: &[Vec<(f64, f64)>]) -> Result<(), AnyError> {
    if let Some(folder) = std::path::Path::new(path).parent() {
        std::fs::create_dir_all(folder)?;
    }
    let points = || curves.iter().flatten();
    let range = |value: fn(&(f64, f64)) -> f64| {
        let values = || points().map(value);
        values().fold(f64::MAX, f64::min) * 0.8..values().fold(0.0, f64::max) * 1.3
    };
    let canvas = SVGBackend::new(path, (800, 500)).into_drawing_area();
    canvas.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&canvas)
        .margin(16)
        .x_label_area_size(40)
        .y_label_area_size(60)
        .build_cartesian_2d(range(|point| point.0).log_scale(), range(|point| point.1).log_scale())?;
    chart
        .configure_mesh()
        .x_desc("tokens")
        .y_desc("seconds")
        .x_label_formatter(&|n| format!("{n:.0}"))
        .draw()?;
    for (curve, (name, _, color)) in curves.iter().zip(FORMS) {
        chart
            .draw_series(LineSeries::new(curve.iter().copied(), color.stroke_width(2)).point_size(3))?
            .label(name)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 20, y)], color));
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperLeft)
        .border_style(BLACK)
        .background_style(WHITE)
        .draw()?;
    canvas.present()?;
    Ok(())
}
