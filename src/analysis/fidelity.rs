//! How near one encoder is to another.

use std::fmt;

use ndarray::{Array3, ArrayView1, Axis};

use crate::attention::PaddingMask;
use crate::blocks::Encoder;
use crate::error::{Error, Result};
use crate::scalar::Scalar;

const OPERATION: &str = "fidelity";

/// How near an encoder's outputs are to those of another, over the real positions of some batches.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct Agreement {
    /// The relative error ‖other − exact‖ / ‖exact‖ of the outputs, over all rows together.
    pub error: f64,
    /// The mean cosine of the outputs' means over positions, one a sequence: of sentence embeddings, say.
    pub mean_cosine: f64,
    /// The 5th percentile of these cosines: the largest that at most a twentieth of the sequences are below.
    pub low_cosine: f64,
    /// The least of these cosines.
    pub least_cosine: f64,
}

/// How near an encoder is to another, layer by layer and as a whole; [`fidelity`] measures it. It is displayed as a table.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Fidelity {
    /// The relative error ‖other − exact‖ / ‖exact‖ of each layer's attention, given the input of the exact encoder's layer: behind the output weight, and
    /// with the output bias taken off ‖exact‖, so that a large bias hides nothing. Infinite where exact is 0 and the other is not.
    pub layers: Vec<f64>,
    /// The agreement of the outputs, end to end.
    pub output: Agreement,
}

/// Measures how near `converted` is to `exact` on batches of (batch, n, dim) with their masks: the error of each layer's attention by itself, and the
/// agreement of what [`Encoder::forward`] returns. Both may have any attention: it measures a Linformer, too. Padding does not count.
///
/// Take other texts than those that the model was calibrated or trained on, and as long as those that it is for.
///
/// ```
/// use linformer::analysis::fidelity;
/// use linformer::ndarray::Array3;
/// use linformer::{AttentionConfig, Encoder, EncoderConfig, LocalGlobalConfig};
///
/// let attention = AttentionConfig::new(16, 2);
/// let exact = Encoder::<f32>::new(&EncoderConfig::new(attention.clone(), 2), 0)?;
/// let text = |seed: usize| (Array3::from_shape_fn((2, 100, 16), |(b, t, i)| ((seed + b * 31 + t * 16 + i) as f32).sin()), None);
/// let form = LocalGlobalConfig::of(&attention).with_block(16).with_slots(16);
/// let converted = exact.to_local_global(&form, &[text(0)])?;
/// let fidelity = fidelity(&exact, &converted, &[text(7)])?;
/// assert_eq!(fidelity.layers.len(), 2);
/// assert!(fidelity.output.mean_cosine > 0.9);
/// println!("{fidelity}");
/// # Ok::<(), linformer::Error>(())
/// ```
///
/// # Errors
/// Returns an error unless both encoders have the same depth and widths; if a batch does not fit them; if no position is real; or if a number is not
/// finite.
pub fn fidelity<A: Scalar>(exact: &Encoder<A>, converted: &Encoder<A>, batches: &[(Array3<A>, Option<PaddingMask>)]) -> Result<Fidelity> {
    check_alike(exact, converted)?;
    let mut layers = vec![Squares::default(); exact.blocks().len()];
    let mut outputs = Outputs::default();
    for (x, mask) in batches {
        let mask = mask.as_ref();
        exact.watch(x.clone(), mask, |layer, input, output| {
            let other = converted.blocks()[layer]
                .attention()
                .forward(converted.projections(), input, mask)?;
            let bias = exact.blocks()[layer].attention().output_bias();
            layers[layer].add((output, &other), mask, bias);
            Ok(())
        })?;
        outputs.add((&exact.forward(x, mask)?, &converted.forward(x, mask)?), mask);
    }
    let output = outputs.agreement(OPERATION)?;
    let layers = layers.iter().map(|squares| squares.error(OPERATION)).collect::<Result<_>>()?;
    Ok(Fidelity { layers, output })
}

impl fmt::Display for Agreement {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            error,
            mean_cosine,
            low_cosine,
            least_cosine,
        } = self;
        write!(
            formatter,
            "relative error {error:.4}; cosine: mean {mean_cosine:.4}, 5th percentile {low_cosine:.4}, least {least_cosine:.4}"
        )
    }
}

impl fmt::Display for Fidelity {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(formatter, "layer   relative error of its attention")?;
        for (layer, error) in self.layers.iter().enumerate() {
            writeln!(formatter, "{layer:>5}   {error:.4}")?;
        }
        write!(formatter, "output  {}", self.output)
    }
}

