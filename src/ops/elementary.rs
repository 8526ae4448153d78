//! The elementary functions that the other kernels are made of, in a shape that vectorizes, and the loops that apply them.
//!
//! Everything here is a branchless function of one element, inlined into loops that [`dispatch`] compiles once per instruction set.
//! In f32 the relative errors, measured against f64 on every 11th bit pattern, are at most 8.6e-8 for
//! [`Elementary::exp_of_negative`] (0.75 of the spacing of subnormals, where the result is one), 1.8e-7 for
//! [`Elementary::tanh_of`], and 3e-7 + 6e-8·t²/2 for [`Elementary::normal_tail`]; [`double`] states those in f64.
//!
//! Nothing here or in what calls it asks the platform's C library for a function: those differ in their last bits, and so would results.

mod double;

use std::hint::black_box;

use ndarray::NdFloat;

/// Elements of a chunk: one AVX-512 register of f32, and enough independent sums for the narrower ones.
pub(super) const LANES: usize = 16;

/// Elements of the chunks that what remains is cut into. LLVM makes a loop over a remainder of any length scalar or masked, and masked
/// stores cost a Zen 3 processor some 40 ns a row.
const NARROW: usize = 4;

/// Elements of a row that are summed in one go: of more, the roundings would show.
const LONG: usize = 512;

/// Defines `$name`, which runs `$body::<$t, FMA>` compiled for the instruction level in use.
macro_rules! dispatch {
    ($name:ident, $body:ident, $t:ty, ($($arg:ident: $arg_type:ty),*)) => {
        $crate::ops::level::by_level! {
            fn $name($($arg: $arg_type),*);
            avx512: $body::<$t, true>($($arg),*),
            avx2: $body::<$t, true>($($arg),*),
            neon: $body::<$t, true>($($arg),*),
            portable: $body::<$t, false>($($arg),*)
        }
    };
}
pub(super) use dispatch;

/// The elementary functions of one element type; `FMA` says whether the instruction set has a fused multiply-add.
pub(super) trait Elementary: NdFloat {
    /// `value` rounded to this type.
    fn of(value: f64) -> Self;

    /// exp(x) for x ≤ 0 or NaN; other x are outside its domain.
    fn exp_of_negative<const FMA: bool>(x: Self) -> Self;

    /// tanh(x).
    fn tanh_of<const FMA: bool>(x: Self) -> Self;

    /// The normal distribution's upper tail Φ(−t) for t in [0, 1000] or NaN.
    fn normal_tail<const FMA: bool>(t: Self) -> Self;

    /// a·b + c, in one rounding if `FMA`.
    #[inline(always)]
    fn fused<const FMA: bool>(a: Self, b: Self, c: Self) -> Self {
        // Without the instruction `mul_add` is a call into libm that emulates it.
        if FMA { a.mul_add(b, c) } else { a * b + c }
    }

    /// Σ cᵢ·xⁱ.
    #[inline(always)]
    fn polynomial<const FMA: bool, const N: usize>(x: Self, coefficients: [Self; N]) -> Self {
        let mut sum = coefficients[N - 1];
        for &c in coefficients[..N - 1].iter().rev() {
            sum = Self::fused::<FMA>(sum, x, c);
        }
        sum
    }
}

/// e^x = 2^exponent · (1 + rest), with exponent the integer nearest to x/ln 2; gives the bits of 2^23·1.5 + exponent, and rest.
#[inline(always)]
fn reduced_exp<const FMA: bool>(x: f32) -> (u32, f32) {
    // Adding 1.5·2^23 rounds to an integer and leaves it in the low bits of the sum.
    const ROUND: f32 = 12_582_912.0;
    // ln 2 in two parts; the first has 9 bits, so that its product with an exponent is exact without a fused multiply-add too.
    const LN_2_HIGH: f32 = 0.693_359_4;
    const LN_2_LOW: f32 = -2.121_944_4e-4;
    // Minimax for (e^r − 1 − r)/r² on |r| ≤ ln(2)/2, fitted for this crate; 3.1e-9 of e^r before rounding.
    const Q: [f32; 5] = [0.499_999_94, 0.166_665_2, 0.041_668_4, 0.008_368_851, 0.001_381_432];
    let shifted = f32::fused::<FMA>(x, std::f32::consts::LOG2_E, ROUND);
    let exponent = shifted - ROUND;
    let r = f32::fused::<FMA>(exponent, -LN_2_HIGH, x);
    let r = f32::fused::<FMA>(exponent, -LN_2_LOW, r);
    let q = f32::polynomial::<FMA, 5>(r, Q);
    (shifted.to_bits(), f32::fused::<FMA>(r * r, q, r))
}

