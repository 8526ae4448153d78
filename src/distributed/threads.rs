//! Ranks as threads of one process.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

use super::communicator::{Combine, Communicator, Numbers, check_root};
use crate::error::{Error, Result};

/// Several ranks as threads of one process: the same program as over machines, in a test or on a laptop.
///
/// Numbers are added in the order of the ranks, so that results are the same bit for bit from run to run. A rank that panics, or returns while
/// others wait for it, makes their calls return an error instead of waiting for ever.
///
/// ```
/// use linformer::distributed::{Communicator, Numbers, ThreadGroup};
///
/// let results = ThreadGroup::run(2, |rank| {
///     if rank.rank() == 1 {
///         return Ok(0); // leaves without a word
///     }
///     let mut answer = [42];
///     rank.broadcast(Numbers::U64(&mut answer), 0)?;
///     Ok(answer[0])
/// });
/// assert!(results[0].is_err() && results[1].is_ok());
/// ```
#[derive(Clone, Copy, Debug)]
pub struct ThreadGroup;

impl ThreadGroup {
    /// Calls `work` on `size` threads, each with its rank, and gives their results in the order of the ranks. The result of a rank that
    /// panics is an [`Error::Rank`] with what it said.
    pub fn run<T: Send>(size: usize, work: impl Fn(&ThreadRank) -> Result<T> + Sync) -> Vec<Result<T>> {
        let results: Vec<_> = (0..size).map(|_| Mutex::new(None)).collect();
        let panics = run_all(size, &|rank| {
            let result = work(rank);
            *results[rank.rank].lock().unwrap_or_else(PoisonError::into_inner) = Some(result);
        });
        panics
            .into_iter()
            .zip(results)
            .map(|(panic, result)| panic.and_then(|()| left(result)))
            .collect()
    }
}

/// The result that a rank left.
fn left<T>(result: Mutex<Option<Result<T>>>) -> Result<T> {
    let result = result.into_inner().unwrap_or_else(PoisonError::into_inner);
    result.expect("a rank that did not panic left a result")
}

/// Calls `work` on `size` threads. Compiled once, whatever the work returns.
fn run_all(size: usize, work: &(dyn Fn(&ThreadRank) + Sync)) -> Vec<Result<()>> {
    let shared = Arc::new(Shared::new(size));
    thread::scope(|scope| {
        let threads: Vec<_> = (0..size)
            .map(|rank| {
                let rank = ThreadRank {
                    shared: Arc::clone(&shared),
                    rank,
                };
                scope.spawn(move || caught(&rank, work))
            })
            .collect();
        let results = threads.into_iter().enumerate();
        results
            .map(|(rank, thread)| thread.join().unwrap_or_else(|panic| Err(panicked(rank, &*panic))))
            .collect()
    })
}

fn caught(rank: &ThreadRank, work: &(dyn Fn(&ThreadRank) + Sync)) -> Result<()> {
    let result = catch_unwind(AssertUnwindSafe(|| work(rank)));
    result.map_err(|panic| panicked(rank.rank, &*panic))
}

fn panicked(rank: usize, panic: &(dyn Any + Send)) -> Error {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    let said = text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_default();
    Error::Rank {
        rank,
        reason: format!("it panicked: {said}"),
    }
}

/// One rank of a [`ThreadGroup`]. It leaves the group when it is dropped.
#[derive(Debug)]
pub struct ThreadRank {
    shared: Arc<Shared>,
    rank: usize,
}

impl Drop for ThreadRank {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        state.left.get_or_insert(self.rank);
        self.shared.changed.notify_all();
    }
}

/// The state that the ranks of a group share.
#[derive(Debug)]
struct Shared {
    size: usize,
    state: Mutex<State>,
    changed: Condvar,
}

/// One collective call at a time: all ranks bring something, the last one makes the outcome, all take it.
#[derive(Debug)]
struct State {
    inputs: Vec<Option<Call>>,
    outcome: Option<Arc<Outcome>>,
    /// How many have taken the outcome.
    taken: usize,
    /// The first that left.
    left: Option<usize>,
}

/// The input of a rank.
#[derive(Debug)]
enum Call {
    Reduce(Owned, Combine),
    Broadcast(Owned, usize),
    Gather(Vec<u8>, usize),
    Split(usize),
}

