//! An encoder of 4 blocks (d 512, 8 heads, feed-forward 2,048) over n: Linformer with k 128, and exact attention.
//!
//! `cargo bench --bench encoder`, or in a minute `cargo bench --bench encoder -- --quick`

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use linformer::{AttentionConfig, AttentionKind, Encoder, EncoderConfig, LinformerConfig};

#[path = "support/curve.rs"]
mod curve;

const DIM: usize = 512;
const HEADS: usize = 8;
const K: usize = 128;
const DEPTH: usize = 4;

fn encoder(attention: impl Into<AttentionKind>) -> Encoder<f32> {
    Encoder::new(&EncoderConfig::new(attention, DEPTH), 0).expect("a valid configuration")
}

fn over_n(criterion: &mut Criterion) {
    let mut group = curve::group(criterion, "encoder/n");
    let exact = encoder(AttentionConfig::new(DIM, HEADS));
    for n in [512, 1024, 2048, 4096, 8192] {
        let linformer = encoder(LinformerConfig::new(DIM, HEADS, n, K));
        let x = curve::sequence(n, DIM);
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
