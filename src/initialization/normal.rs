//! Standard normal numbers whose bits are the same on every platform.
//!
//! The ziggurat of Marsaglia and Tsang (2000) with 256 layers. Its table, the wedges and the tail take `libm`'s functions: the platform's
//! own differ in their last bits, with which other numbers would be drawn.

use std::sync::OnceLock;

use super::unit;

const LAYERS: usize = 256;
/// Where the tail begins, and the area of each layer, for 256 layers.
const TAIL: f64 = 3.654_152_885_361_009;
const AREA: f64 = 0.004_928_673_233_992_336;

/// The right edges of the layers, from the base up, and the density e^(−x²/2) there.
struct Layers {
    edges: [f64; LAYERS + 1],
    densities: [f64; LAYERS + 1],
}

fn density(x: f64) -> f64 {
    libm::exp(-x * x / 2.0)
}

impl Layers {
    fn new() -> Self {
        let mut edges = [0.0; LAYERS + 1];
        // The base is as wide as a rectangle of its area would be, tail included.
        edges[0] = AREA / density(TAIL);
        edges[1] = TAIL;
        for layer in 2..LAYERS {
            let below = edges[layer - 1];
            edges[layer] = (-2.0 * libm::log(AREA / below + density(below))).sqrt();
        }
        Self {
            edges,
            densities: edges.map(density),
        }
    }

    fn get() -> &'static Self {
        static LAYERS: OnceLock<Layers> = OnceLock::new();
        LAYERS.get_or_init(Self::new)
    }
}

/// A number in [−1, 1) of the upper 52 bits of `draw`, so that it is independent of the lowest 8.
fn signed_unit(draw: u64) -> f64 {
    f64::from_bits(draw >> 12 | 2.0_f64.to_bits()) - 3.0
}

/// A number in (0, 1).
fn open_unit(draw: u64) -> f64 {
    f64::from_bits(draw >> 12 | 1.0_f64.to_bits()) - (1.0 - f64::EPSILON / 2.0)
}

/// A standard normal number, made of one of the numbers that `draw` gives or of a few.
#[allow(clippy::cast_possible_truncation)] // the lowest bits choose a layer
pub(super) fn standard_normal(mut draw: impl FnMut() -> u64) -> f64 {
    let Layers { edges, densities } = Layers::get();
    loop {
        let bits = draw();
        let layer = bits as usize % LAYERS;
        let side = signed_unit(bits);
        let x = side * edges[layer];
        if x.abs() < edges[layer + 1] {
            return x;
        }
        if layer == 0 {
            return tail(&mut draw).copysign(side);
        }
        let (below, above) = (densities[layer], densities[layer + 1]);
        if above + (below - above) * unit(draw()) < density(x) {
            return x;
        }
    }
}

/// A number beyond [`TAIL`] (Marsaglia 1964).
fn tail(mut draw: impl FnMut() -> u64) -> f64 {
    loop {
        let x = -libm::log(open_unit(draw())) / TAIL;
        let y = -libm::log(open_unit(draw()));
        if 2.0 * y >= x * x {
            return TAIL + x;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// SplitMix64.
    fn draws() -> impl FnMut() -> u64 {
        let mut state = 7_u64;
        move || {
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let x = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            x ^ (x >> 31)
        }
    }

    /// All layers have one area, and the uppermost ends at the density's summit.
    #[test]
    fn layers_are_of_one_area() {
        let Layers { edges, densities } = Layers::new();
        for layer in 1..LAYERS {
            let area = edges[layer] * (densities[layer + 1] - densities[layer]);
            // The error of the rounded constants gathers in the uppermost.
            let bound = if layer + 1 == LAYERS { 1e-8 } else { 1e-12 };
            assert!((area - AREA).abs() < bound, "{layer}: {area}");
        }
        let tail = 0.5 * libm::erfc(TAIL * std::f64::consts::FRAC_1_SQRT_2) * (2.0 * std::f64::consts::PI).sqrt();
        assert!((TAIL * density(TAIL) + tail - AREA).abs() < 1e-13);
    }

    /// Shares of 2^20 numbers below some limits, the tails too, within five standard deviations.
    #[test]
    #[cfg_attr(miri, ignore = "a million numbers, too many to interpret")]
    fn shares_are_those_of_the_normal_distribution() {
        let mut draw = draws();
        let count = 1 << 20;
        let numbers: Vec<f64> = (0..count).map(|_| standard_normal(&mut draw)).collect();
        for limit in [-4.0, -TAIL, -3.0, -2.0, -1.0, -0.3, 0.0, 0.1, 0.7, 1.5, 2.5, 3.5, TAIL, 3.8, 4.2] {
            let share = 0.5 * libm::erfc(-limit * std::f64::consts::FRAC_1_SQRT_2);
            let expected = share * f64::from(count);
            let found = numbers.iter().filter(|&&x| x < limit).count() as f64;
            let deviation = (expected * (1.0 - share)).sqrt();
            assert!(
                (found - expected).abs() < 5.0 * deviation + 1.0,
                "below {limit}: {found} for {expected}"
            );
        }
    }
}