/// The result of a call.
#[derive(Debug)]
enum Outcome {
    Numbers(Owned),
    Gathered(Vec<Vec<u8>>),
    /// Each rank's new group and its number in it.
    Groups(Vec<(Arc<Shared>, usize)>),
    Mismatch,
}

#[derive(Clone, Debug)]
enum Owned {
    F32(Vec<f32>),
    F64(Vec<f64>),
    U64(Vec<u64>),
}

impl Shared {
    fn new(size: usize) -> Self {
        Self {
            size,
            state: Mutex::new(State {
                inputs: (0..size).map(|_| None).collect(),
                outcome: None,
                taken: 0,
                left: None,
            }),
            changed: Condvar::new(),
        }
    }

    /// State left by a panic is consistent: nothing here panics half-way.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'s>(&self, state: MutexGuard<'s, State>) -> MutexGuard<'s, State> {
        self.changed.wait(state).unwrap_or_else(PoisonError::into_inner)
    }
}

impl ThreadRank {
    fn call(&self, operation: &'static str, call: Call) -> Result<Arc<Outcome>> {
        let shared = &*self.shared;
        let mut state = shared.lock();
        // Slower ranks may still be taking the outcome of the call before.
        while state.outcome.is_some() {
            state = shared.wait(state);
        }
        state.inputs[self.rank] = Some(call);
        if state.inputs.iter().all(Option::is_some) {
            let calls = state.inputs.iter_mut().filter_map(Option::take).collect();
            state.outcome = Some(Arc::new(outcome(calls)));
            shared.changed.notify_all();
        }
        loop {
            if let Some(outcome) = state.outcome.clone() {
                state.taken += 1;
                if state.taken == shared.size {
                    state.taken = 0;
                    state.outcome = None;
                    shared.changed.notify_all();
                }
                return match *outcome {
                    Outcome::Mismatch => Err(communication(
                        operation,
                        "the ranks made different calls, or passed different numbers; make the same calls on all".into(),
                    )),
                    _ => Ok(outcome),
                };
            }
            if let Some(gone) = state.left {
                state.inputs[self.rank] = None;
                return Err(communication(
                    operation,
                    format!("rank {gone} has left the group; let all ranks make the same calls"),
                ));
            }
            state = shared.wait(state);
        }
    }
}

fn communication(operation: &'static str, reason: String) -> Error {
    Error::Communication { operation, reason }
}

/// The outcome of the inputs of all ranks, in their order.
fn outcome(mut calls: Vec<Call>) -> Outcome {
    let others = calls.split_off(1);
    match calls.pop() {
        Some(Call::Reduce(first, by)) => reduced(first, by, others),
        Some(Call::Broadcast(first, root)) => sent(first, root, others),
        Some(Call::Gather(first, root)) => gathered(first, root, others),
        Some(Call::Split(first)) => groups(first, others),
        None => Outcome::Mismatch,
    }
}

fn reduced(mut sum: Owned, by: Combine, others: Vec<Call>) -> Outcome {
    for other in others {
        match other {
            Call::Reduce(other, also_by) if by == also_by && sum.combine(&other, by) => {}
            _ => return Outcome::Mismatch,
        }
    }
    Outcome::Numbers(sum)
}

fn sent(first: Owned, root: usize, others: Vec<Call>) -> Outcome {
    let mut all = vec![first];
    for other in others {
        match other {
            Call::Broadcast(other, also_root) if root == also_root && other.fits(&all[0]) => all.push(other),
            _ => return Outcome::Mismatch,
        }
    }
    Outcome::Numbers(all.swap_remove(root))
}

fn gathered(first: Vec<u8>, root: usize, others: Vec<Call>) -> Outcome {
    let mut all = vec![first];
    for other in others {
        match other {
            Call::Gather(other, also_root) if root == also_root => all.push(other),
            _ => return Outcome::Mismatch,
        }
    }
    Outcome::Gathered(all)
}

fn groups(first: usize, others: Vec<Call>) -> Outcome {
    let mut colors = vec![first];
    for other in others {
        match other {
            Call::Split(color) => colors.push(color),
            _ => return Outcome::Mismatch,
        }
    }
    let mut groups: Vec<(usize, Arc<Shared>)> = Vec::new();
    for &color in &colors {
        if groups.iter().all(|group| group.0 != color) {
            let size = colors.iter().filter(|&&other| other == color).count();
            groups.push((color, Arc::new(Shared::new(size))));
        }
    }
    let place = |(rank, color): (usize, &usize)| {
        let group = groups.iter().find(|group| group.0 == *color)?;
        let number = colors[..rank].iter().filter(|&other| other == color).count();
        Some((Arc::clone(&group.1), number))
    };
    Outcome::Groups(colors.iter().enumerate().filter_map(place).collect())
}

