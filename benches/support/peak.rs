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
const STEPS: usize = 1 << 14;

/// A loop over `STEPS` steps of one multiply-add to each number of some arrays.
struct Kernel {
    run: fn(),
    arrays: usize,
}

/// The kernels of one instruction level. Processors differ in how many chains of multiply-adds they need to be busy and how many registers
/// there are to hold them: the best is taken.
pub(crate) struct Level([Kernel; 3]);

macro_rules! level {
    ($name:ident, $one:expr, $two:expr, $four:expr) => {
        #[allow(dead_code)] // each executable with this file has its own levels
        pub(crate) const $name: Level = Level([
            Kernel { run: $one, arrays: 1 },
            Kernel { run: $two, arrays: 2 },
            Kernel { run: $four, arrays: 4 },
        ]);
    };
}

level!(WIDEST, one, two, four);
level!(WITHOUT_AVX512, one_of_avx2, two_of_avx2, four_of_avx2);
level!(PORTABLE, one_body::<false>, two_body::<false>, four_body::<false>);

/// The most operations a second that `threads` threads together reached in `seconds` seconds, two to a multiply-add.
pub(crate) fn measure(level: &Level, threads: usize, seconds: f64) -> f64 {
    let share = seconds / level.0.len() as f64;
    level.0.iter().map(|kernel| rate(kernel, threads, share)).fold(0.0, f64::max)
}

/// The most operations a second that this thread reaches in one short run of each kernel.
#[allow(dead_code)] // each executable with this file has its own questions
pub(crate) fn burst(level: &Level) -> f64 {
    let rate = |kernel: &Kernel| {
        let start = Instant::now();
        (kernel.run)();
        flops(kernel) / start.elapsed().as_secs_f64()
    };
    level.0.iter().map(rate).fold(0.0, f64::max)
}

/// Operations of one run.
fn flops(kernel: &Kernel) -> f64 {
    (STEPS * kernel.arrays * LANES * 2) as f64
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
    f64::from(rounds) * flops(kernel) / start.elapsed().as_secs_f64()
}

macro_rules! kernel {
    ($name:ident, $without_avx512:ident, $body:ident: $($sum:ident)*) => {
        #[multiversion(targets("x86_64+avx512f+avx2+fma", "x86_64+avx2+fma", "aarch64+neon"))]
        fn $name() {
            match_target! {
                "x86_64+avx2+fma" => $body::<true>(),
                "aarch64+neon" => $body::<true>(),
                _ => $body::<false>(),
            }
        }

        #[allow(dead_code)] // as the level that it belongs to
        #[multiversion(targets("x86_64+avx2+fma"))]
        fn $without_avx512() {
            match_target! {
                "x86_64+avx2+fma" => $body::<true>(),
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

kernel!(one, one_of_avx2, one_body: a);
kernel!(two, two_of_avx2, two_body: a b);
kernel!(four, four_of_avx2, four_body: a b c d);

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
