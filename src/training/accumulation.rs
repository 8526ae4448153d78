//! The gradients of several batches as those of one.

use super::range::{Range, magnitude};
use crate::error::{Error, Result};
use crate::parameters::{Parameters, Role};
use crate::scalar::Scalar;

const OPERATION: &str = "Accumulation::add";

/// Adds up losses and gradients of batches that do not fit into memory together.
///
/// Each counts by its weight: with the number of targets that count as the weight of a batch, the result is the mean over all targets, as of
/// one large batch, also where the batches differ in size.
///
/// ```
/// use linformer::Linear;
/// use linformer::ndarray::array;
/// use linformer::training::Accumulation;
///
/// let mut batches = Accumulation::new();
/// batches.add(1.0, Linear::from_parts(array![[4.0]], None)?, 3.0)?;
/// batches.add(5.0, Linear::from_parts(array![[8.0]], None)?, 1.0)?;
/// let (loss, gradients) = batches.finish().unwrap();
/// assert_eq!((loss, gradients.weight()[[0, 0]]), (2.0, 5.0));
/// # Ok::<(), linformer::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Accumulation<M> {
    sum: Option<(f64, M)>,
    weight: f64,
    /// No number of the sum is larger.
    bound: f64,
}

impl<M> Default for Accumulation<M> {
    fn default() -> Self {
        Self::new()
    }
}

impl<M> Accumulation<M> {
    /// Nothing yet.
    pub fn new() -> Self {
        Self {
            sum: None,
            weight: 0.0,
            bound: 0.0,
        }
    }

    /// Adds the mean loss of a batch and its gradients, `weight` times. A weight of 0 adds nothing, not even NaN.
    ///
    /// # Errors
    /// Gradients of another configuration than those before; a weight that is negative, or that the element type cannot hold or divide by; a
    /// gradient that is not finite; a sum that would not be. Nothing is added then.
    pub fn add<A: Scalar>(&mut self, loss: f64, gradients: M, weight: f64) -> Result<()>
    where
        M: Parameters<A>,
    {
        if weight == 0.0 {
            return Ok(());
        }
        self.check_weight::<A>(loss, weight)?;
        self.bound = self.bound_with(&gradients, weight)?;
        match &mut self.sum {
            None => {
                let mut gradients = gradients;
                scale(&mut gradients, A::cast(weight));
                self.sum = Some((loss * weight, gradients));
            }
            Some((losses, sum)) => {
                *losses += loss * weight;
                sum.scaled_add(A::cast(weight), &gradients);
            }
        }
        self.weight += weight;
        Ok(())
    }

    /// An error where the element type cannot hold `weight`, nor divide by it or by the sum of all weights, or where the sum of the losses is too
    /// large.
    fn check_weight<A: Scalar>(&self, loss: f64, weight: f64) -> Result<()> {
        let is_held = |number: f64| A::cast(number).is_normal() && A::cast(1.0 / number).is_normal();
        if !(weight > 0.0 && is_held(weight) && is_held(self.weight + weight)) {
            let reason = format!(
                "the weight is {weight:e}, after {:e} before; each and their sum must be 0 or positive numbers that {} holds, and their reciprocals \
                 too: scale the weights of all batches alike",
                self.weight,
                A::NAME
            );
            return Err(Error::argument(OPERATION, reason));
        }
        let before = self.sum.as_ref().map_or(0.0, |(losses, _)| *losses);
        if loss.is_finite() && before.is_finite() && !(before + loss * weight).is_finite() {
            let reason = format!("the loss {loss:e} times the weight {weight:e} makes a sum that is not finite; use smaller weights");
            return Err(Error::argument(OPERATION, reason));
        }
        Ok(())
    }

    /// A bound of the sum with `weight` times `gradients`; an error where they are of another configuration or the sum would not be finite.
    fn bound_with<A: Scalar>(&self, gradients: &M, weight: f64) -> Result<f64>
    where
        M: Parameters<A>,
    {
        let sum = self.sum.as_ref().map(|(_, sum)| sum);
        if let Some(sum) = sum {
            check_alike(sum, gradients)?;
        }
        let Range { safe, rounding, .. } = Range::of::<A>();
        let mut largest = 0.0_f64;
        gradients.visit("", &mut |_, role, tensor| {
            if role == Role::Trainable {
                largest = largest.max(magnitude(&tensor));
            }
        });
        let bound = (self.bound + weight * largest) * rounding;
        if bound < safe {
            return Ok(bound);
        }
        match first_not_finite(sum, gradients, A::cast(weight)) {
            None => Ok(bound),
            Some(name) => {
                let reason = format!(
                    "with `{name}` times the weight {weight:e}, the sum of the gradients would not be finite; leave this batch out"
                );
                Err(Error::argument(OPERATION, reason))
            }
        }
    }

    /// The mean loss and its gradients; `None` where nothing was added.
    pub fn finish<A: Scalar>(self) -> Option<(f64, M)>
    where
        M: Parameters<A>,
    {
        let (loss, mut gradients) = self.sum?;
        scale(&mut gradients, A::cast(1.0 / self.weight));
        Some((loss / self.weight, gradients))
    }
}

/// The first parameter whose sum would not be finite.
fn first_not_finite<A: Scalar, M: Parameters<A>>(sum: Option<&M>, gradients: &M, weight: A) -> Option<String> {
    let mut sums = sum.map(Parameters::named).into_iter().flatten();
    let mut first = None;
    gradients.visit("", &mut |name, role, tensor| {
        let before = sums.next();
        if first.is_some() || role != Role::Trainable {
            return;
        }
        let product = |gradient: &A| weight * *gradient;
        let is_finite = match before {
            Some((_, before)) => before
                .iter()
                .zip(&tensor)
                .all(|(before, gradient)| (*before + product(gradient)).is_finite()),
            None => tensor.iter().all(|gradient| product(gradient).is_finite()),
        };
        if !is_finite {
            first = Some(name.to_owned());
        }
    });
    first
}

fn scale<A: Scalar>(values: &mut impl Parameters<A>, factor: A) {
    values.visit_mut("", &mut |_, _, mut tensor| tensor.mapv_inplace(|x| x * factor));
}

fn check_alike<A: Scalar, M: Parameters<A>>(sum: &M, gradients: &M) -> Result<()> {
    let shapes = |values: &M| -> Vec<(String, Vec<usize>)> {
        let named = values.named().into_iter();
        named.map(|(name, tensor)| (name, tensor.shape().to_vec())).collect()
    };
    if shapes(sum) == shapes(gradients) {
        return Ok(());
    }
    Err(Error::argument(
        OPERATION,
        "the gradients are of another configuration than those before",
    ))
}
