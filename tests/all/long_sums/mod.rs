//! Sums of many terms in f32: of equal ones, whose roundings all go one way, and of random ones; against the same in f64.

mod attention;
mod models;

use linformer::ndarray::{Array2, Array3, ArrayD, s};
use linformer::{
    Compressor, Convolution, ConvolutionKernel, LinformerAttention, LinformerConfig, Order, Parameters, ProjectionKind, Scalar,
    SequenceLengths, Sharing, batched_matmul, softmax,
};

/// What one sum may be off by, relative to that of its terms' magnitudes.
const BOUND: f64 = 1e-6;
/// The same of what several sums and products after one another make.
const MODEL_BOUND: f64 = 3e-6;

/// Terms whose sums are long in binary.
const TERMS: [f32; 2] = [0.1, 1.0 / 3.0];

fn relative(found: impl IntoIterator<Item = f64>, expected: impl IntoIterator<Item = f64>) -> f64 {
    let pairs: Vec<(f64, f64)> = found.into_iter().zip(expected).collect();
    assert!(!pairs.is_empty() && pairs.iter().all(|(found, _)| found.is_finite()));
    pairs.iter().fold(0.0, |most: f64, (found, expected)| {
        most.max((found - expected).abs() / expected.abs().max(f64::MIN_POSITIVE))
    })
}

fn widened<A: Scalar>(x: impl IntoIterator<Item = A>) -> Vec<f64> {
    x.into_iter().map(Scalar::widen).collect()
}

/// Positive numbers that differ from tensor to tensor, the same in both types.
fn fill<A: Scalar>(model: &mut impl Parameters<A>) {
    let mut index = 0.0_f32;
    model.visit_mut("", &mut |_, _, mut tensor| {
        index += 1.0;
        tensor.fill(A::cast(f64::from(0.7 / (index + 1.3))));
    });
}

fn gradients<A: Scalar>(model: &impl Parameters<A>) -> Vec<(String, ArrayD<f64>)> {
    let named = model.named().into_iter();
    named.map(|(name, tensor)| (name, tensor.mapv(Scalar::widen))).collect()
}

/// Every gradient is near the one in f64, relative to the largest of its tensor. Those that cancel out are left out.
fn assert_near(found: &[(String, ArrayD<f64>)], expected: &[(String, ArrayD<f64>)], what: &str) {
    let largest = |tensor: &ArrayD<f64>| tensor.iter().fold(0.0, |most: f64, x| most.max(x.abs()));
    let all = expected.iter().map(|(_, tensor)| largest(tensor)).fold(0.0, f64::max);
    let mut counted = 0;
    for ((name, found), (_, expected)) in found.iter().zip(expected) {
        let size = largest(expected);
        if size < 1e-6 * all {
            continue;
        }
        counted += 1;
        let worst = found.iter().zip(expected).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
        assert!(worst <= MODEL_BOUND * size, "{what}: {name} is off by {:.1e}", worst / size);
    }
    assert!(counted > 0, "{what}: there is something to compare");
}

/// Random numbers in 0..1.
fn random(len: usize) -> impl Iterator<Item = f32> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    (0..len).map(move |_| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        f32::from(u16::try_from(state >> 48).unwrap_or(0)) / 65536.0
    })
}

/// Rows of equal numbers, of random ones, and of random ones of either sign.
fn inputs(length: usize, dim: usize) -> Vec<(&'static str, Array3<f32>)> {
    let shape = (1, length, dim);
    let numbers = |signs: bool| {
        let numbers: Vec<f32> = random(length * dim).map(|x| if signs { x - 0.5 } else { x }).collect();
        Array3::from_shape_vec(shape, numbers).unwrap()
    };
    vec![
        ("0.1", Array3::from_elem(shape, TERMS[0])),
        ("1/3", Array3::from_elem(shape, TERMS[1])),
        ("random", numbers(false)),
        ("of either sign", numbers(true)),
    ]
}

/// Every kind that sums, some with several matrices.
fn kinds() -> Vec<(ProjectionKind, Option<Sharing>)> {
    let convolution = |kernel| ProjectionKind::Convolution(Convolution::new(kernel));
    vec![
        (ProjectionKind::Learned, None),
        (ProjectionKind::Learned, Some(Sharing::None)),
        (ProjectionKind::Random, Some(Sharing::KeyValue)),
        (ProjectionKind::MeanPooling, None),
        (convolution(ConvolutionKernel::Scalar), None),
        (convolution(ConvolutionKernel::Depthwise), None),
        (convolution(ConvolutionKernel::ChannelMixing), None),
    ]
}

