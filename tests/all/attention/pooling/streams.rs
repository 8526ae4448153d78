//! Chunks, parts and nothing at all.

use super::{all_bits, config, holes, layer};
use crate::common::{difference, sequence};
use linformer::ndarray::{Array2, Array3, Axis, concatenate, s};
use linformer::{Compressor, PaddingMask};

/// Wherever a stream is cut, and whatever its masks, its bits are those of one call.
#[test]
fn chunks_of_any_length_give_the_bits_of_one_call() {
    let n = 2 * Compressor::<f64>::CHUNK + 301;
    for (kv_heads, k) in [(2, 37), (1, 3), (2, 2000)] {
        let layer = layer(&config(2, kv_heads, 10, k), 5);
        // The second item ends long before the first.
        let own = holes(n);
        let real = Array2::from_shape_fn((2, n), |(item, t)| own.is_real(item, t) && t < n - 1100 * item);
        let (mut x, mask) = (sequence((2, n, 8), 1), PaddingMask::from_bools(&real));
        for (item, t) in (0..2).flat_map(|item| (0..n).map(move |t| (item, t))) {
            if !mask.is_real(item, t) {
                x.slice_mut(s![item, t, ..]).fill(f64::NAN);
            }
        }
        let whole = all_bits(&layer.compress(&x, Some(&mask)).unwrap());
        for (first, step) in [(0, 1), (0, 100), (3, 129), (511, 513), (700, 700)] {
            let cuts: Vec<usize> = [0].into_iter().chain((first.max(1)..n).step_by(step)).chain([n]).collect();
            let mut stream = layer.compressor(2).unwrap();
            for range in cuts.windows(2) {
                let real = Array2::from_shape_fn((2, range[1] - range[0]), |(item, t)| mask.is_real(item, range[0] + t));
                let rows = x.slice(s![.., range[0]..range[1], ..]);
                stream.push(&rows, Some(&PaddingMask::from_bools(&real))).unwrap();
            }
            assert!(all_bits(&stream.finish().unwrap()) == whole, "cut by {step} after {first}, k = {k}");
        }
    }
}

/// Parts merged in any order give the bits of one call, wherever they meet: what is not whole waits for the rest of it.
#[test]
fn parts_merge_in_any_order() {
    let (n, k) = (333, 10);
    let layer = layer(&config(2, 1, 10, k), 5);
    let x = sequence((1, n, 8), 1);
    let whole = all_bits(&layer.compress(&x, None).unwrap());
    let cuts = [0, 5, 64, 100, 101, 192, 300, n];
    let part = |index: usize| {
        let mut part = layer.compressor(1).unwrap().starting_at(cuts[index]).unwrap();
        part.push(&x.slice(s![.., cuts[index]..cuts[index + 1], ..]), None).unwrap();
        part
    };
    for order in [[0, 1, 2, 3, 4, 5, 6], [6, 5, 4, 3, 2, 1, 0], [3, 0, 6, 2, 4, 1, 5]] {
        let mut all = layer.compressor(1).unwrap();
        for index in order {
            all.merge(part(index)).unwrap();
        }
        assert!(all_bits(&all.finish().unwrap()) == whole, "{order:?}");
        // (a·b)·(c·d), too.
        let (mut left, mut right) = (part(order[0]), part(order[3]));
        left.merge(part(order[1])).unwrap();
        left.merge(part(order[2])).unwrap();
        (4..7).for_each(|index| right.merge(part(order[index])).unwrap());
        right.merge(left).unwrap();
        assert!(all_bits(&right.finish().unwrap()) == whole, "{order:?}");
    }
}

/// Positions that nobody pushed are as good as padding.
#[test]
fn what_is_missing_is_padding() {
    let layer = layer(&config(2, 2, 10, 4), 5);
    let x = sequence((1, 50, 8), 1);
    let real = Array2::from_shape_fn((1, 50), |(_, t)| !(9..33).contains(&t));
    let expected = layer.compress(&x, Some(&PaddingMask::from_bools(&real))).unwrap();
    let mut first = layer.compressor(1).unwrap();
    first.push(&x.slice(s![.., ..9, ..]), None).unwrap();
    let mut last = layer.compressor(1).unwrap().starting_at(33).unwrap();
    last.push(&x.slice(s![.., 33.., ..]), None).unwrap();
    last.merge(first).unwrap();
    let found = last.finish().unwrap();
    assert_eq!(all_bits(&found), all_bits(&expected));
    let mass = found.log_mass().unwrap()[[0, 0, 1]];
    assert_eq!(mass.to_bits(), f64::NEG_INFINITY.to_bits(), "nothing of 16..32 is there");
}

/// A sequence that is empty, or padding only, has no slot, and queries get the output's bias.
#[test]
fn nothing_has_no_slots() {
    let layer = layer(&config(2, 2, 9, 3), 7);
    let x = concatenate![Axis(0), sequence((1, 5, 8), 1), Array3::from_elem((1, 5, 8), f64::NAN)];
    let mask = PaddingMask::from_lengths(&[5, 0], 5).unwrap();
    let context = layer.compress(&x, Some(&mask)).unwrap();
    assert_eq!(context.slots(), [3, 0]);
    let y = layer.attend(&sequence((2, 2, 8), 4), &context).unwrap();
    for row in y.index_axis(Axis(0), 1).outer_iter() {
        assert!(difference(row, layer.output().bias().unwrap()) < 1e-15);
    }
    let empty = layer.compressor(1).unwrap().finish().unwrap();
    assert_eq!((empty.slots(), empty.keys().dim()), (&[0][..], (1, 2, 1, 4)));
    let y = layer.attend(&sequence((1, 2, 8), 4), &empty).unwrap();
    assert!(y.iter().all(|number| number.is_finite()));
}
