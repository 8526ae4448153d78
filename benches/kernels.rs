//! What the layers are made of, beside what the machine can do: matrix products and feed-forwards as a share of the peak of multiply-adds,
//! softmax and layer normalization in bytes a second.
//!
//! `cargo bench --bench kernels`. Criterion's elements a second are floating-point operations; the shares are printed before.
//! `cargo bench --bench kernels -- --check` measures every instruction level of the processor instead, and fails where one is slow.

use std::hint::black_box;
use std::process::ExitCode;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion, SamplingMode, Throughput, criterion_group};
use linformer::ndarray::Array3;
use linformer::{Activation, FeedForward, FeedForwardConfig, LayerNorm, batched_matmul, softmax};

#[path = "support/guard.rs"]
mod guard;
#[path = "support/peak.rs"]
mod peak;

const DIM: usize = 512;
const FF_DIM: usize = 2048;

/// Operations a second in registers, all threads together.
fn machine() -> f64 {
    static PEAK: OnceLock<f64> = OnceLock::new();
    *PEAK.get_or_init(|| {
        let threads = rayon::current_num_threads();
        let peak = peak::measure(&peak::WIDEST, threads, 0.5);
        println!("multiply-adds in registers: {:.0} GFLOP/s on {threads} threads", peak / 1e9);
        peak
    })
}

/// Times `work`, which takes `flops` operations, after printing its share of the peak.
fn bench(group: &mut BenchmarkGroup<'_, WallTime>, name: &str, flops: usize, work: impl Fn() -> Array3<f32>) {
    let machine = machine();
    let fastest = (0..5)
        .map(|_| {
            let start = Instant::now();
            black_box(work());
            start.elapsed().as_secs_f64()
        })
        .fold(f64::INFINITY, f64::min);
    println!(
        "{name}: {:.0} % of that in the best of 5 calls",
        100.0 * flops as f64 / fastest / machine
    );
    group
        .throughput(Throughput::Elements(flops as u64))
        .bench_function(name, |bencher| bencher.iter(&work));
}

fn settings<'c>(criterion: &'c mut Criterion, name: &str) -> BenchmarkGroup<'c, WallTime> {
    let mut group = criterion.benchmark_group(name);
    group
        .sampling_mode(SamplingMode::Flat)
        .sample_size(10)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1));
    group
}

fn numbers(shape: (usize, usize, usize)) -> Array3<f32> {
    Array3::from_shape_fn(shape, |(b, i, j)| ((b + i * shape.2 + j) as f32 * 0.734).sin())
}

fn products(criterion: &mut Criterion) {
    let mut group = settings(criterion, "kernels/product");
    // (items, rows, inner, columns): Q or the output, feed-forward in and out, E·X, and QKᵀ and P̄V̄ of all heads.
    for (name, (items, m, p, n)) in [
        ("4096x512x512", (1, 4096, 512, 512)),
        ("4096x512x2048", (1, 4096, 512, 2048)),
        ("4096x2048x512", (1, 4096, 2048, 512)),
        ("128x4096x512", (1, 128, 4096, 512)),
        ("8 of 4096x64x128", (8, 4096, 64, 128)),
        ("8 of 4096x128x64", (8, 4096, 128, 64)),
    ] {
        let (a, b) = (numbers((items, m, p)), numbers((items, p, n)));
        bench(&mut group, name, 2 * items * m * p * n, || {
            batched_matmul(black_box(&a), black_box(&b)).expect("the shapes fit")
        });
    }
    group.finish();
}

/// With and without GELU: the difference is what the activation costs.
fn feed_forwards(criterion: &mut Criterion) {
    let mut group = settings(criterion, "kernels/feed-forward");
    for (name, activation) in [("GELU", Activation::Gelu), ("no activation", Activation::Identity)] {
        let config = FeedForwardConfig::new(FF_DIM).with_activation(activation);
        let layer = FeedForward::<f32>::new(DIM, DIM, &config, 0).expect("a valid configuration");
        let x = numbers((1, 2048, DIM));
        bench(&mut group, name, 2 * 2 * 2048 * DIM * FF_DIM, || {
            layer.forward(black_box(&x)).expect("it fits")
        });
    }
    group.finish();
}

/// Rows as long as k, from cache and from memory.
fn softmaxes(criterion: &mut Criterion) {
    let mut group = settings(criterion, "kernels/softmax");
    for rows in [1024, 262_144] {
        let x = numbers((1, rows, 128));
        group
            .throughput(Throughput::Bytes((2 * size_of::<f32>() * x.len()) as u64))
            .bench_function(format!("{rows}x128"), |bencher| bencher.iter(|| softmax(black_box(&x))));
    }
    group.finish();
}

/// From cache, and from memory.
fn norms(criterion: &mut Criterion) {
    let mut group = settings(criterion, "kernels/layer-norm");
    let norm = LayerNorm::<f32>::new(DIM, 1e-5).expect("a valid configuration");
    for rows in [256, 65_536] {
        let x = numbers((1, rows, DIM));
        // Read once and written once.
        group
            .throughput(Throughput::Bytes((2 * size_of::<f32>() * x.len()) as u64))
            .bench_function(format!("{rows}x{DIM}"), |bencher| {
                bencher.iter(|| norm.forward(black_box(&x)).expect("it fits"));
            });
    }
    group.finish();
}

criterion_group!(benches, products, feed_forwards, softmaxes, norms);

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().collect();
    let Some(place) = arguments.iter().position(|argument| argument == "--check") else {
        benches();
        Criterion::default().configure_from_args().final_summary();
        return ExitCode::SUCCESS;
    };
    // `cargo bench` appends an option of its own.
    let passed = match arguments.get(place + 1).filter(|level| !level.starts_with('-')) {
        Some(level) => guard::check_one(level),
        None => guard::check_all(),
    };
    if passed { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