fn layer<A: Scalar>(kind: ProjectionKind, sharing: Option<Sharing>, length: usize, k: usize) -> LinformerAttention<A> {
    let mut config = LinformerConfig::new(2, 2, length, k)
        .with_kind(kind)
        .with_key_value_bias(true, true);
    if let Some(sharing) = sharing {
        config = config.with_sharing(sharing);
    }
    let mut layer = LinformerAttention::new(&config, 1).unwrap();
    fill(&mut layer);
    layer
}

/// Keys and values of `x` pushed in chunks.
fn pushed<A: Scalar>(layer: &LinformerAttention<A>, x: &Array3<A>, order: Order, chunk: usize) -> Option<Vec<f64>> {
    let compressor = layer.compressor_in_order(1, order).ok()?;
    let mut compressor = compressor.with_lengths(SequenceLengths::Equal(x.dim().1)).unwrap();
    for start in (0..x.dim().1).step_by(chunk) {
        compressor
            .push(&x.slice(s![.., start..x.dim().1.min(start + chunk), ..]), None)
            .unwrap();
    }
    let compressed = compressor.finish().unwrap();
    Some(widened(compressed.keys().iter().chain(compressed.values()).copied()))
}

/// One call, chunks, and one row after the other, in either order of multiplication, with slots of many positions.
#[test]
fn compressed_keys_and_values() {
    for (kind, sharing) in kinds() {
        for (length, chunk) in [(50_000, 50_000), (20_000, 700), (10_000, 1)] {
            let layers = (layer::<f32>(kind, sharing, length, 2), layer::<f64>(kind, sharing, length, 2));
            for (what, x) in inputs(length, 2) {
                let wide = x.mapv(f64::from);
                for order in [Order::CompressFirst, Order::ProjectFirst] {
                    let Some(found) = pushed(&layers.0, &x, order, chunk) else {
                        continue;
                    };
                    let expected = pushed(&layers.1, &wide, order, length).unwrap();
                    if what == "of either sign" {
                        let sizes = pushed(&layers.1, &wide.mapv(f64::abs), order, length).unwrap();
                        let worst = found.iter().zip(&expected).zip(sizes).map(|((a, b), size)| (a - b).abs() / size);
                        assert!(worst.fold(0.0, f64::max) <= BOUND, "{kind:?} {order:?} {what} by {chunk}");
                        continue;
                    }
                    let worst = relative(found, expected);
                    assert!(worst <= BOUND, "{kind:?} {order:?}: {what} by {chunk} is off by {worst:.1e}");
                }
            }
        }
    }
}

/// Four million equal positions in one slot, or a million.
#[test]
fn compressed_millions() {
    for (index, (kind, sharing)) in kinds().into_iter().enumerate() {
        let length = if index == 0 { 4_000_000 } else { 1_000_000 };
        let layers = (layer::<f32>(kind, sharing, length, 1), layer::<f64>(kind, sharing, length, 1));
        let x = Array3::from_elem((1, length, 2), TERMS[0]);
        for order in [Order::CompressFirst, Order::ProjectFirst] {
            let Some(found) = pushed(&layers.0, &x, order, length) else {
                continue;
            };
            let expected = pushed(&layers.1, &x.mapv(f64::from), order, length).unwrap();
            let worst = relative(found, expected);
            assert!(worst <= BOUND, "{kind:?} {order:?} is off by {worst:.1e}");
        }
    }
}

