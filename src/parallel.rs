//! Work spread over threads: the only file that names rayon.
//!
//! What a task computes depends on the shapes only, never on the number of threads, so that results are bit-equal for any pool.

/// Multiplications below which handing work to other threads costs more than it saves.
const WORTH_SPREADING: usize = 1 << 20;

/// Calls `work` for every task, on the caller's rayon pool where the feature `rayon` is on and all tasks together take at least
/// some `multiplications`.
pub(crate) fn for_each<T: Send>(tasks: Vec<T>, multiplications: usize, work: impl Fn(T) + Send + Sync) {
    for_each_init(tasks, multiplications, || (), |(), task| work(task));
}

/// [`for_each`] with scratch space that the tasks of one thread use in turn.
pub(crate) fn for_each_init<T: Send, S>(
    tasks: Vec<T>,
    multiplications: usize,
    scratch: impl Fn() -> S + Send + Sync,
    work: impl Fn(&mut S, T) + Send + Sync,
) {
    #[cfg(feature = "rayon")]
    if tasks.len() > 1 && multiplications >= WORTH_SPREADING {
        use rayon::prelude::*;
        tasks.into_par_iter().with_max_len(1).for_each_init(scratch, work);
        return;
    }
    #[cfg(not(feature = "rayon"))]
    let _ = (multiplications, WORTH_SPREADING);
    let mut scratch = scratch();
    for task in tasks {
        work(&mut scratch, task);
    }
}

/// The product of `factors`, for [`for_each`]; too large a one is as good as the largest.
pub(crate) fn cost(factors: &[usize]) -> usize {
    factors.iter().fold(1, |product, &factor| product.saturating_mul(factor))
}
