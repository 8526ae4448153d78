//! The gradients of several batches as those of one.

use ndarray::{ArrayView1, ArrayViewD};

use super::range::{Range, magnitude};
use crate::error::{Error, Result};
use crate::ops::add_scaled_widened;
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
    losses: f64,
    sums: Option<Sums<M>>,
    weight: f64,
    /// No number of the sum is larger.
    bound: f64,
}

/// Gradients added up in `f64`: there may be millions of batches.
#[derive(Clone, Debug)]
struct Sums<M> {
    /// The first batch's value, of which only tensors that are not trained are used.
    gradients: M,
    /// Those of all tensors, one after the other.
    sums: Vec<f64>,
}

impl<M> Default for Accumulation<M> {
    fn default() -> Self {
        Self::new()
    }
}

impl<M> Accumulation<M> {
    /// Creates an empty sum.
    pub fn new() -> Self {
        Self {
            losses: 0.0,
            sums: None,
            weight: 0.0,
            bound: 0.0,
        }
    }

    /// Adds the mean loss of a batch and its gradients, `weight` times. A weight of 0 adds nothing, not even NaN.
    ///
    /// # Errors
    /// Returns an error if the gradients have another configuration than those before, if a weight is negative or the element type cannot hold or
    /// divide by it, or if a gradient or a sum is not finite. Nothing is added then.
    pub fn add<A: Scalar>(&mut self, loss: f64, gradients: M, weight: f64) -> Result<()>
    where
        M: Parameters<A>,
    {
        if weight == 0.0 {
            return Ok(());
        }
        self.check_weight::<A>(loss, weight)?;
        self.bound = self.bound_with(&gradients, weight)?;
        match &mut self.sums {
            None => self.sums = Some(Sums::of(gradients, weight)),
            Some(sums) => {
                sums.add(&gradients, weight);
            }
        }
        self.losses += loss * weight;
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
                 too: scale the weights of all batches equally",
                self.weight,
                A::NAME
            );
            return Err(Error::argument(OPERATION, reason));
        }
        let before = self.losses;
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
        if let Some(sums) = &self.sums {
            check_alike(&sums.gradients, gradients)?;
        }
        let Range { safe, rounding, .. } = Range::of::<f64>();
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
        match first_not_finite(self.sums.as_ref().map(|sums| &sums.sums[..]), gradients, weight) {
            None => Ok(bound),
            Some(name) => {
                let reason = format!(
                    "with `{name}` times the weight {weight:e}, the sum of the gradients would not be finite; leave this batch out"
                );
                Err(Error::argument(OPERATION, reason))
            }
        }
    }

    /// Returns the mean loss and its gradients; `None` where nothing was added.
    pub fn finish<A: Scalar>(self) -> Option<(f64, M)>
    where
        M: Parameters<A>,
    {
        let gradients = self.sums?.mean(self.weight);
        Some((self.losses / self.weight, gradients))
    }
}

/// The first parameter whose sum would not be finite, where `sums` are those so far.
fn first_not_finite<A: Scalar>(sums: Option<&[f64]>, gradients: &impl Parameters<A>, weight: f64) -> Option<String> {
    let mut before = sums.into_iter().flatten();
    let mut first = None;
    gradients.visit("", &mut |name, role, tensor| {
        if role != Role::Trainable {
            return;
        }
        let mut is_finite = true;
        for gradient in &tensor {
            is_finite &= (before.next().unwrap_or(&0.0) + weight * gradient.widen()).is_finite();
        }
        if !is_finite && first.is_none() {
            first = Some(name.to_owned());
        }
    });
    first
}

impl<M> Sums<M> {
    fn of<A: Scalar>(gradients: M, weight: f64) -> Self
    where
        M: Parameters<A>,
    {
        let mut len = 0;
        for_each_trainable(&gradients, |tensor| len += tensor.len());
        let mut sums = vec![0.0; len];
        add(&mut sums, &gradients, weight);
        Self { gradients, sums }
    }

    fn add<A: Scalar>(&mut self, gradients: &M, weight: f64)
    where
        M: Parameters<A>,
    {
        add(&mut self.sums, gradients, weight);
    }

    /// The sums over `weight`, rounded once.
    fn mean<A: Scalar>(mut self, weight: f64) -> M
    where
        M: Parameters<A>,
    {
        let mut sums = self.sums.iter();
        self.gradients.visit_mut("", &mut |_, role, mut tensor| {
            if role == Role::Trainable {
                tensor
                    .iter_mut()
                    .zip(&mut sums)
                    .for_each(|(mean, sum)| *mean = A::cast(sum / weight));
            }
        });
        self.gradients
    }
}

fn for_each_trainable<A: Scalar>(gradients: &impl Parameters<A>, mut work: impl FnMut(ArrayViewD<'_, A>)) {
    gradients.visit("", &mut |_, role, tensor| {
        if role == Role::Trainable {
            work(tensor);
        }
    });
}

/// `sums` += `weight`·`gradients`, tensor after tensor.
fn add<A: Scalar>(mut sums: &mut [f64], gradients: &impl Parameters<A>, weight: f64) {
    for_each_trainable(gradients, |tensor| {
        let (own, rest) = std::mem::take(&mut sums).split_at_mut(tensor.len());
        sums = rest;
        match tensor.as_slice() {
            Some(tensor) => add_scaled_widened(own, weight, ArrayView1::from(tensor)),
            None => own.iter_mut().zip(&tensor).for_each(|(sum, x)| *sum += weight * x.widen()),
        }
    });
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
