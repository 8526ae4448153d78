//! Curves and heat maps as SVG.

use std::ops::Range;
use std::path::Path;

use linformer::ndarray::{Array2, Array4, ArrayView2, s};
use plotters::coord::Shift;
use plotters::prelude::*;

use crate::support::AnyError;

/// Cells of a heat map's side: larger maps are shown by the means of their parts.
const CELLS: usize = 64;
/// Pixels of a heat map with its title.
const SIZE: (u32, u32) = (300, 330);

pub(crate) struct Curve {
    pub(crate) name: String,
    pub(crate) points: Vec<(f64, f64)>,
}

pub(crate) struct HeatMap {
    name: String,
    cells: Array2<f32>,
}

impl HeatMap {
    /// The first item's first head.
    pub(crate) fn of_first_head(name: String, map: &Array4<f32>) -> Self {
        let map = map.slice(s![0, 0, .., ..]);
        let (rows, cols) = (map.nrows().min(CELLS), map.ncols().min(CELLS));
        let cells = Array2::from_shape_fn((rows, cols), |(i, j)| {
            mean(map.slice(s![part(i, rows, map.nrows()), part(j, cols, map.ncols())]))
        });
        Self { name, cells }
    }

    fn draw(&self, area: &DrawingArea<SVGBackend<'_>, Shift>) -> Result<(), AnyError> {
        let (rows, cols) = self.cells.dim();
        let area = area.titled(&self.name, ("sans-serif", 16))?.margin(4, 4, 4, 4);
        let largest = self.cells.iter().fold(f32::MIN_POSITIVE, |largest, value| value.abs().max(largest));
        let (width, height) = area.dim_in_pixel();
        let edge = |index: usize, count: usize, pixels: u32| i32::try_from(index * pixels as usize / count).unwrap_or(i32::MAX);
        for ((i, j), value) in self.cells.indexed_iter() {
            let corners = [
                (edge(j, cols, width), edge(i, rows, height)),
                (edge(j + 1, cols, width), edge(i + 1, rows, height)),
            ];
            area.draw(&Rectangle::new(corners, shade(value / largest).filled()))?;
        }
        Ok(())
    }
}

/// White at 0, blue at 1, red at −1; the square root shows what is small.
fn shade(value: f32) -> RGBColor {
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // from 0 to 255
    let faded = (255.0 * (1.0 - value.abs().min(1.0).sqrt())) as u8;
    if value < 0.0 {
        RGBColor(255, faded, faded)
    } else {
        RGBColor(faded, faded, 255)
    }
}

/// The places of cell `index` of `cells` that stand for `length`.
fn part(index: usize, cells: usize, length: usize) -> Range<usize> {
    index * length / cells..(index + 1) * length / cells
}

fn mean(part: ArrayView2<'_, f32>) -> f32 {
    part.sum() / part.len() as f32
}

fn canvas(path: &str, size: (u32, u32)) -> Result<DrawingArea<SVGBackend<'_>, Shift>, AnyError> {
    if let Some(folder) = Path::new(path).parent() {
        std::fs::create_dir_all(folder)?;
    }
    let canvas = SVGBackend::new(path, size).into_drawing_area();
    canvas.fill(&WHITE)?;
    Ok(canvas)
}

pub(crate) fn heat_maps(path: &str, maps: &[HeatMap]) -> Result<(), AnyError> {
    let cols = maps.len().clamp(1, 3);
    let rows = maps.len().div_ceil(cols);
    let pixels = |count: usize, size: u32| u32::try_from(count).map(|count| count * size);
    let canvas = canvas(path, (pixels(cols, SIZE.0)?, pixels(rows, SIZE.1)?))?;
    for (area, map) in canvas.split_evenly((rows, cols)).iter().zip(maps) {
        map.draw(area)?;
    }
    Ok(canvas.present()?)
}

pub(crate) fn curves(path: &str, curves: &[Curve]) -> Result<(), AnyError> {
    const COLORS: [RGBColor; 6] = [BLUE, RED, GREEN, MAGENTA, CYAN, BLACK];
    let canvas = canvas(path, (800, 500))?;
    let most = curves.iter().map(|curve| curve.points.len()).max().unwrap_or(1);
    let mut chart = ChartBuilder::on(&canvas)
        .margin(16)
        .x_label_area_size(40)
        .y_label_area_size(60)
        .build_cartesian_2d(0.0..most as f64, 0.0..1.05)?;
    chart
        .configure_mesh()
        .x_desc("largest singular values")
        .y_desc("share of all")
        .draw()?;
    for (curve, color) in curves.iter().zip(COLORS.into_iter().cycle()) {
        chart
            .draw_series(LineSeries::new(curve.points.clone(), color.stroke_width(2)))?
            .label(curve.name.as_str())
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 20, y)], color));
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::LowerRight)
        .border_style(BLACK)
        .background_style(WHITE)
        .draw()?;
    Ok(canvas.present()?)
}
