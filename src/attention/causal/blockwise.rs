//! Blockwise causal attention.

use ndarray::{Array3, ArrayRef3};

use super::super::cache::{AttentionCache, CachedContext, check_gradient, no_projections, owned, unlike};
use super::super::exact::ExactAttention;
use super::super::gradients::KeyValueGradients;
use super::super::mask::PaddingMask;
use super::super::projection::Projections;
use super::super::weights::AttentionWeights;
use super::summaries::{draw_projections, summarize, summarize_backward};
use super::{CausalContext, Span, Visibility};
use crate::config::{CausalConfig, Sharing, SummarySoftmax};
use crate::error::{Error, Result};
use crate::initialization::Streams;
use crate::layers::{check_width, rows};
use crate::ops::Dropout;
use crate::parameters::parameters;
use crate::scalar::Scalar;

/// Causal attention in O(n·(window + n/block·r)): a row sees the last `window` positions up to its own exactly, and of everything before the
/// summaries of the blocks that are complete by then, r rows each (K̄_a = E·K_a and V̄_a = F·V_a of block a, the paper's compression of
/// one block).
///
/// No row depends on anything after it, NaN or not. Padding has neither keys nor a part in summaries, and a block of nothing but padding has no
/// summary; positions, and with them the blocks' bounds, stay where they are. See [`CausalConfig`] for the number of rows.
///
/// ```
/// use linformer::{BlockwiseCausalAttention, CausalConfig};
/// use linformer::ndarray::{Array3, s};
///
/// let layer = BlockwiseCausalAttention::<f32>::new(&CausalConfig::new(16, 2, 256, 4), 0)?;
/// let x = Array3::from_shape_fn((1, 200, 16), |(_, t, i)| ((t * 16 + i) as f32).sin());
/// let y = layer.forward(&x, None)?;
///
/// // What comes after a position changes nothing there.
/// let mut changed = x.clone();
/// changed.slice_mut(s![.., 150.., ..]).fill(f32::NAN);
/// assert_eq!(layer.forward(&changed, None)?.slice(s![.., ..150, ..]), y.slice(s![.., ..150, ..]));
/// # Ok::<(), linformer::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct BlockwiseCausalAttention<A = f32> {
    config: CausalConfig,
    layer: ExactAttention<A>,
    /// `None` where an encoder owns one for all its layers.
    projections: Option<Projections<A>>,
}

parameters!(BlockwiseCausalAttention { projections } flat { layer });

impl<A: Scalar> BlockwiseCausalAttention<A> {
    /// Creates a layer with randomly initialized weights.
    ///
    /// # Errors
    /// Returns an error if the configuration describes no layer, or if it has [`Sharing::Layerwise`], which takes an [`Encoder`](crate::Encoder).
    pub fn new(config: &CausalConfig, seed: u64) -> Result<Self> {
        config.check()?;
        if config.sharing == Sharing::Layerwise {
            return Err(Error::config(
                "sharing",
                "Layerwise",
                "one projection for all layers belongs to an Encoder; a layer by itself takes KeyValue",
            ));
        }
        Streams::drawn(seed, |streams| Self::init(config, streams))
    }

    pub(crate) fn init(config: &CausalConfig, streams: &mut Streams) -> Self {
        Self {
            config: config.clone(),
            layer: ExactAttention::init(&config.attention, streams),
            projections: (config.sharing != Sharing::Layerwise).then(|| draw_projections(config, streams)),
        }
    }

    /// Returns the configuration.
    pub fn config(&self) -> &CausalConfig {
        &self.config
    }

    /// Returns E and F of the summaries, (rows, block) or (rows, blocks·block) for each matrix; `None` where they are its encoder's.
    pub fn projections(&self) -> Option<&Projections<A>> {
        self.projections.as_ref()
    }

    pub(crate) fn weights(&self) -> &AttentionWeights<A> {
        self.layer.weights()
    }

    /// The layer's own projections, or the shared ones of its encoder.
    pub(crate) fn own_or<'p>(&'p self, shared: Option<&'p Projections<A>>) -> Result<&'p Projections<A>> {
        self.projections.as_ref().or(shared).ok_or_else(|| {
            Error::argument(
                "BlockwiseCausalAttention",
                "this layer uses its encoder's projection (Sharing::Layerwise); run the encoder",
            )
        })
    }

    /// Applies self-attention: (batch, n, dim) → (batch, n, dim). Any n, unless each block has its own weights.
    ///
    /// # Errors
    /// Returns an error if `x` has another width, if the mask has another shape, or if the sequence is longer than the blocks that have weights.
    pub fn forward(&self, x: &ArrayRef3<A>, mask: Option<&PaddingMask>) -> Result<Array3<A>> {
        Ok(self.forward_with(None, x, mask)?.0)
    }

    /// [`forward`](Self::forward), and what its rows saw.
    pub(crate) fn forward_with(
        &self,
        shared: Option<&Projections<A>>,
        x: &ArrayRef3<A>,
        mask: Option<&PaddingMask>,
    ) -> Result<(Array3<A>, CausalContext<A>)> {
        const OPERATION: &str = "BlockwiseCausalAttention::forward";
        let context = self.context(OPERATION, self.own_or(shared)?, x, mask)?;
        let y = self.weights().attend_causal(OPERATION, x, &context)?;
        Ok((y, context))
    }

