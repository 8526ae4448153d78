//! What attention looks at, how many directions it has, and how near a converted model is to the exact one (feature `analysis`).
//!
//! The paper's reason for a small k is that attention maps are close to matrices of low rank (Figure 1). [`Spectrum`] shows whether yours are:
//! take the exact map of each layer on your own text, and ask how many singular values make up 90 % of all.
//!
//! ```
//! use linformer::analysis::{Map, Spectrum, attention_inputs, attention_map};
//! use linformer::ndarray::{Array3, s};
//! use linformer::{Encoder, EncoderConfig, LinformerConfig};
//!
//! let encoder = Encoder::<f32>::new(&EncoderConfig::new(LinformerConfig::new(16, 2, 32, 8), 2), 0)?;
//! let x = Array3::from_shape_fn((1, 32, 16), |(_, t, i)| ((t * 16 + i) as f32).sin());
//! for (layer, input) in attention_inputs(&encoder, &x, None)?.iter().enumerate() {
//!     let map = attention_map(&encoder, layer, Map::Exact, input, None)?;
//!     assert_eq!(map.dim(), (1, 2, 32, 32));
//!     let spectrum = Spectrum::of(map.slice(s![0, 0, .., ..]))?;
//!     assert!(spectrum.rank_for(0.9)? <= 32);
//! }
//! # Ok::<(), linformer::Error>(())
//! ```
//!
//! [`fidelity`](fn@fidelity) compares two encoders layer by layer and end to end, and [`plan`](fn@plan) finds the cheapest local-global form of an exact one within an error.

mod fidelity;
mod maps;
mod plan;
mod spectrum;

pub use fidelity::{Agreement, Fidelity, fidelity};
pub use maps::{Map, attention_inputs, attention_map};
pub use plan::{Bound, Plan, Trial, plan};
pub use spectrum::Spectrum;
