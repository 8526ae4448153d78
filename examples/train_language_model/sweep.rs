//! One model for each k and each sharing: the paper's Figure 3 in small.

use linformer::Sharing;
use plotters::prelude::*;

use crate::corpus::Corpus;
use crate::support::{AnyError, Kind, Options};
use crate::{Shape, train};

const LENGTHS: [usize; 4] = [16, 32, 64, 128];

const SHARINGS: [(&str, Sharing, RGBColor); 4] = [
    ("none", Sharing::None, BLACK),
    ("headwise", Sharing::Headwise, BLUE),
    ("key-value", Sharing::KeyValue, RED),
    ("layerwise", Sharing::Layerwise, GREEN),
];

/// Bits a byte against k.
type Curve = Vec<(f64, f64)>;

/// Trains all models, prints a Markdown table row by row, draws the curves. Fails where a model does not beat the counts of order 0.
pub(crate) fn run(options: &Options, shape: &Shape, corpus: &Corpus, [order_0, order_2]: [f64; 2]) -> Result<(), AnyError> {
    println!("\n| sharing | k = 16 | 32 | 64 | 128 | processor s a model |\n|---|---:|---:|---:|---:|---|");
    let mut curves: Vec<Curve> = Vec::new();
    for (name, sharing, _) in SHARINGS {
        let (mut curve, mut seconds) = (Curve::new(), Vec::new());
        for k in LENGTHS {
            let shape = Shape {
                k,
                sharing,
                kind: Kind::Linformer,
                ..shape.clone()
            };
            let (bits, spent) = train(options, &shape, corpus)?;
            curve.push((k as f64, bits));
            seconds.push(format!("{:.0}", spent.seconds));
        }
        let bits: Vec<String> = curve.iter().map(|(_, bits)| format!("{bits:.3}")).collect();
        println!("| {name} | {} | {} |", bits.join(" | "), seconds.join(", "));
        curves.push(curve);
    }
    let exact = Shape {
        kind: Kind::Exact,
        ..shape.clone()
    };
    let (bits, spent) = train(options, &exact, corpus)?;
    println!("\nexact attention: {bits:.3} bits a byte, {:.0} processor seconds", spent.seconds);
    draw(options.text("plot"), &curves, bits, order_2)?;
    println!("bits a byte against k: {}", options.text("plot"));
    if curves.iter().flatten().any(|&(_, bits)| bits >= order_0) {
        return Err("a model did not beat the counts of order 0".into());
    }
    Ok(())
}

fn draw(path: &str, curves: &[Curve], exact: f64, order_2: f64) -> Result<(), AnyError> {
    if let Some(folder) = std::path::Path::new(path).parent() {
        std::fs::create_dir_all(folder)?;
    }
    let values = || curves.iter().flatten().map(|&(_, bits)| bits).chain([exact, order_2]);
    let range = values().fold(f64::MAX, f64::min) - 0.1..values().fold(0.0, f64::max) + 0.1;
    let canvas = SVGBackend::new(path, (800, 500)).into_drawing_area();
    canvas.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&canvas)
        .margin(16)
        .x_label_area_size(40)
        .y_label_area_size(60)
        .build_cartesian_2d((14.0..146.0).log_scale().base(2.0), range)?;
    chart
        .configure_mesh()
        .x_desc("k")
        .y_desc("bits a hidden byte")
        .x_label_formatter(&|k| format!("{k:.0}"))
        .draw()?;
    let level = |bits| vec![(14.0, bits), (146.0, bits)];
    let levels = [
        ("exact attention", MAGENTA, level(exact)),
        ("counts of order 2", CYAN, level(order_2)),
    ];
    let curves = curves
        .iter()
        .zip(SHARINGS)
        .map(|(curve, (name, _, color))| (name, color, curve.clone()));
    for (name, color, curve) in curves.chain(levels) {
        chart
            .draw_series(LineSeries::new(curve, color.stroke_width(2)).point_size(3))?
            .label(name)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 20, y)], color));
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperRight)
        .border_style(BLACK)
        .background_style(WHITE)
        .draw()?;
    canvas.present()?;
    Ok(())
}
