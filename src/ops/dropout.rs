//! Dropout whose mask can be recomputed, in any order and in any parts.

use super::elementary::{Elementary, dispatch};
use crate::scalar::Scalar;

/// Dropout of one element type.
pub(crate) trait DropoutKernels: Sized {
    /// Zeroes the elements whose draw is below `threshold` and multiplies the others by `scale`. `x` begins `start` elements after the beginning
    /// of `block`.
    fn dropout(x: &mut [Self], key: [u64; 2], block: u64, start: usize, threshold: u32, scale: Self);
}

macro_rules! kernels {
    ($t:ty) => {
        impl DropoutKernels for $t {
            fn dropout(x: &mut [Self], key: [u64; 2], block: u64, start: usize, threshold: u32, scale: Self) {
                dispatch!(dispatched, dropout_body, $t, (x: &mut [$t], key: [u64; 2], block: u64, start: usize, threshold: u32, scale: $t));
                dispatched(x, key, block, start, threshold, scale);
            }
        }
    };
}
kernels!(f32);
kernels!(f64);

/// Elements whose draws are made together.
const BLOCK: usize = 64;

/// 64-bit draws of a block; each gives four elements their 16 bits.
const DRAWS: usize = 16;

/// The number of values of a draw of 16 bits.
const WHOLE: u32 = 1 << 16;

/// The odd number nearest to 2^64/φ: SplitMix64's step from one counter to the next.
const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

/// The draws of the elements of `block`.
///
/// SplitMix64 (Steele, Lea and Flood 2014, with Stafford's mix 13) of a counter, with one half of the key added before it mixes and the other
/// half while it does, so that the sequences of two keys are not parts of one another. Keys must be random, as ChaCha's are: those that differ by
/// little have masks that resemble one another. Element 16·i + j has the i-th quarter of draw j, a layout
/// that vectorizes.
#[allow(clippy::cast_possible_truncation)] // the halves of a draw
#[inline(always)]
fn draws(key: [u64; 2], block: u64) -> [u32; BLOCK] {
    let base = block.wrapping_mul(GOLDEN.wrapping_mul(DRAWS as u64)).wrapping_add(key[0]);
    let mut elements = [0; BLOCK];
    for j in 0..DRAWS {
        let x = base.wrapping_add(GOLDEN.wrapping_mul(j as u64));
        let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9).wrapping_add(key[1]);
        let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        let x = x ^ (x >> 31);
        let [low, high] = [x as u32, (x >> 32) as u32];
        elements[j] = low % WHOLE;
        elements[DRAWS + j] = low / WHOLE;
        elements[2 * DRAWS + j] = high % WHOLE;
        elements[3 * DRAWS + j] = high / WHOLE;
    }
    elements
}

/// By selection: what is dropped is 0 whatever stood there.
#[inline(always)]
fn select<T: Elementary>(x: &mut [T], draws: &[u32], threshold: u32, scale: T) {
    for (x, &draw) in x.iter_mut().zip(draws) {
        *x = if draw >= threshold { *x * scale } else { T::zero() };
    }
}

#[inline(always)]
fn dropout_body<T: Elementary, const FMA: bool>(x: &mut [T], key: [u64; 2], block: u64, start: usize, threshold: u32, scale: T) {
    let mut block = block;
    let mut x = x;
    if start > 0 {
        let (first, rest) = x.split_at_mut(x.len().min(BLOCK - start));
        select(first, &draws(key, block)[start..], threshold, scale);
        block = block.wrapping_add(1);
        x = rest;
    }
    let (blocks, rest) = x.as_chunks_mut::<BLOCK>();
    for x in blocks {
        select(x, &draws(key, block), threshold, scale);
        block = block.wrapping_add(1);
    }
    if !rest.is_empty() {
        select(rest, &draws(key, block), threshold, scale);
    }
}

