//! E and F: what makes k rows out of n.

use ndarray::{Array2, Array3, Array4, ArrayView1, ArrayView2, ArrayView3, ArrayViewMut2, ArrayViewMut3, Axis, s};

use crate::config::{ConvolutionKernel, ConvolutionTail, LinformerConfig, ProjectionKind, Sharing};
use crate::error::{Error, Result, checked_len};
use crate::initialization::{Initialization, Streams, window};
use crate::parameters::{Parameters, Role, Visitor, VisitorMut, join, parameters};
use crate::scalar::Scalar;

/// E or F: what makes k rows out of the n keys, or the n values, of a layer.
///
/// A shared matrix has shape (k, n); one matrix a head, (heads, k, n). A convolution's kernel has (stride), (`head_dim`, stride) or
/// (`head_dim`, `head_dim`, stride) for its three forms, as PyTorch stores it, after the heads where these do not share. Attention pooling has the
/// pooling queries u, (heads, `head_dim`); the other kinds of pooling have nothing.
#[derive(Clone, Debug)]
pub struct Projection<A = f32> {
    pub(crate) weights: ProjectionWeights<A>,
    /// (matrices, slots or channels).
    pub(crate) bias: Option<Array2<A>>,
    shared: bool,
}

/// The weights of each kind; the first axis counts the matrices: 1 where heads share.
#[derive(Clone, Debug)]
pub(crate) enum ProjectionWeights<A> {
    /// (matrices, k, n).
    Dense {
        matrix: Array3<A>,
        role: Role,
    },
    Mean,
    Max,
    /// u, (heads, `head_dim`).
    Attention {
        query: Array2<A>,
    },
    /// (matrices, out, in, stride); the channel axes are 1 long where the kernel has none.
    Convolution {
        kernel: Array4<A>,
        shape: ConvolutionKernel,
    },
}

impl<A: Scalar> Projection<A> {
    pub(crate) fn init(config: &LinformerConfig, streams: &mut Streams) -> Self {
        let heads = config.attention.heads;
        let matrices = config.projection.matrices(heads);
        let head_dim = config.attention.effective_head_dim();
        let shape = (matrices, config.k, config.seq_len);
        let initialization = config.projection.initialization;
        let (weights, channels) = match config.projection.kind {
            ProjectionKind::Learned => {
                let matrix = streams.projection(shape, initialization.unwrap_or_default());
                (
                    ProjectionWeights::Dense {
                        matrix,
                        role: Role::Trainable,
                    },
                    config.k,
                )
            }
            ProjectionKind::Random => {
                let standard_deviation = 1.0 / (config.k as f64).sqrt();
                let matrix = streams.projection(shape, initialization.unwrap_or(Initialization::Normal { standard_deviation }));
                (
                    ProjectionWeights::Dense {
                        matrix,
                        role: Role::Buffer,
                    },
                    config.k,
                )
            }
            ProjectionKind::MeanPooling => (ProjectionWeights::Mean, 0),
            ProjectionKind::MaxPooling => (ProjectionWeights::Max, 0),
            ProjectionKind::AttentionPooling => {
                let query = Array2::zeros((matrices, head_dim));
                (ProjectionWeights::Attention { query }, 0)
            }
            ProjectionKind::Convolution(convolution) => {
                let shape = convolution.kernel;
                let dim = kernel_dim(config, shape);
                let (_, out, _, stride) = dim;
                let kernel = match shape {
                    ConvolutionKernel::ChannelMixing => streams.uniform(dim, 1.0 / ((head_dim * stride) as f64).sqrt()),
                    _ => Array4::from_elem(dim, A::cast(1.0 / stride as f64)),
                };
                (ProjectionWeights::Convolution { kernel, shape }, out)
            }
        };
        Self {
            weights,
            bias: config.projection.bias.then(|| Array2::zeros((matrices, channels))),
            shared: matrices == 1 && !(config.projection.effective_sharing() == Sharing::None),
        }
    }

