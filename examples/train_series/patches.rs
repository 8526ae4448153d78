//! From series to what the model reads: random changes while it trains, then patches.

use linformer::ndarray::{Array1, Array3, ArrayView1, ArrayViewMut2, Axis, s};
use linformer::training::FeatureBatch;
use rand::Rng;
use rand_chacha::ChaCha8Rng;

use crate::series::Series;

/// How much small differences are enlarged beside large ones: they become asinh(20·d).
const ENLARGED: f32 = 20.0;

/// How series are cut into patches: windows of `window` points, every `stride` points. A series goes round in a circle, so that the last windows have
/// points of its beginning.
pub(crate) struct Cut {
    window: usize,
    stride: usize,
    period: usize,
    /// The mean and one over the standard deviation of each number of a patch.
    scale: Option<(Array1<f32>, Array1<f32>)>,
}

impl Cut {
    /// Makes patches whose numbers have mean 0 and standard deviation 1 over the series to learn from.
    pub(crate) fn new(window: usize, stride: usize, period: usize, training: &Series) -> Self {
        let mut cut = Self {
            window,
            stride,
            period,
            scale: None,
        };
        let patches = cut.patches(&training.values);
        let rows = patches
            .flatten()
            .into_shape_with_order((patches.len() / cut.features(), cut.features()));
        if let Ok(rows) = rows
            && let Some(mean) = rows.mean_axis(Axis(0))
        {
            let deviation = rows.std_axis(Axis(0), 0.0);
            cut.scale = Some((mean, deviation.mapv(|deviation| 1.0 / deviation.max(1e-6))));
        }
        cut
    }

    /// Numbers of a patch: its points, the difference of each from the one before, and from the one a period before.
    pub(crate) fn features(&self) -> usize {
        (1 + self.lags().count()) * self.window
    }

    /// How many points before a point are those that it is compared with.
    fn lags(&self) -> impl Iterator<Item = usize> {
        [1, self.period].into_iter().take(self.period.min(2))
    }

    /// Patches of a series.
    pub(crate) fn positions(&self, length: usize) -> usize {
        length.div_ceil(self.stride)
    }

    /// The patches of some series, with their classes.
    pub(crate) fn batch(&self, series: &[Vec<f32>], classes: &[usize]) -> FeatureBatch {
        let classes: Vec<Option<usize>> = classes.iter().map(|&class| Some(class)).collect();
        FeatureBatch::new(self.patches(series), classes)
    }

    /// The patches of some series: (series, positions, features).
    pub(crate) fn patches(&self, series: &[Vec<f32>]) -> Array3<f32> {
        let positions = series.first().map_or(0, |values| self.positions(values.len()));
        let mut x = Array3::zeros((series.len(), positions, self.features()));
        for (values, patches) in series.iter().zip(x.outer_iter_mut()) {
            self.fill(values, patches);
        }
        if let Some((mean, factor)) = &self.scale {
            x = (x - mean) * factor;
        }
        x
    }

    fn fill(&self, values: &[f32], mut patches: ArrayViewMut2<'_, f32>) {
        let length = values.len();
        for (index, mut patch) in patches.outer_iter_mut().enumerate() {
            for t in 0..self.window {
                let place = index * self.stride + t;
                let value = values[place % length];
                patch[t] = value;
                for (number, lag) in self.lags().enumerate() {
                    let before = values[(place + length - lag) % length];
                    patch[(number + 1) * self.window + t] = (ENLARGED * (value - before)).asinh();
                }
            }
        }
    }
}

/// How a series is changed at random while the model trains, so that few series teach more. Whole periods move.
#[derive(Clone, Copy)]
pub(crate) struct Changes {
    pub(crate) period: usize,
    /// It begins anywhere and goes round in a circle.
    pub(crate) shift: bool,
    /// It runs backward half of the time.
    pub(crate) reverse: bool,
    /// The largest part by which it is longer or shorter.
    pub(crate) stretch: f32,
    /// The largest part by which it is higher or lower.
    pub(crate) scale: f32,
    /// The largest number added to each point.
    pub(crate) jitter: f32,
}

impl Changes {
    /// A changed series.
    pub(crate) fn apply(&self, values: &[f32], generator: &mut ChaCha8Rng) -> Vec<f32> {
        let periods = values.len() / self.period;
        let mut between = |limit: f32| if limit > 0.0 { generator.random_range(-limit..limit) } else { 0.0 };
        let (pace, scale) = (1.0 + between(self.stretch), 1.0 + between(self.scale));
        let start = if self.shift { generator.random_range(0..periods) } else { 0 };
        let is_backward = self.reverse && generator.random_bool(0.5);
        let mut changed = Vec::with_capacity(values.len());
        for index in 0..periods {
            let index = if is_backward { periods - 1 - index } else { index };
            let time = pace * index as f32;
            for phase in 0..self.period {
                let points = ArrayView1::from(values).slice_move(s![phase..; self.period]);
                changed.push(scale * at(points, start, time));
            }
        }
        if self.jitter > 0.0 {
            let mut jitter = || generator.random_range(-self.jitter..self.jitter);
            for value in &mut changed {
                *value += jitter();
            }
        }
        changed
    }
}

/// The value at `time` points after `start`, between two points where `time` is.
fn at(points: ArrayView1<'_, f32>, start: usize, time: f32) -> f32 {
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // neither negative nor large
    let whole = time as usize;
    let (part, place) = (time - whole as f32, start + whole);
    let (before, after) = (points[place % points.len()], points[(place + 1) % points.len()]);
    before + part * (after - before)
}
