//! The guard of speed: whether every instruction level of this processor comes close to what it can do at all.
//!
//! A level runs in a process of its own, which measures the level's peak of multiply-adds, the kernel in the nearest caches at the shapes of
//! the layers, and a whole layer, each in many short runs of which the best counts: others on the machine slow some down, never all.

use std::process::Command;
use std::time::{Duration, Instant};

use linformer::ndarray::Array3;
use linformer::{
    KernelProbe, Level, LinformerAttention, LinformerConfig, LocalGlobalAttention, LocalGlobalConfig, ProbeLeft, Scalar, Workspace,
};

use crate::peak;

/// The least share of the peak for the kernel and for a layer.
const KERNEL: f64 = 0.70;
const LAYER: f64 = 0.60;
/// The least share for sums over positions, which are added in short chains.
const CHAINS: f64 = 0.60;
/// The least share for the products of one block of local-global attention, and that of the portable level.
const BLOCK: f64 = 0.60;
const PORTABLE_BLOCK: f64 = 0.35;
/// What the portable level must reach of that. Its instructions overwrite an operand and it has none to fill a register with one number, so that
/// half of what it does is moving numbers; the peak has none of that.
const PORTABLE: f64 = 0.75;
/// How long one look at a figure takes.
const LOOK: Duration = Duration::from_millis(15);
/// How long figures that are not good enough yet are looked at again. Other programs, or other guests of the machine, can take half of a
/// processor for seconds.
const PATIENCE: Duration = Duration::from_secs(16);
/// Rounds of looks at all figures.
const ROUNDS: usize = 3;
/// Looks at the peak after each round of them.
const BURSTS: usize = 20;
/// Rows of half a tile: with the other operand they fit into the second-level cache of every processor, in f64 too.
const ROWS: usize = 132;
/// (inner, columns): projections and feed-forwards, QKᵀ, P·V, and narrow results.
const SHAPES: [(usize, usize); 8] = [
    (512, 128),
    (384, 128),
    (256, 128),
    (64, 128),
    (128, 64),
    (128, 32),
    (512, 32),
    (512, 16),
];

/// Rows of one block of local-global attention: no kernel's rows divide them.
const BLOCK_ROWS: usize = 32;
/// (inner, columns) of its products: scores of the window and of the slots, and both by their values.
const BLOCK_SHAPES: [(usize, usize); 4] = [(64, 96), (64, 64), (96, 64), (64, 32)];

/// Runs every level in a child process; whether all of them are fast enough.
pub(crate) fn check_all() -> bool {
    let executable = std::env::current_exe().expect("this executable has a path");
    let mut passed = true;
    for level in Level::ALL {
        if !level.is_available() {
            println!("{}: NOT MEASURED, this processor does not have it", level.name());
            continue;
        }
        let status = Command::new(&executable)
            .args(["--check", level.name()])
            .env("LINFORMER_LEVEL", level.name())
            .status();
        passed &= status.is_ok_and(|status| status.success());
    }
    passed
}

/// Measures the level of this process; whether it is fast enough.
pub(crate) fn check_one(name: &str) -> bool {
    assert_eq!(Level::current().name(), name, "the level that was asked for");
    let level = match Level::current() {
        Level::Portable => &peak::PORTABLE,
        Level::Avx2 => &peak::WITHOUT_AVX512,
        Level::Avx512 | Level::Neon => &peak::WIDEST,
    };
    let mark = if Level::current() == Level::Portable { PORTABLE } else { 1.0 };
    let mut figures = vec![layer(), local_global_layer()];
    for left in [ProbeLeft::Rows, ProbeLeft::RowsAdded, ProbeLeft::Columns] {
        for shape in SHAPES {
            figures.push(kernel::<f32>("f32", 1.0, left, (ROWS, shape)));
            // A register holds half as many.
            figures.push(kernel::<f64>("f64", 2.0, left, (ROWS, shape)));
        }
    }
    for figure in &mut figures {
        figure.least *= mark;
    }
    for shape in BLOCK_SHAPES {
        let mut figure = kernel::<f32>("f32 block", 1.0, ProbeLeft::Rows, (BLOCK_ROWS, shape));
        // The portable level has 45 to 60 %, from process to process.
        figure.least = if mark < 1.0 { PORTABLE_BLOCK } else { BLOCK };
        figures.push(figure);
    }
    let mut peak = peak::burst(level);
    let start = Instant::now();
    let mut round = 0;
    while round < ROUNDS || (start.elapsed() < PATIENCE && figures.iter().any(|figure| figure.is_slow(peak))) {
        for figure in figures.iter_mut().filter(|figure| round < ROUNDS || figure.is_slow(peak)) {
            figure.look();
        }
        round += 1;
        peak = (0..BURSTS).map(|_| peak::burst(level)).fold(peak, f64::max);
    }
    let mut passed = true;
    println!("{name}: multiply-adds in registers: {:.0} GFLOP/s on one thread", peak / 1e9);
    for figure in &figures {
        let share = figure.share(peak);
        let verdict = if figure.is_slow(peak) { ": TOO SLOW" } else { "" };
        println!(
            "{name}, {}: {:.0} % of that, at least {:.0} %{verdict}",
            figure.what,
            100.0 * share,
            100.0 * figure.least
        );
        passed &= !figure.is_slow(peak);
    }
    passed
}

