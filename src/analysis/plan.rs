//! Which block and how many slots an exact encoder needs in local-global form.

use std::fmt;

use ndarray::Array3;

use super::fidelity::{Agreement, Outputs};
use crate::attention::PaddingMask;
use crate::blocks::Encoder;
use crate::config::LocalGlobalConfig;
use crate::error::{Error, Result};
use crate::scalar::Scalar;

const OPERATION: &str = "plan";

/// The blocks, and the numbers of slots, that are tried.
const SIZES: [usize; 4] = [16, 32, 64, 128];

/// What a form must keep to on texts that were held out; see [`Agreement`].
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub enum Bound {
    /// The relative error of the outputs is at most this: for models whose rows are used one by one, as those of a language model are.
    Error(f64),
    /// The mean cosine of the outputs' means over positions is at least this: for embeddings of whole texts.
    Cosine(f64),
}

impl Bound {
    fn check(self) -> Result<()> {
        let reason = match self {
            Self::Error(error) if !(error >= 0.0 && error.is_finite()) => {
                format!("the bound on the error is {error}, not a number from 0 on")
            }
            Self::Cosine(cosine) if !(-1.0..=1.0).contains(&cosine) => format!("the bound on the cosine is {cosine}, not from −1 to 1"),
            _ => return Ok(()),
        };
        Err(Error::argument(OPERATION, reason))
    }

    /// Whether an agreement is within the bound.
    pub fn holds(self, agreement: &Agreement) -> bool {
        match self {
            Self::Error(error) => agreement.error <= error,
            Self::Cosine(cosine) => agreement.mean_cosine >= cosine,
        }
    }
}

/// A form that was tried.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Trial {
    /// The form, for [`Encoder::to_local_global`].
    pub form: LocalGlobalConfig,
    /// The agreement of its outputs with the exact ones.
    pub output: Agreement,
    rows: usize,
}

impl Trial {
    /// Returns how many rows a query looks at, 3 · block + slots, or, of a causal form, the most at the end of the longest held-out text: its cost.
    /// Exact attention looks at all n.
    pub fn rows(&self) -> usize {
        self.rows
    }
}

/// The forms that [`plan`] tried, the cheapest first. It is displayed as a table.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Plan {
    /// The bound that the caller named.
    pub bound: Bound,
    /// The forms, up to the first within the bound, or all.
    pub trials: Vec<Trial>,
}

impl Plan {
    /// Returns the cheapest form within the bound; `None` where none of those that are tried is.
    pub fn chosen(&self) -> Option<&Trial> {
        self.trials.last().filter(|trial| self.bound.holds(&trial.output))
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(formatter, "block  slots  rows   error  mean cosine  5th percentile   least")?;
        for trial in &self.trials {
            let Trial { form, output, rows } = trial;
            writeln!(
                formatter,
                "{:>5}  {:>5}  {rows:>4}  {:>6.4}  {:>11.4}  {:>14.4}  {:>6.4}",
                form.block, form.slots, output.error, output.mean_cosine, output.low_cosine, output.least_cosine
            )?;
        }
        match self.chosen() {
            Some(trial) => write!(formatter, "chosen: block {}, {} slots", trial.form.block, trial.form.slots),
            None => write!(formatter, "none is within the bound, {:?}", self.bound),
        }
    }
}

/// Finds the cheapest local-global form of an exact encoder within a bound: it tries the blocks and the numbers of slots 16, 32, 64 and 128 in the order
/// of [`Trial::rows`] (the larger block first, of two that cost the same), each once, and stops at the first that is within.
///
/// `calibration` gives u as in [`Encoder::to_local_global`], and `held_out` decides. Take texts as long as those that the model is for: the error grows
/// with the length, and up to two blocks there is none.
///
/// ```
/// use linformer::analysis::{Bound, plan};
/// use linformer::ndarray::Array3;
/// use linformer::{AttentionConfig, Encoder, EncoderConfig};
///
/// let exact = Encoder::<f32>::new(&EncoderConfig::new(AttentionConfig::new(16, 2), 2), 0)?;
/// let text = |seed: usize| (Array3::from_shape_fn((1, 200, 16), |(_, t, i)| ((seed + t * 16 + i) as f32).sin()), None);
/// let (calibration, held_out) = ([text(0)], [text(3), text(5)]);
/// let plan = plan(&exact, &calibration, &held_out, Bound::Cosine(0.99))?;
/// if let Some(trial) = plan.chosen() {
///     let encoder = exact.to_local_global(&trial.form, &calibration)?;
///     assert_eq!(encoder.forward(&held_out[0].0, None)?.dim(), (1, 200, 16));
/// }
/// println!("{plan}");
/// # Ok::<(), linformer::Error>(())
/// ```
///
/// # Errors
/// Returns an error if the bound is below 0 or not finite (of an error), or not from −1 to 1 (of a cosine); as [`Encoder::to_local_global`] does; if a
/// held-out batch does not fit the encoder or none of its positions is real; or if an output is not finite.
pub fn plan<A: Scalar>(
    exact: &Encoder<A>,
    calibration: &[(Array3<A>, Option<PaddingMask>)],
    held_out: &[(Array3<A>, Option<PaddingMask>)],
    bound: Bound,
) -> Result<Plan> {
    bound.check()?;
    let longest = held_out.iter().map(|(x, _)| x.dim().1).max().unwrap_or(0);
    let forms = forms(exact, longest);
    // An error of the model's comes before the long work.
    if let Some(form) = forms.first() {
        exact.config().in_form(form)?;
    }
    // u does not depend on block and slots.
    let queries = exact.mean_queries(calibration.iter().map(|(x, mask)| Ok((x.clone(), mask.as_ref()))))?;
    let of_exact = held_out
        .iter()
        .map(|(x, mask)| exact.forward(x, mask.as_ref()))
        .collect::<Result<Vec<_>>>()?;
    let mut trials = Vec::new();
    for form in forms {
        let converted = exact.in_form(&form, Some(&queries))?;
        let mut outputs = Outputs::default();
        for ((x, mask), of_exact) in held_out.iter().zip(&of_exact) {
            outputs.add((of_exact, &converted.forward(x, mask.as_ref())?), mask.as_ref());
        }
        let output = outputs.agreement(OPERATION)?;
        let rows = form.rows_seen(longest);
        trials.push(Trial { form, output, rows });
        if bound.holds(&output) {
            break;
        }
    }
    Ok(Plan { bound, trials })
}

/// The forms in the order in which they are tried.
fn forms<A: Scalar>(exact: &Encoder<A>, longest: usize) -> Vec<LocalGlobalConfig> {
    let base = LocalGlobalConfig::of(exact.config().attention.attention());
    let of_block = |block| SIZES.map(|slots| base.clone().with_block(block).with_slots(slots));
    let mut forms: Vec<_> = SIZES.into_iter().flat_map(of_block).collect();
    forms.sort_by_key(|form| (form.rows_seen(longest), usize::MAX - form.block));
    forms
}
