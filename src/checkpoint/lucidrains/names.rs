//! Names of tensors.

use super::super::foreign::Entry;
use super::Options;
use crate::parameters::join;

pub(super) fn attention(native: &str, foreign: &str, share_kv: bool) -> Vec<Entry> {
    let of = |ours: &str, theirs: &str| Entry::new(join(native, ours), join(foreign, theirs));
    // E and F are (n, k) there.
    let projection = |ours: &str, theirs: &str| Entry::transposed(join(native, ours), join(foreign, theirs));
    let mut entries = vec![
        of("query.weight", "to_q.weight"),
        of("key.weight", "to_k.weight"),
        of("output.weight", "to_out.weight"),
        of("output.bias", "to_out.bias"),
        projection("projections.key.weight", "proj_k"),
    ];
    if !share_kv {
        entries.push(of("value.weight", "to_v.weight"));
        entries.push(projection("projections.value.weight", "proj_v"));
    }
    entries
}

pub(super) fn feed_forward(native: &str, foreign: &str) -> Vec<Entry> {
    let mut entries = Entry::layer(&join(native, "input"), &join(foreign, "w1"), true);
    entries.extend(Entry::layer(&join(native, "output"), &join(foreign, "w2"), true));
    entries
}

pub(super) fn encoder(native: &str, foreign: &str, options: &Options) -> Vec<Entry> {
    let mut entries = Vec::new();
    for index in 0..options.depth.unwrap_or(0) {
        let block = join(native, &format!("blocks.{index}"));
        let (first, second) = if options.reversible {
            (format!("net.blocks.{index}.f.net"), format!("net.blocks.{index}.g.net"))
        } else {
            (format!("net.layers.{index}.0"), format!("net.layers.{index}.1"))
        };
        let (first, second) = (join(foreign, &first), join(foreign, &second));
        entries.extend(Entry::layer(&join(&block, "attention_norm"), &join(&first, "norm"), true));
        entries.extend(attention(&join(&block, "attention"), &join(&first, "fn"), options.share_kv));
        entries.extend(Entry::layer(&join(&block, "feed_forward.norm"), &join(&second, "norm"), true));
        entries.extend(feed_forward(&join(&block, "feed_forward"), &join(&second, "fn")));
    }
    entries
}

pub(super) fn language_model(options: &Options) -> Vec<Entry> {
    let mut entries = vec![
        Entry::new("embedding.weight", "token_emb.weight"),
        Entry::new("position.weight", "pos_emb.weight"),
    ];
    entries.extend(encoder("encoder", "linformer", options));
    entries.extend(Entry::layer("head", "to_logits", true));
    entries
}