    /// Whether a layer of `config` can use it.
    fn fits(&self, config: &LinformerConfig) -> bool {
        let matrices = config.projection.matrices(config.attention.heads);
        let fits = match (&self.weights, config.projection.kind) {
            (ProjectionWeights::Dense { matrix, .. }, ProjectionKind::Learned | ProjectionKind::Random) => {
                matrix.dim() == (matrices, config.k, config.seq_len)
            }
            (ProjectionWeights::Mean, ProjectionKind::MeanPooling) | (ProjectionWeights::Max, ProjectionKind::MaxPooling) => true,
            (ProjectionWeights::Attention { query }, ProjectionKind::AttentionPooling) => {
                query.dim() == (matrices, config.attention.effective_head_dim())
            }
            (ProjectionWeights::Convolution { kernel, shape }, ProjectionKind::Convolution(convolution)) => {
                *shape == convolution.kernel && kernel.dim() == kernel_dim(config, *shape)
            }
            _ => false,
        };
        fits && self.bias.is_some() == config.projection.bias
    }

    /// A learned projection of (matrices, k, n).
    pub(crate) fn learned(matrix: Array3<A>, shared: bool) -> Self {
        let role = Role::Trainable;
        Self {
            weights: ProjectionWeights::Dense { matrix, role },
            bias: None,
            shared,
        }
    }

    pub(crate) fn matrix_mut(&mut self) -> Option<ArrayViewMut3<'_, A>> {
        match &mut self.weights {
            ProjectionWeights::Dense { matrix, .. } => Some(matrix.view_mut()),
            _ => None,
        }
    }

    /// Returns the (matrices, k, n) of a learned or random projection; one matrix where the heads share it.
    pub fn matrix(&self) -> Option<ArrayView3<'_, A>> {
        match &self.weights {
            ProjectionWeights::Dense { matrix, .. } => Some(matrix.view()),
            _ => None,
        }
    }

    /// Returns the u of attention pooling, (heads, `head_dim`).
    pub fn pooling_query(&self) -> Option<ArrayView2<'_, A>> {
        match &self.weights {
            ProjectionWeights::Attention { query } => Some(query.view()),
            _ => None,
        }
    }

    /// Its u, to be written.
    pub(crate) fn pooling_query_mut(&mut self) -> Option<ArrayViewMut2<'_, A>> {
        match &mut self.weights {
            ProjectionWeights::Attention { query } => Some(query.view_mut()),
            _ => None,
        }
    }

    /// The number of positions that it has columns for; `None` where any length goes.
    pub(crate) fn columns(&self) -> Option<usize> {
        match &self.weights {
            ProjectionWeights::Dense { matrix, .. } => Some(matrix.dim().2),
            _ => None,
        }
    }

    /// The projection with columns for `new_len` positions, interpolated linearly along the sequence and scaled so that each row keeps its sum.
    ///
    /// # Errors
    /// Returns an error if the projection is not learned, or if the length is 0.
    pub(crate) fn extended(&self, new_len: usize) -> Result<Self> {
        let ProjectionWeights::Dense {
            matrix,
            role: Role::Trainable,
        } = &self.weights
        else {
            return Err(Error::argument(
                "extended",
                "only a learned projection can be stretched; pooling and convolutions take any length as they are",
            ));
        };
        let (matrices, k, old_len) = matrix.dim();
        checked_len("extended", &[matrices, k, new_len], size_of::<A>())?;
        if new_len == 0 {
            return Err(Error::config("seq_len", 0, "it must be at least 1"));
        }
        let ratio = old_len as f64 / new_len as f64;
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // clamped to 0..old_len
        let stretched = Array3::from_shape_fn((matrices, k, new_len), |(matrix_index, slot, position)| {
            let place = ((position as f64 + 0.5) * ratio - 0.5).clamp(0.0, (old_len - 1) as f64);
            let (left, share) = (place.floor() as usize, place.fract());
            let right = (left + 1).min(old_len - 1);
            let at = |column| matrix[[matrix_index, slot, column]].widen();
            A::cast((at(left) * (1.0 - share) + at(right) * share) * ratio)
        });
        if stretched.iter().any(|number| !number.is_finite()) && matrix.iter().all(|number| number.is_finite()) {
            let reason = format!("the numbers of E or F are so large that, stretched to {new_len} columns, some are not finite");
            return Err(Error::argument("extended", reason));
        }
        Ok(Self {
            weights: ProjectionWeights::Dense {
                matrix: stretched,
                role: Role::Trainable,
            },
            bias: self.bias.clone(),
            shared: self.shared,
        })
    }

    /// The weight of each of `real.len()` positions in each of `slots` slots of `head`, for an item with these real positions;
    /// `None` where the kind has no such matrix. The bias is not in it. The item's `length` decides where the windows of pooling lie,
    /// and `tail` which of a convolution's are complete.
    pub(crate) fn effective_matrix(
        &self,
        head: usize,
        slots: usize,
        real: ArrayView1<'_, bool>,
        length: usize,
        tail: ConvolutionTail,
    ) -> Option<Array2<A>> {
        let positions = real.len();
        let mut effective = Array2::zeros((slots, positions));
        match &self.weights {
            ProjectionWeights::Dense { matrix, .. } => {
                let matrix = matrix.index_axis(Axis(0), head.min(matrix.dim().0 - 1));
                effective.assign(&matrix.slice(s![..slots, ..positions]));
            }
            ProjectionWeights::Mean => {
                for slot in 0..slots {
                    let (start, end) = window(slot, slots, length);
                    let count = (start..end).filter(|&position| real[position]).count();
                    effective.slice_mut(s![slot, start..end]).fill(A::cast(1.0 / count.max(1) as f64));
                }
            }
            ProjectionWeights::Convolution {
                kernel,
                shape: ConvolutionKernel::Scalar,
            } => {
                let kernel = kernel.slice(s![head.min(kernel.dim().0 - 1), 0, 0, ..]);
                let covered = match tail {
                    ConvolutionTail::Dropped => length - length % kernel.len(),
                    ConvolutionTail::ZeroPadded => length,
                };
                for position in 0..covered.min(positions) {
                    effective[[position / kernel.len(), position]] = kernel[position % kernel.len()];
                }
            }
            ProjectionWeights::Max | ProjectionWeights::Attention { .. } | ProjectionWeights::Convolution { .. } => return None,
        }
        for (mut column, &real) in effective.columns_mut().into_iter().zip(real) {
            if !real {
                column.fill(A::zero());
            }
        }
        Some(effective)
    }
}

