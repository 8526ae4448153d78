//! One attention layer, Linformer against exact: n on logarithmic axes, then k.
//!
//! `cargo bench --bench attention`, or in a few minutes `cargo bench --bench attention -- --quick`

use std::hint::black_box;
use std::time::Duration;

use criterion::{AxisScale, BenchmarkId, Criterion, PlotConfiguration, SamplingMode, Throughput, criterion_group, criterion_main};
use linformer::ndarray::Array3;
use linformer::{ExactAttention, LinformerAttention, LinformerConfig};

const DIM: usize = 512;
const HEADS: usize = 8;
const K: usize = 128;

fn layer(seq_len: usize, k: usize) -> LinformerAttention<f32> {
    LinformerAttention::new(&LinformerConfig::new(DIM, HEADS, seq_len, k), 0).expect("a valid configuration")
}

fn sequence(length: usize) -> Array3<f32> {
    Array3::from_shape_fn((1, length, DIM), |(_, t, i)| ((t * DIM + i) as f32 * 0.734).sin())
}

fn over_n(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("attention/n");
    group
        .plot_config(PlotConfiguration::default().summary_scale(AxisScale::Logarithmic))
        .sampling_mode(SamplingMode::Flat)
        .sample_size(10)
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2));
    for power in 9..=16 {
        let n = 1 << power;
        let linformer = layer(n, K);
        let exact = ExactAttention::from_linformer(&linformer);
        let x = sequence(n);
        group.throughput(Throughput::Elements(n as u64));
        group.bench_with_input(BenchmarkId::new("linformer", n), &x, |bencher, x| {
            bencher.iter(|| linformer.forward(black_box(x), None).expect("it fits"));
        });
        if n <= 4096 {
            group.bench_with_input(BenchmarkId::new("exact stored", n), &x, |bencher, x| {
                bencher.iter(|| exact.forward_materialised(black_box(x), None).expect("it fits"));
            });
        }
        if n <= 16_384 {
            group.bench_with_input(BenchmarkId::new("exact tiled", n), &x, |bencher, x| {
                bencher.iter(|| exact.forward(black_box(x), None).expect("it fits"));
            });
        }
    }
    group.finish();
}

fn over_k(criterion: &mut Criterion) {
    let n = 4096;
    let x = sequence(n);
    let mut group = criterion.benchmark_group("attention/k");
    group
        .plot_config(PlotConfiguration::default().summary_scale(AxisScale::Logarithmic))
        .sampling_mode(SamplingMode::Flat)
        .sample_size(10)
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2))
        .throughput(Throughput::Elements(n as u64));
    for k in [32, 64, 128, 256, 512] {
        let linformer = layer(n, k);
        group.bench_with_input(BenchmarkId::new("linformer", k), &x, |bencher, x| {
            bencher.iter(|| linformer.forward(black_box(x), None).expect("it fits"));
        });
    }
    group.finish();
}

criterion_group!(benches, over_n, over_k);
criterion_main!(benches);
