//! Gradients of all ranks: flattened into one buffer and added up in one exchange.

use super::communicator::{Combine, Communicator};
use super::rank_shard::not_finite;
use super::sharded::{OVER_REPLICAS, Shardable, Sharded, is_matrix};
use super::team::{Header, Team, tell, together};
use crate::config::{AttentionKind, EncoderConfig};
use crate::error::{Error, Result};
use crate::parameters::{Parameters, Role};
use crate::scalar::{Scalar, inverse_power_of_two};
use crate::training::{Optimizer, checked_norm};

/// Computes the mean of the losses and gradients of all ranks, each counted by its weight: data parallelism, for models that are whole on every rank.
///
/// Every rank brings the mean loss of its batch, the gradients of it, and a weight: with the number of targets that count, the result is the mean over
/// the targets of all ranks, as of one large batch. The gradients are replaced, and the loss is returned. A rank with the weight 0 adds nothing, not
/// even NaN. Dropout masks are those of the [`Step`](crate::training::Step): give ranks steps of different seeds, or all of them drop the same elements
/// of their items. For models that are [`Sharded`] as well, see [`Sharded::with_replicas`].
///
/// ```
/// use linformer::Linear;
/// use linformer::distributed::{Communicator, ThreadGroup, all_reduce_gradients};
/// use linformer::ndarray::array;
///
/// let results = ThreadGroup::run(2, |rank| {
///     let (loss, gradient, targets) = [(1.0, 4.0, 3.0), (5.0, 8.0, 1.0)][rank.rank()];
///     let mut gradients = Linear::from_parts(array![[gradient]], None)?;
///     let loss = all_reduce_gradients(rank, loss, &mut gradients, targets)?;
///     Ok((loss, gradients.weight()[[0, 0]]))
/// });
/// for result in results {
///     assert_eq!(result?, (2.0, 5.0));
/// }
/// # Ok::<(), linformer::Error>(())
/// ```
///
/// # Errors
/// Returns an error if a weight is negative or not finite, if gradients differ in shape between ranks, if a loss or a gradient is not finite (all
/// ranks report it), or if another rank failed. The gradients are then unchanged.
pub fn all_reduce_gradients<A: Scalar, M: Parameters<A>>(
    communicator: &dyn Communicator,
    loss: f64,
    gradients: &mut M,
    weight: f64,
) -> Result<f64> {
    const OPERATION: &str = "all_reduce_gradients";
    let header = if weight.is_finite() && weight >= 0.0 {
        Ok(Header::new([("the size of a number", size_of::<A>() as u64)]))
    } else {
        let reason = format!("the weight is {weight}; it must be finite and not negative");
        Err(Error::argument(OPERATION, reason))
    };
    together(communicator, OPERATION, header, |team| {
        let counts = weight > 0.0;
        if counts && !loss.is_finite() {
            return Err(not_finite(team.rank(), "its loss"));
        }
        let mut totals = [if counts { loss * weight } else { 0.0 }, weight];
        team.add_up(&mut totals)?;
        if totals.iter().any(|total| !total.is_finite()) {
            let reason =
                "the weights of all ranks, or the losses times their weights, add up to a number that is not finite; use smaller weights";
            return Err(team.known_to_all(Error::argument(OPERATION, reason)));
        }
        let share = A::cast(weight / if totals[1] > 0.0 { totals[1] } else { 1.0 });
        if counts {
            check_finite(gradients, team.rank(), is_trainable)?;
        }
        let mut flat = flattened(gradients, |_| true);
        for number in &mut flat {
            *number = if counts { *number * share } else { A::zero() };
        }
        team.combine(&mut flat, Combine::Sum)?;
        put_back(gradients, &flat, |_| true);
        Ok(if totals[1] > 0.0 { totals[0] / totals[1] } else { 0.0 })
    })
}

/// The factor of numbers before they are squared and added: 1, unless the squares of the `largest` would leave the range.
fn squares_factor(largest: f64) -> f64 {
    if (1e-130..1e130).contains(&largest) {
        1.0
    } else {
        inverse_power_of_two(largest)
    }
}

/// An error where a gradient that is `chosen` is not finite.
fn check_finite<A: Scalar>(gradients: &impl Parameters<A>, rank: usize, chosen: impl Fn(&str, Role) -> bool) -> Result<()> {
    let mut bad = None;
    gradients.visit("", &mut |name, role, tensor| {
        // Without stopping at the first it vectorizes.
        let is_finite = || tensor.iter().fold(true, |finite, number| finite & number.is_finite());
        if bad.is_none() && chosen(name, role) && !is_finite() {
            bad = Some(name.to_owned());
        }
    });
    match bad {
        Some(name) => Err(not_finite(rank, &format!("its gradient of `{name}`"))),
        None => Ok(()),
    }
}

fn is_trainable(_: &str, role: Role) -> bool {
    role == Role::Trainable
}

/// The chosen trainable numbers, tensor by tensor.
fn flattened<A: Scalar>(gradients: &impl Parameters<A>, chosen: impl Fn(&str) -> bool) -> Vec<A> {
    let mut flat = Vec::new();
    gradients.visit("", &mut |name, role, tensor| {
        if role == Role::Trainable && chosen(name) {
            flat.extend(tensor.iter().copied());
        }
    });
    flat
}