/// (matrices, channels out, channels in, stride) of a convolution's kernel.
fn kernel_dim(config: &LinformerConfig, shape: ConvolutionKernel) -> (usize, usize, usize, usize) {
    let head_dim = config.attention.effective_head_dim();
    let (out, input) = match shape {
        ConvolutionKernel::Scalar => (1, 1),
        ConvolutionKernel::Depthwise => (head_dim, 1),
        ConvolutionKernel::ChannelMixing => (head_dim, head_dim),
    };
    let matrices = config.projection.matrices(config.attention.heads);
    (matrices, out, input, config.stride().unwrap_or(1))
}

/// The bias and the weights drop the axes that a checkpoint's reader would not expect.
impl<A: Scalar> Parameters<A> for Projection<A> {
    fn visit<'a>(&'a self, path: &str, visitor: &mut Visitor<'_, 'a, A>) {
        let shared = self.shared;
        match &self.weights {
            ProjectionWeights::Dense { matrix, role } => {
                let view = matrix.view().into_dyn();
                visitor(
                    &join(path, "weight"),
                    *role,
                    if shared { view.index_axis_move(Axis(0), 0) } else { view },
                );
            }
            ProjectionWeights::Convolution { kernel, shape } => {
                let mut view = kernel.view().into_dyn();
                for axis in unit_axes(*shape, shared) {
                    view = view.index_axis_move(Axis(*axis), 0);
                }
                visitor(&join(path, "weight"), Role::Trainable, view);
            }
            ProjectionWeights::Attention { query } => visitor(&join(path, "pooling_query"), Role::Trainable, query.view().into_dyn()),
            ProjectionWeights::Mean | ProjectionWeights::Max => {}
        }
        if let Some(bias) = &self.bias {
            let view = bias.view().into_dyn();
            let view = if shared { view.index_axis_move(Axis(0), 0) } else { view };
            visitor(&join(path, "bias"), Role::Trainable, view);
        }
    }

    fn visit_mut<'a>(&'a mut self, path: &str, visitor: &mut VisitorMut<'_, 'a, A>) {
        let shared = self.shared;
        match &mut self.weights {
            ProjectionWeights::Dense { matrix, role } => {
                let view = matrix.view_mut().into_dyn();
                visitor(
                    &join(path, "weight"),
                    *role,
                    if shared { view.index_axis_move(Axis(0), 0) } else { view },
                );
            }
            ProjectionWeights::Convolution { kernel, shape } => {
                let mut view = kernel.view_mut().into_dyn();
                for axis in unit_axes(*shape, shared) {
                    view = view.index_axis_move(Axis(*axis), 0);
                }
                visitor(&join(path, "weight"), Role::Trainable, view);
            }
            ProjectionWeights::Attention { query } => visitor(&join(path, "pooling_query"), Role::Trainable, query.view_mut().into_dyn()),
            ProjectionWeights::Mean | ProjectionWeights::Max => {}
        }
        if let Some(bias) = &mut self.bias {
            let view = bias.view_mut().into_dyn();
            let view = if shared { view.index_axis_move(Axis(0), 0) } else { view };
            visitor(&join(path, "bias"), Role::Trainable, view);
        }
    }
}

