//! One vector of each item of a batch whose sequences are in parts.

use ndarray::{Array2, Array3};

use super::classifier::pool;
use crate::attention::{PaddingMask, Part};
use crate::config::Pooling;
use crate::error::Result;
use crate::scalar::Scalar;

/// What is pooled over all parts, and this part's share of it: the sum over all parts of shares ∘ what a part pools is what is pooled.
pub(crate) struct Pooled<A> {
    /// (batch, width).
    pub(crate) pooled: Array2<A>,
    /// (batch, width).
    pub(super) shares: Array2<A>,
}

/// One vector of each item's real positions in all parts: (batch, width).
pub(crate) fn pool_part<A: Scalar>(
    features: &Array3<A>,
    pooling: Pooling,
    mask: Option<&PaddingMask>,
    part: &dyn Part<A>,
) -> Result<Pooled<A>> {
    let (batch, length, width) = features.dim();
    let own = pool(features, pooling, mask);
    let real = |item| mask.map_or(length, |mask| mask.item(item).iter().filter(|&&real| real).count());
    let counts: Vec<usize> = (0..batch).map(real).collect();
    let shares = match pooling {
        Pooling::Mean => {
            let mut totals = counts.clone();
            part.count(&mut totals)?;
            let share = |item: usize| counts[item] as f64 / totals[item].max(1) as f64;
            Array2::from_shape_fn((batch, width), |(item, _)| A::cast(share(item)))
        }
        Pooling::First => owned((batch, width), part, |item, _| counts[item] > 0)?,
        Pooling::Max => {
            let mut most = own.clone();
            for (_, mut most) in most.outer_iter_mut().enumerate().filter(|&(item, _)| counts[item] == 0) {
                most.fill(A::neg_infinity());
            }
            if let Some(most) = most.as_slice_mut() {
                part.maximum(&mut [most])?;
            }
            let has = |item: usize, feature: usize| counts[item] > 0 && own[[item, feature]] == most[[item, feature]];
            owned((batch, width), part, has)?
        }
    };
    let mut pooled = own * &shares;
    if let Some(pooled) = pooled.as_slice_mut() {
        part.sum(&mut [pooled])?;
    }
    Ok(Pooled { pooled, shares })
}

/// 1 where this is the first part that `has` a number, 0 elsewhere.
fn owned<A: Scalar>(dim: (usize, usize), part: &dyn Part<A>, has: impl Fn(usize, usize) -> bool) -> Result<Array2<A>> {
    let mut owned: Vec<bool> = ndarray::indices(dim)
        .into_iter()
        .map(|(item, feature)| has(item, feature))
        .collect();
    part.first_of(&mut owned)?;
    let mut owned = owned.into_iter();
    let share = || if owned.next() == Some(true) { A::one() } else { A::zero() };
    Ok(Array2::from_shape_simple_fn(dim, share))
}
