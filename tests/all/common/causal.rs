//! Random configurations of causal attention.

use linformer::{
    AttentionConfig, AttentionKind, BlockWeights, CausalConfig, EncoderConfig, FeedForwardConfig, LocalGlobalConfig, NormPlacement,
    Sharing, SummarySoftmax,
};
use proptest::prelude::*;
use proptest::sample::select;

/// The longest sequence of the drawn configurations.
pub const LONGEST: usize = 14;

/// A layer of any block, window, sharing, bias and shape. `Layerwise` sharing is left to encoders.
pub fn causal_config() -> impl Strategy<Value = CausalConfig> {
    let heads = select(vec![(1, 1), (2, 1), (2, 2), (4, 2)]);
    let sharing = select(vec![Sharing::None, Sharing::Headwise, Sharing::KeyValue]);
    let weights = select(vec![BlockWeights::Shared, BlockWeights::PerBlock]);
    let softmax = select(vec![SummarySoftmax::Joint, SummarySoftmax::Summed]);
    let flags = (any::<bool>(), any::<bool>(), any::<bool>(), any::<bool>());
    (
        heads,
        1..=3_usize,
        1..=3_usize,
        1..=6_usize,
        1..=LONGEST,
        sharing,
        weights,
        softmax,
        flags,
    )
        .prop_map(
            |((heads, kv_heads), head_dim, rows, block, window, sharing, weights, softmax, (bias, tied, factored, of_output))| {
                let attention = AttentionConfig::new(5, heads)
                    .with_head_dim(Some(head_dim))
                    .with_kv_heads(kv_heads)
                    .with_tied_key_value(tied)
                    .with_query_bias(bias)
                    .with_key_value_bias(bias, bias)
                    .with_output_bias(of_output)
                    .with_output_rank(factored.then_some(3));
                CausalConfig::new(5, heads, LONGEST, rows)
                    .with_attention(attention)
                    .with_block(Some(block))
                    .with_window(Some(window))
                    .with_sharing(sharing)
                    .with_block_weights(weights)
                    .with_softmax(softmax)
            },
        )
}

/// A causal layer with segments of any block, slots and shape.
pub fn segments_config() -> impl Strategy<Value = LocalGlobalConfig> {
    (causal_config(), 0..=2_u32, 0..=3_usize, any::<bool>()).prop_map(|(config, block, slots, shifted)| {
        LocalGlobalConfig::new(5, config.attention.heads)
            .with_attention(config.attention.with_causal(true))
            .with_block(1 << block)
            .with_slots(slots)
            .with_mass_shift(if shifted && slots > 0 { 0.4 } else { 0.0 })
    })
}

/// Any causal attention: exact, with segments, or blockwise.
pub fn kind() -> impl Strategy<Value = AttentionKind> {
    (causal_config(), segments_config(), 0..5_usize, any::<bool>()).prop_map(|(config, segments, which, stay)| match which {
        0 => AttentionKind::from(config.attention.with_causal(true).with_masked_keys_stay(stay)),
        1 | 2 => segments.into(),
        _ => config.into(),
    })
}

pub fn encoder_config() -> impl Strategy<Value = EncoderConfig> {
    let shape = select(vec!["pre", "post", "reversible", "wide", "bare"]);
    (kind(), shape, any::<bool>()).prop_map(|(mut kind, shape, layerwise)| {
        if let AttentionKind::Causal(config) = &mut kind
            && layerwise
        {
            config.sharing = Sharing::Layerwise;
        }
        let config = EncoderConfig::new(kind, 2).with_feed_forward(Some(FeedForwardConfig::new(6)));
        match shape {
            "post" => config.with_norm(NormPlacement::Post).with_final_norm(false),
            "reversible" => config.with_reversible(true),
            "wide" => config.with_hidden_dim(Some(7)),
            "bare" => config.with_feed_forward(None),
            _ => config,
        }
    })
}
