//! The gradients of several batches as those of one.

use crate::error::{Error, Result};
use crate::parameters::Parameters;
use crate::scalar::Scalar;

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
}

impl<M> Default for Accumulation<M> {
    fn default() -> Self {
        Self::new()
    }
}

impl<M> Accumulation<M> {
    /// Nothing yet.
    pub fn new() -> Self {
        Self { sum: None, weight: 0.0 }
    }

    /// Adds the mean loss of a batch and its gradients, `weight` times. A weight of 0 adds nothing, not even NaN.
    ///
    /// # Errors
    /// Gradients of another configuration than those before; a weight that is negative or not finite.
    pub fn add<A: Scalar>(&mut self, loss: f64, gradients: M, weight: f64) -> Result<()>
    where
        M: Parameters<A>,
    {
        if !(weight.is_finite() && weight >= 0.0) {
            return Err(Error::argument(
                "Accumulation::add",
                format!("the weight is {weight}; it must be finite and not negative"),
            ));
        }
        if weight == 0.0 {
            return Ok(());
        }
        match &mut self.sum {
            None => {
                let mut gradients = gradients;
                scale(&mut gradients, A::cast(weight));
                self.sum = Some((loss * weight, gradients));
            }
            Some((losses, sum)) => {
                check_alike(sum, &gradients)?;
                *losses += loss * weight;
                sum.scaled_add(A::cast(weight), &gradients);
            }
        }
        self.weight += weight;
        Ok(())
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
        "Accumulation::add",
        "the gradients are of another configuration than those before",
    ))
}
