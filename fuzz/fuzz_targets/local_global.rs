//! Attention to a window and to summaries: the same over any shards as in one piece, padding without influence, gradients included.
#![no_main]

use libfuzzer_sys::fuzz_target;
use linformer::distributed::{Communicator, Sharded, Shards, ThreadGroup};
use linformer::ndarray::{Array2, Array3, s};
use linformer::training::Step;
use linformer::{Encoder, EncoderConfig, PaddingMask, Parameters, TrainingPass};
use linformer_fuzz::{Choices, are_near, fill_pooling_queries};

/// `x` with `value` at padding.
fn with_padding(x: &Array3<f64>, real: &Array2<bool>, value: f64) -> Array3<f64> {
    Array3::from_shape_fn(x.dim(), |(item, position, feature)| {
        if real[[item, position]] {
            x[[item, position, feature]]
        } else {
            value
        }
    })
}

/// The lengths of the parts of a sequence, some of them 0.
fn parts(choices: &mut Choices<'_>, length: usize) -> Vec<usize> {
    let mut bounds: Vec<usize> = (0..choices.up_to(4)).map(|_| choices.up_to(length)).collect();
    bounds.sort_unstable();
    bounds.push(length);
    let mut start = 0;
    bounds.iter().map(|&end| end - std::mem::replace(&mut start, end)).collect()
}

fuzz_target!(|data: &[u8]| {
    let mut choices = Choices::new(data);
    let length = 1 + choices.up_to(80);
    let batch = 1 + choices.up_to(2);
    let config = EncoderConfig::new(choices.local_global(false), 1);
    let mut encoder = Encoder::<f64>::new(&config, 1).expect("a small encoder");
    fill_pooling_queries(&mut encoder);
    let mostly = choices.coin();
    let real = Array2::from_shape_fn((batch, length), |_| mostly || choices.coin());
    let garbage = [0.0, f64::NAN, f64::INFINITY, 1e300][choices.up_to(3)];
    let x = choices.sequence((batch, length, 6));
    let (clean, x) = (with_padding(&x, &real, 0.0), with_padding(&x, &real, garbage));
    let dy = with_padding(&choices.sequence((batch, length, 6)), &real, 0.0);
    let lengths = parts(&mut choices, length);
    let pass = TrainingPass::new(Step::new(1, 0));
    let mask = PaddingMask::from_bools(&real);
    let (y, cache) = encoder.forward_train(&clean, Some(&mask), &pass).expect("it fits");
    let mut gradients = encoder.zeros_like();
    let dx = encoder.backward(cache, dy.clone(), &mut gradients).expect("it fits");
    let shards = Shards::from_lengths(&lengths).expect("short parts");
    let parts = ThreadGroup::run(lengths.len(), |rank| {
        let sharded = Sharded::of(&encoder, shards.clone(), rank)?;
        let own = shards.range(rank.rank());
        let rows = s![.., own.clone(), ..];
        let part = PaddingMask::from_bools(&real.slice(s![.., own.clone()]));
        let forward = sharded.forward(&x.slice(rows), Some(&part))?;
        let (trained, cache) = sharded.forward_train(&x.slice(rows), Some(&part), &pass)?;
        let mut sums = sharded.model().zeros_like();
        let own_dx = sharded.backward(cache, dy.slice(rows).to_owned(), &mut sums)?;
        sharded.reduce_gradients(&mut sums)?;
        assert!(are_near(&own_dx, dx.slice(rows)), "{config:?} {lengths:?} {real:?}");
        for ((_, own), (_, whole)) in sums.named().iter().zip(&gradients.named()) {
            assert!(are_near(own, whole), "{config:?} {lengths:?} {real:?}");
        }
        Ok((own, forward, trained))
    });
    for part in parts {
        let (own, forward, trained) = part.expect("it fits");
        for found in [forward, trained] {
            let real = real.slice(s![.., own.clone()]).to_owned();
            let whole = y.slice(s![.., own.clone(), ..]).to_owned();
            assert!(
                are_near(&with_padding(&found, &real, 0.0), &with_padding(&whole, &real, 0.0)),
                "{config:?} {lengths:?} {real:?}"
            );
        }
    }
});
