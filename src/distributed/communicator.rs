//! The collective calls between ranks, independent of how they are made.

use std::any::Any;
use std::fmt;

use crate::error::{Error, Result};
use crate::scalar::Scalar;

/// How the numbers of all ranks become one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Combine {
    /// Their sum. Sums of `u64` wrap around.
    Sum,
    /// The largest of them. The result for NaN is unspecified.
    Maximum,
}

/// The numbers of one rank in a collective call, replaced by its result.
#[derive(Debug)]
#[non_exhaustive]
pub enum Numbers<'n> {
    /// Single precision.
    F32(&'n mut [f32]),
    /// Double precision.
    F64(&'n mut [f64]),
    /// Whole numbers: counts, status words, digests.
    U64(&'n mut [u64]),
}

impl Numbers<'_> {
    /// Returns the number of values.
    pub fn len(&self) -> usize {
        match self {
            Self::F32(numbers) => numbers.len(),
            Self::F64(numbers) => numbers.len(),
            Self::U64(numbers) => numbers.len(),
        }
    }

    /// Returns `true` if there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns the number of bytes that they take.
    pub fn bytes(&self) -> usize {
        match self {
            Self::F32(numbers) => size_of_val(*numbers),
            Self::F64(numbers) => size_of_val(*numbers),
            Self::U64(numbers) => size_of_val(*numbers),
        }
    }
}

/// The ranks of a group: as many processes, or threads, that run the same program, each with a number from 0.
///
/// Every method but the first two is collective: all ranks of the group must call it, in the same order, with as many numbers of the same type
/// and the same other arguments. The results of reductions must be the same, bit for bit, on all ranks, and from run to run.
///
/// [`SingleProcess`] and [`ThreadGroup`](super::ThreadGroup) are here; the crate `linformer-mpi` has one for MPI. Everything else of this module takes
/// any of them.
///
/// ```
/// use linformer::distributed::{Combine, Communicator, Numbers, ThreadGroup};
///
/// let sums = ThreadGroup::run(3, |rank| {
///     let mut numbers = [rank.rank() as f64, 1.0];
///     rank.all_reduce(Numbers::F64(&mut numbers), Combine::Sum)?;
///     Ok(numbers)
/// });
/// for sum in sums {
///     assert_eq!(sum?, [3.0, 3.0]);
/// }
/// # Ok::<(), linformer::Error>(())
/// ```
pub trait Communicator: fmt::Debug {
    /// This rank's number, less than [`size`](Self::size).
    fn rank(&self) -> usize;

    /// The number of ranks, at least 1.
    fn size(&self) -> usize;

    /// Replaces every number by the sum, or the largest, of those that all ranks have in its place.
    ///
    /// # Errors
    /// Returns [`Error::Communication`] if the call cannot be completed.
    fn all_reduce(&self, numbers: Numbers<'_>, by: Combine) -> Result<()>;

    /// Replaces the numbers of all ranks by those of `root`.
    ///
    /// # Errors
    /// Returns an error as [`all_reduce`](Self::all_reduce) does.
    fn broadcast(&self, numbers: Numbers<'_>, root: usize) -> Result<()>;

    /// Returns the bytes of all ranks, rank by rank, at `root`; `None` elsewhere. Ranks may have different numbers of bytes.
    ///
    /// # Errors
    /// Returns an error as [`all_reduce`](Self::all_reduce) does.
    fn gather(&self, bytes: &[u8], root: usize) -> Result<Option<Vec<Vec<u8>>>>;

    /// Returns the group of those ranks that call this with the same `color`, in the order of their numbers here.
    ///
    /// # Errors
    /// Returns an error as [`all_reduce`](Self::all_reduce) does.
    fn split(&self, color: usize) -> Result<Box<dyn Communicator>>;
}

/// A group of one rank, for which every collective call is done at once.
///
/// ```
/// use linformer::distributed::{Communicator, SingleProcess};
///
/// assert_eq!((SingleProcess.rank(), SingleProcess.size()), (0, 1));
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SingleProcess;

impl Communicator for SingleProcess {
    fn rank(&self) -> usize {
        0
    }

    fn size(&self) -> usize {
        1
    }

    fn all_reduce(&self, _: Numbers<'_>, _: Combine) -> Result<()> {
        Ok(())
    }

    fn broadcast(&self, _: Numbers<'_>, root: usize) -> Result<()> {
        check_root("Communicator::broadcast", root, 1)
    }

    fn gather(&self, bytes: &[u8], root: usize) -> Result<Option<Vec<Vec<u8>>>> {
        check_root("Communicator::gather", root, 1)?;
        Ok(Some(vec![bytes.to_vec()]))
    }

    fn split(&self, _: usize) -> Result<Box<dyn Communicator>> {
        Ok(Box::new(Self))
    }
}

/// The error if there is no rank `root` among `size`.
pub(super) fn check_root(operation: &'static str, root: usize, size: usize) -> Result<()> {
    if root < size {
        return Ok(());
    }
    let last = size.saturating_sub(1);
    Err(Error::argument(
        operation,
        format!("the root must be one of the ranks 0 to {last}, but is {root}; let all ranks name the same one of these"),
    ))
}

/// The numbers of a vector of any element type.
#[allow(clippy::ptr_arg)] // it is the vector that is cast
pub(super) fn numbers<A: Scalar>(values: &mut Vec<A>) -> Numbers<'_> {
    let values: &mut dyn Any = values;
    if values.is::<Vec<f32>>() {
        Numbers::F32(values.downcast_mut::<Vec<f32>>().map_or(&mut [], Vec::as_mut_slice))
    } else {
        Numbers::F64(values.downcast_mut::<Vec<f64>>().map_or(&mut [], Vec::as_mut_slice))
    }
}
