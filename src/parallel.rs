//! Work spread over threads: the only file that names rayon.
//!
//! What a task computes depends on the shapes only, never on the number of threads, so that results are bit-equal for any pool.

/// Calls `work` for every task, on the caller's rayon pool where the feature `rayon` is on and there is more than one task.
pub(crate) fn for_each<T: Send>(tasks: Vec<T>, work: impl Fn(T) + Send + Sync) {
    for_each_init(tasks, || (), |(), task| work(task));
}

/// [`for_each`] with scratch space that the tasks of one thread use in turn.
pub(crate) fn for_each_init<T: Send, S>(tasks: Vec<T>, scratch: impl Fn() -> S + Send + Sync, work: impl Fn(&mut S, T) + Send + Sync) {
    #[cfg(feature = "rayon")]
    if tasks.len() > 1 {
        use rayon::prelude::*;
        tasks
            .into_par_iter()
            .with_max_len(1)
            .for_each_init(scratch, |scratch, task| work(scratch, task));
        return;
    }
    let mut scratch = scratch();
    for task in tasks {
        work(&mut scratch, task);
    }
}
