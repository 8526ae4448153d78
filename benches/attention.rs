//! One attention layer, Linformer and local-global against exact: n on logarithmic axes, then k.
//!
//! `cargo bench --bench attention`, or in a few minutes `cargo bench --bench attention -- --quick`

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use linformer::{ExactAttention, LinformerAttention, LinformerConfig, LocalGlobalAttention, LocalGlobalConfig};

#[path = "support/curve.rs"]
mod curve;

const DIM: usize = 512;
const HEADS: usize = 8;
const K: usize = 128;

fn layer(seq_len: usize, k: usize) -> LinformerAttention<f32> {
    LinformerAttention::new(&LinformerConfig::new(DIM, HEADS, seq_len, k), 0).expect("a valid configuration")
}

fn over_n(criterion: &mut Criterion) {
    let mut group = curve::group(criterion, "attention/n");
    for power in 9..=16 {
        let n = 1 << power;
        let linformer = layer(n, K);
        let exact = ExactAttention::from_linformer(&linformer);
        let x = curve::sequence(n, DIM);
        group.throughput(Throughput::Elements(n as u64));
        group.bench_with_input(BenchmarkId::new("linformer", n), &x, |bencher, x| {
            bencher.iter(|| linformer.forward(black_box(x), None).expect("it fits"));
        });
        let local_global = LocalGlobalAttention::<f32>::new(&LocalGlobalConfig::new(DIM, HEADS), 0).expect("a valid configuration");
        group.bench_with_input(BenchmarkId::new("local-global", n), &x, |bencher, x| {
            bencher.iter(|| local_global.forward(black_box(x), None).expect("it fits"));
        });
        if n <= 4096 {
            group.bench_with_input(BenchmarkId::new("exact stored", n), &x, |bencher, x| {
                bencher.iter(|| exact.forward_materialized(black_box(x), None).expect("it fits"));
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
    let x = curve::sequence(n, DIM);
    let mut group = curve::group(criterion, "attention/k");
    group.throughput(Throughput::Elements(n as u64));
    for k in [32, 64, 128, 256, 512] {
        let linformer = layer(n, k);
        group.bench_with_input(BenchmarkId::new("linformer", k), &x, |bencher, x| {
            bencher.iter(|| linformer.forward(black_box(x), None).expect("it fits"));
        });
        // What `forward` does where the weights are not multiplied into the compressed keys and values.
        group.bench_with_input(BenchmarkId::new("weights apart", k), &x, |bencher, x| {
            bencher.iter(|| {
                let context = linformer.compress(black_box(x), None).expect("it fits");
                linformer.attend(x, &context).expect("it fits")
            });
        });
    }
    group.finish();
}

criterion_group!(benches, over_n, over_k);
criterion_main!(benches);
