//! Whether a step stays within the element type's range: a bound that costs nothing, and the step tried out where the bound does not suffice.

use ndarray::{ArrayD, ArrayViewD};

use super::optimizer::{Piece, Rule};
use crate::parallel;
use crate::scalar::Scalar;

/// The range of an element type, for bounds that are computed in `f64`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Range {
    /// A number that a few more operations cannot lead out of the range.
    pub(super) safe: f64,
    /// A number that leaves every finite one finite that it is added to: less than half a unit in the last place of the largest.
    pub(super) negligible: f64,
    /// More than a few operations make a number larger by rounding.
    pub(super) rounding: f64,
}

impl Range {
    pub(super) fn of<A: Scalar>() -> Self {
        let (largest, epsilon) = (A::max_value().widen(), A::epsilon().widen());
        Self {
            safe: largest / 4.0,
            negligible: largest * epsilon / 16.0,
            rounding: 1.0 + 8.0 * epsilon,
        }
    }
}

/// Bounds of a step: the largest magnitudes of the numbers it reads.
pub(crate) struct Magnitudes<'b> {
    pub(crate) gradient: f64,
    /// The largest of each moment, or more.
    pub(crate) moments: &'b [f64],
    /// The largest of the parameters; computed only where it matters, since they must be read for it.
    pub(crate) parameters: &'b dyn Fn() -> f64,
}

/// The largest magnitude of the numbers of `part`, ∞ where one is not finite.
pub(super) fn magnitude<A: Scalar>(part: &ArrayViewD<'_, A>) -> f64 {
    /// Independent maxima, which vectorize.
    const LANES: usize = 16;
    let mut largest = [A::zero(); LANES];
    // A product with 0 is NaN for what is not finite, and NaN stays in a sum.
    let mut zeros = [A::zero(); LANES];
    let (chunks, rest) = part.as_slice().unwrap_or_default().as_chunks::<LANES>();
    let mut take = |lane: usize, number: A| {
        let size = number.abs();
        largest[lane] = if size > largest[lane] { size } else { largest[lane] };
        zeros[lane] += number * A::zero();
    };
    for chunk in chunks {
        for (lane, &number) in chunk.iter().enumerate() {
            take(lane, number);
        }
    }
    for &number in rest {
        take(0, number);
    }
    if part.as_slice().is_none() {
        for &number in part {
            take(0, number);
        }
    }
    if zeros.iter().any(|zero| zero.is_nan()) {
        return f64::INFINITY;
    }
    largest.iter().fold(0.0, |most, size| most.max(size.widen()))
}

/// The first tensor that `rule` would put a number into that is not finite, by the name that it has in a file.
pub(super) fn leaves_range<A: Scalar, R: Rule<A>>(pieces: &[Piece<'_, A>], rule: &R, cost: usize) -> Option<String> {
    let mut left: Vec<Option<String>> = vec![None; pieces.len()];
    let tasks = left.iter_mut().zip(pieces).collect();
    parallel::for_each(tasks, cost, |(left, piece)| *left = left_by(piece, rule));
    left.into_iter().flatten().next()
}

/// [`leaves_range`] of one piece: the rule is tried out on a copy.
fn left_by<A: Scalar, R: Rule<A>>(piece: &Piece<'_, A>, rule: &R) -> Option<String> {
    let mut parameter = piece.parameter.to_owned();
    let mut moments: Vec<ArrayD<A>> = piece.moments.iter().map(ndarray::ArrayBase::to_owned).collect();
    rule.apply(Piece {
        name: piece.name,
        parameter: parameter.view_mut(),
        gradient: piece.gradient.view(),
        moments: moments.iter_mut().map(|moment| moment.view_mut()).collect(),
        decays: piece.decays,
    });
    let left = |before: ArrayViewD<'_, A>, after: &ArrayD<A>| {
        let mut pairs = before.iter().zip(after);
        pairs.any(|(before, after)| before.is_finite() && !after.is_finite())
    };
    let mut own = piece.moments.iter().zip(&moments);
    match own.position(|(before, after)| left(before.view(), after)) {
        Some(moment) => Some(format!("moment{}.{}", moment + 1, piece.name)),
        None => left(piece.parameter.view(), &parameter).then(|| piece.name.to_owned()),
    }
}