impl Elementary for f32 {
    #[allow(clippy::cast_possible_truncation)] // rounding is what is asked for
    #[inline(always)]
    fn of(value: f64) -> Self {
        value as Self
    }

    #[inline(always)]
    fn exp_of_negative<const FMA: bool>(x: Self) -> Self {
        // Below it the exponential rounds to 0: ln(2^−150).
        const UNDERFLOW: f32 = -103.972_08;
        // The scale leaves room of 2^24, so that the only rounding of a subnormal result is that of the last product.
        const ROOM: u32 = 24;
        const ROOM_INVERSE: f32 = 1.0 / (1 << ROOM) as f32;
        let (bits, rest) = reduced_exp::<FMA>(x);
        let scale = f32::from_bits((bits << 23).wrapping_add((127 + ROOM) << 23));
        let y = (1.0 + rest) * scale * ROOM_INVERSE;
        if x < UNDERFLOW { 0.0 } else { y }
    }

    #[inline(always)]
    fn tanh_of<const FMA: bool>(x: Self) -> Self {
        // 1 − tanh(10) is far below the last place of 1.
        let t = at_most(x.abs(), 10.0);
        let (bits, rest) = reduced_exp::<FMA>(-2.0 * t);
        let scale = f32::from_bits((bits << 23).wrapping_add(127 << 23));
        // e^(−2t) − 1 by its own formula: no cancellation near 0.
        let exp_minus_one = f32::fused::<FMA>(scale, rest, scale - 1.0);
        (-exp_minus_one / (2.0 + exp_minus_one)).copysign(x)
    }

    #[inline(always)]
    fn normal_tail<const FMA: bool>(t: Self) -> Self {
        // Minimax for Φ(−t)·e^(t²/2) on [0, 15], fitted for this crate; 6.3e-9 before rounding. Beyond, the exponential is 0.
        const NUMERATOR: [f32; 5] = [0.5, 0.439_284_7, 0.183_970_15, 0.040_881_485, 0.004_153_288];
        const DENOMINATOR: [f32; 6] = [1.0, 1.676_454_4, 1.205_552_3, 0.471_411_38, 0.102_480_81, 0.010_410_638];
        let exp = f32::exp_of_negative::<FMA>(-0.5 * t * t);
        exp * f32::polynomial::<FMA, 5>(t, NUMERATOR) / f32::polynomial::<FMA, 6>(t, DENOMINATOR)
    }
}

/// The smaller of `x` and `limit`; NaN stays NaN.
#[inline(always)]
pub(super) fn at_most<T: PartialOrd>(x: T, limit: T) -> T {
    if x > limit { limit } else { x }
}

/// A function of one element.
pub(super) trait Pointwise<T> {
    /// Its value at `x`.
    fn at<const FMA: bool>(&self, x: T) -> T;
}

/// A function with a derivative.
pub(super) trait Differentiable<T> {
    /// The derivative at `x`.
    fn slope<const FMA: bool>(&self, x: T) -> T;
}

/// The derivative as a function.
pub(super) struct Slope<F>(pub(super) F);

impl<T: Elementary, F: Differentiable<T>> Pointwise<T> for Slope<F> {
    #[inline(always)]
    fn at<const FMA: bool>(&self, x: T) -> T {
        self.0.slope::<FMA>(x)
    }
}

/// Replaces every element of `x` by the function's value there.
#[inline(always)]
pub(super) fn map<T: Elementary, F: Pointwise<T>, const FMA: bool>(x: &mut [T], function: &F) {
    let (chunks, rest) = x.as_chunks_mut::<LANES>();
    for x in chunks.as_flattened_mut() {
        *x = function.at::<FMA>(*x);
    }
    let (quarters, rest) = rest.as_chunks_mut::<NARROW>();
    for x in quarters.as_flattened_mut() {
        *x = function.at::<FMA>(*x);
    }
    for x in rest {
        *x = function.at::<FMA>(*x);
    }
}

/// Replaces every element of `x` by the function's slope there, and that of `values` by its value.
#[inline(always)]
pub(super) fn map_both<T: Elementary, F: Pointwise<T> + Differentiable<T>, const FMA: bool>(x: &mut [T], values: &mut [T], function: &F) {
    let (chunks, rest) = x.as_chunks_mut::<LANES>();
    let (value_chunks, value_rest) = values.as_chunks_mut::<LANES>();
    for (x, values) in chunks.iter_mut().zip(value_chunks) {
        for i in 0..LANES {
            (values[i], x[i]) = (function.at::<FMA>(x[i]), function.slope::<FMA>(x[i]));
        }
    }
    for (x, value) in rest.iter_mut().zip(value_rest) {
        (*value, *x) = (function.at::<FMA>(*x), function.slope::<FMA>(*x));
    }
}