/// Inverted dropout at one place of one training step: an element is 0 with a probability of `rate`, and is multiplied by 1/(1 − rate) otherwise.
///
/// Whether an element is dropped depends on the key and on its index alone, so that a backward pass that goes over other tiles than
/// the forward pass drops the same ones. A rate is rounded to a multiple of 1/65536, and the factor is that of the rounded rate.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Dropout<A> {
    key: [u64; 2],
    /// Out of 65536.
    threshold: u32,
    scale: A,
}

impl<A: Scalar> Dropout<A> {
    /// Dropout with a `rate` from 0 to 1, keyed by [`Step::key`](crate::initialization::Step::key); `None` where nothing is dropped.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // from 0 to 65536
    pub(crate) fn new(rate: f64, key: [u64; 2]) -> Option<Self> {
        let threshold = (rate.clamp(0.0, 1.0) * f64::from(WHOLE)).round() as u32;
        let kept = f64::from(WHOLE - threshold.min(WHOLE)) / f64::from(WHOLE);
        (threshold > 0).then(|| Self {
            key,
            threshold,
            scale: A::cast(if kept > 0.0 { 1.0 / kept } else { 0.0 }),
        })
    }

    /// Drops out of `x`, whose first element has the index `first` at this place. The gradient goes the same way.
    pub(crate) fn apply(&self, x: &mut [A], first: u64) {
        let block = BLOCK as u64;
        #[allow(clippy::cast_possible_truncation)] // less than `BLOCK`
        let start = (first % block) as usize;
        A::dropout(x, self.key, first / block, start, self.threshold, self.scale);
    }
}

#[cfg(test)]
#[allow(clippy::float_cmp)] // what is compared so is exact
mod tests {
    use super::*;
    use crate::initialization::{Place, Step};

    const COUNT: usize = 1 << 18;

    fn mask(rate: f64, key: [u64; 2], count: usize, first: u64) -> Vec<f32> {
        let mut x = vec![1.0; count];
        if let Some(dropout) = Dropout::new(rate, key) {
            dropout.apply(&mut x, first);
        }
        x
    }

    fn key(seed: u64, index: u64, layer: usize) -> [u64; 2] {
        Step::new(seed, index).key(layer, Place::Activation)
    }

    /// Dropped or not, less the mean, over the standard deviation.
    fn normalized(rate: f64, key: [u64; 2]) -> Vec<f64> {
        let drop = |x: f32| f64::from(u8::from(x == 0.0));
        let deviation = (rate * (1.0 - rate)).sqrt();
        mask(rate, key, COUNT, 0)
            .into_iter()
            .map(|x| (drop(x) - rate) / deviation)
            .collect()
    }

    /// √count times the correlation: normal with variance 1 for independent masks.
    fn correlation(a: &[f64], b: &[f64]) -> f64 {
        let count = a.len().min(b.len()) as f64;
        a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>() / count.sqrt()
    }

    #[test]
    #[cfg_attr(miri, ignore = "a sweep, too long to interpret")]
    fn any_part_is_part_of_the_whole() {
        let key = key(1, 2, 3);
        let far = u64::MAX / 2;
        for origin in [0, 1000, far] {
            let whole = mask(0.3, key, 1000, origin);
            for (from, to) in [
                (0, 0),
                (0, 1),
                (1, 3),
                (5, 69),
                (63, 64),
                (64, 128),
                (64, 130),
                (100, 1000),
                (999, 1000),
            ] {
                assert_eq!(mask(0.3, key, to - from, origin + from as u64), whole[from..to], "{from}..{to}");
            }
        }
        // The last index there is.
        mask(0.5, key, 100, u64::MAX - 99);
    }

    #[test]
    #[cfg_attr(miri, ignore = "a sweep, too long to interpret")]
    fn versions_agree() {
        let (key, mut fast, mut plain) = (key(1, 1, 1), vec![1.0_f32; 1000], vec![1.0_f32; 1000]);
        f32::dropout(&mut fast, key, 7, 13, 10_000, 1.5);
        dropout_body::<f32, false>(&mut plain, key, 7, 13, 10_000, 1.5);
        assert_eq!(fast, plain);
        let mut wide = vec![1.0_f64; 1000];
        f64::dropout(&mut wide, key, 7, 13, 10_000, 1.5);
        assert!(wide.iter().zip(&plain).all(|(&wide, &plain)| wide == f64::from(plain)));
    }

