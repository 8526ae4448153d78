//! Masks with ragged lengths and holes: a sequence gets what it gets alone, whatever stands at its padding.
#![no_main]

use libfuzzer_sys::fuzz_target;
use linformer::ndarray::{Array2, s};
use linformer::{AttentionConfig, CausalConfig, Encoder, EncoderConfig, NormPlacement, PaddingMask};
use linformer_fuzz::{Choices, are_near};

fuzz_target!(|data: &[u8]| {
    let mut choices = Choices::new(data);
    let length = 1 + choices.up_to(23);
    let attention = match choices.up_to(3) {
        0 => EncoderConfig::new(AttentionConfig::new(6, 2).with_causal(choices.coin()), 2),
        1 => EncoderConfig::new(CausalConfig::new(6, 2, length, 1 + choices.up_to(2)), 2),
        _ => EncoderConfig::new(choices.layer(length), 2),
    };
    let norm = if choices.coin() { NormPlacement::Post } else { NormPlacement::Pre };
    let config = attention
        .with_norm(norm)
        .with_reversible(norm == NormPlacement::Pre && choices.coin());
    let encoder = Encoder::<f64>::new(&config, 1).expect("a small encoder");
    let batch = 1 + choices.up_to(2);
    let mut x = choices.sequence((batch, length, 6));
    let lengths: Vec<usize> = (0..batch).map(|_| choices.up_to(length)).collect();
    let garbage = [0.0, f64::NAN, f64::INFINITY, 1e300][choices.up_to(3)];
    let right = PaddingMask::from_lengths(&lengths, length).expect("lengths that fit");
    for (item, &own) in lengths.iter().enumerate() {
        x.slice_mut(s![item, own.., ..]).fill(garbage);
    }
    let together = encoder.forward(&x, Some(&right)).expect("it fits");
    for (item, &own) in lengths.iter().enumerate() {
        let alone = encoder.forward(&x.slice(s![item..=item, ..own, ..]), None).expect("it fits");
        assert!(
            are_near(&alone, together.slice(s![item..=item, ..own, ..])),
            "{config:?} {lengths:?}"
        );
    }
    let real = Array2::from_shape_fn((batch, length), |_| choices.coin());
    let holes = PaddingMask::from_bools(&real);
    let mut clean = choices.sequence((batch, length, 6));
    let first = encoder.forward(&clean, Some(&holes)).expect("it fits");
    for ((item, position), _) in real.indexed_iter().filter(|(_, real)| !**real) {
        clean.slice_mut(s![item, position, ..]).fill(garbage);
    }
    let second = encoder.forward(&clean, Some(&holes)).expect("it fits");
    for ((item, position), _) in real.indexed_iter().filter(|(_, real)| **real) {
        let row = s![item, position, ..];
        assert!(are_near(first.slice(row), second.slice(row)), "{config:?} {real:?}");
    }
});