    fn context(
        &self,
        operation: &'static str,
        projections: &Projections<A>,
        x: &ArrayRef3<A>,
        mask: Option<&PaddingMask>,
    ) -> Result<CausalContext<A>> {
        let (batch, length, _) = x.dim();
        check_width(operation, "x", x, self.config.attention.dim)?;
        PaddingMask::check(mask, operation, batch, length)?;
        self.check_length(operation, length)?;
        let mut collected = self.layer.key_values(batch, length)?;
        collected.push(x.view(), |item| mask.map(|mask| mask.item(item)));
        let keys = collected.finish();
        Ok(CausalContext {
            summaries: Some(summarize(&self.config, projections, &keys, length, mask)?),
            visibility: Visibility::of_batch(self.span(), batch, length, length, mask),
            keys,
            joint: self.config.softmax == SummarySoftmax::Joint,
            span: self.span(),
        })
    }

    fn span(&self) -> Span {
        Span {
            window: Some(self.config.effective_window()),
            blocks: Some((self.config.effective_block(), self.config.rows)),
            padding_stays: false,
        }
    }

    /// An error where no block has weights at the last of `length` positions.
    pub(crate) fn check_length(&self, operation: &'static str, length: usize) -> Result<()> {
        match self.config.longest() {
            Some(seq_len) if length > seq_len => Err(Error::TooLong {
                operation,
                length,
                seq_len,
                advice: "shorten it, build the model with a larger `seq_len`, or with `BlockWeights::Shared`, whose E and F are those of every block",
            }),
            _ => Ok(()),
        }
    }

    /// Returns [`forward`](Self::forward)'s result and the cache that [`backward`](Self::backward) needs.
    ///
    /// # Errors
    /// Returns an error as [`forward`](Self::forward) does.
    pub fn forward_train(&self, x: &ArrayRef3<A>, mask: Option<&PaddingMask>) -> Result<(Array3<A>, AttentionCache<A>)> {
        self.train_with(None, owned("BlockwiseCausalAttention::forward_train", x)?, mask, None)
    }

    /// Returns the gradient of `x`, given `dy` of the output, both (batch, n, dim). Those of the parameters are added to `gradients`, a value like
    /// the layer's own [`zeros_like`](crate::Parameters::zeros_like).
    ///
    /// # Errors
    /// Returns an error if `dy` has another shape than the output, or if the cache or the gradients are of a layer of another configuration.
    pub fn backward(&self, cache: AttentionCache<A>, dy: Array3<A>, gradients: &mut Self) -> Result<Array3<A>> {
        self.backward_dropped(None, &cache, &dy, None, gradients, None)
    }

    pub(crate) fn train_with(
        &self,
        shared: Option<&Projections<A>>,
        x: Array3<A>,
        mask: Option<&PaddingMask>,
        dropout: Option<Dropout<A>>,
    ) -> Result<(Array3<A>, AttentionCache<A>)> {
        let context = self.context("BlockwiseCausalAttention::forward_train", self.own_or(shared)?, &x, mask)?;
        let (y, attend) = self.weights().attend_causal_train(&x, &context, dropout);
        let cache = AttentionCache {
            layer: self.config.clone().into(),
            x,
            other: None,
            mask: mask.cloned(),
            context: CachedContext::Causal(context),
            compression: None,
            attend,
        };
        Ok((y, cache))
    }

    pub(crate) fn backward_dropped(
        &self,
        shared: Option<&Projections<A>>,
        cache: &AttentionCache<A>,
        dy: &ArrayRef3<A>,
        dropout: Option<Dropout<A>>,
        gradients: &mut Self,
        shared_gradients: Option<&mut Projections<A>>,
    ) -> Result<Array3<A>> {
        const OPERATION: &str = "BlockwiseCausalAttention::backward";
        cache.check(OPERATION, &self.config, &gradients.config)?;
        check_gradient(OPERATION, dy, &cache.x)?;
        let own_projections = gradients.projections.as_mut().or(shared_gradients);
        let own_projections = own_projections.ok_or_else(|| no_projections(OPERATION))?;
        let CachedContext::Causal(context) = &cache.context else {
            return Err(unlike(OPERATION, "the cache has no keys, values and summaries of what came before"));
        };
        let dy = owned(OPERATION, dy)?;
        let own = gradients.layer.weights_mut();
        let (mut dx, grads) = self
            .weights()
            .attend_causal_backward(&cache.x, context, &cache.attend, rows(&dy), dropout, own);
        let mut keys: KeyValueGradients<A> = grads.keys;
        let (length, mask) = (cache.x.dim().1, cache.mask.as_ref());
        let projections = self.own_or(shared)?;
        summarize_backward(
            &self.config,
            projections,
            &context.keys,
            length,
            mask,
            &grads.summaries,
            &mut keys,
            own_projections,
        );
        dx += &self.layer.key_value_backward(&cache.x, mask, &keys, own);
        Ok(dx)
    }
}
