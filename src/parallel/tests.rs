use super::*;
use ndarray::Array2;

/// Outside the pool, on one of its threads, and on this thread alone.
fn everywhere(work: impl Fn() + Send + Sync) {
    work();
    within(usize::MAX, &work);
    serially(work);
}

#[test]
fn every_part_comes_once_with_its_index() {
    everywhere(every_part_comes_once);
}

fn every_part_comes_once() {
    for (rows, size) in [(0, 3), (1, 3), (3, 3), (10, 3), (64, 1)] {
        for multiplications in [0, usize::MAX] {
            let mut seen = Array2::<usize>::zeros((rows, 2));
            let parts = Parts {
                view: seen.view_mut(),
                axis: 0,
                size,
            };
            for_each_part(parts, multiplications, |index, mut part| part.view += index + 1);
            for (row, seen) in seen.outer_iter().enumerate() {
                assert!(seen.iter().all(|&seen| seen == row / size + 1));
            }
        }
    }
}

/// Few and many multiplications, on this thread alone and not: each task and each half once, even where tasks spread, too.
#[test]
fn tasks_and_halves_come_once() {
    let all = || {
        for multiplications in [0, usize::MAX] {
            let mut seen = vec![0; 40];
            let tasks = seen.iter_mut().collect();
            for_each_with(tasks, multiplications, |space: &mut Vec<u8>, seen| {
                space.push(0);
                let (mut first, mut second) = (0, 0);
                both(multiplications, || first += 1, || second += 2);
                *seen += first + second;
            });
            assert_eq!(seen, vec![3; 40]);
        }
    };
    everywhere(all);
}

#[test]
fn a_pool_keeps_its_spaces() {
    let mut pool = Pool::<Vec<usize>>::default();
    pool.prepare();
    pool.with(|space| space.push(1));
    pool.with(|space| assert_eq!(space.as_slice(), [1]));
}