/// [`map`] on the first `cols` of every `stride` elements.
#[inline(always)]
pub(super) fn map_rows<T: Elementary, F: Pointwise<T>, const FMA: bool>(x: &mut [T], cols: usize, stride: usize, function: &F) {
    for row in x.chunks_mut(stride) {
        map::<T, F, FMA>(&mut row[..cols], function);
    }
}

/// The first half of `lanes` folded with the second.
#[inline(always)]
fn halved<T: Elementary, const N: usize, const HALF: usize>(lanes: [T; N], fold: &impl Fn(T, T) -> T) -> [T; HALF] {
    let mut half = [T::zero(); HALF];
    for i in 0..HALF {
        half[i] = fold(lanes[i], lanes[i + HALF]);
    }
    half
}

/// Σ xᵢ of one or more chunks of `LANES`, in their order.
#[inline(always)]
pub(super) fn sum_of_chunks<T: Elementary, const W: usize>(x: &[T; W]) -> T {
    let (chunks, _) = x.as_chunks::<LANES>();
    let mut wide = [T::zero(); LANES];
    for chunk in chunks {
        for i in 0..LANES {
            wide[i] += chunk[i];
        }
    }
    let add = |a, b| a + b;
    // Through memory, as in `reduce_pairs`.
    let half: [T; LANES / 2] = halved(black_box(wide), &add);
    let quarter: [T; LANES / 4] = halved(half, &add);
    let pair: [T; 2] = halved(quarter, &add);
    pair[0] + pair[1]
}

/// fold over term(a, b) of two slices of one length, in an order that depends on the length only.
#[inline(always)]
pub(super) fn reduce_pairs<T: Elementary>(a: &[T], b: &[T], start: T, term: impl Fn(T, T) -> T, fold: impl Fn(T, T) -> T) -> T {
    let ((a_chunks, a), (b_chunks, b)) = (a.as_chunks::<{ 2 * LANES }>(), b.as_chunks::<{ 2 * LANES }>());
    let mut narrow = [start; NARROW];
    if !a_chunks.is_empty() {
        // Two chunks' worth of independent results hide the latency of an addition.
        let mut wide = [start; 2 * LANES];
        for (a, b) in a_chunks.iter().zip(b_chunks) {
            for i in 0..2 * LANES {
                wide[i] = fold(wide[i], term(a[i], b[i]));
            }
        }
        // Through memory: where LLVM sees the sums folded in pairs, it keeps them in pairs all along instead of whole registers.
        let wide: [T; LANES] = halved(black_box(wide), &fold);
        let half: [T; LANES / 2] = halved(wide, &fold);
        narrow = halved(half, &fold);
    }
    let ((a_chunks, a), (b_chunks, b)) = (a.as_chunks::<NARROW>(), b.as_chunks::<NARROW>());
    for (a, b) in a_chunks.iter().zip(b_chunks) {
        for i in 0..NARROW {
            narrow[i] = fold(narrow[i], term(a[i], b[i]));
        }
    }
    let pair: [T; 2] = halved(narrow, &fold);
    let mut result = fold(pair[0], pair[1]);
    for (&a, &b) in a.iter().zip(b) {
        result = fold(result, term(a, b));
    }
    result
}

/// Σ term(a, b) over two slices of one length, in an order that depends on the length only.
#[inline(always)]
pub(super) fn sum_of_pairs<T: Elementary>(a: &[T], b: &[T], term: impl Fn(T, T) -> T) -> T {
    if a.len() <= LONG {
        return reduce_pairs(a, b, T::zero(), term, |a, b| a + b);
    }
    // With what the roundings of the sum left out (Knuth's TwoSum).
    let (mut sum, mut rest) = (T::zero(), T::zero());
    for (a, b) in a.chunks(LONG).zip(b.chunks(LONG)) {
        let part = reduce_pairs(a, b, T::zero(), &term, |a, b| a + b);
        let next = sum + part;
        let added = next - sum;
        rest += (sum - (next - added)) + (part - added);
        sum = next;
    }
    if rest.is_finite() { sum + rest } else { sum }
}

/// Σ term(x), in an order that depends on the length only.
#[inline(always)]
pub(super) fn sum_of<T: Elementary>(x: &[T], term: impl Fn(T) -> T) -> T {
    sum_of_pairs(x, x, |x, _| term(x))
}

/// The largest element that is not NaN, or −∞.
#[inline(always)]
pub(super) fn maximum<T: Elementary>(x: &[T]) -> T {
    reduce_pairs(x, x, T::neg_infinity(), |x, _| x, |max, x| if x > max { x } else { max })
}

#[cfg(test)]
#[allow(clippy::float_cmp)] // what is compared so is exact
pub(super) mod tests {
    use std::ops::RangeInclusive;

