//! Encoders with exact attention in local-global form.

use ndarray::{Array2, Array3, ArrayRef3};

use super::{Encoder, EncoderBlock};
use crate::attention::{ExactAttention, LocalGlobalAttention, MeanInput, PaddingMask};
use crate::blocks::Attention;
use crate::config::LocalGlobalConfig;
use crate::error::{Error, Result};
use crate::scalar::Scalar;

const OPERATION: &str = "Encoder::to_local_global";

impl<A: Scalar> Encoder<A> {
    /// Returns the encoder with its exact attention in local-global form: the same weights, and for each head of each layer the u that is the mean
    /// of its queries over the real positions of the batches in `calibration`, (batch, n, dim) each.
    ///
    /// A few thousand positions of typical texts are enough. Causal attention stays causal. Where `form` has no u that is the same for all texts
    /// ([`PoolingQuery::MeanOfItem`](crate::PoolingQuery::MeanOfItem), or no slots), there is nothing to measure, and no batches are taken.
    #[cfg_attr(
        feature = "analysis",
        doc = "[`fidelity`](fn@crate::analysis::fidelity) says how near the two are, and"
    )]
    #[cfg_attr(feature = "analysis", doc = "[`plan`](fn@crate::analysis::plan) chooses block and slots.")]
    ///
    /// ```
    /// use linformer::{AttentionConfig, Encoder, EncoderConfig, LocalGlobalConfig};
    /// use linformer::ndarray::Array3;
    ///
    /// let attention = AttentionConfig::new(16, 2);
    /// let exact = Encoder::<f32>::new(&EncoderConfig::new(attention.clone(), 2), 0)?;
    /// let texts = Array3::from_shape_fn((2, 100, 16), |(b, t, i)| ((b * 31 + t * 16 + i) as f32).sin());
    /// let form = LocalGlobalConfig::of(&attention).with_block(16).with_slots(16);
    /// let encoder = exact.to_local_global(&form, &[(texts.clone(), None)])?;
    /// assert_eq!(encoder.forward(&texts, None)?.dim(), (2, 100, 16));
    /// # Ok::<(), linformer::Error>(())
    /// ```
    ///
    /// # Errors
    /// Returns an error if the attention is not exact, or has other head and weight options than `form`; if there is no encoder of that form (padding
    /// cannot keep its place, [`AttentionConfig::masked_keys_stay`](crate::AttentionConfig::masked_keys_stay)); if a batch does not fit the encoder; if
    /// no position is real, or batches came where there is nothing to measure; or if a mean query is not finite.
    pub fn to_local_global(&self, form: &LocalGlobalConfig, calibration: &[(Array3<A>, Option<PaddingMask>)]) -> Result<Self> {
        self.calibrated(form, calibration.iter().map(|(x, mask)| Ok((x.clone(), mask.as_ref()))))
    }

    /// [`to_local_global`](Self::to_local_global), with batches that are made one after another.
    pub(crate) fn calibrated<'m>(
        &self,
        form: &LocalGlobalConfig,
        calibration: impl ExactSizeIterator<Item = Result<(Array3<A>, Option<&'m PaddingMask>)>>,
    ) -> Result<Self> {
        // Before the batches are read.
        self.config.in_form(form)?;
        if form.has_fixed_query() {
            let queries = self.mean_queries(calibration)?;
            return self.in_form(form, Some(&queries));
        }
        if calibration.len() > 0 {
            let reason = format!(
                "{} batches came, but with {} slots and {:?} there is no query that is the same for all texts, so that they have no effect; give none",
                calibration.len(),
                form.slots,
                form.pooling_query
            );
            return Err(Error::argument(OPERATION, reason));
        }
        self.in_form(form, None)
    }

    /// The mean query of each head, layer by layer, (heads, `head_dim`) each.
    pub(crate) fn mean_queries<'m>(
        &self,
        batches: impl Iterator<Item = Result<(Array3<A>, Option<&'m PaddingMask>)>>,
    ) -> Result<Vec<Array2<A>>> {
        let mut means: Vec<_> = self.blocks.iter().map(|block| MeanInput::new(block.in_dim())).collect();
        for batch in batches {
            let (x, mask) = batch?;
            self.watch(x, mask, |layer, input, _| {
                means[layer].add(input, mask);
                Ok(())
            })?;
        }
        let layers = self.blocks.iter().zip(&means);
        layers.map(|(block, mean)| mean.query(OPERATION, block.exact()?)).collect()
    }

    /// The same weights in local-global form, with these queries, one array a layer, or with those of a new encoder.
    pub(crate) fn in_form(&self, form: &LocalGlobalConfig, queries: Option<&[Array2<A>]>) -> Result<Self> {
        let config = self.config.in_form(form)?;
        let mut own = self.clone();
        own.config = config;
        for (layer, block) in own.blocks.iter_mut().enumerate() {
            let exact = block.exact()?;
            // With the layer's own width.
            let mut attention = LocalGlobalAttention::from_exact(exact, &form.clone().with_attention(exact.config().clone()))?;
            if let Some(query) = queries.and_then(|queries| queries.get(layer)) {
                attention = attention.with_pooling_query(query.clone())?;
            }
            *block.parts_mut().1 = Attention::LocalGlobal(attention);
        }
        Ok(own)
    }

    /// Runs the blocks on `x`, and shows the input of each layer's attention, normed where the norm comes first, and its output.
    pub(crate) fn watch(
        &self,
        x: Array3<A>,
        mask: Option<&PaddingMask>,
        mut watcher: impl FnMut(usize, &ArrayRef3<A>, &Array3<A>) -> Result<()>,
    ) -> Result<()> {
        let x = self.checked(x, mask)?;
        let second = self.config.reversible.then(|| x.clone());
        let mut streams = (x, second);
        for (layer, block) in self.blocks.iter().enumerate() {
            streams = block.around(streams, |input| {
                let output = block.attention().forward(self.projections(), input, mask)?;
                watcher(layer, input, &output)?;
                Ok(output)
            })?;
        }
        Ok(())
    }
}

impl<A: Scalar> EncoderBlock<A> {
    /// The attention, where it is exact.
    fn exact(&self) -> Result<&ExactAttention<A>> {
        match self.attention() {
            Attention::Exact(exact) => Ok(exact),
            _ => Err(Error::argument(OPERATION, "only blocks with exact attention are converted")),
        }
    }
}