impl Owned {
    fn of(numbers: &Numbers<'_>) -> Self {
        match numbers {
            Numbers::F32(numbers) => Self::F32(numbers.to_vec()),
            Numbers::F64(numbers) => Self::F64(numbers.to_vec()),
            Numbers::U64(numbers) => Self::U64(numbers.to_vec()),
        }
    }

    /// Whether both have as many numbers of the same type.
    fn fits(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::F32(own), Self::F32(other)) => own.len() == other.len(),
            (Self::F64(own), Self::F64(other)) => own.len() == other.len(),
            (Self::U64(own), Self::U64(other)) => own.len() == other.len(),
            _ => false,
        }
    }

    /// Adds `other`, or takes the larger numbers; false where it does not fit.
    fn combine(&mut self, other: &Self, by: Combine) -> bool {
        fn all<T: Copy + PartialOrd>(own: &mut [T], other: &[T], by: Combine, add: impl Fn(T, T) -> T) {
            for (own, &other) in own.iter_mut().zip(other) {
                *own = match by {
                    Combine::Sum => add(*own, other),
                    Combine::Maximum if other > *own => other,
                    Combine::Maximum => *own,
                };
            }
        }
        if !self.fits(other) {
            return false;
        }
        match (self, other) {
            (Self::F32(own), Self::F32(other)) => all(own, other, by, |a, b| a + b),
            (Self::F64(own), Self::F64(other)) => all(own, other, by, |a, b| a + b),
            (Self::U64(own), Self::U64(other)) => all(own, other, by, u64::wrapping_add),
            _ => {}
        }
        true
    }

    fn copy_to(&self, numbers: Numbers<'_>) {
        match (self, numbers) {
            (Self::F32(from), Numbers::F32(to)) => to.copy_from_slice(from),
            (Self::F64(from), Numbers::F64(to)) => to.copy_from_slice(from),
            (Self::U64(from), Numbers::U64(to)) => to.copy_from_slice(from),
            _ => {}
        }
    }
}

impl Communicator for ThreadRank {
    fn rank(&self) -> usize {
        self.rank
    }

    fn size(&self) -> usize {
        self.shared.size
    }

    fn all_reduce(&self, numbers: Numbers<'_>, by: Combine) -> Result<()> {
        let call = Call::Reduce(Owned::of(&numbers), by);
        if let Outcome::Numbers(sum) = &*self.call("Communicator::all_reduce", call)? {
            sum.copy_to(numbers);
        }
        Ok(())
    }

    fn broadcast(&self, numbers: Numbers<'_>, root: usize) -> Result<()> {
        const OPERATION: &str = "Communicator::broadcast";
        check_root(OPERATION, root, self.size())?;
        let call = Call::Broadcast(Owned::of(&numbers), root);
        if let Outcome::Numbers(sent) = &*self.call(OPERATION, call)? {
            sent.copy_to(numbers);
        }
        Ok(())
    }

    fn gather(&self, bytes: &[u8], root: usize) -> Result<Option<Vec<Vec<u8>>>> {
        const OPERATION: &str = "Communicator::gather";
        check_root(OPERATION, root, self.size())?;
        let outcome = self.call(OPERATION, Call::Gather(bytes.to_vec(), root))?;
        match &*outcome {
            Outcome::Gathered(all) if self.rank == root => Ok(Some(all.clone())),
            _ => Ok(None),
        }
    }

    fn split(&self, color: usize) -> Result<Box<dyn Communicator>> {
        const OPERATION: &str = "Communicator::split";
        let outcome = self.call(OPERATION, Call::Split(color))?;
        match &*outcome {
            Outcome::Groups(groups) => {
                let (shared, rank) = &groups[self.rank];
                Ok(Box::new(Self {
                    shared: Arc::clone(shared),
                    rank: *rank,
                }))
            }
            _ => Err(communication(OPERATION, "the ranks made different calls".into())),
        }
    }
}