    use super::*;

    /// The largest `error(x)` over every 1999th f32 in `range`, in the order of the bits: every exponent, subnormals too.
    pub(in crate::ops) fn worst(range: RangeInclusive<f32>, error: impl Fn(f32) -> f64) -> f64 {
        let patterns = (0..=u32::MAX).step_by(1999).map(f32::from_bits);
        let errors = patterns.filter(|x| range.contains(x)).map(error);
        errors.fold(0.0, |worst, error| if error > worst || error.is_nan() { error } else { worst })
    }

    /// `steps` values spread over [−span, span] without order.
    pub(in crate::ops) fn spread(steps: usize, span: f64) -> Vec<f64> {
        (0..steps).map(|i| ((i * 7919 % 10_007) as f64 / 5003.0 - 1.0) * span).collect()
    }

    fn relative(value: f32, exact: f64) -> f64 {
        (f64::from(value) - exact).abs() / exact.abs()
    }

    fn bounds<const FMA: bool>() {
        let exp = |x: f32| relative(f32::exp_of_negative::<FMA>(x), f64::from(x).exp());
        assert!(worst(-87.33..=0.0, exp) < 8.6e-8);
        let subnormal = |x: f32| (f64::from(f32::exp_of_negative::<FMA>(x)) - f64::from(x).exp()).abs();
        assert!(worst(f32::MIN..=-87.33, subnormal) < 0.75 * f64::from(f32::from_bits(1)));
        let tanh = |x: f32| relative(f32::tanh_of::<FMA>(x), f64::from(x).tanh());
        assert!(worst(f32::MIN..=-f32::MIN_POSITIVE, tanh) < 1.8e-7);
        assert!(worst(f32::MIN_POSITIVE..=f32::MAX, tanh) < 1.8e-7);
        let tail = |t: f32| {
            let exact = f64::normal_tail::<FMA>(f64::from(t));
            relative(f32::normal_tail::<FMA>(t), exact) - 6e-8 * f64::from(t * t / 2.0)
        };
        assert!(worst(0.0..=13.0, tail) < 3e-7);
    }

    #[test]
    #[cfg_attr(miri, ignore = "a sweep, too long to interpret")]
    fn within_the_stated_bounds() {
        bounds::<true>();
        bounds::<false>();
    }

    fn specials<const FMA: bool>() {
        for (x, exp) in [
            (0.0, 1.0),
            (-0.0, 1.0),
            (-103.98, 0.0),
            (-1e30, 0.0),
            (f32::MIN, 0.0),
            (f32::NEG_INFINITY, 0.0),
        ] {
            assert_eq!(f32::exp_of_negative::<FMA>(x).to_bits(), f32::to_bits(exp), "exp({x})");
        }
        for x in [0.0, f32::from_bits(1), 1e-39, 1e-20] {
            assert_eq!(f32::tanh_of::<FMA>(x).to_bits(), x.to_bits(), "tanh({x})");
            assert_eq!(f32::tanh_of::<FMA>(-x).to_bits(), (-x).to_bits(), "tanh(-{x})");
        }
        for x in [10.0, 1e30, f32::INFINITY] {
            assert_eq!((f32::tanh_of::<FMA>(x), f32::tanh_of::<FMA>(-x)), (1.0, -1.0));
        }
        assert_eq!((f32::normal_tail::<FMA>(0.0), f32::normal_tail::<FMA>(1000.0)), (0.5, 0.0));
        assert!(f32::exp_of_negative::<FMA>(f32::NAN).is_nan());
        assert!(f32::tanh_of::<FMA>(f32::NAN).is_nan());
        assert!(f32::normal_tail::<FMA>(f32::NAN).is_nan());
    }

    #[test]
    fn at_the_edges() {
        specials::<true>();
        specials::<false>();
    }

    #[test]
    #[cfg_attr(miri, ignore = "a sweep, too long to interpret")]
    fn reductions_of_every_length() {
        for len in (0..100).chain([127, 128, 129, 1000]) {
            let x = spread(len, 4.0);
            let narrow: Vec<f32> = x.iter().map(|&x| f32::of(x)).collect();
            let exact: f64 = x.iter().sum();
            assert!((sum_of(&x, |x| x) - exact).abs() < 1e-12);
            assert!((f64::from(sum_of(&narrow, |x| x)) - exact).abs() < 1e-6 * (1 + len) as f64);
            assert_eq!(maximum(&x), x.iter().copied().fold(f64::NEG_INFINITY, f64::max));
        }
        assert_eq!(maximum(&[f64::NAN, -3.0, f64::NAN]), -3.0);
        assert_eq!(maximum(&[f64::NAN]), f64::NEG_INFINITY);
    }
}
