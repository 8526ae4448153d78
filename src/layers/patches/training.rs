//! Training of patches.

use ndarray::{Array3, ArrayRef3, ArrayView1, ArrayViewMut2, Axis, s};

use super::Patches;
use crate::config::{PatchesConfig, check_alike};
use crate::error::Result;
use crate::layers::{LinearCache, check_gradient};
use crate::scalar::Scalar;

/// The state that the backward pass of [`Patches`] needs: the windows.
#[derive(Clone, Debug)]
pub struct PatchesCache<A = f32> {
    config: PatchesConfig,
    /// (batch, n, channels) of the series.
    dim: (usize, usize, usize),
    positions: usize,
    linear: LinearCache<A>,
}

impl<A: Scalar> Patches<A> {
    /// [`forward`](Self::forward), and what [`backward`](Self::backward) needs.
    ///
    /// # Errors
    /// Returns an error as [`forward`](Self::forward) does.
    pub fn forward_train(&self, x: &ArrayRef3<A>) -> Result<(Array3<A>, PatchesCache<A>)> {
        let windows = self.windows("Patches::forward_train", x)?;
        let (y, linear) = self.linear.forward_train(&windows)?;
        let cache = PatchesCache {
            config: self.config.clone(),
            dim: x.dim(),
            positions: y.dim().1,
            linear,
        };
        Ok((y, cache))
    }

    /// Returns the gradient of the series, (batch, n, channels), given `dy` of the positions, (batch, positions, dim). Those of the product are added
    /// to `gradients`, a value like the layer's own [`zeros_like`](crate::Parameters::zeros_like).
    ///
    /// ```
    /// use linformer::ndarray::{Array3, array};
    /// use linformer::{Parameters, Patches, PatchesConfig};
    ///
    /// let mut patches = Patches::<f64>::new(&PatchesConfig::new(1, 2, 1, 1), 0)?;
    /// patches.named_mut().into_iter().for_each(|(_, mut tensor)| tensor.fill(1.0));
    /// let (y, cache) = patches.forward_train(&array![[[1.0], [2.0], [3.0]]])?;
    /// assert_eq!(y, array![[[4.0], [6.0]]]);
    ///
    /// // The point in the middle is in both windows.
    /// let dx = patches.backward(cache, Array3::ones((1, 2, 1)), &mut patches.zeros_like())?;
    /// assert_eq!(dx, array![[[1.0], [2.0], [1.0]]]);
    /// # Ok::<(), linformer::Error>(())
    /// ```
    ///
    /// # Errors
    /// Returns an error if `dy` is not of the shape of the positions, or the cache or the gradients are of a layer of another configuration. The
    /// gradients are then as they were.
    pub fn backward(&self, cache: PatchesCache<A>, dy: Array3<A>, gradients: &mut Self) -> Result<Array3<A>> {
        const OPERATION: &str = "Patches::backward";
        let PatchesConfig { window, stride, dim, .. } = self.config;
        check_alike(OPERATION, &self.config, &cache.config, &gradients.config)?;
        check_gradient(OPERATION, &dy, (cache.dim.0, cache.positions, dim))?;
        let dwindows = self.linear.backward(cache.linear, dy, &mut gradients.linear)?;
        let mut dx = Array3::zeros(cache.dim);
        for (mut series, patches) in dx.outer_iter_mut().zip(dwindows.outer_iter()) {
            for (index, patch) in patches.outer_iter().enumerate() {
                let start = index * stride;
                spread(patch, series.slice_mut(s![start..start + window, ..]));
            }
        }
        Ok(dx)
    }
}

/// Adds the gradient of a window to that of its points.
fn spread<A: Scalar>(patch: ArrayView1<'_, A>, mut points: ArrayViewMut2<'_, A>) {
    let (values, differences) = patch.split_at(Axis(0), points.len());
    points.iter_mut().zip(values).for_each(|(point, &value)| *point += value);
    let mut later = points.slice_mut(s![1.., ..]);
    later
        .iter_mut()
        .zip(differences)
        .for_each(|(point, &difference)| *point += difference);
    points
        .iter_mut()
        .zip(differences)
        .for_each(|(point, &difference)| *point -= difference);
}
