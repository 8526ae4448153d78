//! The mapping between the peer's tensors and the crate's: one walk, in either direction.

use super::{LinformerLMOptions, LinformerOptions, MHAttentionOptions, Method, ParameterSharing};

/// The use of the pairs of names that a walk visits: [loading](super::load) or [writing](super::write).
pub(super) trait Direction {
    /// The same tensor on both sides.
    fn copy(&mut self, peer: &str, native: &str);

    /// The peer's matrices of one shape, one below the other in ours.
    fn rows(&mut self, peer: &[String], native: &str);

    /// One tensor that the peer has under several names.
    fn shared(&mut self, peer: &[String], native: &str, layout: Layout);

    /// The peer's tensors of one shape, along a new first axis in ours.
    fn stacked(&mut self, peer: &[String], native: &str, layout: Layout);

    /// A tensor that the peer has and does not use; without a shape it is in no state dict.
    fn unused(&mut self, peer: &str, shape: Option<&[usize]>);
}

/// How a tensor of the peer lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Layout {
    /// As ours.
    Saved,
    /// A matrix that is not part of the state dict and is handed by the caller: (n, k), the transpose of ours.
    Handed,
}

/// One attention.
struct Attention<'n> {
    /// The prefix of its names: `seq.0.fn.`.
    peer: &'n str,
    /// The same of ours.
    native: &'n str,
    /// The suffix of the names of matrices that the peer does not save: `.0`.
    place: String,
    heads: usize,
    head_dim: usize,
    /// (n, k).
    lengths: (usize, usize),
    sharing: ParameterSharing,
    method: Method,
    full: bool,
    factored: bool,
}

/// All tensors of a `LinformerLM`.
pub(super) fn language_model(options: &LinformerLMOptions, names: &mut impl Direction) {
    names.copy("to_token_emb.weight", "embedding.weight");
    names.copy("pos_emb.inv_freq", "position.frequencies");
    let mut inside = "linformer.";
    if options.projected_width().is_some() {
        linear(names, "linformer.project_in", "project_in");
        linear(names, "linformer.project_out", "project_out");
        inside = "linformer.fn.";
    }
    if options.decoder_mode {
        decoder(&options.linformer(), inside, "decoder.", names);
    } else {
        encoder(&options.linformer(), inside, "encoder.", names);
    }
    if !options.return_emb {
        linear(names, "to_logits", "head");
    }
}

/// All tensors of a `Linformer`, whose names begin with `peer` and `native`.
pub(super) fn encoder(options: &LinformerOptions, peer: &str, native: &str, names: &mut impl Direction) {
    let mut lent = Vec::new();
    for layer in 0..options.depth {
        let place = layer * modules(options);
        lent.extend(attend_and_feed(
            options,
            (peer, place),
            &format!("{native}blocks.{layer}."),
            layer,
            names,
        ));
    }
    if !lent.is_empty() {
        shared(names, options.method, &lent, &format!("{native}projections.key"));
    }
}

/// All tensors of a `Linformer` with `decoder_mode`.
pub(super) fn decoder(options: &LinformerOptions, peer: &str, native: &str, names: &mut impl Direction) {
    let mut lent = Vec::new();
    for layer in 0..options.depth {
        for (half, name) in ["target", "source"].into_iter().enumerate() {
            let place = (2 * layer + half) * modules(options);
            let block = format!("{native}blocks.{layer}.{name}.");
            lent.extend(attend_and_feed(options, (peer, place), &block, layer, names));
        }
    }
    if !lent.is_empty() {
        shared(names, options.method, &lent, &format!("{native}projections.key"));
    }
}

/// How many modules of the peer's sequence an attention and its feed-forward are.
fn modules(options: &LinformerOptions) -> usize {
    if options.include_ff { 2 } else { 1 }
}

/// An attention and its feed-forward, from `place` of the peer's sequence on: the names of E and F, where they are the whole model's.
fn attend_and_feed(
    options: &LinformerOptions,
    (peer, place): (&str, usize),
    block: &str,
    layer: usize,
    names: &mut impl Direction,
) -> Vec<String> {
    let sequence = format!("{peer}seq.{place}.");
    let attention = Attention {
        peer: &format!("{sequence}fn."),
        native: &format!("{block}attention."),
        place: format!(".{place}"),
        heads: options.nhead,
        head_dim: options.dim_d.unwrap_or(options.channels / options.nhead.max(1)),
        lengths: (options.input_size, options.layer_k(layer)),
        sharing: options.parameter_sharing,
        method: options.method,
        full: options.full_attention,
        factored: options.w_o_intermediate_dim.is_some(),
    };
    attention.visit(names);
    linear(names, &format!("{sequence}norm"), &format!("{block}attention_norm"));
    if options.include_ff {
        let (sequence, block) = (format!("{peer}seq.{}.", place + 1), format!("{block}feed_forward."));
        feed_forward(&format!("{sequence}fn."), &block, names);
        linear(names, &format!("{sequence}norm"), &format!("{block}norm"));
        if resamples(options, layer) {
            linear(names, &format!("{sequence}resample"), &format!("{block}residual"));
        }
    }
    let lends = options.parameter_sharing == ParameterSharing::Layerwise && !options.full_attention;
    if lends { attention.both() } else { Vec::new() }
}

