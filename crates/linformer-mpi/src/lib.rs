#![doc = include_str!("../README.md")]

use std::fmt;

use linformer::distributed::{Combine, Communicator, Numbers};
use linformer::{Error, Result};
use mpi::collective::{CommunicatorCollectives, Root, SystemOperation};
use mpi::datatype::{Equivalence, PartitionMut};
use mpi::environment::{Threading, Universe};
use mpi::topology::{Color, Communicator as _, SimpleCommunicator};

/// Numbers of one MPI call: its counts are C's `int`, and smaller pieces go through memory that is warm.
const PIECE: usize = 1 << 24;

/// MPI itself, from the start of the program to its end. MPI ends when this is dropped.
///
/// ```no_run
/// use linformer::distributed::Communicator;
/// use linformer_mpi::Mpi;
///
/// let mpi = Mpi::start()?;
/// let world = mpi.world();
/// println!("rank {} of {}", world.rank(), world.size());
/// # Ok::<(), linformer::Error>(())
/// ```
pub struct Mpi {
    universe: Universe,
}

impl fmt::Debug for Mpi {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Mpi").finish_non_exhaustive()
    }
}

impl Mpi {
    /// Starts MPI. Only the thread that calls this may use communicators; others may do anything else (`MPI_THREAD_FUNNELED`).
    ///
    /// # Errors
    /// Returns an error if MPI is already running, or if it does not allow other threads at all.
    pub fn start() -> Result<Self> {
        const OPERATION: &str = "Mpi::start";
        let failed = |reason: String| Error::Communication {
            operation: OPERATION,
            reason,
        };
        match mpi::initialize_with_threading(Threading::Funneled) {
            Some((universe, provided)) if provided >= Threading::Funneled => Ok(Self { universe }),
            Some((_, provided)) => Err(failed(format!("this MPI allows no other threads beside its own ({provided:?})"))),
            None => Err(failed("MPI was started already, and can be started once".into())),
        }
    }

    /// Starts MPI, does `work` with the group of all processes, and ends MPI. Where it returns an error, this process says so on the standard error
    /// and aborts the job: others may be waiting for it, and would wait for ever. Errors that the job is to survive must be handled within `work`.
    ///
    /// ```no_run
    /// use linformer::distributed::Communicator;
    /// use linformer_mpi::Mpi;
    ///
    /// fn main() -> linformer::Result<()> {
    ///     Mpi::run(|world| {
    ///         println!("rank {} of {}", world.rank(), world.size());
    ///         Ok(())
    ///     })
    /// }
    /// ```
    ///
    /// # Errors
    /// Returns an error as [`start`](Self::start) does.
    pub fn run<T>(work: impl FnOnce(&MpiCommunicator) -> Result<T>) -> Result<T> {
        let mpi = Self::start()?;
        let world = mpi.world();
        match work(&world) {
            Ok(result) => Ok(result),
            Err(error) => {
                eprintln!("rank {} of {}: {error}", world.rank(), world.size());
                world.communicator.abort(1)
            }
        }
    }

    /// Returns the group of all processes.
    pub fn world(&self) -> MpiCommunicator {
        MpiCommunicator {
            communicator: self.universe.world(),
        }
    }
}

/// A process that panics must not end MPI in order, since others may be waiting for it: it aborts the job.
impl Drop for Mpi {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.universe.world().abort(101);
        }
    }
}

/// A group of MPI processes.
pub struct MpiCommunicator {
    communicator: SimpleCommunicator,
}

impl fmt::Debug for MpiCommunicator {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = formatter.debug_struct("MpiCommunicator");
        debug.field("rank", &self.rank()).field("size", &self.size()).finish()
    }
}

impl MpiCommunicator {
    fn check_root(&self, operation: &'static str, root: usize) -> Result<i32> {
        match i32::try_from(root) {
            Ok(number) if root < self.size() => Ok(number),
            _ => Err(Error::Argument {
                operation,
                reason: format!(
                    "the root must be one of the ranks 0 to {}, but is {root}; let all ranks name the same one of these",
                    self.size().saturating_sub(1)
                ),
            }),
        }
    }

    fn reduce<T: Equivalence + Copy>(&self, numbers: &mut [T], by: Combine) -> Result<()> {
        let mut own = Vec::with_capacity(numbers.len().min(PIECE));
        for piece in numbers.chunks_mut(PIECE) {
            own.clear();
            own.extend_from_slice(piece);
            match by {
                Combine::Sum => self.communicator.all_reduce_into(&own[..], piece, SystemOperation::sum()),
                Combine::Maximum => self.communicator.all_reduce_into(&own[..], piece, SystemOperation::max()),
                other => {
                    return Err(Error::Communication {
                        operation: "Communicator::all_reduce",
                        reason: format!("MPI is not asked for {other:?}"),
                    });
                }
            }
        }
        Ok(())
    }

