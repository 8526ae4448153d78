//! One vector of each item of a batch: of whole sequences, of shards of them, and the gradient.

use ndarray::{Array2, Array3};

use crate::attention::{PaddingMask, SequenceShard};
use crate::config::Pooling;
use crate::error::Result;
use crate::ops::LongSum;
use crate::scalar::Scalar;

/// One vector of each item's real positions: (batch, dim).
pub(crate) fn pool<A: Scalar>(features: &Array3<A>, pooling: Pooling, mask: Option<&PaddingMask>) -> Array2<A> {
    let (batch, _, dim) = features.dim();
    let mut pooled = Array2::zeros((batch, dim));
    for (item, (mut target, rows)) in pooled.outer_iter_mut().zip(features.outer_iter()).enumerate() {
        let mut real = rows
            .outer_iter()
            .enumerate()
            .filter(|&(position, _)| mask.is_none_or(|mask| mask.is_real(item, position)))
            .map(|(_, row)| row);
        match pooling {
            Pooling::First => {
                if let Some(row) = real.next() {
                    target.assign(&row);
                }
            }
            Pooling::Max => {
                if let Some(row) = real.next() {
                    target.assign(&row);
                }
                for row in real {
                    target.zip_mut_with(&row, |most, &value| {
                        if value > *most || value.is_nan() {
                            *most = value;
                        }
                    });
                }
            }
            Pooling::Mean => {
                let (mut sum, mut count) = (LongSum::zeros(dim), 0_usize);
                for row in real {
                    sum.add(row);
                    count += 1;
                }
                let means = sum.sums().iter().map(|sum| A::cast(sum / count.max(1) as f64));
                target.iter_mut().zip(means).for_each(|(target, mean)| *target = mean);
            }
        }
    }
    pooled
}

/// The gradient of the features, given that of the pooled ones.
pub(crate) fn pool_backward<A: Scalar>(features: &Array3<A>, dy: &Array2<A>, pooling: Pooling, mask: Option<&PaddingMask>) -> Array3<A> {
    let mut dx = Array3::zeros(features.dim());
    for (item, (mut dx, rows)) in dx.outer_iter_mut().zip(features.outer_iter()).enumerate() {
        let real: Vec<usize> = (0..rows.nrows())
            .filter(|&position| mask.is_none_or(|mask| mask.is_real(item, position)))
            .collect();
        let Some(&first) = real.first() else {
            continue;
        };
        let dy = dy.row(item);
        match pooling {
            Pooling::First => dx.row_mut(first).assign(&dy),
            Pooling::Mean => {
                let factor = A::one() / A::cast(real.len() as f64);
                for &position in &real {
                    dx.row_mut(position).scaled_add(factor, &dy);
                }
            }
            Pooling::Max => {
                for (feature, &dy) in dy.iter().enumerate() {
                    let best = real.iter().fold(first, |best, &position| {
                        if rows[[position, feature]] > rows[[best, feature]] {
                            position
                        } else {
                            best
                        }
                    });
                    dx[[best, feature]] = dy;
                }
            }
        }
    }
    dx
}

/// The vectors pooled over all shards, and this shard's shares: pooled = Σ over shards of shares ∘ (the shard's own pooled vectors).
pub(crate) struct Pooled<A> {
    /// (batch, width).
    pub(crate) pooled: Array2<A>,
    /// (batch, width).
    pub(super) shares: Array2<A>,
}

/// One vector of each item's real positions in all shards: (batch, width).
pub(crate) fn pool_shard<A: Scalar>(
    features: &Array3<A>,
    pooling: Pooling,
    mask: Option<&PaddingMask>,
    shard: &dyn SequenceShard<A>,
) -> Result<Pooled<A>> {
    let (batch, length, width) = features.dim();
    let own = pool(features, pooling, mask);
    let real = |item| mask.map_or(length, |mask| mask.item(item).iter().filter(|&&real| real).count());
    let counts: Vec<usize> = (0..batch).map(real).collect();
    let shares = match pooling {
        Pooling::Mean => {
            let mut totals = counts.clone();
            shard.count(&mut totals)?;
            let share = |item: usize| counts[item] as f64 / totals[item].max(1) as f64;
            Array2::from_shape_fn((batch, width), |(item, _)| A::cast(share(item)))
        }
        Pooling::First => owned((batch, width), shard, |item, _| counts[item] > 0)?,
        Pooling::Max => {
            let mut most = own.clone();
            for (_, mut most) in most.outer_iter_mut().enumerate().filter(|&(item, _)| counts[item] == 0) {
                most.fill(A::neg_infinity());
            }
            if let Some(most) = most.as_slice_mut() {
                shard.maximum(&mut [most])?;
            }
            let has = |item: usize, feature: usize| counts[item] > 0 && own[[item, feature]] == most[[item, feature]];
            owned((batch, width), shard, has)?
        }
    };
    let mut pooled = own * &shares;
    if let Some(pooled) = pooled.as_slice_mut() {
        shard.sum(&mut [pooled])?;
    }
    Ok(Pooled { pooled, shares })
}

/// 1 where this is the first shard that `has` a number, 0 elsewhere.
fn owned<A: Scalar>(dim: (usize, usize), shard: &dyn SequenceShard<A>, has: impl Fn(usize, usize) -> bool) -> Result<Array2<A>> {
    let mut owned: Vec<bool> = ndarray::indices(dim)
        .into_iter()
        .map(|(item, feature)| has(item, feature))
        .collect();
    shard.first_of(&mut owned)?;
    let mut owned = owned.into_iter();
    let share = || if owned.next() == Some(true) { A::one() } else { A::zero() };
    Ok(Array2::from_shape_simple_fn(dim, share))
}