/// Sums that are held between pushes are the same bits wherever they are held, and parts and edits keep their digits.
#[test]
fn chunks_parts_and_edits() {
    for (kind, sharing) in kinds() {
        let length = 5 * Compressor::<f32>::CHUNK + 7;
        let layer = layer::<f32>(kind, sharing, length, 2);
        let (_, x) = inputs(length, 2).swap_remove(3);
        for order in [Order::CompressFirst, Order::ProjectFirst] {
            let Some(whole) = pushed(&layer, &x, order, length) else { continue };
            for chunks in [1, 2, 4] {
                let cut = pushed(&layer, &x, order, chunks * Compressor::<f32>::CHUNK).unwrap();
                assert!(
                    whole.iter().zip(cut).all(|(a, b)| a.to_bits() == b.to_bits()),
                    "{kind:?} {order:?} {chunks}"
                );
            }
        }
    }
    // A quarter of a million parts, each of which is edited.
    let length = 250_000;
    let layers = (
        layer::<f32>(ProjectionKind::Learned, None, length, 1),
        layer::<f64>(ProjectionKind::Learned, None, length, 1),
    );
    let mut whole = layers.0.compressor(1).unwrap();
    let row = Array3::from_elem((1, 1, 2), TERMS[0]);
    let (old, new) = (Array2::from_elem((1, 2), TERMS[0]), Array2::from_elem((1, 2), TERMS[1]));
    for position in 0..length {
        // From both ends, so that what is covered stays two ranges.
        let position = if position % 2 == 0 {
            position / 2
        } else {
            length - 1 - position / 2
        };
        let mut part = layers.0.compressor(1).unwrap().starting_at(position).unwrap();
        part.push(&row, None).unwrap();
        whole.merge(part).unwrap();
        whole.replace(position, &old, &new).unwrap();
    }
    let found = whole.finish().unwrap();
    let edited = Array3::from_elem((1, length, 2), f64::from(TERMS[1]));
    let expected = layers.1.compress(&edited, None).unwrap();
    let worst = relative(widened(found.keys().iter().copied()), expected.keys().iter().copied());
    assert!(worst <= BOUND, "parts and edits are off by {worst:.1e}");
}

/// Parts that are merged behind what was pushed, and pushes that go on behind these.
#[test]
fn merges_between_pushes() {
    let length = 2_000_000;
    let narrow = layer::<f32>(ProjectionKind::Learned, None, length, 1);
    let wide = layer::<f64>(ProjectionKind::Learned, None, length, 1);
    for term in TERMS {
        let expected = wide.compress(&Array3::from_elem((1, length, 2), f64::from(term)), None).unwrap();
        for chunk in [15 * Compressor::<f32>::CHUNK, 7 * Compressor::<f32>::CHUNK, 1_001] {
            let rows = |range: &std::ops::Range<usize>| Array3::from_elem((1, range.len(), 2), term);
            let mut whole = narrow.compressor(1).unwrap();
            for first in (0..length).step_by(chunk + Compressor::<f32>::CHUNK) {
                let merged = length.min(first + chunk);
                let pushed = first..merged;
                whole.push(&rows(&pushed), None).unwrap();
                let merged = merged..length.min(merged + Compressor::<f32>::CHUNK);
                let mut part = narrow.compressor(1).unwrap().starting_at(merged.start).unwrap();
                part.push(&rows(&merged), None).unwrap();
                whole.merge(part).unwrap();
            }
            let found = whole.finish().unwrap();
            // The bits of a term and a weight decide how far a sum that is kept in f32 drifts: some hardly do.
            let found = widened(found.keys().iter().chain(found.values()).copied());
            let worst = relative(found, expected.keys().iter().chain(expected.values()).copied());
            assert!(worst <= BOUND, "pushes of {chunk} rows of {term} are off by {worst:.1e}");
        }
    }
}

#[test]
fn rows_of_softmax() {
    for length in [513, 100_000, 4_000_000] {
        let mut x = Array3::from_elem((1, 1, length), 0.3_f32);
        // One larger score, so that exponentials are no powers of two.
        x[[0, 0, 0]] = 1.7;
        let weights = softmax(&x);
        let rest = f64::from((0.3_f32 - 1.7_f32).exp()) * (length - 1) as f64;
        let worst = (f64::from(weights[[0, 0, 0]]) * (1.0 + rest) - 1.0).abs();
        assert!(worst <= BOUND, "{length}: {worst:.1e}");
    }
}

/// Products whose inner index runs over positions, in every shape that has loops of its own.
#[test]
fn products() {
    for (rows, inner, cols) in [
        (1, 1_000_000, 1),
        (3, 300_000, 64),
        (64, 300_000, 64),
        (300, 8_192, 200),
        (200, 20_000, 300),
        (600, 1_000, 60),
    ] {
        for term in TERMS {
            let (a, b) = (Array3::from_elem((1, rows, inner), term), Array3::from_elem((1, inner, cols), term));
            let expected = f64::from(term) * f64::from(term) * inner as f64;
            let found = batched_matmul(&a, &b).unwrap();
            let worst = relative(widened(found), vec![expected; rows * cols]);
            assert!(worst <= BOUND, "{rows}×{inner}×{cols} is off by {worst:.1e}");
        }
    }
}