    fn send<T: Equivalence>(&self, numbers: &mut [T], root: i32) {
        for piece in numbers.chunks_mut(PIECE) {
            self.communicator.process_at_rank(root).broadcast_into(piece);
        }
    }

    /// The bytes of all processes, of which rank r has `counts[r]`, one after the other, at `root`.
    fn gathered(&self, bytes: &[u8], counts: &[u64], root: i32) -> Result<Option<Vec<u8>>> {
        const OPERATION: &str = "Communicator::gather";
        let total: u64 = counts.iter().sum();
        let too_many = || Error::Communication {
            operation: OPERATION,
            reason: format!("{total} bytes are more than MPI gathers in one call; gather fewer at once"),
        };
        // All processes know all counts, so that all refuse together.
        i32::try_from(total).map_err(|_| too_many())?;
        if total == 0 {
            // Two slices of no bytes may have one address, which MPI takes for a mistake.
            return Ok((self.communicator.rank() == root).then(Vec::new));
        }
        let process = self.communicator.process_at_rank(root);
        if self.communicator.rank() != root {
            process.gather_varcount_into(bytes);
            return Ok(None);
        }
        let lengths: Vec<i32> = counts.iter().map(|&count| i32::try_from(count).unwrap_or(0)).collect();
        let starts: Vec<i32> = lengths
            .iter()
            .scan(0, |end, &length| {
                let start = *end;
                *end += length;
                Some(start)
            })
            .collect();
        let mut all = vec![0; usize::try_from(total).map_err(|_| too_many())?];
        let mut partition = PartitionMut::new(&mut all[..], lengths, &starts[..]);
        process.gather_varcount_into_root(bytes, &mut partition);
        drop(partition);
        Ok(Some(all))
    }
}

impl Communicator for MpiCommunicator {
    fn rank(&self) -> usize {
        usize::try_from(self.communicator.rank()).unwrap_or(0)
    }

    fn size(&self) -> usize {
        usize::try_from(self.communicator.size()).unwrap_or(1)
    }

    fn all_reduce(&self, numbers: Numbers<'_>, by: Combine) -> Result<()> {
        match numbers {
            Numbers::F32(numbers) => self.reduce(numbers, by),
            Numbers::F64(numbers) => self.reduce(numbers, by),
            Numbers::U64(numbers) => self.reduce(numbers, by),
            other => Err(unknown("Communicator::all_reduce", &other)),
        }
    }

    fn broadcast(&self, numbers: Numbers<'_>, root: usize) -> Result<()> {
        const OPERATION: &str = "Communicator::broadcast";
        let root = self.check_root(OPERATION, root)?;
        match numbers {
            Numbers::F32(numbers) => self.send(numbers, root),
            Numbers::F64(numbers) => self.send(numbers, root),
            Numbers::U64(numbers) => self.send(numbers, root),
            other => return Err(unknown(OPERATION, &other)),
        }
        Ok(())
    }

    fn gather(&self, bytes: &[u8], root: usize) -> Result<Option<Vec<Vec<u8>>>> {
        let root = self.check_root("Communicator::gather", root)?;
        let mut counts = vec![0_u64; self.size()];
        self.communicator.all_gather_into(&(bytes.len() as u64), &mut counts[..]);
        let Some(all) = self.gathered(bytes, &counts, root)? else {
            return Ok(None);
        };
        let mut rest = &all[..];
        let part = |&count: &u64| {
            let (own, others) = rest.split_at(usize::try_from(count).unwrap_or(rest.len()).min(rest.len()));
            rest = others;
            own.to_vec()
        };
        Ok(Some(counts.iter().map(part).collect()))
    }

    fn split(&self, color: usize) -> Result<Box<dyn Communicator>> {
        const OPERATION: &str = "Communicator::split";
        let number = i32::try_from(color).map_err(|_| Error::Argument {
            operation: OPERATION,
            reason: format!("the color {color} is larger than MPI's largest"),
        })?;
        match self.communicator.split_by_color(Color::with_value(number)) {
            Some(communicator) => Ok(Box::new(Self { communicator })),
            None => Err(Error::Communication {
                operation: OPERATION,
                reason: "MPI made no group".into(),
            }),
        }
    }
}

fn unknown(operation: &'static str, numbers: &Numbers<'_>) -> Error {
    Error::Communication {
        operation,
        reason: format!("MPI is not used for such numbers: {numbers:?}"),
    }
}
