//! Linformer.
#![cfg_attr(docsrs, feature(doc_cfg))]

mod attention;
mod blocks;
#[cfg(feature = "checkpoint")]
pub mod checkpoint;
mod config;
mod error;
mod initialization;
mod layers;
mod models;
mod ops;
mod parallel;
mod parameters;
mod scalar;
mod views;

pub use attention::{Compressed, Compressor, ExactAttention, Extent, LinformerAttention, Order, PaddingMask, Projection, Projections};
pub use blocks::{Attention, Encoder, EncoderBlock, FeedForwardBlock};
pub use config::{
    AttentionConfig, AttentionKind, BiasPlace, ClassifierConfig, ClassifierInput, Convolution, ConvolutionKernel, EncoderConfig,
    FeedForwardConfig, HeadKind, LanguageModelConfig, LinformerConfig, NormPlacement, Pooling, PositionKind, ProjectionConfig,
    ProjectionKind, Sharing, SinusoidLayout, Tail,
};
pub use error::{Error, Result};
pub use initialization::Initialization;
pub use layers::{Embedding, FeedForward, LayerNorm, Linear, Position};
pub use models::{Classifier, Head, LanguageModel};
pub use ndarray;
pub use ops::{Activation, batched_matmul};
pub use parameters::{Parameters, Role, Visitor, VisitorMut};
pub use scalar::Scalar;
