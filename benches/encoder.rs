//! An encoder of 4 blocks (d 512, 8 heads, feed-forward 2,048) over n: Linformer with k 128, and exact attention.
//!
//! `cargo bench --bench encoder`, or in a minute `cargo bench --bench encoder -- --quick`

use std::hint::black_box;
use std::time::Duration;

use criterion::{AxisScale, BenchmarkId, Criterion, PlotConfiguration, SamplingMode, Throughput, criterion_group, criterion_main};
use linformer::ndarray::Array3;
use linformer::{AttentionConfig, AttentionKind, Encoder, EncoderConfig, LinformerConfig};

const DIM: usize = 512;
const HEADS: usize = 8;
const K: usize = 128;
const DEPTH: usize = 4;

fn encoder(attention: impl Into<AttentionKind>) -> Encoder<f32> {
    Encoder::new(&EncoderConfig::new(attention, DEPTH), 0).expect("a valid configuration")
}

fn sequence(length: usize) -> Array3<f32> {
    Array3::from_shape_fn((1, length, DIM), |(_, t, i)| ((t * DIM + i) as f32 * 0.734).sin())
}

fn over_n(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("encoder/n");
    group
        .plot_config(PlotConfiguration::default().summary_scale(AxisScale::Logarithmic))
        .sampling_mode(SamplingMode::Flat)
        .sample_size(10)
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2));
    let exact = encoder(AttentionConfig::new(DIM, HEADS));
    for n in [512, 1024, 2048, 4096, 8192] {
        let linformer = encoder(LinformerConfig::new(DIM, HEADS, n, K));
        let x = sequence(n);
        group.throughput(Throughput::Elements(n as u64));
        group.bench_with_input(BenchmarkId::new("linformer", n), &x, |bencher, x| {
            bencher.iter(|| linformer.forward(black_box(x), None).expect("it fits"));
        });
        if n <= 2048 {
            group.bench_with_input(BenchmarkId::new("exact", n), &x, |bencher, x| {
                bencher.iter(|| exact.forward(black_box(x), None).expect("it fits"));
            });
        }
    }
    group.finish();
}

criterion_group!(benches, over_n);
criterion_main!(benches);
