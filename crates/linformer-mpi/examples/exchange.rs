//! Measures what an exchange costs: the all-reduce of MPI by size, and an operation of several ranks that does nothing else.
//!
//! `mpirun -n 2 target/release/examples/exchange`; `--runs` takes a number. docs/scaling.md says what to make of it.

mod support;

use std::time::Instant;

use linformer::Result;
use linformer::distributed::{Combine, Communicator, Numbers};
use linformer_mpi::Mpi;
use support::option;

fn main() -> Result<()> {
    Mpi::run(|world| measure(world))
}

fn measure(world: &dyn Communicator) -> Result<()> {
    let runs = option("runs", 200)?;
    if world.rank() == 0 {
        println!("{} processes\n{:>12} {:>14} {:>12}", world.size(), "bytes", "microseconds", "MB/s");
    }
    for power in (1..=24).step_by(2) {
        let mut numbers = vec![1.0_f32; 1 << power];
        let count = (runs * (1 << 12) / numbers.len()).clamp(10, runs);
        let mut times = Vec::with_capacity(count);
        for _ in 0..count {
            world.all_reduce(Numbers::U64(&mut [0]), Combine::Sum)?;
            numbers.fill(1.0);
            let start = Instant::now();
            world.all_reduce(Numbers::F32(&mut numbers), Combine::Sum)?;
            times.push(start.elapsed().as_secs_f64());
        }
        times.sort_by(f64::total_cmp);
        let median = times[count / 2];
        if world.rank() == 0 {
            let bytes = numbers.len() * size_of::<f32>();
            println!("{bytes:>12} {:>14.1} {:>12.0}", median * 1e6, bytes as f64 / median / 1e6);
        }
    }
    Ok(())
}
