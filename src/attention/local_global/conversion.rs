//! The weights of an exact layer in local-global form, and the query at which its texts are best summarized.

use ndarray::{Array2, ArrayRef3, ArrayView2};

use super::LocalGlobalAttention;
use crate::attention::{ExactAttention, PaddingMask};
use crate::config::LocalGlobalConfig;
use crate::error::{Error, Result};
use crate::layers::check_width;
use crate::scalar::Scalar;

impl<A: Scalar> LocalGlobalAttention<A> {
    /// Returns the local-global layer with the weights of an exact layer and u = 0.
    ///
    /// Without training it is nearest to the exact layer with u = the mean query of typical texts, [`ExactAttention::mean_query`].
    ///
    /// ```
    /// use linformer::ndarray::Array3;
    /// use linformer::{AttentionConfig, ExactAttention, LocalGlobalAttention, LocalGlobalConfig};
    ///
    /// let exact = ExactAttention::<f32>::new(&AttentionConfig::new(16, 2).with_query_bias(true), 0)?;
    /// let x = Array3::from_shape_fn((1, 100, 16), |(_, t, i)| ((t * 16 + i) as f32).sin());
    /// let form = LocalGlobalConfig::of(exact.config()).with_block(16).with_slots(16);
    /// let layer = LocalGlobalAttention::from_exact(&exact, &form)?.with_pooling_query(exact.mean_query(&x, None)?)?;
    /// assert_eq!(layer.forward(&x, None)?.dim(), (1, 100, 16));
    /// # Ok::<(), linformer::Error>(())
    /// ```
    ///
    /// # Errors
    /// Returns an error if `form` describes no layer, or has other head and weight options than the exact layer; if the exact layer has
    /// [`AttentionConfig::masked_keys_stay`](crate::AttentionConfig::masked_keys_stay), which padding without keys cannot have.
    pub fn from_exact(layer: &ExactAttention<A>, form: &LocalGlobalConfig) -> Result<Self> {
        form.check_weights_of(layer.config())?;
        Ok(Self {
            config: form.clone(),
            layer: layer.clone(),
            pooling_query: zero_query(form),
        })
    }

    /// Returns the layer with another u, (heads, `head_dim`), the query at which segments are summarized, or what is added to the mean query.
    ///
    /// # Errors
    /// Returns an error if the layer has no slots, if u has another shape, or if it has a number that is not finite.
    pub fn with_pooling_query(mut self, query: Array2<A>) -> Result<Self> {
        const OPERATION: &str = "LocalGlobalAttention::with_pooling_query";
        let Some(own) = &mut self.pooling_query else {
            let reason = "the layer has no slots, so that nothing is summarized; give it some with LocalGlobalConfig::with_slots";
            return Err(Error::argument(OPERATION, reason));
        };
        if query.dim() != own.dim() {
            let (heads, head_dim) = own.dim();
            return Err(Error::shape(OPERATION, "query", format!("({heads}, {head_dim})"), query.shape()));
        }
        if !query.iter().all(|number| number.is_finite()) {
            return Err(Error::argument(
                OPERATION,
                "the query has a number that is not finite; look for bad numbers where it comes from",
            ));
        }
        *own = query;
        Ok(self)
    }
}

impl<A: Scalar> ExactAttention<A> {
    /// Returns the mean query of each head over the real positions of `x` (batch, n, dim): (heads, `head_dim`).
    ///
    /// # Errors
    /// Returns an error if `x` has another width or the mask another shape, if no position is real, or if the mean is not finite.
    pub fn mean_query(&self, x: &ArrayRef3<A>, mask: Option<&PaddingMask>) -> Result<Array2<A>> {
        const OPERATION: &str = "ExactAttention::mean_query";
        check_width(OPERATION, "x", x, self.config().dim)?;
        PaddingMask::check(mask, OPERATION, x.dim().0, x.dim().1)?;
        let mut mean = MeanInput::new(self.config().dim);
        mean.add(x, mask);
        mean.query(OPERATION, self)
    }
}

/// The mean input of a layer, over any number of batches. Its query is the mean query, since queries are linear.
pub(crate) struct MeanInput {
    sums: Vec<f64>,
    count: usize,
}

impl MeanInput {
    pub(crate) fn new(dim: usize) -> Self {
        Self {
            sums: vec![0.0; dim],
            count: 0,
        }
    }

    /// Adds the real positions of a batch.
    pub(crate) fn add<A: Scalar>(&mut self, x: &ArrayRef3<A>, mask: Option<&PaddingMask>) {
        for (item, rows) in x.outer_iter().enumerate() {
            for (position, row) in rows.outer_iter().enumerate() {
                if mask.is_none_or(|mask| mask.is_real(item, position)) {
                    self.count += 1;
                    for (sum, number) in self.sums.iter_mut().zip(row) {
                        *sum += number.widen();
                    }
                }
            }
        }
    }

    /// The mean query, (heads, `head_dim`).
    pub(crate) fn query<A: Scalar>(&self, operation: &'static str, layer: &ExactAttention<A>) -> Result<Array2<A>> {
        if self.count == 0 {
            let reason = "no position is real, so that there is no mean query; give sequences like those that the model is for";
            return Err(Error::argument(operation, reason));
        }
        let count = self.count as f64;
        let mean: Vec<A> = self.sums.iter().map(|sum| A::cast(sum / count)).collect();
        let row = ArrayView2::from_shape((1, mean.len()), &mean).expect("one row");
        let query = layer.weights().query.forward_rows(row);
        if !query.iter().all(|number| number.is_finite()) {
            let reason = "the mean query is not finite; look for bad numbers in the model and in the sequences";
            return Err(Error::argument(operation, reason));
        }
        let heads = (layer.config().heads, layer.config().effective_head_dim());
        Ok(query.into_shape_with_order(heads).expect("a row of all heads"))
    }
}

/// The u of a new layer, where it has one.
pub(super) fn zero_query<A: Scalar>(config: &LocalGlobalConfig) -> Option<Array2<A>> {
    let heads = (config.attention.heads, config.attention.effective_head_dim());
    (config.slots > 0).then(|| Array2::zeros(heads))
}