    #[test]
    #[cfg_attr(miri, ignore = "a sweep, too long to interpret")]
    fn rates_and_factors() {
        for rate in [1.0 / 65_536.0, 0.1, 0.5, 0.9, 65_535.0 / 65_536.0] {
            let quantized = (rate * 65_536.0_f64).round() / 65_536.0;
            let mask = mask(rate, key(4, 0, 0), COUNT, 0);
            let dropped = mask.iter().filter(|&&x| x == 0.0).count() as f64;
            let expected = quantized * COUNT as f64;
            assert!(
                (dropped - expected).abs() < 5.0 * (expected * (1.0 - quantized)).sqrt() + 1.0,
                "{rate}"
            );
            let factor = f32::cast(1.0 / (1.0 - quantized));
            assert!(mask.iter().all(|&x| x == 0.0 || x == factor));
        }
        assert!(mask(0.0, [1, 2], 100, 0).iter().all(|&x| x == 1.0));
        assert!(mask(1.0, [1, 2], COUNT, 0).iter().all(|&x| x == 0.0));
        assert!(Dropout::<f32>::new(f64::NAN, [1, 2]).is_none());
    }

    #[test]
    fn dropped_is_zero_whatever_stood_there() {
        let mut x = [f64::NAN; 640];
        Dropout::new(0.5, [1, 2]).unwrap().apply(&mut x, 0);
        assert!(x.iter().any(|x| x.is_nan()) && x.contains(&0.0));
    }

    #[test]
    #[cfg_attr(miri, ignore = "a sweep, too long to interpret")]
    fn neighbors_are_independent() {
        for (rate, seed) in [(0.1, 0), (0.5, 1)] {
            let x = normalized(rate, key(seed, 0, 0));
            for lag in (1..=65).chain([127, 128, 192, 256, 512, 4096]) {
                let correlation = correlation(&x, &x[lag..]);
                assert!(correlation.abs() < 4.5, "rate {rate}, lag {lag}: {correlation}");
            }
        }
    }

    #[test]
    #[cfg_attr(miri, ignore = "a sweep, too long to interpret")]
    fn lengths_of_runs() {
        // Over four neighbors in a row, each of the 16 patterns as often as the next.
        let x = normalized(0.5, key(9, 0, 0));
        let mut counts = [0_u32; 16];
        for four in x.chunks_exact(4) {
            counts[four.iter().fold(0, |bits, &x| 2 * bits + usize::from(x > 0.0))] += 1;
        }
        let expected = COUNT as f64 / 64.0;
        let chi_squared: f64 = counts.iter().map(|&count| (f64::from(count) - expected).powi(2) / expected).sum();
        // The 99.99 % point of 15 degrees of freedom.
        assert!(chi_squared < 44.3, "{chi_squared}");
    }

    #[test]
    #[cfg_attr(miri, ignore = "a sweep, too long to interpret")]
    fn seeds_steps_and_places_are_independent() {
        let keys = [
            key(0, 0, 0),
            key(1, 0, 0),
            key(0, 1, 0),
            key(0, 0, 1),
            Step::new(0, 0).key(0, Place::AttentionWeights),
            key(u64::MAX, 1, 1),
            key(1, u64::MAX, 7),
        ];
        let masks: Vec<Vec<f64>> = keys.iter().map(|&key| normalized(0.1, key)).collect();
        for (i, a) in masks.iter().enumerate() {
            for b in &masks[..i] {
                for shift in [0, 1, 16] {
                    let correlation = correlation(a, &b[shift..]).abs().max(correlation(&a[shift..], b).abs());
                    assert!(correlation < 4.5, "{correlation}");
                }
            }
        }
    }
}
