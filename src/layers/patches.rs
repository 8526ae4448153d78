//! Windows of a series as positions.

mod training;

pub use training::PatchesCache;

use ndarray::{Array2, Array3, ArrayRef3, ArrayView2, ArrayViewMut1, Axis, s};

use super::{Linear, check_width};
use crate::attention::PaddingMask;
use crate::config::PatchesConfig;
use crate::error::{Error, Result, checked_len};
use crate::initialization::Streams;
use crate::parameters::parameters;
use crate::scalar::Scalar;

/// Cuts a series into windows, and makes a position of each with one product: (batch, n, channels) → (batch, positions, dim).
///
/// Single points of a long series say little, and are many. A window of 8 to 16 points every 4 to 8, with its first differences, makes positions
/// that attention can compare, and fewer of them: [`PatchesConfig::positions`] says how many, which is the `seq_len` that the encoder needs. The
/// windows are those of a convolution without padding. Scale the series first, for example by the mean and the deviation of the training set.
///
/// ```
/// use linformer::ndarray::Array3;
/// use linformer::{Encoder, EncoderConfig, LinformerConfig, PaddingMask, Patches, PatchesConfig};
///
/// // Series of up to 150 points of one number; windows of 8 points every 4.
/// let config = PatchesConfig::new(1, 8, 4, 16).with_differences(true);
/// let patches = Patches::<f32>::new(&config, 0)?;
/// let seq_len = config.positions(150)?;
/// assert_eq!(seq_len, 36);
/// let encoder = Encoder::new(&EncoderConfig::new(LinformerConfig::new(16, 4, seq_len, 8), 1), 0)?;
///
/// // The second series is shorter.
/// let series = Array3::from_shape_fn((2, 150, 1), |(item, t, _)| ((item + t) as f32 * 0.3).sin());
/// let mask = PaddingMask::from_lengths(&[150, 100], 150)?;
/// let encoded = encoder.forward(&patches.forward(&series)?, Some(&patches.mask(&mask)?))?;
/// assert_eq!(encoded.dim(), (2, 36, 16));
/// # Ok::<(), linformer::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Patches<A = f32> {
    config: PatchesConfig,
    linear: Linear<A>,
}

parameters!(Patches { linear });

impl<A: Scalar> Patches<A> {
    /// Makes a layer whose product starts as that of [`Linear::new`] does.
    ///
    /// # Errors
    /// Returns an error as [`PatchesConfig::check`] does.
    pub fn new(config: &PatchesConfig, seed: u64) -> Result<Self> {
        config.check()?;
        Ok(Self {
            config: config.clone(),
            linear: Linear::init(config.width(), config.dim, true, &mut Streams::new(seed)),
        })
    }

    /// Returns the configuration.
    pub fn config(&self) -> &PatchesConfig {
        &self.config
    }

    /// Returns the product that makes a position of a window. Its input has the channels of the first point, those of the second, and so on, and then
    /// the differences in the same order, where there are any.
    pub fn linear(&self) -> &Linear<A> {
        &self.linear
    }

    /// Applies the layer: (batch, n, channels) → (batch, positions, dim), with the number of positions that [`PatchesConfig::positions`] returns.
    ///
    /// # Errors
    /// Returns an error if `x` has another number of channels, or if it is shorter than a window.
    pub fn forward(&self, x: &ArrayRef3<A>) -> Result<Array3<A>> {
        self.linear.forward(&self.windows("Patches::forward", x)?)
    }

    /// Returns which positions are real, given which points of the series are, (batch, n): those whose windows have no padding. A series that is
    /// padded on the right has the patches that it has alone.
    ///
    /// # Errors
    /// Returns an error if the series are shorter than a window, or if one of them has real points but no window of them. A series without any real
    /// point has no real position.
    pub fn mask(&self, mask: &PaddingMask) -> Result<PaddingMask> {
        const OPERATION: &str = "Patches::mask";
        let PatchesConfig { window, stride, .. } = self.config;
        let (batch, n) = mask.dim();
        let positions = self.config.count(OPERATION, n)?;
        let real = Array2::from_shape_fn((batch, positions), |(item, position)| {
            (0..window).all(|point| mask.is_real(item, position * stride + point))
        });
        let lost = |&item: &usize| mask.lengths()[item] > 0 && real.row(item).iter().all(|&real| !real);
        if let Some(item) = (0..batch).find(lost) {
            let reason = format!(
                "item {item} has real points, but no patch of {window} of them without padding; use a smaller window, or leave such series out"
            );
            return Err(Error::argument(OPERATION, reason));
        }
        Ok(PaddingMask::from_bools(&real))
    }

    /// What the product reads, (batch, positions, width).
    fn windows(&self, operation: &'static str, x: &ArrayRef3<A>) -> Result<Array3<A>> {
        let PatchesConfig {
            channels, window, stride, ..
        } = self.config;
        check_width(operation, "x", x, channels)?;
        let (batch, n, _) = x.dim();
        let dim = (batch, self.config.count(operation, n)?, self.config.width());
        checked_len(operation, &[dim.0, dim.1, dim.2], size_of::<A>())?;
        let mut windows = Array3::zeros(dim);
        for (series, mut patches) in x.outer_iter().zip(windows.outer_iter_mut()) {
            for (index, patch) in patches.outer_iter_mut().enumerate() {
                let start = index * stride;
                fill(series.slice(s![start..start + window, ..]), patch);
            }
        }
        Ok(windows)
    }
}

/// Writes the points of a window, and their differences where there is room for them.
fn fill<A: Scalar>(points: ArrayView2<'_, A>, patch: ArrayViewMut1<'_, A>) {
    let (mut values, mut differences) = patch.split_at(Axis(0), points.len());
    values.iter_mut().zip(points).for_each(|(value, &point)| *value = point);
    let later = points.slice(s![1.., ..]);
    for ((difference, &later), &earlier) in differences.iter_mut().zip(later).zip(points) {
        *difference = later - earlier;
    }
}