/// An error unless rows have the same widths throughout.
fn check_alike<A: Scalar>(exact: &Encoder<A>, converted: &Encoder<A>) -> Result<()> {
    let widths = |encoder: &Encoder<A>| -> Vec<[usize; 2]> {
        let of = |block: &crate::EncoderBlock<A>| [block.in_dim(), block.out_dim()];
        encoder.blocks().iter().map(of).collect()
    };
    let (expected, found) = (widths(exact), widths(converted));
    if expected == found && exact.config().dim() == converted.config().dim() {
        return Ok(());
    }
    let reason = format!(
        "both encoders must have the same width, depth, and widths in between; the first has {expected:?}, the widths before and after each block, the \
         second {found:?}; take encoders of one model"
    );
    Err(Error::argument(OPERATION, reason))
}

/// Sums of squares over rows.
#[derive(Clone, Copy, Debug, Default)]
struct Squares {
    difference: f64,
    exact: f64,
}

impl Squares {
    /// Adds the real rows of (exact, other), with `bias` taken off the norm of exact.
    fn add<A: Scalar>(&mut self, arrays: (&Array3<A>, &Array3<A>), mask: Option<&PaddingMask>, bias: Option<ArrayView1<'_, A>>) {
        for_each_real_row(arrays, mask, |_, exact, other| {
            for (column, (exact, other)) in exact.iter().zip(other).enumerate() {
                let exact = exact.widen();
                let own = exact - bias.map_or(0.0, |bias| bias[column].widen());
                self.exact += own * own;
                self.difference += (other.widen() - exact) * (other.widen() - exact);
            }
        });
    }

    fn error(&self, operation: &'static str) -> Result<f64> {
        if !self.exact.is_finite() || !self.difference.is_finite() {
            let reason = "an output is not finite, or too large to be squared; look for bad numbers in the models and in the sequences";
            return Err(Error::argument(operation, reason));
        }
        if self.difference == 0.0 {
            return Ok(0.0);
        }
        Ok((self.difference / self.exact).sqrt())
    }
}

/// Outputs of two encoders, batch by batch.
#[derive(Debug, Default)]
pub(super) struct Outputs {
    squares: Squares,
    cosines: Vec<f64>,
}

impl Outputs {
    /// Adds a batch of (exact, other).
    pub(super) fn add<A: Scalar>(&mut self, (exact, other): (&Array3<A>, &Array3<A>), mask: Option<&PaddingMask>) {
        self.squares.add((exact, other), mask, None);
        let (batch, _, dim) = exact.dim();
        let mut sums = vec![(vec![0.0; dim], vec![0.0; dim], false); batch];
        for_each_real_row((exact, other), mask, |item, exact, other| {
            let (of_exact, of_other, has_rows) = &mut sums[item];
            *has_rows = true;
            for (sums, row) in [(of_exact, exact), (of_other, other)] {
                sums.iter_mut().zip(row).for_each(|(sum, number)| *sum += number.widen());
            }
        });
        let real = sums.iter().filter(|(.., has_rows)| *has_rows);
        self.cosines.extend(real.map(|(exact, other, _)| cosine(exact, other)));
    }

    pub(super) fn agreement(mut self, operation: &'static str) -> Result<Agreement> {
        if self.cosines.is_empty() {
            let reason = "no position is real, so that there is nothing to compare; give batches of sequences";
            return Err(Error::argument(operation, reason));
        }
        let error = self.squares.error(operation)?;
        self.cosines.sort_by(f64::total_cmp);
        let count = self.cosines.len();
        Ok(Agreement {
            error,
            mean_cosine: self.cosines.iter().sum::<f64>() / count as f64,
            low_cosine: self.cosines[count / 20],
            least_cosine: self.cosines[0],
        })
    }
}

/// The cosine of the angle between two sums; 1 where both are 0, and 0 where one is.
fn cosine(a: &[f64], b: &[f64]) -> f64 {
    let product = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    if a == b {
        return 1.0;
    }
    let norms = product(a, a).sqrt() * product(b, b).sqrt();
    if norms == 0.0 {
        0.0
    } else {
        (product(a, b) / norms).clamp(-1.0, 1.0)
    }
}

fn for_each_real_row<A: Scalar>(
    (exact, other): (&Array3<A>, &Array3<A>),
    mask: Option<&PaddingMask>,
    mut each: impl FnMut(usize, ArrayView1<'_, A>, ArrayView1<'_, A>),
) {
    for (item, (exact, other)) in exact.axis_iter(Axis(0)).zip(other.axis_iter(Axis(0))).enumerate() {
        for (position, (exact, other)) in exact.outer_iter().zip(other.outer_iter()).enumerate() {
            if mask.is_none_or(|mask| mask.is_real(item, position)) {
                each(item, exact, other);
            }
        }
    }
}
