//! Functions and layers by themselves, at sizes that take every loop there is.

use linformer::ndarray::{Array2, Array3, s};
use linformer::training::{CrossEntropy, MeanSquaredError, Schedule};
use linformer::{
    Activation, FeedForward, FeedForwardConfig, LayerNorm, Linear, Parameters, Position, PositionKind, Scalar, SinusoidLayout,
    batched_matmul, softmax,
};

use super::record::Record;

/// A number in [−1, 1), the same on every platform.
pub fn value<A: Scalar>(index: usize) -> A {
    A::cast(((index * 7919 + 104_729) % 2003) as f64 / 1001.5 - 1.0)
}

/// Numbers in [−1, 1).
pub fn sequence<A: Scalar>((batch, length, dim): (usize, usize, usize), seed: usize) -> Array3<A> {
    let strides = (length * dim, dim);
    Array3::from_shape_fn((batch, length, dim), |(item, t, i)| {
        value((item * strides.0 + t * strides.1 + i) * 31 + seed)
    })
}

pub fn record<A: Scalar>(record: &mut Record) {
    products::<A>(record);
    softmaxes::<A>(record);
    layers::<A>(record);
    losses::<A>(record);
}

/// (m, p, n): tiny ones, few rows or columns, short and long inner dimensions, and what is large enough for blocks.
const SHAPES: [(usize, usize, usize); 22] = [
    (1, 1, 1),
    (3, 5, 7),
    (16, 16, 16),
    (1, 300, 200),
    (2, 1000, 33),
    (3, 70, 300),
    (300, 70, 3),
    (1000, 40, 1),
    (17, 17, 17),
    (4, 64, 64),
    (5, 600, 47),
    (47, 600, 5),
    (8, 512, 300),
    (300, 9, 300),
    (40, 2, 40),
    (33, 1100, 33),
    (48, 48, 48),
    (61, 59, 67),
    (100, 700, 100),
    (200, 64, 600),
    (530, 530, 50),
    (260, 1200, 130),
];

fn products<A: Scalar>(record: &mut Record) {
    for (m, inner, n) in SHAPES {
        let (a, b) = (sequence::<A>((2, m, inner), 1), sequence::<A>((2, inner, n), 2));
        let product = batched_matmul(&a, &b).unwrap();
        record.array(&format!("product of {m}×{inner} and {inner}×{n}"), &product);
        // Transposed operands must not change a bit.
        let transposed = |x: &Array3<A>| x.view().permuted_axes([0, 2, 1]).as_standard_layout().into_owned();
        let (a, b) = (transposed(&a), transposed(&b));
        let again = batched_matmul(&a.view().permuted_axes([0, 2, 1]), &b.view().permuted_axes([0, 2, 1])).unwrap();
        assert_eq!(again, product, "{m}×{inner} times {inner}×{n}");
    }
    // Products so small that they round to nothing, with the sign that they had.
    let small = sequence::<A>((1, 30, 30), 3).mapv(|x| x * A::min_positive_value());
    record.array(
        "product that underflows",
        &batched_matmul(&small, &sequence::<A>((1, 30, 30), 4)).unwrap(),
    );
}

fn softmaxes<A: Scalar>(record: &mut Record) {
    for cols in [1, 2, 3, 7, 8, 15, 16, 17, 31, 64, 100, 257] {
        for span in [1.0, 20.0, 2000.0] {
            let mut x = sequence::<A>((1, 9, cols), 5).mapv(|x| x * A::cast(span));
            x[[0, 4, 0]] = A::neg_infinity();
            record.array(&format!("softmax of {cols} in ±{span}"), &softmax(&x));
        }
    }
}

fn layers<A: Scalar>(record: &mut Record) {
    for (rows, from, to) in [(1, 20, 30), (3, 100, 7), (7, 64, 64), (40, 33, 90), (300, 128, 200)] {
        let layer = Linear::<A>::new(from, to, true, 1).unwrap();
        let y = layer.forward(&sequence((1, rows, from), 6)).unwrap();
        record.array(&format!("linear layer of {rows} rows, {from} to {to}"), &y);
    }
    for dim in [1, 5, 16, 32, 100, 768] {
        let mut layer = LayerNorm::<A>::new(dim, 1e-5).unwrap();
        layer.visit_mut("", &mut |_, _, mut tensor| {
            tensor.iter_mut().enumerate().for_each(|(i, x)| *x = value(i + 3));
        });
        record.array(&format!("layer norm of {dim}"), &layer.forward(&sequence((1, 9, dim), 7)).unwrap());
    }
    let activations = [
        Activation::Gelu,
        Activation::GeluTanh,
        Activation::Relu,
        Activation::Silu,
        Activation::Tanh,
        Activation::Identity,
    ];
    for activation in activations {
        for gated in [false, true] {
            let config = FeedForwardConfig::new(40).with_activation(activation).with_gated(gated);
            let layer = FeedForward::<A>::new(24, 24, &config, 2).unwrap();
            let x = sequence((1, 50, 24), 8).mapv(|x: A| x * A::cast(12.0));
            let name = format!("{activation:?}{} feed-forward", if gated { ", gated," } else { "" });
            record.array(&name, &layer.forward(&x).unwrap());
        }
    }
    for layout in [SinusoidLayout::Halves, SinusoidLayout::Interleaved] {
        let kind = PositionKind::Sinusoidal {
            base: 10_000.0,
            layout,
            stored: false,
        };
        let layer = Position::<A>::new(kind, 31, 0).unwrap();
        record.array(
            &format!("{layout:?} of sinusoids"),
            &layer.forward(&Array3::zeros((1, 2000, 31)), None).unwrap(),
        );
    }
}

fn losses<A: Scalar>(record: &mut Record) {
    let all = sequence::<A>((2, 40, 101), 9).mapv(|x| x * A::cast(6.0));
    let (x, y): (Array2<A>, Array2<A>) = (all.slice(s![0, .., ..]).to_owned(), all.slice(s![1, .., ..]).to_owned());
    let targets: Vec<_> = (0..40).map(|row| (row % 7 > 0).then_some(row * 5 % 101)).collect();
    for smoothing in [0.0, 0.1] {
        let loss = CrossEntropy::new().with_label_smoothing(smoothing);
        let (loss, gradient) = loss.loss_and_gradient(x.clone(), &targets).unwrap();
        let numbers = gradient.iter().map(|x| x.widen()).chain([loss]).map(A::cast);
        record.numbers(&format!("cross-entropy smoothed by {smoothing}"), numbers);
    }
    let (loss, gradient) = MeanSquaredError::new().loss_and_gradient(&x, &y).unwrap();
    record.numbers("mean squared error", gradient.iter().map(|x| x.widen()).chain([loss]).map(A::cast));
    for (name, schedule) in [
        ("linear", Schedule::linear(1e-3, 1000)),
        ("cosine", Schedule::cosine(1e-3, 1000)),
        ("inverse square root", Schedule::inverse_square_root(1e-3)),
    ] {
        let schedule = schedule.with_warmup(17);
        record.numbers(&format!("{name} schedule"), (0..1100).map(|step| A::cast(schedule.at(step))));
    }
}
