//! The groups themselves.

use linformer::Error;
use linformer::distributed::{Combine, Communicator, Numbers, SingleProcess, ThreadGroup};

use super::ranks;

#[test]
fn collective_calls() {
    for size in 1..=4 {
        ranks(size, |rank| {
            let number = rank.rank() as f32 + 1.0;
            let (mut sum, mut most) = ([number, 0.5], [-number]);
            rank.all_reduce(Numbers::F32(&mut sum), Combine::Sum)?;
            rank.all_reduce(Numbers::F32(&mut most), Combine::Maximum)?;
            assert_eq!((sum, most), ([(size * (size + 1) / 2) as f32, 0.5 * size as f32], [-1.0]));
            for root in 0..size {
                let mut word = [rank.rank() as u64];
                rank.broadcast(Numbers::U64(&mut word), root)?;
                assert_eq!(word, [root as u64]);
                let all = rank.gather(&vec![7; rank.rank()], root)?;
                assert_eq!(all.is_some(), rank.rank() == root);
                if let Some(all) = all {
                    assert!(all.iter().enumerate().all(|(rank, bytes)| *bytes == vec![7; rank]));
                }
            }
            Ok(())
        });
    }
}

#[test]
fn groups_split() {
    ranks(4, |rank| {
        let group = rank.split(rank.rank() % 2)?;
        assert_eq!((group.rank(), group.size()), (rank.rank() / 2, 2));
        let mut sum = [rank.rank() as f64];
        group.all_reduce(Numbers::F64(&mut sum), Combine::Sum)?;
        assert_eq!(sum, [if rank.rank() % 2 == 0 { 2.0 } else { 4.0 }]);
        Ok(())
    });
    assert_eq!(SingleProcess.split(3).unwrap().size(), 1);
}

#[test]
fn different_calls_are_errors_for_all() {
    for case in 0..4 {
        let results = ThreadGroup::run(3, |rank| {
            let mut two = [0.0; 2];
            let odd = rank.rank() == 1;
            match case {
                0 if odd => rank.broadcast(Numbers::F64(&mut two), 0),
                1 if odd => rank.all_reduce(Numbers::F64(&mut two[..1]), Combine::Sum),
                2 if odd => rank.all_reduce(Numbers::U64(&mut [0; 2]), Combine::Sum),
                3 if odd => rank.all_reduce(Numbers::F64(&mut two), Combine::Maximum),
                _ => rank.all_reduce(Numbers::F64(&mut two), Combine::Sum),
            }
        });
        assert!(
            results.iter().all(|result| matches!(result, Err(Error::Communication { .. }))),
            "{case}"
        );
    }
    assert!(SingleProcess.broadcast(Numbers::U64(&mut [1]), 1).is_err());
}

#[test]
fn nobody_waits_for_a_rank_that_is_gone() {
    for panics in [false, true] {
        let results = ThreadGroup::run(4, |rank| {
            let mut numbers = [1.0];
            rank.all_reduce(Numbers::F64(&mut numbers), Combine::Sum)?;
            if rank.rank() == 2 {
                assert!(!panics, "on purpose");
                return Ok(());
            }
            rank.all_reduce(Numbers::F64(&mut numbers), Combine::Sum)
        });
        for (rank, result) in results.into_iter().enumerate() {
            match (rank, panics, result) {
                (2, false, Ok(())) => {}
                (2, true, Err(Error::Rank { rank: 2, reason })) => assert!(reason.contains("on purpose")),
                (0 | 1 | 3, _, Err(Error::Communication { reason, .. })) => assert!(reason.contains("rank 2")),
                other => panic!("{other:?}"),
            }
        }
    }
}

#[test]
fn a_group_of_none() {
    assert!(ThreadGroup::run(0, |_| Ok(())).is_empty());
}
