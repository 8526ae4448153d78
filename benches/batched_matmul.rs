//! The batched product, over batches and inside one matrix.
//!
//! `cargo bench --bench batched_matmul`

use std::hint::black_box;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use linformer::batched_matmul;
use linformer::ndarray::Array3;

fn products(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("batched_matmul");
    group
        .sample_size(10)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1));
    // (batch, rows, inner, columns): small items, heads of a tile, one large matrix, one product E·X.
    for (batch, m, p, n) in [(4096, 8, 16, 8), (64, 128, 64, 128), (1, 2048, 512, 512), (1, 128, 16_384, 512)] {
        let a = Array3::<f32>::from_shape_fn((batch, m, p), |(b, i, j)| ((b + i * p + j) as f32).sin());
        let b = Array3::<f32>::from_shape_fn((batch, p, n), |(b, i, j)| ((b + i * n + j) as f32).cos());
        // Elements are multiplications: 2 floating-point operations each.
        group.throughput(Throughput::Elements((batch * m * p * n) as u64));
        group.bench_function(BenchmarkId::from_parameter(format!("{batch}x{m}x{p}x{n}")), |bencher| {
            bencher.iter(|| batched_matmul(black_box(&a), black_box(&b)).expect("the shapes fit"));
        });
    }
    group.finish();
}

criterion_group!(benches, products);
criterion_main!(benches);
