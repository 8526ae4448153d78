//! How a job ends of which one process fails while the others wait for it.
//!
//! `mpirun -n 2 target/release/examples/ends error`, or `panic`: either way all processes end at once, and mpirun with an error.

use linformer::distributed::{Combine, Communicator, Numbers};
use linformer::{Error, Result};
use linformer_mpi::Mpi;

fn main() -> Result<()> {
    let panics = std::env::args().nth(1).is_some_and(|way| way == "panic");
    Mpi::run(|world| {
        let group = world.split(0)?;
        if world.rank() + 1 < world.size() {
            // The last one never comes.
            return group.all_reduce(Numbers::U64(&mut [0]), Combine::Sum);
        }
        assert!(!panics, "on purpose");
        Err(Error::Argument {
            operation: "ends",
            reason: "on purpose".into(),
        })
    })
}
