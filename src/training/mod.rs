//! Training: batches, losses, optimizers, schedules, masking of tokens, a loop, and files to resume from.
//!
//! A [`Trainer`] runs the whole loop for any model that is [`Trainable`]: those of this crate and your own. Its steps can be done by hand, too.
//!
//! Gradients are a value of the model's own type ([`zeros_like`](crate::Parameters::zeros_like) makes the first), so that whatever walks over
//! a model's parameters walks over its gradients. A step is
//!
//! 1. the loss of a batch ([`TokenBatch`], [`FeatureBatch`], [`PairBatch`]) and the gradients of the parameters: [`Trainable::loss_and_gradients`],
//!    with a loss such as [`CrossEntropy`] or [`MeanSquaredError`], or [`Distillation`] from another encoder;
//! 2. the gradients of one batch or of several ([`Accumulation`]);
//! 3. [`Optimizer::clip_gradient_norm`] and [`Optimizer::step`] of [`AdamW`] or [`Sgd`], at the rate that a [`Schedule`] has for it.
//!
//! Everything random in it is a function of a [`Step`], so that a run resumes after a stop as if it had not stopped; with the feature
//! `checkpoint`, `save_training` and `load_training` keep a run in a file.
//!
//! ```
//! use linformer::Linear;
//! use linformer::ndarray::array;
//! use linformer::training::{AdamW, AdamWConfig, MeanSquaredError, Optimizer, Schedule};
//!
//! // One weight and one bias learn y = 2·x − 1.
//! let mut model = Linear::<f64>::new(1, 1, true, 0)?;
//! let mut optimizer = AdamW::new(&model, AdamWConfig::new().with_weight_decay(0.0))?;
//! let schedule = Schedule::cosine(0.1, 300).with_warmup(10);
//! let x = array![[[-1.0], [0.0], [2.0]]];
//! let y = array![[[-3.0], [-1.0], [3.0]]];
//! for step in 0..300 {
//!     let (loss, grad) = MeanSquaredError::new().loss_and_gradient(&model.forward(&x)?, &y)?;
//!     let mut gradients = Linear::from_parts(array![[(&grad * &x).sum()]], Some(array![grad.sum()]))?;
//!     optimizer.clip_gradient_norm(&mut gradients, 1.0)?;
//!     optimizer.step(&mut model, &gradients, schedule.at(step))?;
//! #   if step == 299 { assert!(loss < 1e-4, "{loss}"); }
//! }
//! assert!((model.weight()[[0, 0]] - 2.0).abs() < 0.01);
//! # Ok::<(), linformer::Error>(())
//! ```

mod accumulation;
mod accuracy;
mod adamw;
mod batches;
mod distillation;
mod epochs;
mod losses;
mod masking;
mod optimizer;
mod range;
mod rules;
mod schedule;
mod scored;
mod sgd;
#[cfg(feature = "checkpoint")]
mod state;
mod trainable;
mod trainer;

pub use crate::initialization::Step;
pub use accumulation::Accumulation;
pub use accuracy::accuracy;
pub use adamw::{AdamW, AdamWConfig};
pub use batches::{FeatureBatch, PairBatch, TokenBatch};
pub(crate) use batches::{SequenceBatch, Targets};
pub use distillation::{Distillation, EncoderBatch};
pub use epochs::Epochs;
pub use losses::{CrossEntropy, MeanSquaredError, Reduction};
pub use masking::TokenMasking;
pub use optimizer::Optimizer;
pub(crate) use optimizer::checked_norm;
pub use rules::WeightDecay;
pub use schedule::Schedule;
pub(crate) use scored::Scored;
pub use sgd::{Sgd, SgdConfig};
#[cfg(feature = "checkpoint")]
pub use state::{load_training, save_training};
#[cfg(feature = "checkpoint")]
pub(crate) use state::{resume, run_metadata, run_tensors};
pub use trainable::Trainable;
pub(crate) use trainable::weight_of;
pub use trainer::{Best, Ending, Progress, Trainer, TrainerConfig};
