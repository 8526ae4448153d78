//! Several machines: sequences and batches spread over ranks.
//!
//! A rank is one of several processes, or threads, that run the same program. They communicate through a [`Communicator`]:
//! [`SingleProcess`], [`ThreadGroup`], or MPI's of the crate `linformer-mpi`.
//!
//! * One long sequence: [`Sharded`] models. Each rank has a range of positions ([`Shards`]) and the columns of E and F that belong to them; for each layer
//!   the ranks add up the compressed keys and values, 2·k·d numbers a batch item, however long the sequence is. In training they add up
//!   the gradients of these, and once a step those of all parameters that every rank has.
//! * The same with local-global attention: for each layer the ranks merge the summaries of all segments, 2·slots·d numbers, and exchange the keys and
//!   values of the blocks around each bound between two ranks, at most 6·block·d numbers a bound. So a window, a segment or a block may lie
//!   across any ranks. Causal attention of this form cannot be spread yet: that is an error at construction.
//! * One large batch: each rank takes some of its items, and [`all_reduce_gradients`] makes one step of all of them.
//! * Both: a grid of ranks, [`Sharded::with_replicas`].
//!
//! Results are those of a single process up to rounding, 1e-12 in `f64`, and the same bit for bit from run to run over the same number of ranks. Only
//! dropout masks differ: each rank draws its own, except of the weights of local-global attention, which are dropped as in a single process.
//!
//! # Failures
//!
//! All ranks begin and end every operation together. Before any work they compare the values that must agree, and return one
//! [`Error::Disagreement`](crate::Error::Disagreement) if these differ. Before any numbers are exchanged they exchange a status word, so that if one rank
//! fails, all others return an [`Error::Rank`](crate::Error::Rank) with its number and its reason instead of waiting for it. NaN and infinities in a rank's
//! sums, in its output at real positions, and in its gradients are such a failure. The communicator handles processes that die: MPI ends all others, and a
//! [`ThreadGroup`] returns errors.
//!
//! After an error all ranks have left the operation, and can begin another together. Gradients that [`Sharded::backward`] adds to, or that
//! [`Sharded::reduce_gradients`] adds up, may have been changed on some of them by then: begin again with zeros.

mod classifier;
mod communicator;
mod encoder;
#[cfg(feature = "checkpoint")]
mod files;
mod gradients;
mod language_model;
mod rank_shard;
mod sharded;
mod shards;
mod team;
mod threads;
mod training;

pub use communicator::{Combine, Communicator, Numbers, SingleProcess};
pub use encoder::ShardedCache;
pub use gradients::all_reduce_gradients;
pub use sharded::{Shardable, Sharded};
pub use shards::Shards;
pub use threads::{ThreadGroup, ThreadRank};
