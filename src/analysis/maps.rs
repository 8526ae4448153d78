//! The maps of a model's layers.

use ndarray::{Array3, Array4, ArrayRef2, ArrayRef3};

use crate::attention::{ExactAttention, LinformerAttention, PaddingMask, Projections};
use crate::blocks::{Attention, Encoder};
use crate::error::{Error, Result};
use crate::models::LanguageModel;
use crate::scalar::Scalar;

/// Selects one of the maps of a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Map {
    /// P = softmax(Q·Kᵀ/√d), (n, n) a head: what exact attention with the layer's weights looks at.
    Exact,
    /// P̄ = softmax(Q·K̄ᵀ/√d), (n, k) a head: how the queries share out among the compressed rows.
    Compressed,
    /// P̄·F, (n, n) a head: what each query draws from each position (with E = F it is P̄·E). Rows need not sum to 1.
    Effective,
}

/// Returns the input of each block's attention when `encoder` reads `x` (batch, n, dim): (batch, n, width) each, normed where the norm comes
/// first.
///
/// # Errors
/// Returns an error as [`Encoder::forward`] does.
pub fn attention_inputs<A: Scalar>(encoder: &Encoder<A>, x: &ArrayRef3<A>, mask: Option<&PaddingMask>) -> Result<Vec<Array3<A>>> {
    let mut stream = encoder.checked(x.to_owned(), mask)?;
    let mut second = encoder.config().reversible.then(|| stream.clone());
    let mut inputs = Vec::with_capacity(encoder.blocks().len());
    for block in encoder.blocks() {
        let attend = |input: &ArrayRef3<A>| {
            inputs.push(input.to_owned());
            block.attention().forward(encoder.projections(), input, mask)
        };
        match &mut second {
            Some(second) => block.apply_reversible_around(&mut stream, second, attend)?,
            None => stream = block.apply_around(stream, attend)?,
        }
    }
    Ok(inputs)
}

impl<A: Scalar> LanguageModel<A> {
    /// Returns [`attention_inputs`](crate::analysis::attention_inputs) of the model's encoder for (batch, n) token ids.
    ///
    /// # Errors
    /// Returns an error as [`forward`](Self::forward) does.
    pub fn attention_inputs(&self, tokens: &ArrayRef2<usize>, mask: Option<&PaddingMask>) -> Result<Vec<Array3<A>>> {
        attention_inputs(self.encoder(), &self.encoder_input(tokens, mask)?, mask)
    }
}

/// Returns a map of block `layer` for its attention's input, as from [`attention_inputs`]: (batch, heads, n, n or k).
///
/// It takes n² (or n·k) numbers a head: choose a short text, or one item at a time.
///
/// # Errors
/// Returns an error if there is no such layer, if the input has another width, or if the layer's attention has no such map (exact and causal attention
/// have no compressed ones; max pooling and convolutions over channels have no effective one).
pub fn attention_map<A: Scalar>(
    encoder: &Encoder<A>,
    layer: usize,
    map: Map,
    input: &ArrayRef3<A>,
    mask: Option<&PaddingMask>,
) -> Result<Array4<A>> {
    const OPERATION: &str = "attention_map";
    let Some(block) = encoder.blocks().get(layer) else {
        let reason = format!(
            "there is no layer {layer}: the encoder has {}, counted from 0",
            encoder.blocks().len()
        );
        return Err(Error::argument(OPERATION, reason));
    };
    match (block.attention(), map) {
        (Attention::Exact(attention), Map::Exact) => attention.attention_map(input, input, mask),
        (Attention::Linformer(attention), Map::Exact) => ExactAttention::from_linformer(attention).attention_map(input, input, mask),
        (Attention::Linformer(attention), _) => linformer_map(attention, encoder.projections(), map, input, mask),
        (Attention::LocalGlobal(attention), Map::Effective) => attention.effective_map(input, mask),
        (attention, _) => {
            let name = match attention {
                Attention::Exact(_) => "exact",
                Attention::LocalGlobal(_) => "local-global",
                _ => "causal",
            };
            let reason = format!("{name} attention has no map of this kind ({map:?}); only Linformer attention has all three");
            Err(Error::argument(OPERATION, reason))
        }
    }
}

fn linformer_map<A: Scalar>(
    attention: &LinformerAttention<A>,
    shared: Option<&Projections<A>>,
    map: Map,
    input: &ArrayRef3<A>,
    mask: Option<&PaddingMask>,
) -> Result<Array4<A>> {
    let projections = attention.own_or(shared)?;
    let context = attention.compress_with(projections, input, mask)?;
    if map == Map::Compressed {
        return attention.attention_map(input, &context);
    }
    let (batch, length, _) = input.dim();
    let all_real = PaddingMask::all_real(batch, length)?;
    let mask = mask.unwrap_or(&all_real);
    attention.effective_map_with(projections, input, &context, mask)
}
