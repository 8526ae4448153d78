//! Work spread over threads: the only file that names rayon.
//!
//! The order of sums depends on the shapes only, never on the number of threads, so that results are bit-equal for any pool.
//!
//! Tasks are called through `dyn Fn`, so that rayon's functions, which are large, are compiled once and not for every loop of the crate.

use std::cell::Cell;
use std::sync::{Mutex, MutexGuard, PoisonError, TryLockError};
use std::thread::LocalKey;

use ndarray::{ArrayViewMut, Axis, Dimension};

/// Multiplications below which handing work to other threads costs more than it saves.
const WORTH_SPREADING: usize = 1 << 20;

/// Calls `work` for every task, on the caller's rayon pool where the feature `rayon` is on and all tasks together take at least
/// some `multiplications`.
pub(crate) fn for_each<T: Send>(tasks: Vec<T>, multiplications: usize, work: impl Fn(T) + Send + Sync) {
    for_each_task(tasks, multiplications, &work);
}

fn for_each_task<T: Send>(tasks: Vec<T>, multiplications: usize, work: &(dyn Fn(T) + Sync)) {
    if tasks.len() <= 1 || !spreads(multiplications) {
        return tasks.into_iter().for_each(work);
    }
    let count = tasks.len();
    let rest = Mutex::new(tasks.into_iter());
    spread(count, &|| next(&rest, Iterator::next).map(work).is_some());
}

/// [`for_each`] with scratch space that the tasks of one thread use in turn.
pub(crate) fn for_each_with<T: Send, S: Default + Send>(tasks: Vec<T>, multiplications: usize, work: impl Fn(&mut S, T) + Send + Sync) {
    if tasks.len() <= 1 || !spreads(multiplications) {
        let mut scratch = S::default();
        return tasks.into_iter().for_each(|task| work(&mut scratch, task));
    }
    let mut pool = Pool::<S>::default();
    pool.prepare();
    for_each(tasks, multiplications, |task| pool.with(|scratch| work(scratch, task)));
}

/// The product of `factors`, for [`for_each`]; saturates at the largest number.
pub(crate) fn cost(factors: &[usize]) -> usize {
    factors.iter().fold(1, |product, &factor| product.saturating_mul(factor))
}

/// Something that can be cut between its parts, without allocating.
pub(crate) trait Divide: Send + Sized {
    /// The number of parts.
    fn count(&self) -> usize;

    /// The first `at` parts, and the others.
    fn divide(self, at: usize) -> (Self, Self);
}

/// A view cut along `axis` into parts of `size`; the last may be shorter.
pub(crate) struct Parts<'v, A, D: Dimension> {
    pub(crate) view: ArrayViewMut<'v, A, D>,
    pub(crate) axis: usize,
    pub(crate) size: usize,
}

impl<A: Send + Sync, D: Dimension> Divide for Parts<'_, A, D> {
    fn count(&self) -> usize {
        self.view.len_of(Axis(self.axis)).div_ceil(self.size)
    }

    fn divide(self, at: usize) -> (Self, Self) {
        let Self { view, axis, size } = self;
        let (first, second) = view.split_at(Axis(axis), at * size);
        let part = |view| Self { view, axis, size };
        (part(first), part(second))
    }
}

/// [`Parts`] of `view`.
pub(crate) fn along<A, D: Dimension>(view: ArrayViewMut<'_, A, D>, axis: usize, size: usize) -> Parts<'_, A, D> {
    Parts { view, axis, size }
}

/// A slice cut into parts of `size` elements; the last may be shorter.
pub(crate) struct Chunks<'s, T> {
    pub(crate) slice: &'s mut [T],
    pub(crate) size: usize,
}

impl<T: Send> Divide for Chunks<'_, T> {
    fn count(&self) -> usize {
        self.slice.len().div_ceil(self.size)
    }

    fn divide(self, at: usize) -> (Self, Self) {
        let Self { slice, size } = self;
        let (first, second) = slice.split_at_mut(at * size);
        (Self { slice: first, size }, Self { slice: second, size })
    }
}

/// Two values with the same number of parts, cut at the same places.
impl<P: Divide, Q: Divide> Divide for (P, Q) {
    fn count(&self) -> usize {
        self.0.count()
    }

    fn divide(self, at: usize) -> (Self, Self) {
        let (first, second) = (self.0.divide(at), self.1.divide(at));
        ((first.0, second.0), (first.1, second.1))
    }
}

