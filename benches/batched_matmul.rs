//! The batched product, over batches and inside one matrix.
//!
//! `cargo bench --bench batched_matmul`

use std::hint::black_box;
use std::time::Duration;

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use linformer::batched_matmul;
use linformer::ndarray::Array3;

fn product(group: &mut BenchmarkGroup<'_, WallTime>, (batch, m, p, n): (usize, usize, usize, usize), transposed: bool) {
    let (rows, cols) = if transposed { (p, m) } else { (m, p) };
    let mut a = Array3::<f32>::from_shape_fn((batch, rows, cols), |(b, i, j)| ((b + i * cols + j) as f32).sin());
    if transposed {
        a.swap_axes(1, 2);
    }
    let b = Array3::<f32>::from_shape_fn((batch, p, n), |(b, i, j)| ((b + i * n + j) as f32).cos());
    let name = format!("{batch}x{m}x{p}x{n}{}", if transposed { ", left transposed" } else { "" });
    // Elements are multiplications: 2 floating-point operations each.
    group.throughput(Throughput::Elements((batch * m * p * n) as u64));
    group.bench_function(BenchmarkId::from_parameter(name), |bencher| {
        bencher.iter(|| batched_matmul(black_box(&a), black_box(&b)).expect("the shapes fit"));
    });
}

fn products(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("batched_matmul");
    group
        .sample_size(10)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1));
    // (batch, rows, inner, columns): small items, heads of a tile, one large matrix, one product E·X.
    for shape in [(4096, 8, 16, 8), (64, 128, 64, 128), (1, 2048, 512, 512), (1, 128, 16_384, 512)] {
        product(&mut group, shape, false);
    }
    // The left operand lies transposed in memory, as in gradients; results of half a panel take another loop.
    for shape in [(1, 128, 264, 64), (1, 512, 2048, 512), (1, 264, 256, 16)] {
        product(&mut group, shape, true);
    }
    group.finish();
}

criterion_group!(benches, products);
criterion_main!(benches);
