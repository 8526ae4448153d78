//! Small encoders on short sequences (d 16, 4 heads, k 4, feed-forward 64), where what is not arithmetic decides: one sequence on one
//! thread, and a large batch on all.
//!
//! `cargo bench --bench small`, or in a minute `cargo bench --bench small -- --quick`

use std::hint::black_box;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, SamplingMode, Throughput, criterion_group, criterion_main};
use linformer::ndarray::Array3;
use linformer::{Encoder, EncoderConfig, LinformerConfig};
use rayon::ThreadPoolBuilder;

const DIM: usize = 16;
const HEADS: usize = 4;
const K: usize = 4;
const LENGTHS: [usize; 4] = [8, 32, 64, 150];
const DEPTHS: [usize; 2] = [1, 3];
const BATCH: usize = 4096;

fn encoder(n: usize, depth: usize) -> Encoder<f32> {
    let config = EncoderConfig::new(LinformerConfig::new(DIM, HEADS, n, K), depth).with_final_norm(false);
    Encoder::new(&config, 0).expect("a valid configuration")
}

fn sequences(batch: usize, length: usize) -> Array3<f32> {
    Array3::from_shape_fn((batch, length, DIM), |(b, t, i)| ((b + t * DIM + i) as f32 * 0.734).sin())
}

fn latency(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("small/latency");
    group
        .sample_size(50)
        .warm_up_time(Duration::from_millis(200))
        .measurement_time(Duration::from_secs(1));
    let one_thread = ThreadPoolBuilder::new().num_threads(1).build().expect("a thread");
    for depth in DEPTHS {
        for n in LENGTHS {
            let encoder = encoder(n, depth);
            let x = sequences(1, n);
            group.bench_function(BenchmarkId::new(format!("depth {depth}"), n), |bencher| {
                one_thread.install(|| bencher.iter(|| encoder.forward(black_box(&x), None).expect("it fits")));
            });
        }
    }
    group.finish();
}

fn batches(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("small/batch");
    group
        .sampling_mode(SamplingMode::Flat)
        .sample_size(10)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1))
        .throughput(Throughput::Elements(BATCH as u64));
    for depth in DEPTHS {
        for n in LENGTHS {
            let encoder = encoder(n, depth);
            let x = sequences(BATCH, n);
            group.bench_function(BenchmarkId::new(format!("depth {depth}"), n), |bencher| {
                bencher.iter(|| encoder.forward(black_box(&x), None).expect("it fits"));
            });
        }
    }
    group.finish();
}

criterion_group!(benches, latency, batches);
criterion_main!(benches);