/// Something whose speed is watched.
struct Figure {
    what: String,
    least: f64,
    /// Operations of a call, as many as there would be in f32 in the same time.
    flops: f64,
    work: Box<dyn FnMut()>,
    /// The shortest time of a call so far, in seconds.
    fastest: f64,
}

impl Figure {
    fn new(what: String, least: f64, flops: f64, work: impl FnMut() + 'static) -> Self {
        Self {
            what,
            least,
            flops,
            work: Box::new(work),
            fastest: f64::INFINITY,
        }
    }

    fn look(&mut self) {
        let start = Instant::now();
        while start.elapsed() < LOOK {
            let start = Instant::now();
            (self.work)();
            self.fastest = self.fastest.min(start.elapsed().as_secs_f64());
        }
    }

    fn is_slow(&self, peak: f64) -> bool {
        self.share(peak) < self.least
    }

    fn share(&self, peak: f64) -> f64 {
        self.flops / self.fastest / peak
    }
}

fn kernel<A: Scalar>(name: &str, weight: f64, left: ProbeLeft, (rows, (inner, cols)): (usize, (usize, usize))) -> Figure {
    let mut probe = KernelProbe::<A>::new(left, rows, inner, cols);
    let flops = weight * (2 * rows * inner * cols) as f64;
    let least = if rows == ROWS && matches!(left, ProbeLeft::Rows) {
        KERNEL
    } else {
        CHAINS
    };
    Figure::new(format!("{name} kernel, {left:?}, {inner} x {cols}"), least, flops, move || {
        probe.run();
    })
}

fn local_global_layer() -> Figure {
    let (n, dim) = (1056, 512);
    let config = LocalGlobalConfig::new(dim, 8);
    let seen = 3 * config.block + config.slots;
    let layer = LocalGlobalAttention::<f32>::new(&config, 0).expect("a valid configuration");
    let x = Array3::from_shape_fn((1, n, dim), |(_, t, i)| ((t * dim + i) as f32 * 0.734).sin());
    let (mut out, mut workspace) = (Array3::zeros(x.dim()), Workspace::new());
    let flops = (n * (8 * dim * dim + 4 * seen * dim)) as f64;
    let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build().expect("a thread");
    Figure::new("f32 local-global layer".into(), LAYER, flops, move || {
        pool.install(|| layer.forward_into(&x, None, &mut out, &mut workspace).expect("it fits"));
    })
}

fn layer() -> Figure {
    let (n, dim, k) = (1056, 512, 128);
    let layer = LinformerAttention::<f32>::new(&LinformerConfig::new(dim, 8, n, k), 0).expect("a valid configuration");
    let x = Array3::from_shape_fn((1, n, dim), |(_, t, i)| ((t * dim + i) as f32 * 0.734).sin());
    let (mut out, mut workspace) = (Array3::zeros(x.dim()), Workspace::new());
    let flops = (n * (4 * dim * dim + 8 * k * dim) + 4 * k * dim * dim) as f64;
    let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build().expect("a thread");
    Figure::new("f32 layer".into(), LAYER, flops, move || {
        pool.install(|| layer.forward_into(&x, None, &mut out, &mut workspace).expect("it fits"));
    })
}
