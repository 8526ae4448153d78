//! How many floating-point operations a second the machine can do at all: multiply-adds on values that never leave the registers.
//! The executable that is compared with PyTorch has this file too.

use std::hint::black_box;
use std::sync::Barrier;
use std::thread;
use std::time::Instant;

use multiversion::multiversion;
use multiversion::target::match_target;

/// Numbers of an array: 3 registers of AVX-512, 6 of AVX2, 12 of NEON. LLVM keeps arrays of this size in registers, larger ones not.
const LANES: usize = 48;

/// Steps between two looks at the clock.
const STEPS: usize = 1 << 16;

/// A loop over `STEPS` steps of one multiply-add to each number of some arrays.
struct Kernel {
    run: fn(),
    arrays: usize,
}

/// Processors differ in how many chains of multiply-adds they need to be busy and how many registers there are to hold them:
/// the best is taken.
const KERNELS: [Kernel; 3] = [
    Kernel { run: one, arrays: 1 },
    Kernel { run: two, arrays: 2 },
    Kernel { run: four, arrays: 4 },
];

/// The most operations a second that `threads` threads together reached in `seconds` seconds, two to a multiply-add.
pub(crate) fn measure(threads: usize, seconds: f64) -> f64 {
    let share = seconds / KERNELS.len() as f64;
    KERNELS.iter().map(|kernel| rate(kernel, threads, share)).fold(0.0, f64::max)
}

/// The sum of what the threads reach while all of them run.
fn rate(kernel: &Kernel, threads: usize, seconds: f64) -> f64 {
    let together = Barrier::new(threads);
    thread::scope(|scope| {
        let workers: Vec<_> = (0..threads)
            .map(|_| scope.spawn(|| rate_of_one(kernel, &together, seconds)))
            .collect();
        workers.into_iter().map(|worker| worker.join().unwrap_or(0.0)).sum()
    })
}

fn rate_of_one(kernel: &Kernel, together: &Barrier, seconds: f64) -> f64 {
    (kernel.run)();
    together.wait();
    let start = Instant::now();
    let mut rounds = 0;
    while start.elapsed().as_secs_f64() < seconds {
        (kernel.run)();
        rounds += 1;
    }
    (rounds * STEPS * kernel.arrays * LANES * 2) as f64 / start.elapsed().as_secs_f64()
}

macro_rules! kernel {
    ($name:ident, $body:ident: $($sum:ident)*) => {
        #[multiversion(targets("x86_64+avx512f+avx2+fma", "x86_64+avx2+fma", "aarch64+neon"))]
        fn $name() {
            match_target! {
                "x86_64+avx2+fma" => $body::<true>(),
                "aarch64+neon" => $body::<true>(),
                _ => $body::<false>(),
            }
        }

        #[inline(always)]
        fn $body<const FMA: bool>() {
            let factor = black_box(0.999);
            let summand = black_box(0.001);
            $(let mut $sum = black_box([1.0; LANES]);)*
            for _ in 0..STEPS {
                $($sum = step::<FMA>($sum, factor, summand);)*
            }
            // Written to memory as a whole: from there LLVM finds the vectors.
            $(black_box($sum);)*
        }
    };
}

kernel!(one, one_body: a);
kernel!(two, two_body: a b);
kernel!(four, four_body: a b c d);

#[inline(always)]
fn step<const FMA: bool>(mut sum: [f32; LANES], factor: f32, summand: f32) -> [f32; LANES] {
    for value in &mut sum {
        // Without the instruction `mul_add` is a call into libm that emulates it.
        *value = if FMA {
            value.mul_add(factor, summand)
        } else {
            *value * factor + summand
        };
    }
    sum
}
