//! What the benches over n share.

use std::time::Duration;

use criterion::measurement::WallTime;
use criterion::{AxisScale, BenchmarkGroup, Criterion, PlotConfiguration, SamplingMode};
use linformer::ndarray::Array3;

/// One sequence of waves, (1, `length`, `dim`).
pub(crate) fn sequence(length: usize, dim: usize) -> Array3<f32> {
    Array3::from_shape_fn((1, length, dim), |(_, t, i)| ((t * dim + i) as f32 * 0.734).sin())
}

/// A group of a few long calls, plotted on logarithmic axes.
pub(crate) fn group<'c>(criterion: &'c mut Criterion, name: &str) -> BenchmarkGroup<'c, WallTime> {
    let mut group = criterion.benchmark_group(name);
    group
        .plot_config(PlotConfiguration::default().summary_scale(AxisScale::Logarithmic))
        .sampling_mode(SamplingMode::Flat)
        .sample_size(10)
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2));
    group
}
