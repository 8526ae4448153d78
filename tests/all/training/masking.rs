//! Corrupted tokens.

use linformer::ndarray::{Array2, s};
use linformer::training::{Step, TokenBatch, TokenMasking};
use linformer::{Error, PaddingMask};

pub const VOCABULARY: usize = 60;
const MASK: usize = 50;
const PAD: usize = 51;

pub fn tokens(batch: usize, length: usize) -> Array2<usize> {
    Array2::from_shape_fn((batch, length), |(item, position)| (item * 7 + position * 13) % VOCABULARY)
}

pub fn masking() -> TokenMasking {
    TokenMasking::new(VOCABULARY, MASK, &[PAD, 52]).unwrap()
}

#[test]
fn shares_are_as_stated() {
    let tokens = tokens(40, 2500);
    let masked = masking().corrupt(&tokens, None, Step::new(5, 17)).unwrap();
    let ordinary = tokens.iter().filter(|token| ![MASK, PAD, 52].contains(token)).count() as f64;
    let (mut hidden, mut random, mut same, mut count) = (0.0, 0.0, 0.0, 0);
    let mut targets = masked.targets.iter();
    let mut chosen = Array2::from_elem(tokens.dim(), false);
    for (item, positions) in masked.positions.as_ref().unwrap().iter().enumerate() {
        assert!(positions.is_sorted());
        for &position in positions {
            let (old, new) = (tokens[[item, position]], masked.tokens[[item, position]]);
            assert_eq!(targets.next(), Some(&Some(old)));
            assert!(![MASK, PAD, 52].contains(&old) && ![PAD, 52].contains(&new));
            chosen[[item, position]] = true;
            count += 1;
            match new {
                MASK => hidden += 1.0,
                new if new == old => same += 1.0,
                _ => random += 1.0,
            }
        }
    }
    assert_eq!(targets.next(), None);
    // Five standard deviations.
    let near = |found: f64, of: f64, share: f64| (found - of * share).abs() < 5.0 * (of * share * (1.0 - share)).sqrt();
    let count = f64::from(count);
    assert!(near(count, ordinary, 0.15), "{count} of {ordinary}");
    assert!(near(hidden, count, 0.8), "{hidden} of {count}");
    // One random token in 57 is the old one.
    assert!(near(random, count, 0.1 * 56.0 / 57.0), "{random} of {count}");
    assert!(near(same, count, 0.1 + 0.1 / 57.0), "{same} of {count}");
    for (index, &token) in tokens.indexed_iter() {
        assert!(chosen[index] || masked.tokens[index] == token);
    }
}

#[test]
fn a_token_depends_on_step_item_and_position() {
    let (masking, tokens, step) = (masking(), tokens(3, 400), Step::new(5, 17));
    let whole = masking.corrupt(&tokens, None, step).unwrap();
    assert_eq!(masking.corrupt(&tokens, None, step).unwrap(), whole);
    for other in [Step::new(5, 18), Step::new(6, 17)] {
        assert_ne!(masking.corrupt(&tokens, None, other).unwrap().positions, whole.positions);
    }
    let own = |batch: &TokenBatch, item: usize| batch.positions.as_ref().unwrap()[item].clone();
    assert_ne!(own(&whole, 0), own(&whole, 1));
    // A shorter batch, and one that is padded to the same length.
    let short = tokens.slice(s![..2, ..100]).to_owned();
    let cut = masking.corrupt(&short, None, step).unwrap();
    let mask = PaddingMask::from_lengths(&[100, 100, 0], 400).unwrap();
    let padded = masking.corrupt(&tokens, Some(&mask), step).unwrap();
    for item in 0..2 {
        let expected: Vec<usize> = own(&whole, item).into_iter().filter(|&position| position < 100).collect();
        assert_eq!(own(&cut, item), expected);
        assert_eq!(own(&padded, item), expected);
    }
    assert!(own(&padded, 2).is_empty());
    assert_eq!(cut.targets, padded.targets);
    assert_eq!(cut.tokens.row(1), whole.tokens.slice(s![1, ..100]));
}

#[test]
fn other_shares() {
    let (tokens, step) = (tokens(2, 300), Step::new(0, 0));
    let all = masking().with_shares(1.0, 1.0, 0.0).unwrap().corrupt(&tokens, None, step).unwrap();
    assert!(all.tokens.iter().all(|token| [MASK, PAD, 52].contains(token)));
    let none = masking().with_shares(0.0, 0.8, 0.1).unwrap().corrupt(&tokens, None, step).unwrap();
    assert_eq!((none.tokens, none.targets.len()), (tokens.clone(), 0));
    for (chosen, masked, random) in [(1.1, 0.8, 0.1), (0.15, -0.1, 0.1), (0.15, 0.8, 0.3), (0.15, f64::NAN, 0.1)] {
        assert!(matches!(masking().with_shares(chosen, masked, random), Err(Error::Config { .. })));
    }
}
