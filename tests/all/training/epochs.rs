//! The order of examples, and batches of sequences.

use linformer::Error;
use linformer::ndarray::{Array2, array};
use linformer::training::{Epochs, FeatureBatch, TokenBatch};

#[test]
fn an_epoch_has_every_example_once() {
    for (count, size) in [(1, 1), (7, 3), (12, 4), (5, 9)] {
        let mut batches = Epochs::new(count, size, 3).unwrap();
        let per_epoch = batches.batches_per_epoch();
        let mut orders = Vec::new();
        for _ in 0..4 {
            let epoch: Vec<Vec<usize>> = batches.by_ref().take(per_epoch).collect();
            assert!(epoch[..per_epoch - 1].iter().all(|batch| batch.len() == size));
            let order = epoch.concat();
            let mut sorted = order.clone();
            sorted.sort_unstable();
            assert!(sorted.into_iter().eq(0..count));
            orders.push(order);
        }
        // Of twelve examples no two epochs have one order, but for a chance of one in 5e8.
        assert!(count < 12 || (1..4).all(|epoch| orders[epoch] != orders[0]));
    }
    assert!(Epochs::new(50, 5, 1).unwrap().take(10).ne(Epochs::new(50, 5, 2).unwrap().take(10)));
    assert!(Epochs::new(50, 5, 1).unwrap().take(10).eq(Epochs::new(50, 5, 1).unwrap().take(10)));
}

#[test]
fn every_example_is_first_equally_often() {
    let mut counts = [0_u32; 8];
    for seed in 0..4000 {
        counts[Epochs::new(8, 1, seed).unwrap().next().unwrap()[0]] += 1;
    }
    // Five standard deviations.
    assert!(counts.iter().all(|count| (395..=605).contains(count)), "{counts:?}");
}

#[test]
fn skipping_is_the_same_as_taking() {
    let lengths: Vec<usize> = (0..23).map(|example| example * 7 % 10).collect();
    for batches in [Epochs::new(23, 4, 9).unwrap(), Epochs::by_length(&lengths, 4, 9).unwrap()] {
        let all: Vec<_> = batches.clone().take(30).collect();
        for skipped in [0, 1, 5, 6, 17] {
            assert!(batches.clone().skip(skipped).take(30 - skipped).eq(all[skipped..].iter().cloned()));
        }
        // A billion batches take no time.
        assert!(batches.clone().nth(1_000_000_000).is_some());
    }
}

#[test]
fn batches_by_length_have_the_least_padding() {
    let lengths: Vec<usize> = (0..60).map(|example| 1 + example * 37 % 60).collect();
    let batches = Epochs::by_length(&lengths, 10, 4).unwrap();
    let mut shortest = Vec::new();
    for epoch in batches.take(12).collect::<Vec<_>>().chunks(6) {
        for batch in epoch {
            let own: Vec<usize> = batch.iter().map(|&example| lengths[example]).collect();
            let (least, most) = (*own.iter().min().unwrap(), *own.iter().max().unwrap());
            assert_eq!(most - least, 9);
            shortest.push(least);
        }
    }
    // Their order is not that of the lengths, nor that of the other epoch.
    assert!(!shortest[..6].is_sorted() && shortest[..6] != shortest[6..]);
}

#[test]
fn nothing_is_no_epoch() {
    for epochs in [Epochs::new(0, 1, 0), Epochs::new(1, 0, 0), Epochs::by_length(&[], 1, 0)] {
        assert!(matches!(epochs, Err(Error::Argument { .. })));
    }
}

#[test]
fn sequences_are_padded_and_masked() {
    let batch = TokenBatch::from_sequences(&[vec![3, 4], vec![], vec![5, 6, 7]], vec![Some(0), None, Some(1)]).unwrap();
    assert_eq!(batch.tokens, array![[3, 4, 0], [0, 0, 0], [5, 6, 7]]);
    assert_eq!(batch.mask.unwrap().lengths(), [2, 0, 3]);
    let nothing: [Vec<usize>; 0] = [];
    assert_eq!(TokenBatch::from_sequences(&nothing, vec![]).unwrap().tokens.dim(), (0, 0));
    let rows = [Array2::from_elem((1, 2), 1.0_f32), Array2::from_elem((2, 2), 2.0)];
    let batch = FeatureBatch::from_sequences(&rows, &[Some(0), Some(1)]).unwrap();
    assert_eq!(batch.x, array![[[1.0, 1.0], [0.0, 0.0]], [[2.0, 2.0], [2.0, 2.0]]]);
    let uneven = [Array2::<f32>::zeros((1, 2)), Array2::zeros((1, 3))];
    assert!(matches!(FeatureBatch::from_sequences(&uneven, vec![]), Err(Error::Shape { .. })));
}
