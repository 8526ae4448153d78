//! A sequence compressed in any chunks, in any order of parts: the same as in one call.
#![no_main]

use libfuzzer_sys::fuzz_target;
use linformer::ndarray::{Array2, s};
use linformer::{Compressor, SequenceLengths, LinformerAttention, Order, PaddingMask};
use linformer_fuzz::{Choices, are_near};

fuzz_target!(|data: &[u8]| {
    let mut choices = Choices::new(data);
    let length = 1 + choices.up_to(200);
    let config = choices.layer(length);
    let layer = LinformerAttention::<f64>::new(&config, 1).expect("a small layer");
    let batch = 1 + choices.up_to(2);
    let x = choices.sequence((batch, length, 6));
    let mostly = choices.coin();
    let real = Array2::from_shape_fn((batch, length), |_| mostly || choices.coin());
    let mask = PaddingMask::from_bools(&real);
    let whole = layer.compress(&x, Some(&mask)).expect("it fits");
    let order = if choices.coin() {
        Order::CompressFirst
    } else {
        Order::ProjectFirst
    };
    let new = || -> Compressor<'_, f64> {
        let compressor = layer
            .compressor_in_order(batch, order)
            .or_else(|_| layer.compressor(batch))
            .expect("a small compressor");
        compressor
            .with_lengths(SequenceLengths::PerItem(mask.lengths().to_vec()))
            .expect("nothing was pushed")
    };
    let mut parts = vec![new()];
    let mut position = 0;
    while position < length {
        let end = (position + 1 + choices.up_to(length)).min(length);
        if choices.coin() {
            parts.push(new().starting_at(position).expect("within the sequence"));
        }
        let part = parts.last_mut().expect("at least one");
        let rows = PaddingMask::from_bools(&real.slice(s![.., position..end]));
        part.push(&x.slice(s![.., position..end, ..]), Some(&rows)).expect("it fits");
        position = end;
    }
    if choices.coin() {
        parts.reverse();
    }
    let mut merged = parts.remove(0);
    for part in parts {
        merged.merge(part).expect("parts of one sequence");
    }
    let merged = merged.finish().expect("small");
    assert_eq!(merged.slots(), whole.slots(), "{config:?}");
    assert!(
        are_near(merged.keys(), whole.keys()) && are_near(merged.values(), whole.values()),
        "{config:?}"
    );
});
