//! The elementary functions of `f64`.
//!
//! The relative errors, measured against 60 digits at 6,000 places, are at most 1.5e-16 for [`Elementary::exp_of_negative`] (one unit in the last
//! place), 2.8e-16 for [`Elementary::tanh_of`], and 1.1e-15 for [`Elementary::normal_tail`].

use super::{Elementary, at_most};

/// e^x = 2^exponent · (1 + rest), with exponent the integer nearest to x/ln 2; gives the bits of 2^52·1.5 + exponent, and rest.
#[inline(always)]
fn reduced_exp<const FMA: bool>(x: f64) -> (u64, f64) {
    // Adding 1.5·2^52 rounds to an integer and leaves it in the low bits of the sum.
    const ROUND: f64 = 6_755_399_441_055_744.0;
    // ln 2 in two parts; the first has 32 bits, so that its product with an exponent is exact without a fused multiply-add too.
    const LN_2_HIGH: f64 = f64::from_bits(0x3fe6_2e42_fee0_0000);
    const LN_2_LOW: f64 = 1.908_214_929_270_587_7e-10;
    // Near the minimax for (e^r − 1 − r)/r² on |r| ≤ ln(2)/2, fitted for this crate; 3.4e-19 of e^r before rounding.
    const Q: [f64; 11] = [
        0.5,
        0.166_666_666_666_666_7,
        0.041_666_666_666_666_67,
        0.008_333_333_333_326_136,
        0.001_388_888_888_888_374_8,
        0.000_198_412_698_748_206_27,
        2.480_158_732_554_774_3e-5,
        2.755_725_540_020_642_2e-6,
        2.755_727_364_311_03e-7,
        2.510_521_700_472_074_5e-8,
        2.091_468_696_808_687_6e-9,
    ];
    let shifted = f64::fused::<FMA>(x, std::f64::consts::LOG2_E, ROUND);
    let exponent = shifted - ROUND;
    let r = f64::fused::<FMA>(exponent, -LN_2_HIGH, x);
    let r = f64::fused::<FMA>(exponent, -LN_2_LOW, r);
    let q = f64::polynomial::<FMA, 11>(r, Q);
    (shifted.to_bits(), f64::fused::<FMA>(r * r, q, r))
}

/// The rounding error of t·t.
#[inline(always)]
fn lost_of_square<const FMA: bool>(t: f64, square: f64) -> f64 {
    if FMA {
        return t.mul_add(t, -square);
    }
    // Halves of 26 and 27 bits, whose products are exact (Dekker 1971).
    let high = f64::from_bits(t.to_bits() & !0x7ff_ffff);
    let low = t - high;
    ((high * high - square) + 2.0 * high * low) + low * low
}

impl Elementary for f64 {
    #[inline(always)]
    fn of(value: f64) -> Self {
        value
    }

    #[inline(always)]
    fn exp_of_negative<const FMA: bool>(x: Self) -> Self {
        // Below it the exponential rounds to 0: ln(2^−1075).
        const UNDERFLOW: f64 = -745.133_219_101_941_2;
        // The scale leaves room of 2^54, so that the only rounding of a subnormal result is that of the last product.
        const ROOM: u64 = 54;
        const ROOM_INVERSE: f64 = 1.0 / (1_u64 << ROOM) as f64;
        let (bits, rest) = reduced_exp::<FMA>(x);
        let scale = f64::from_bits((bits << 52).wrapping_add((1023 + ROOM) << 52));
        let y = (1.0 + rest) * scale * ROOM_INVERSE;
        if x < UNDERFLOW { 0.0 } else { y }
    }

    #[inline(always)]
    fn tanh_of<const FMA: bool>(x: Self) -> Self {
        // 1 − tanh(20) is far below the last place of 1.
        let t = at_most(x.abs(), 20.0);
        let (bits, rest) = reduced_exp::<FMA>(-2.0 * t);
        let scale = f64::from_bits((bits << 52).wrapping_add(1023 << 52));
        // e^(−2t) − 1 by its own formula: no cancellation near 0.
        let exp_minus_one = f64::fused::<FMA>(scale, rest, scale - 1.0);
        (-exp_minus_one / (2.0 + exp_minus_one)).copysign(x)
    }

    #[inline(always)]
    fn normal_tail<const FMA: bool>(t: Self) -> Self {
        // Near the minimax for Φ(−t)·e^(t²/2) on [0, 38.7], fitted for this crate; 2.8e-17 before rounding. Beyond, the exponential is 0.
        const NUMERATOR: [f64; 11] = [
            0.5,
            0.827_694_622_829_237_6,
            0.679_250_380_783_028_1,
            0.357_068_495_916_066_04,
            0.131_910_810_610_433_22,
            0.035_621_794_087_685_43,
            0.007_111_661_236_614_906_5,
            0.001_037_754_048_347_783_1,
            0.000_106_334_418_912_988_76,
            6.957_570_697_883_236e-6,
            2.234_840_032_643_231e-7,
        ];
        const DENOMINATOR: [f64; 12] = [
            1.0,
            2.453_273_806_461_340_6,
            2.815_930_055_163_629,
            2.000_248_724_185_015_5,
            0.979_300_599_630_243_7,
            0.347_950_171_601_312_5,
            0.091_856_980_103_339_72,
            0.018_091_711_604_457_075,
            0.002_618_703_683_344_361,
            0.000_267_101_052_332_015_46,
            1.744_004_343_408_902_4e-5,
            5.601_913_215_099_461e-7,
        ];
        let square = t * t;
        let lost = lost_of_square::<FMA>(t, square);
        let exp = f64::exp_of_negative::<FMA>(-0.5 * square);
        // e^(−lost/2), so that the tail is as exact far out as near 0.
        let exp = f64::fused::<FMA>(exp * -0.5, lost, exp);
        exp * f64::polynomial::<FMA, 11>(t, NUMERATOR) / f64::polynomial::<FMA, 12>(t, DENOMINATOR)
    }
}

