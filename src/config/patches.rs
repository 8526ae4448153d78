//! Patches.

use super::{at_least_one, setters};
use crate::error::{Error, Result, checked_len};

/// How a series is cut into patches; [`Patches`](crate::Patches) is the layer, and has an example.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(deny_unknown_fields))]
#[non_exhaustive]
pub struct PatchesConfig {
    /// How many numbers a point of the series has.
    pub channels: usize,
    /// How many points a patch has.
    pub window: usize,
    /// How many points later than the one before it a patch begins. Patches overlap where this is less than the window, and points between
    /// patches are not read where it is more.
    pub stride: usize,
    /// The width of the positions that patches become.
    pub dim: usize,
    /// Whether a patch also has the differences of each point from the one before it in the window.
    pub differences: bool,
}

impl PatchesConfig {
    /// Creates a configuration with patches of `window` points of `channels` numbers every `stride` points, which become positions of width `dim`,
    /// without differences.
    pub fn new(channels: usize, window: usize, stride: usize, dim: usize) -> Self {
        Self {
            channels,
            window,
            stride,
            dim,
            differences: false,
        }
    }

    setters! {
        /// Sets [`PatchesConfig::differences`].
        with_differences => differences: bool,
    }

    /// Returns the number of patches of a series of `n` points: ⌊(n − window) / stride⌋ + 1. Points after the last patch are not read.
    ///
    /// # Errors
    /// Returns an error if the series is shorter than a window, or [`check`](Self::check) returns one.
    pub fn positions(&self, n: usize) -> Result<usize> {
        self.check()?;
        self.count("PatchesConfig::positions", n)
    }

    /// The patches of a series of `n` points, given a checked configuration.
    pub(crate) fn count(&self, operation: &'static str, n: usize) -> Result<usize> {
        let Some(rest) = n.checked_sub(self.window) else {
            let reason = format!(
                "a series of {n} points is shorter than a window of {}; use a smaller window, or leave such series out",
                self.window
            );
            return Err(Error::argument(operation, reason));
        };
        Ok(rest / self.stride + 1)
    }

    /// The width of a patch before the product.
    pub(crate) fn width(&self) -> usize {
        let differences = if self.differences { self.window - 1 } else { 0 };
        (self.window + differences) * self.channels
    }

    /// Checks that this describes a layer.
    ///
    /// # Errors
    /// Returns an error that names the first size that is 0 or overflows, or if differences are asked for in windows of one point, which have none.
    pub fn check(&self) -> Result<()> {
        at_least_one("channels", self.channels)?;
        at_least_one("window", self.window)?;
        at_least_one("stride", self.stride)?;
        at_least_one("dim", self.dim)?;
        if self.differences && self.window == 1 {
            let reason = "a window of one point has no differences; use a window of at least 2, or leave them out";
            return Err(Error::config("differences", true, reason));
        }
        // Twice the window is more than a window and its differences.
        checked_len("PatchesConfig", &[2, self.window, self.channels, self.dim], 8).map(drop)
    }
}
