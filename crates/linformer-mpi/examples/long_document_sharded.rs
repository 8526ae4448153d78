//! Encodes one long document over several processes of one thread each.
//!
//! `mpirun -n 2 target/release/examples/long_document_sharded`; `--n`, `--dim`, `--heads`, `--k`, `--depth` and `--runs` take numbers.
//!
//! Prints what a process sends for each layer, which does not depend on the length, the time, and that of one process of one thread that has the
//! whole document, and the memory of the largest process; and checks that the numbers agree. `--alone 0` leaves the one process out.

mod support;

use linformer::distributed::{Combine, Communicator, Numbers, Sharded, Shards};
use linformer::ndarray::{Array3, s};
use linformer::{Encoder, EncoderConfig, Initialization, LinformerConfig, Result};
use linformer_mpi::Mpi;
use support::{Counting, one_thread, option, peak_memory, seconds};

fn main() -> Result<()> {
    one_thread()?;
    Mpi::run(|world| {
        let longest = option("n", 131_072)?;
        [8192.min(longest), longest]
            .into_iter()
            .try_for_each(|length| encode(world, length))
    })
}

/// The rows of a document that has no words, but as many numbers as one.
fn document(positions: std::ops::Range<usize>, dim: usize) -> Array3<f32> {
    Array3::from_shape_fn((1, positions.len(), dim), |(_, position, feature)| {
        ((positions.start + position) as f32 * 0.37 + feature as f32 * 1.7).sin()
    })
}

fn encode(world: &dyn Communicator, length: usize) -> Result<()> {
    let (dim, depth, runs) = (option("dim", 256)?, option("depth", 2)?, option("runs", 2)?);
    // Drawn, not windows of zeros, so that E and F are in memory as trained ones are.
    let standard_deviation = 1.0 / (length as f64).sqrt();
    let attention = LinformerConfig::new(dim, option("heads", 4)?, length, option("k", 128)?)
        .with_initialization(Initialization::Normal { standard_deviation });
    let config = EncoderConfig::new(attention, depth);
    let counting = Counting::new(world);
    let encoder = Sharded::<Encoder>::new(&config, 0, Shards::even(length, world.size())?, &counting)?;
    let x = document(encoder.range(), dim);
    counting.take();
    let y = encoder.forward(&x, None)?;
    let (bytes, calls) = counting.take();
    let mut peak = [peak_memory()];
    world.all_reduce(Numbers::U64(&mut peak), Combine::Maximum)?;
    let together = seconds(world, runs, || encoder.forward(&x, None).map(|_| ()))?;

    let mut figures = [0.0, 0.0];
    if world.rank() == 0 && option("alone", 1)? > 0 {
        let whole = Encoder::<f32>::new(&config, 0)?;
        let x = document(0..length, dim);
        let expected = whole.forward(&x, None)?;
        let own = expected.slice(s![.., encoder.range(), ..]);
        let differences = y.iter().zip(own).map(|(found, expected)| f64::from((found - expected).abs()));
        let mut alone = f64::MAX;
        for _ in 0..runs {
            let start = std::time::Instant::now();
            whole.forward(&x, None)?;
            alone = alone.min(start.elapsed().as_secs_f64());
        }
        figures = [alone, differences.fold(0.0, f64::max)];
    }
    world.all_reduce(Numbers::F64(&mut figures), Combine::Sum)?;
    let [alone, difference] = figures;
    if world.rank() == 0 {
        let layers = depth.max(1);
        println!(
            "n {length:>7} over {} processes: {together:.3} s; {} bytes a layer in {:.1} calls; at most {} MiB a process",
            world.size(),
            bytes / layers,
            calls as f64 / layers as f64,
            peak[0] >> 20
        );
        if alone > 0.0 {
            let ratio = alone / together;
            println!("          one process of one thread: {alone:.3} s, {ratio:.2} times as long; largest difference {difference:.1e}");
        }
    }
    assert!(difference < 1e-4, "the numbers differ by {difference}");
    Ok(())
}