fn put_back<A: Scalar>(gradients: &mut impl Parameters<A>, flat: &[A], chosen: impl Fn(&str) -> bool) {
    let mut numbers = flat.iter();
    gradients.visit_mut("", &mut |name, role, mut tensor| {
        if role == Role::Trainable && chosen(name) {
            for (own, &number) in tensor.iter_mut().zip(&mut numbers) {
                *own = number;
            }
        }
    });
}

/// Adds up the chosen gradients of all ranks.
fn add_up<A: Scalar>(team: &Team<'_>, gradients: &mut impl Parameters<A>, chosen: impl Fn(&str) -> bool) -> Result<()> {
    // All of them: what stays with a rank must be known to the others too.
    check_finite(gradients, team.rank(), is_trainable)?;
    let mut flat = flattened(gradients, &chosen);
    team.combine(&mut flat, Combine::Sum)?;
    put_back(gradients, &flat, chosen);
    Ok(())
}

/// Whether E and F are matrices, of which ranks have different columns.
pub(super) fn has_matrices(config: &EncoderConfig) -> bool {
    matches!(&config.attention, AttentionKind::Linformer(attention) if !attention.projection.any_length())
}

impl<M> Sharded<'_, M> {
    /// Adds up the gradients of all ranks, but for those of E and F, which are complete: each rank has those of its columns. Over a
    /// [grid](Self::with_replicas) all are added up over the replicas.
    ///
    /// # Errors
    /// Returns an error if a gradient is not finite (all ranks report it), or if another rank failed. The gradients may then be partly summed: begin
    /// them anew with [`zeros_like`](Parameters::zeros_like), and repeat the backward pass.
    pub fn reduce_gradients<A: Scalar>(&self, gradients: &mut M) -> Result<()>
    where
        M: Shardable<A>,
    {
        self.together_on_grid("Sharded::reduce_gradients", Ok(self.model_header()), |team| {
            let sums = self.add_up_parts(team, &mut [], gradients);
            self.over_replicas(sums, Header::default(), &mut [], gradients)
        })
    }

    /// Adds up what all ranks of a sequence have parts of.
    pub(super) fn add_up_parts<A: Scalar>(&self, team: &Team<'_>, totals: &mut [f64], gradients: &mut M) -> Result<()>
    where
        M: Shardable<A>,
    {
        let has_matrices = has_matrices(M::encoder_config(self.model().configuration()));
        if !totals.is_empty() {
            team.add_up(totals)?;
        }
        add_up(team, gradients, |name| !(has_matrices && is_matrix(name)))
    }

    /// Goes on over the replicas, if there are any, where `sums` of this rank's sequences could be made; tells them where not.
    /// `header` holds the values that replicas must agree on.
    pub(super) fn over_replicas<A: Scalar>(&self, sums: Result<()>, header: Header, totals: &mut [f64], gradients: &mut M) -> Result<()>
    where
        M: Shardable<A>,
    {
        let Some(replicas) = self.replicas() else {
            return sums;
        };
        if let Err(error) = sums {
            tell(replicas, OVER_REPLICAS, &error);
            return Err(error);
        }
        together(replicas, OVER_REPLICAS, Ok(header), |team| {
            if !totals.is_empty() {
                team.add_up(totals)?;
            }
            add_up(team, gradients, |_| true)
        })
    }

    /// Clips as [`Optimizer::clip_gradient_norm`] does, with the norm over the columns of E and F of all ranks, so that all scale equally. The
    /// gradients must be [reduced](Self::reduce_gradients), as those of `loss_and_gradients` are.
    ///
    /// # Errors
    /// Returns an error as [`Optimizer::clip_gradient_norm`] does, except for gradients of another model, or if the ranks disagree.
    pub fn clip_gradient_norm<A: Scalar>(&self, optimizer: &impl Optimizer<A>, gradients: &mut M, max_norm: f64) -> Result<f64>
    where
        M: Shardable<A>,
    {
        const OPERATION: &str = "Sharded::clip_gradient_norm";
        let header = if max_norm >= 0.0 {
            Ok(Header::new([("the largest norm", max_norm.to_bits())]))
        } else {
            let reason = format!("the largest norm is {max_norm}; it must be a number that is not negative");
            Err(Error::argument(OPERATION, reason))
        };
        let has_matrices = has_matrices(M::encoder_config(self.model().configuration()));
        let norm = self.together(OPERATION, header, |team| {
            check_finite(gradients, team.rank(), |name, role| optimizer.state().is_stepped(name, role))?;
            let mut largest = vec![0.0_f64];
            gradients.visit("", &mut |name, role, tensor| {
                if optimizer.state().is_stepped(name, role) {
                    largest[0] = tensor.iter().fold(largest[0], |largest, number| largest.max(number.widen().abs()));
                }
            });
            team.combine(&mut largest, Combine::Maximum)?;
            let factor = squares_factor(largest[0]);
            let (mut everywhere, mut of_matrices) = (0.0, [0.0]);
            gradients.visit("", &mut |name, role, tensor| {
                if optimizer.state().is_stepped(name, role) {
                    let squares = tensor.iter().map(|number| (factor * number.widen()).powi(2)).sum::<f64>();
                    let sum = if has_matrices && is_matrix(name) {
                        &mut of_matrices[0]
                    } else {
                        &mut everywhere
                    };
                    *sum += squares;
                }
            });
            team.add_up(&mut of_matrices)?;
            let norm = (everywhere + of_matrices[0]).sqrt() / factor;
            checked_norm(OPERATION, norm).map_err(|error| team.known_to_all(error))
        })?;
        optimizer.state().scale_down(gradients, norm, max_norm);
        Ok(norm)
    }
}