#[cfg(test)]
#[allow(clippy::float_cmp)] // what is compared so is exact
mod tests {
    use std::f64::consts::FRAC_1_SQRT_2;

    use super::super::tests::spread;
    use super::*;

    /// Numbers above 0 of all sizes, some of them in every power of 2 down to the smallest subnormals.
    fn sizes(largest: f64) -> impl Iterator<Item = f64> {
        let patterns = (1..0x7ff0_0000_0000_0000_u64).step_by(0x0000_2b5a_3c71_9d33);
        let many = spread(20_001, largest).into_iter().map(f64::abs);
        patterns.map(f64::from_bits).take_while(move |&x| x <= largest).chain(many)
    }

    fn relative(value: f64, exact: f64) -> f64 {
        (value - exact).abs() / exact.abs()
    }

    /// Against `libm`, whose own errors are within 1.2e-16; the argument of its `erfc` is rounded.
    fn bounds<const FMA: bool>() {
        for x in sizes(708.0) {
            let error = relative(f64::exp_of_negative::<FMA>(-x), libm::exp(-x));
            assert!(error < 3.2e-16, "exp(−{x}): {error}");
        }
        for x in sizes(1e4).filter(|&x| x >= f64::MIN_POSITIVE) {
            for x in [x, -x] {
                let error = relative(f64::tanh_of::<FMA>(x), libm::tanh(x));
                assert!(error < 5e-16, "tanh({x}): {error}");
            }
        }
        for t in sizes(37.5) {
            let error = relative(f64::normal_tail::<FMA>(t), 0.5 * libm::erfc(t * FRAC_1_SQRT_2));
            // The reference's argument is rounded, which shows by t² of its last place.
            assert!(error < 1.4e-15 + 2.3e-16 * t * t, "Φ(−{t}): {error}");
        }
        let smallest = f64::from_bits(1);
        for x in spread(5001, 20.0).into_iter().map(|x| x - 728.0) {
            let error = (f64::exp_of_negative::<FMA>(x) - libm::exp(x)).abs();
            assert!(error <= smallest, "exp({x}), a subnormal: {error}");
        }
    }

    #[test]
    #[cfg_attr(miri, ignore = "a sweep, too long to interpret")]
    fn within_the_stated_bounds() {
        bounds::<true>();
        bounds::<false>();
    }

    /// Far out, where the square of an argument that is rounded once would show: values to 20 places, computed with mpmath.
    #[test]
    fn far_tails() {
        for (t, exact) in TAILS {
            assert!(relative(f64::normal_tail::<true>(t), exact) < 1.2e-15, "Φ(−{t})");
            assert!(relative(f64::normal_tail::<false>(t), exact) < 1.2e-15, "Φ(−{t})");
        }
    }

    fn specials<const FMA: bool>() {
        for (x, exp) in [(0.0, 1.0), (-0.0, 1.0), (-745.2, 0.0), (-1e300, 0.0), (f64::NEG_INFINITY, 0.0)] {
            assert_eq!(f64::exp_of_negative::<FMA>(x).to_bits(), f64::to_bits(exp), "exp({x})");
        }
        for x in [0.0, f64::from_bits(1), 1e-310, 1e-100] {
            assert_eq!(f64::tanh_of::<FMA>(x).to_bits(), x.to_bits(), "tanh({x})");
            assert_eq!(f64::tanh_of::<FMA>(-x).to_bits(), (-x).to_bits(), "tanh(−{x})");
        }
        for x in [20.0, 1e300, f64::INFINITY] {
            assert_eq!((f64::tanh_of::<FMA>(x), f64::tanh_of::<FMA>(-x)), (1.0, -1.0));
        }
        assert_eq!((f64::normal_tail::<FMA>(0.0), f64::normal_tail::<FMA>(1000.0)), (0.5, 0.0));
        assert!(f64::exp_of_negative::<FMA>(f64::NAN).is_nan());
        assert!(f64::tanh_of::<FMA>(f64::NAN).is_nan());
        assert!(f64::normal_tail::<FMA>(f64::NAN).is_nan());
    }

    #[test]
    fn at_the_edges() {
        specials::<true>();
        specials::<false>();
    }

    const TAILS: [(f64, f64); 6] = [
        (5.3, 5.790_134_039_964_594e-08),
        (12.7, 2.956_485_364_852_05e-37),
        (20.1, 3.689_680_863_721_389_7e-90),
        (25.604, 6.884_164_219_414_282e-145),
        (31.37, 2.596_400_127_461_133e-216),
        (36.9, 2.310_524_481_140_617_3e-298),
    ];
}
