//! Pure functions on slices and views: products, softmax, activations, normalization, cross-entropy, dropout.

mod activation;
mod aligned;
mod cross_entropy;
mod dropout;
mod elementary;
mod idle;
mod kept;
mod layer_norm;
mod level;
mod long_product;
mod long_sum;
mod matmul;
mod micro_kernel;
mod packed;
#[cfg(feature = "_levels")]
mod probe;
mod softmax;
mod tile;

pub use activation::Activation;
pub use matmul::batched_matmul;
pub use softmax::softmax;

pub(crate) use aligned::Aligned;
pub(crate) use cross_entropy::{cross_entropy_backward_row, cross_entropy_row};
pub(crate) use dropout::Dropout;
pub(crate) use idle::{idle_rows, without_idle};
pub(crate) use layer_norm::{layer_norm_backward_rows, layer_norm_rows};
pub(crate) use long_product::{ROUNDED_ROWS, add_long_product, add_product_to_long, add_rounded, pack_segment};
pub(crate) use long_sum::{LongSum, StagedSum, add_scaled_widened, add_sums, add_widened, long_sum, rescale_and_add, scatter_rows};
pub(crate) use matmul::{add_bias, gemm};
pub(crate) use packed::{
    Output, PANEL_COLS, PackedColumns, PackedMatrix, ProductScratch, Rows, RowsMut, SEGMENT, Scratch, multiply_panels, pack_panels,
    panels_len,
};
pub(crate) use softmax::{exp_rows, scale_rows, softmax_backward_rows, softmax_groups, softmax_rows};
pub(crate) use tile::{Runs, Tile, TileRows};
#[cfg(feature = "_levels")]
#[doc(hidden)]
pub use {
    level::Level,
    probe::{KernelProbe, ProbeLeft},
};

/// The kernels of one element type, one trait a subject.
pub(crate) trait Kernels:
    activation::ActivationKernels
    + dropout::DropoutKernels
    + softmax::SoftmaxKernels
    + layer_norm::LayerNormKernels
    + kept::Kept
    + long_sum::LongSumKernels
    + matmul::MatmulKernels
    + micro_kernel::PackedKernels
{
}

impl Kernels for f32 {}
impl Kernels for f64 {}