thread_local! {
    /// Whether all work stays on this thread.
    static SERIAL: Cell<bool> = const { Cell::new(false) };
    /// Whether this thread does one of so many parts that every thread has some.
    static CROWDED: Cell<bool> = const { Cell::new(false) };
}

/// Calls `work`, all of which stays on this thread.
pub(crate) fn serially<R>(work: impl FnOnce() -> R) -> R {
    with_flag(&SERIAL, work)
}

/// Calls `work` while `flag` is set on this thread.
fn with_flag<R>(flag: &'static LocalKey<Cell<bool>>, work: impl FnOnce() -> R) -> R {
    struct Restore(&'static LocalKey<Cell<bool>>, bool);
    impl Drop for Restore {
        fn drop(&mut self) {
            self.0.set(self.1);
        }
    }
    let _restore = Restore(flag, flag.replace(true));
    work()
}

/// Whether work that could stay on this thread, as a part of some other, is better shared with idle threads.
pub(crate) fn finds_idle_threads(multiplications: usize) -> bool {
    spreads(multiplications) && !CROWDED.get()
}

/// Calls `work` on a thread of the pool, which need not be woken for every call that spreads over it.
pub(crate) fn within<R: Send>(multiplications: usize, work: impl FnOnce() -> R + Send) -> R {
    let mut work = Some(work);
    let mut result = None;
    on_a_thread(multiplications, &mut || result = work.take().map(|work| work()));
    result.expect("the work was called")
}

fn on_a_thread(multiplications: usize, work: &mut (dyn FnMut() + Send)) {
    #[cfg(feature = "rayon")]
    if spreads(multiplications) {
        return rayon::scope(|_| work());
    }
    #[cfg(not(feature = "rayon"))]
    let _ = multiplications;
    work();
}

/// Runs both, either of which may spread over threads: idle threads of one help with the other.
pub(crate) fn both(multiplications: usize, first: impl FnOnce() + Send, second: impl FnOnce() + Send) {
    if !spreads(multiplications) {
        first();
        return second();
    }
    let rest = Mutex::new((Some(first), Some(second)));
    spread(2, &|| {
        if let Some(first) = next(&rest, |rest| rest.0.take()) {
            first();
            return true;
        }
        next(&rest, |rest| rest.1.take()).map(|second| second()).is_some()
    });
}

/// Whether `count` tasks of this cost together can keep all threads busy, each staying on one.
pub(crate) fn shares_out(count: usize, multiplications: usize) -> bool {
    let threads = threads();
    threads > 1 && spreads(multiplications) && (count >= 4 * threads || (count >= threads && count.is_multiple_of(threads)))
}

fn spreads(multiplications: usize) -> bool {
    cfg!(feature = "rayon") && multiplications >= WORTH_SPREADING && threads() > 1
}

/// The next task of the `rest`.
fn next<S, T>(rest: &Mutex<S>, take: impl FnOnce(&mut S) -> Option<T>) -> Option<T> {
    // Nothing can panic while it is locked.
    take(&mut rest.lock().unwrap_or_else(PoisonError::into_inner))
}

#[cfg(not(feature = "rayon"))]
fn spread(_count: usize, task: &(dyn Fn() -> bool + Sync)) {
    while task() {}
}

/// Calls `task`, which does the next of `count` tasks and says whether there was one, on as many threads as that keeps busy.
///
/// On a thread of the pool this is rayon's: its threads steal from one another while they wait. From outside the pool, rayon's own functions hand
/// all work to the pool and put the caller to sleep. Then two threads must be woken one after the other, which may start on one processor and take
/// milliseconds to part, before a call gets anywhere. Here the caller begins at once, and a thread that wakes late finds less to do.
#[cfg(feature = "rayon")]
fn spread(count: usize, task: &(dyn Fn() -> bool + Sync)) {
    if rayon::current_thread_index().is_some() {
        helpers::halve(count, task);
    } else {
        helpers::share(count, task);
    }
}

/// Threads of the pool that take part in the work.
#[cfg(feature = "rayon")]
mod helpers {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::thread;
    use std::time::{Duration, Instant};

    /// How long the caller stays awake for helpers that still work: as long as it takes to fall asleep and to be woken.
    const PATIENCE: Duration = Duration::from_micros(100);

    type Task<'t> = &'t (dyn Fn() -> bool + Sync);

    /// Calls `task` `count` times. Other threads of the pool steal halves of the calls.
    pub(super) fn halve(count: usize, task: Task) {
        if count <= 1 {
            task();
            return;
        }
        rayon::join(|| halve(count / 2, task), || halve(count - count / 2, task));
    }

    /// Calls `task` until no task is left, on this thread and on as many others as `count` tasks can keep busy.
    pub(super) fn share(count: usize, task: Task) {
        let working = AtomicUsize::new(0);
        rayon::in_place_scope(|scope| {
            call(scope, super::threads().min(count) - 1, &working, task);
            while task() {}
            let start = Instant::now();
            while working.load(Ordering::Acquire) > 0 && start.elapsed() < PATIENCE {
                thread::yield_now();
            }
        });
    }

    /// Calls `count` helpers: one that calls half of the others.
    fn call<'s>(scope: &rayon::Scope<'s>, count: usize, working: &'s AtomicUsize, task: Task<'s>) {
        if count == 0 {
            return;
        }
        scope.spawn(move |scope| {
            working.fetch_add(1, Ordering::AcqRel);
            let others = count - 1;
            call(scope, others / 2, working, task);
            call(scope, others - others / 2, working, task);
            while task() {}
            working.fetch_sub(1, Ordering::AcqRel);
        });
    }
}

