//! Linformer (Wang et al. 2020, [arXiv 2006.04768](https://arxiv.org/abs/2006.04768)) on [`ndarray`]: self-attention whose time and memory
//! grow with n·k instead of n², on ordinary CPUs.
//!
//! # The idea: compress, then attend
//!
//! Two matrices E and F of k rows and n columns make k keys and k values out of n; the queries attend to those:
//!
//! ```text
//!  context (B, N, D) ──► E·X·W_Kᵀ ──► K̄ (B, H, K, D/H) ┐
//!                   └──► F·X·W_Vᵀ ──► V̄ (B, H, K, D/H) ┤
//!  queries (B, M, D) ──► X·W_Qᵀ ─────► softmax(Q·K̄ᵀ/√(D/H))·V̄ ──► ·W_Oᵀ ──► (B, M, D)
//! ```
//!
//! Both halves are public. [`LinformerAttention::compress`] is a sum over positions: it can run chunk by chunk ([`Compressor`]), in parts
//! that are added up, or once for a document that is then queried many times. [`LinformerAttention::attend`] treats each query row by itself.
//!
//! # A first look
//!
//! ```
//! use linformer::{Encoder, EncoderConfig, LinformerConfig, PaddingMask, Sharing};
//! use linformer::ndarray::Array3;
//!
//! // Up to 512 positions of 32 numbers, 4 heads, keys and values compressed to 16 rows by one matrix for the whole model.
//! let attention = LinformerConfig::new(32, 4, 512, 16).with_sharing(Sharing::Layerwise);
//! let encoder = Encoder::<f32>::new(&EncoderConfig::new(attention, 2), 0)?;
//!
//! // A batch of two, the second shorter: each gets what it would get alone.
//! let x = Array3::from_shape_fn((2, 300, 32), |(b, t, i)| ((b + t * 32 + i) as f32).sin());
//! let mask = PaddingMask::from_lengths(&[300, 120], 300)?;
//! let together = encoder.forward(&x, Some(&mask))?;
//! let alone = encoder.forward(&x.slice(ndarray::s![1..2, ..120, ..]), None)?;
//! let difference = &together.slice(ndarray::s![1..2, ..120, ..]) - &alone;
//! assert!(difference.iter().all(|difference| difference.abs() < 1e-5));
//! # use linformer::ndarray;
//! # Ok::<(), linformer::Error>(())
//! ```
//!
//! # Training and loading
//!
//! A [`Trainer`](training::Trainer) runs the loop for any model, on batches from an iterator:
//!
//! ```
//! use linformer::training::{AdamW, AdamWConfig, CrossEntropy, Epochs, FeatureBatch, Schedule, Trainer, TrainerConfig};
//! use linformer::{Classifier, ClassifierConfig, EncoderConfig, LinformerConfig};
//! use linformer::ndarray::Array2;
//!
//! // 32 series of 20 positions of 3 numbers; the class is whether they rise.
//! let batch = |indices: Vec<usize>| {
//!     let rises = |index: usize| index % 2 == 1;
//!     let series = |index| Array2::from_shape_fn((20, 3), |(t, _)| if rises(index) { t as f32 / 20.0 } else { -(t as f32) / 20.0 });
//!     let sequences: Vec<_> = indices.iter().map(|&index| series(index)).collect();
//!     FeatureBatch::from_sequences(&sequences, indices.iter().map(|&index| Some(usize::from(rises(index)))).collect::<Vec<_>>())
//! };
//! let encoder = EncoderConfig::new(LinformerConfig::new(8, 2, 20, 4), 1);
//! let mut model = Classifier::<f32>::new(&ClassifierConfig::features(3, encoder, 2), 0)?;
//! let config = TrainerConfig::new(30, Schedule::cosine(1e-2, 30)).with_max_norm(Some(1.0));
//! let mut trainer = Trainer::new(config, AdamW::new(&model, AdamWConfig::new())?)?;
//! let mut losses = Vec::new();
//! trainer.run(&mut model, &CrossEntropy::new(), Epochs::new(32, 8, 0)?.map(batch), &[], |progress| losses.push(progress.loss))?;
//! assert!(losses[29] < losses[0]);
//! # Ok::<(), linformer::Error>(())
//! ```
//!
//! With the feature `checkpoint`, `model.save("model.safetensors")?` writes a model and `Classifier::<f32>::load("model.safetensors")?` reads it, options
//! and all ([`checkpoint::Checkpoint`]). `lucidrains::language_model(&Tensors::read("model.safetensors")?, &options)?` loads one trained in PyTorch
//! ([`checkpoint::lucidrains`], and three other implementations), `bert::load` an encoder of the model hub ([`checkpoint::bert`]).
//!
//! # What is where
//!
//! | Looking for | See |
//! |---|---|
//! | advice: k, sharing, kinds; masks, files, training | [`guide`] |
//! | attention | [`LinformerAttention`], [`LocalGlobalAttention`], [`ExactAttention`] (the O(n²) reference), [`BlockwiseCausalAttention`], [`Compressor`], [`PaddingMask`] |
//! | layers | [`Linear`], [`LayerNorm`], [`Embedding`], [`Position`], [`FeedForward`], [`Patches`] of a series |
//! | stacks | [`EncoderBlock`], [`Encoder`], [`DecoderBlock`], [`Decoder`] |
//! | models | [`LanguageModel`], [`Classifier`], [`EncoderDecoder`]; your own: [`parameters!`] |
//! | configurations | [`LinformerConfig`], [`ProjectionConfig`], [`EncoderConfig`], [`LanguageModelConfig`], …, each with `new` and `with_…` |
//! | tensors by name | [`Parameters`] |
//! | the training loop, losses, optimizers, schedules | [`training`] |
//! | files | [`checkpoint`] |
//! | several machines | [`distributed`] |
//!
//! # Causal models
//!
//! The compressed rows mix all positions, so hiding some of them leaks the future. [`BlockwiseCausalAttention`] is the causal form: exact over a
//! window, with the compressed rows of complete blocks only. [`CausalConfig`] documents its cost. [`LocalGlobalAttention`] has a causal form whose
//! summaries cover more positions the farther away they are, O(log n) of them. With either, or with causal exact attention, a [`LanguageModel`] trains on next tokens ([`LanguageModel::next_tokens`]) and continues texts token by token ([`LanguageModel::generate`]).
//!
//! # From one sequence to another
//!
//! An [`EncoderDecoder`] reads a source and writes a target. The blocks of its [`Decoder`] attend to the target's past, blockwise or exactly, and to the source,
//! whose keys and values each of them compresses once ([`Decoder::compress`]). It trains on pairs ([`training::PairBatch`]), and [`EncoderDecoder::translate`] searches
//! for the likeliest targets.
//!
//! # Shapes and types
//!
//! B batch, N sequence (at most `seq_len`), M queries, D width (`dim`), H heads, K compressed rows (`k`). Sequences are (B, N, D); weights
//! are stored as PyTorch stores them, (out, in); E and F are (K, N).
//!
//! Everything is generic over [`Scalar`], `f32` (the default) or `f64`. Array arguments are `&ArrayRef3<A>`: `&array` of an owned array and
//! `&view` of a view with any strides both fit. Results are owned.
//!
//! # Numerical promises
//!
//! * Padding contributes nothing, in any layer, whatever it holds, NaN included; a right-padded batch gives each sequence what it
//!   gets alone (1e-10 in `f64`).
//! * Results are the same bit for bit for any number of threads, and for chunks cut at multiples of [`Compressor::CHUNK`].
//! * The same input gives the same bits on any processor with a fused multiply-add (tested on x86-64 with AVX2 and FMA and with AVX-512; meant for aarch64,
//!   too), whatever the operating system: outputs, gradients, optimizer steps, generated tokens, and the numbers of a new model. The bits
//!   of a NaN may differ, as may the singular values of the feature `analysis`. Older processors agree up to rounding.
//! * No public function panics on bad input: shapes, lengths, ids, configurations and files give an [`Error`] that says what to do. The exceptions
//!   are a copy of a broadcast view larger than any memory where no error can be returned ([`softmax`], [`PaddingMask::from_bools`]), and running out of memory, which aborts the process as everywhere in Rust.
//!
//! # Features
//!
//! * `rayon` (default): batches, tiles and heads spread over the caller's pool. Without it everything runs on the calling thread.
//! * `checkpoint` (default): the module [`checkpoint`]. Brings safetensors, `serde_json` and half, and implies `serde`.
//! * `serde`: `Serialize` and `Deserialize` of configurations, losses, schedules and the options of optimizers. Brings serde.
//! * `analysis`: the module `analysis`, attention maps and their singular values, and how near a converted encoder is to an exact one. Brings nalgebra.
//!
//! `ndarray` is part of this crate's interface and re-exported; a new minor version of it makes a new minor version here.
#![cfg_attr(docsrs, feature(doc_cfg))]
// An `expect` says why it cannot fail; everything that can fail is an error.
#![cfg_attr(not(test), warn(clippy::unwrap_used, clippy::panic, clippy::todo, clippy::unimplemented))]

