//! A stack of blocks.

use ndarray::{Array3, ArrayRef3};

use super::EncoderBlock;
use super::encoder_block::tiles;
use crate::attention::{PaddingMask, Projections, draw_projections};
use crate::config::{AttentionKind, EncoderConfig};
use crate::error::Result;
use crate::initialization::Streams;
use crate::layers::{LayerNorm, check_width};
use crate::parallel;
use crate::parameters::parameters;
use crate::scalar::Scalar;

/// A stack of blocks on a residual stream, in place and tile by tile.
///
/// ```
/// use linformer::{Encoder, EncoderConfig, LinformerConfig, Sharing};
/// use linformer::ndarray::Array3;
///
/// let attention = LinformerConfig::new(32, 4, 128, 16).with_sharing(Sharing::Layerwise);
/// let encoder = Encoder::<f32>::new(&EncoderConfig::new(attention, 2), 0)?;
/// assert_eq!(encoder.forward(&Array3::ones((1, 100, 32)), None)?.dim(), (1, 100, 32));
/// # Ok::<(), linformer::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Encoder<A = f32> {
    config: EncoderConfig,
    /// The one projection of all layers, where they share it.
    projections: Option<Projections<A>>,
    blocks: Vec<EncoderBlock<A>>,
    final_norm: Option<LayerNorm<A>>,
}

parameters!(Encoder {
    projections,
    blocks,
    final_norm
});

impl<A: Scalar> Encoder<A> {
    /// An encoder with drawn weights.
    ///
    /// # Errors
    /// A configuration that describes no encoder.
    pub fn new(config: &EncoderConfig, seed: u64) -> Result<Self> {
        config.check()?;
        Ok(Self::draw(config, &mut Streams::new(seed)))
    }

    pub(crate) fn draw(config: &EncoderConfig, streams: &mut Streams) -> Self {
        let projections = match &config.attention {
            AttentionKind::Linformer(attention) if config.shares_projection() => Some(Projections::draw(attention, streams)),
            AttentionKind::Causal(attention) if config.shares_projection() => Some(draw_projections(attention, streams)),
            _ => None,
        };
        Self {
            config: config.clone(),
            projections,
            blocks: (0..config.depth).map(|layer| EncoderBlock::draw(config, layer, streams)).collect(),
            final_norm: config.final_norm.then(|| LayerNorm::start(config.dim(), config.norm_eps)),
        }
    }

    /// The configuration.
    pub fn config(&self) -> &EncoderConfig {
        &self.config
    }

    /// The blocks.
    pub fn blocks(&self) -> &[EncoderBlock<A>] {
        &self.blocks
    }

    /// The projection of all layers, where they share one.
    pub fn projections(&self) -> Option<&Projections<A>> {
        self.projections.as_ref()
    }

    /// (batch, n, dim) → (batch, n, dim).
    ///
    /// # Errors
    /// Another width, a mask of another shape, n > `seq_len` where the projections have no more columns.
    pub fn forward(&self, x: &ArrayRef3<A>, mask: Option<&PaddingMask>) -> Result<Array3<A>> {
        self.forward_owned(x.to_owned(), mask)
    }

    pub(crate) fn final_norm(&self) -> Option<&LayerNorm<A>> {
        self.final_norm.as_ref()
    }

    #[allow(clippy::type_complexity)] // its three fields
    pub(crate) fn parts_mut(&mut self) -> (Option<&mut Projections<A>>, &mut [EncoderBlock<A>], Option<&mut LayerNorm<A>>) {
        (self.projections.as_mut(), &mut self.blocks, self.final_norm.as_mut())
    }

    /// The input, contiguous; an error where it or its mask does not fit.
    pub(crate) fn checked(&self, x: Array3<A>, mask: Option<&PaddingMask>) -> Result<Array3<A>> {
        check_width("Encoder::forward", "x", &x, self.config.dim())?;
        PaddingMask::check(mask, "Encoder::forward", x.dim().0, x.dim().1)?;
        Ok(if x.is_standard_layout() {
            x
        } else {
            x.as_standard_layout().into_owned()
        })
    }

    /// [`forward`](Self::forward) in the memory of its input.
    ///
    /// # Errors
    /// As [`forward`](Self::forward).
    pub fn forward_owned(&self, x: Array3<A>, mask: Option<&PaddingMask>) -> Result<Array3<A>> {
        let mut stream = self.checked(x, mask)?;
        let shared = self.projections.as_ref();
        if self.config.reversible {
            let mut second = stream.clone();
            for block in &self.blocks {
                block.apply_reversible(&mut stream, &mut second, shared, mask)?;
            }
            stream += &second;
        } else {
            for block in &self.blocks {
                stream = block.apply(stream, shared, mask)?;
            }
        }
        if let Some(norm) = &self.final_norm {
            let cost = parallel::cost(&[stream.len(), 4]);
            parallel::for_each(tiles(stream.view_mut()), cost, |(_, mut rows)| norm.apply_in_place(&mut rows));
        }
        Ok(stream)
    }
}