/// Threads that work can be handed to, this one among them.
pub(crate) fn threads() -> usize {
    if SERIAL.get() {
        return 1;
    }
    #[cfg(feature = "rayon")]
    let threads = rayon::current_num_threads();
    #[cfg(not(feature = "rayon"))]
    let threads = 1;
    threads
}

/// [`for_each`] for the parts of something, each with its index, without allocating.
pub(crate) fn for_each_part<P: Divide>(parts: P, multiplications: usize, work: impl Fn(usize, P) + Sync) {
    each_part(parts, multiplications, &work);
}

fn each_part<P: Divide>(parts: P, multiplications: usize, work: &(dyn Fn(usize, P) + Sync)) {
    let count = parts.count();
    if count <= 1 || !spreads(multiplications) {
        return in_turn(parts).for_each(|(index, part)| work(index, part));
    }
    let crowds = count >= threads();
    let rest = Mutex::new((0, Some(parts)));
    spread(count, &|| {
        let Some((index, part)) = next(&rest, first_part) else {
            return false;
        };
        if crowds {
            with_flag(&CROWDED, || work(index, part));
        } else {
            work(index, part);
        }
        true
    });
}

/// The parts of something, each with its index.
pub(crate) fn in_turn<P: Divide>(parts: P) -> impl Iterator<Item = (usize, P)> {
    let mut rest = (0, (parts.count() > 0).then_some(parts));
    std::iter::from_fn(move || first_part(&mut rest))
}

/// Takes the first part of the rest, and its index.
fn first_part<P: Divide>((index, rest): &mut (usize, Option<P>)) -> Option<(usize, P)> {
    let parts = rest.take()?;
    let (first, others) = if parts.count() > 1 {
        let (first, others) = parts.divide(1);
        (first, Some(others))
    } else {
        (parts, None)
    };
    *rest = others;
    *index += 1;
    Some((*index - 1, first))
}

/// Scratch space that is kept from call to call, one for each thread.
#[derive(Debug, Default)]
pub(crate) struct Pool<S> {
    spaces: Vec<Mutex<S>>,
}

impl<S: Default + Send> Pool<S> {
    /// Makes one for every thread that may come, where there are fewer: those of the pool, and a caller outside it.
    pub(crate) fn prepare(&mut self) {
        let threads = threads() + 1;
        if self.spaces.len() < threads {
            self.spaces.resize_with(threads, Mutex::default);
        }
    }

    /// Calls `work` with a space that no other thread uses meanwhile.
    pub(crate) fn with<R>(&self, work: impl FnOnce(&mut S) -> R) -> R {
        match self.free() {
            Some(mut space) => work(&mut space),
            None => work(&mut S::default()),
        }
    }

    fn free(&self) -> Option<MutexGuard<'_, S>> {
        #[cfg(feature = "rayon")]
        let own = rayon::current_thread_index().map_or(0, |index| index + 1);
        #[cfg(not(feature = "rayon"))]
        let own = 0;
        let (before, after) = self.spaces.split_at(own.min(self.spaces.len()));
        after.iter().chain(before).find_map(|space| match space.try_lock() {
            Ok(space) => Some(space),
            // Scratch space left by a panic is as good as any.
            Err(TryLockError::Poisoned(space)) => Some(space.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        })
    }
}

#[cfg(test)]
mod tests;
