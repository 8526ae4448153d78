//! Random configurations of decoders.

use linformer::{
    AttentionKind, DecoderConfig, DecoderLanguageModelConfig, EncoderConfig, EncoderDecoderConfig, FeedForwardConfig, HeadKind,
    LanguageModelConfig, LinformerConfig, NormPlacement, PositionKind, Sharing, SinusoidLayout,
};
use proptest::prelude::*;
use proptest::sample::select;

use super::causal::kind;
use super::linformer_config;

/// The longest source of the drawn configurations.
pub const SOURCE: usize = 7;

/// Token ids on the side of the source, and on that of the target.
pub const VOCABULARIES: (usize, usize) = (6, 5);

fn layerwise(config: &mut LinformerConfig) {
    if config.projection.sharing == Some(Sharing::KeyValue) {
        config.projection.sharing = Some(Sharing::Layerwise);
    }
}

/// Compressed or exact attention to sources of up to [`SOURCE`] positions.
fn cross_kind() -> impl Strategy<Value = AttentionKind> {
    (linformer_config(SOURCE..=9), 0..4_usize, any::<bool>(), any::<bool>()).prop_map(|(mut config, exact, stay, shared)| {
        if shared {
            layerwise(&mut config);
        }
        if exact == 0 {
            config.attention.with_masked_keys_stay(stay).into()
        } else {
            config.into()
        }
    })
}

/// The rest of a decoder of two blocks, with or without feed-forwards, norms before or after.
fn finished(own: AttentionKind, cross: AttentionKind, norm: &str, middle: bool, last: bool) -> DecoderConfig {
    let feed_forward = |there: bool, width| there.then(|| FeedForwardConfig::new(width));
    let config = DecoderConfig::new(own, cross, 2)
        .with_middle_feed_forward(feed_forward(middle, 4))
        .with_feed_forward(feed_forward(last, 6));
    if norm == "post" {
        config.with_norm(NormPlacement::Post).with_final_norm(false)
    } else {
        config
    }
}

/// A decoder whose targets see nothing later.
pub fn causal_decoder() -> impl Strategy<Value = DecoderConfig> {
    let norm = select(vec!["pre", "post"]);
    (kind(), cross_kind(), norm, any::<bool>(), any::<bool>(), any::<bool>()).prop_map(|(mut own, cross, norm, middle, last, shared)| {
        if let AttentionKind::Causal(config) = &mut own
            && shared
        {
            config.sharing = Sharing::Layerwise;
        }
        finished(own, cross, norm, middle, last)
    })
}

/// A decoder whose targets see all of themselves, by the same compression that they see their sources by, shared between both where it can be.
pub fn open_decoder() -> impl Strategy<Value = DecoderConfig> {
    let norm = select(vec!["pre", "post"]);
    (linformer_config(SOURCE..=9), any::<bool>(), norm, any::<bool>(), any::<bool>()).prop_map(
        |(mut config, shared, norm, middle, last)| {
            if shared {
                layerwise(&mut config);
            }
            finished(config.clone().into(), config.into(), norm, middle, last)
        },
    )
}

/// A model of two vocabularies around such a decoder.
pub fn encoder_decoder() -> impl Strategy<Value = EncoderDecoderConfig> {
    let positions = || {
        select(vec![
            PositionKind::None,
            PositionKind::Learned { max_len: 14 },
            PositionKind::Sinusoidal {
                base: 100.0,
                layout: SinusoidLayout::Halves,
                stored: true,
            },
        ])
    };
    let head = select(vec![HeadKind::Plain, HeadKind::Tied]);
    let ends = (select(vec![None, Some(4)]), any::<bool>(), positions(), positions(), head);
    (causal_decoder(), linformer_config(SOURCE..=9), any::<bool>(), ends).prop_map(
        |(decoder, mut attention, wider, (width, norm, source_position, position, head))| {
            // An encoder of another width leads out into the decoder's.
            let (dim, source_width) = if wider { (6, Some(5)) } else { (5, None) };
            attention.attention.dim = dim;
            let encoder = EncoderConfig::new(attention, 1).with_feed_forward(Some(FeedForwardConfig::new(6)));
            let source = LanguageModelConfig::new(VOCABULARIES.0, encoder)
                .with_embedding_dim(source_width)
                .with_position(source_position);
            let target = DecoderLanguageModelConfig::new(VOCABULARIES.1, decoder)
                .with_embedding_dim(width)
                .with_embedding_norm(norm)
                .with_position(position)
                .with_head(head);
            EncoderDecoderConfig::new(source, target)
        },
    )
}

/// A sequence of `length` token ids below `vocabulary`.
pub fn text(length: usize, vocabulary: usize, seed: u64) -> Vec<usize> {
    let seed = usize::try_from(seed).unwrap();
    (0..length)
        .map(|position| (position * position + seed * 3 + position / 2) % vocabulary)
        .collect()
}