/// Whether layer `layer` changes the width.
fn resamples(options: &LinformerOptions, layer: usize) -> bool {
    let changes = options.ff_intermediate.is_some_and(|width| width != options.channels);
    changes && options.depth > 1 && (layer == 0 || layer + 1 == options.depth)
}

/// All tensors of an `MHAttention`.
pub(super) fn attention(options: &MHAttentionOptions, names: &mut impl Direction) {
    let attention = Attention {
        peer: "",
        native: "",
        place: String::new(),
        heads: options.nhead,
        head_dim: options.dim,
        lengths: (options.input_size, options.dim_k),
        sharing: match options.parameter_sharing {
            // The two modules that it was given are its own here.
            ParameterSharing::Layerwise => ParameterSharing::Headwise,
            other => other,
        },
        method: options.method,
        full: options.full_attention,
        factored: options.w_o_intermediate_dim.is_some(),
    };
    attention.visit(names);
}

/// All tensors of a `FeedForward`.
pub(super) fn feed_forward(peer: &str, native: &str, names: &mut impl Direction) {
    linear(names, &format!("{peer}w_1"), &format!("{native}input"));
    linear(names, &format!("{peer}w_2"), &format!("{native}output"));
}

fn linear(names: &mut impl Direction, peer: &str, native: &str) {
    for part in ["weight", "bias"] {
        names.copy(&format!("{peer}.{part}"), &format!("{native}.{part}"));
    }
}

impl Attention<'_> {
    fn visit(&self, names: &mut impl Direction) {
        let (peer, native) = (self.peer, self.native);
        for (peer_name, native_name) in [("to_q", "query"), ("to_k", "key"), ("to_v", "value")] {
            let heads: Vec<String> = (0..self.heads).map(|head| format!("{peer}{peer_name}.{head}.weight")).collect();
            names.rows(&heads, &format!("{native}{native_name}.weight"));
        }
        if self.factored {
            linear(names, &format!("{peer}w_o_1"), &format!("{native}output_factor"));
            linear(names, &format!("{peer}w_o_2"), &format!("{native}output"));
        } else {
            linear(names, &format!("{peer}w_o"), &format!("{native}output"));
        }
        let (key, value) = (format!("{native}projections.key"), format!("{native}projections.value"));
        match self.sharing {
            _ if self.full => self.unused(names),
            ParameterSharing::None => {
                stacked(names, self.method, &self.matrices("E"), &key);
                stacked(names, self.method, &self.matrices("F"), &value);
            }
            ParameterSharing::Headwise => {
                shared(names, self.method, &self.matrices("E"), &key);
                shared(names, self.method, &self.matrices("F"), &value);
            }
            ParameterSharing::Kv => shared(names, self.method, &self.both(), &key),
            ParameterSharing::Layerwise => {}
        }
    }

    /// The names of E or F, one a head where the peer has one a head.
    fn matrices(&self, side: &str) -> Vec<String> {
        let place = &self.place;
        let heads = 0..self.heads;
        match (self.method, self.sharing) {
            (Method::NoParams, ParameterSharing::None) => heads.map(|head| format!("{side}{place}.{head}")).collect(),
            (Method::NoParams, _) => vec![format!("{side}{place}")],
            _ => heads.map(|head| format!("{}heads.{head}.{side}", self.peer)).collect(),
        }
    }

    /// The names of E and of F.
    fn both(&self) -> Vec<String> {
        [self.matrices("E"), self.matrices("F")].concat()
    }

    /// Full attention has an E and an F and leaves them alone.
    fn unused(&self, names: &mut impl Direction) {
        let (n, k) = self.lengths;
        let head_dim = self.head_dim;
        let (weight, bias) = match self.method {
            Method::NoParams => {
                let place = &self.place;
                for side in ["E", "F"] {
                    names.unused(&format!("{side}{place}"), None);
                    for head in 0..self.heads {
                        names.unused(&format!("{side}{place}.{head}"), None);
                    }
                }
                return;
            }
            Method::Learnable => (vec![k, n], [k]),
            Method::Convolution => (vec![head_dim, head_dim, n / k.max(1)], [head_dim]),
        };
        for matrix in self.both() {
            names.unused(&format!("{matrix}.weight"), Some(&weight));
            names.unused(&format!("{matrix}.bias"), Some(&bias));
        }
    }
}

/// The tensors of one E or F: what follows its name in the peer and in ours, and how they lie.
fn parts(method: Method) -> &'static [(&'static str, &'static str, Layout)] {
    match method {
        Method::NoParams => &[("", ".weight", Layout::Handed)],
        Method::Learnable | Method::Convolution => &[(".weight", ".weight", Layout::Saved), (".bias", ".bias", Layout::Saved)],
    }
}

fn shared(names: &mut impl Direction, method: Method, peer: &[String], native: &str) {
    for (end, native_end, layout) in parts(method) {
        names.shared(&ending(peer, end), &format!("{native}{native_end}"), *layout);
    }
}

fn stacked(names: &mut impl Direction, method: Method, peer: &[String], native: &str) {
    for (end, native_end, layout) in parts(method) {
        names.stacked(&ending(peer, end), &format!("{native}{native_end}"), *layout);
    }
}

fn ending(names: &[String], end: &str) -> Vec<String> {
    names.iter().map(|name| format!("{name}{end}")).collect()
}
