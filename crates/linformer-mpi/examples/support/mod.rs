//! What the examples share.
#![allow(dead_code, unreachable_pub)] // each example uses its own part

use std::cell::Cell;
use std::time::Instant;

use linformer::distributed::{Combine, Communicator, Numbers};
use linformer::{Error, Result};

/// The value after `--name` on the command line, or the default.
pub fn option(name: &str, default: usize) -> Result<usize> {
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        if argument.strip_prefix("--") == Some(name) {
            let value = arguments.next().unwrap_or_default();
            return value.parse().map_err(|_| Error::Argument {
                operation: "the command line",
                reason: format!("--{name} needs a whole number, not `{value}`"),
            });
        }
    }
    Ok(default)
}

/// Counts what a rank brings to collective calls.
#[derive(Debug)]
pub struct Counting<'c> {
    inner: &'c dyn Communicator,
    bytes: Cell<usize>,
    calls: Cell<usize>,
}

impl<'c> Counting<'c> {
    pub fn new(inner: &'c dyn Communicator) -> Self {
        Self {
            inner,
            bytes: Cell::new(0),
            calls: Cell::new(0),
        }
    }

    /// The bytes and calls since the last time.
    pub fn take(&self) -> (usize, usize) {
        (self.bytes.take(), self.calls.take())
    }

    fn count(&self, bytes: usize) {
        self.bytes.set(self.bytes.get() + bytes);
        self.calls.set(self.calls.get() + 1);
    }
}

impl Communicator for Counting<'_> {
    fn rank(&self) -> usize {
        self.inner.rank()
    }

    fn size(&self) -> usize {
        self.inner.size()
    }

    fn all_reduce(&self, numbers: Numbers<'_>, by: Combine) -> Result<()> {
        self.count(numbers.bytes());
        self.inner.all_reduce(numbers, by)
    }

    fn broadcast(&self, numbers: Numbers<'_>, root: usize) -> Result<()> {
        self.count(numbers.bytes());
        self.inner.broadcast(numbers, root)
    }

    fn gather(&self, bytes: &[u8], root: usize) -> Result<Option<Vec<Vec<u8>>>> {
        self.count(bytes.len());
        self.inner.gather(bytes, root)
    }

    fn split(&self, color: usize) -> Result<Box<dyn Communicator>> {
        self.inner.split(color)
    }
}

/// The most bytes that this process has had in memory; 0 where the system does not tell.
pub fn peak_memory() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kibibytes = line
        .and_then(|line| line.trim().strip_suffix("kB"))
        .and_then(|number| number.trim().parse::<u64>().ok());
    kibibytes.unwrap_or(0) << 10
}

/// The seconds of `work`, from when all ranks are ready until the last has done it: the shortest of some runs.
pub fn seconds(world: &dyn Communicator, runs: usize, mut work: impl FnMut() -> Result<()>) -> Result<f64> {
    let mut shortest = f64::MAX;
    for _ in 0..=runs.max(1) {
        world.all_reduce(Numbers::U64(&mut [0]), Combine::Sum)?;
        let start = Instant::now();
        work()?;
        let mut own = [start.elapsed().as_secs_f64()];
        world.all_reduce(Numbers::F64(&mut own), Combine::Maximum)?;
        shortest = own[0].min(shortest);
    }
    Ok(shortest)
}

/// Lets rayon have no thread but this one, which MPI's calls come from.
pub fn one_thread() -> Result<()> {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(1).use_current_thread();
    pool.build_global().map_err(|error| Error::Argument {
        operation: "the examples",
        reason: error.to_string(),
    })
}