/// The axes of a kernel (matrices, out, in, stride) that have one entry only, last first.
fn unit_axes(shape: ConvolutionKernel, shared: bool) -> &'static [usize] {
    match (shape, shared) {
        (ConvolutionKernel::Scalar, true) => &[2, 1, 0],
        (ConvolutionKernel::Scalar, false) => &[2, 1],
        (ConvolutionKernel::Depthwise, true) => &[2, 0],
        (ConvolutionKernel::Depthwise, false) => &[2],
        (ConvolutionKernel::ChannelMixing, true) => &[0],
        (ConvolutionKernel::ChannelMixing, false) => &[],
    }
}

/// The projections of a layer, or of all layers of an encoder: E, and F where it is another.
#[derive(Clone, Debug)]
pub struct Projections<A = f32> {
    pub(crate) key: Projection<A>,
    pub(crate) value: Option<Projection<A>>,
}

parameters!(Projections { key, value });

impl<A: Scalar> Projections<A> {
    pub(crate) fn init(config: &LinformerConfig, streams: &mut Streams) -> Self {
        Self {
            key: Projection::init(config, streams),
            value: (!config.projection.ties_key_value()).then(|| Projection::init(config, streams)),
        }
    }

    /// Returns E, which compresses the keys.
    pub fn key(&self) -> &Projection<A> {
        &self.key
    }

    /// Returns F, which compresses the values; E itself where they are tied.
    pub fn value(&self) -> &Projection<A> {
        self.value.as_ref().unwrap_or(&self.key)
    }

    /// An error unless a layer of `config` can use them.
    pub(crate) fn check(&self, operation: &'static str, config: &LinformerConfig) -> Result<()> {
        let is_tied = config.projection.ties_key_value();
        if self.key.fits(config) && self.value.is_none() == is_tied && self.value().fits(config) {
            return Ok(());
        }
        Err(Error::argument(
            operation,
            "the projections are of a layer of another configuration; pass those of this layer's own encoder",
        ))
    }

    pub(crate) fn extended(&self, new_len: usize) -> Result<Self> {
        Ok(Self {
            key: self.key.extended(new_len)?,
            value: self.value.as_ref().map(|value| value.extended(new_len)).transpose()?,
        })
    }
}