#[cfg(feature = "analysis")]
pub mod analysis;
mod attention;
mod blocks;
mod buffer_pool;
#[cfg(feature = "checkpoint")]
pub mod checkpoint;
mod config;
mod derived;
pub mod distributed;
mod error;
mod initialization;
mod layers;
mod models;
mod ops;
mod parallel;
mod parameters;
mod scalar;
mod summary;
pub mod training;

pub use attention::{
    AttentionCache, BlockwiseCausalAttention, Compressed, Compressor, ExactAttention, LinformerAttention, LocalGlobalAttention, Order,
    PaddingMask, Projection, Projections, SequenceLengths, Workspace,
};
pub use blocks::{
    Attention, CompressedSource, Decoder, DecoderBlock, DecoderCache, Encoder, EncoderBlock, EncoderBlockCache, EncoderCache,
    FeedForwardBlock,
};
pub use config::{
    AttentionConfig, AttentionKind, BiasPlace, BlockWeights, CausalConfig, ClassifierConfig, ClassifierInput, ContextOverflow, Convolution,
    ConvolutionKernel, ConvolutionTail, DecoderConfig, DecoderLanguageModelConfig, EncoderConfig, EncoderDecoderConfig, FeedForwardConfig,
    GenerationConfig, HeadKind, LanguageModelConfig, LinformerConfig, LocalGlobalConfig, NormPlacement, PatchesConfig, Pooling,
    PoolingQuery, PositionKind, ProjectionConfig, ProjectionKind, Sharing, SinusoidLayout, SummarySoftmax, TrainingPass, TranslationConfig,
};
pub use error::{Error, Result};
pub use initialization::Initialization;
pub use layers::{
    Embedding, EmbeddingCache, FeedForward, FeedForwardCache, LayerNorm, LayerNormCache, Linear, LinearCache, Patches, PatchesCache,
    Position, PositionCache,
};
pub use models::{
    Classifier, ClassifierCache, DecoderLanguageModel, DecoderLanguageModelCache, EncoderDecoder, EncoderDecoderCache, EncoderDecoderState,
    Generation, LanguageModel, LanguageModelCache, LanguageModelHead, LanguageModelState, Sequences, TokenPairs, Translation,
};
pub use ndarray;
pub use ops::{Activation, batched_matmul, softmax};
#[cfg(feature = "_levels")]
#[doc(hidden)]
pub use ops::{KernelProbe, Level, ProbeLeft};
#[doc(hidden)]
pub use parameters::field_path;
pub use parameters::{Copied, Parameters, Role, Visitor, VisitorMut};
pub use scalar::Scalar;
pub use summary::{LayerSummary, Summary};

#[doc = include_str!("../docs/guide.md")]
pub mod guide {}

#[cfg(all(doctest, feature = "checkpoint"))]
#[doc = include_str!("../README.md")]
struct Readme;
