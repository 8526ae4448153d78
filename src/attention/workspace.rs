//! Memory that repeated calls use again.

use std::fmt;
use std::ops::Range;
use std::sync::Mutex;

use ndarray::{ArrayView2, ArrayViewMut2, ArrayViewMut3, Axis, s};

use super::compressed::Compressed;
use super::compressor::{CompressionScratch, SEGMENT, Totals};
use super::key_values::PackedKeyValues;
use super::local_global::{ItemContext, ItemScratch, LocalGlobalScratch, PackedItem};
use super::weights::{AttendScratch, tile};
use crate::error::Result;
use crate::layers::{FeedForwardScratch, LayerNorm, tile_rows};
use crate::ops::{Runs, Tile};
use crate::parallel::{self, Divide, Parts, Pool, for_each_part};
use crate::scalar::Scalar;

/// Rows that are normalized and compressed together: a few segments, so that every thread has work.
const ROWS_AT_ONCE: usize = 4 * SEGMENT;

/// Memory that is kept from call to call, so that repeated calls do not allocate.
///
/// One workspace serves layers and encoders of any shape, one call after the other; it grows to what the largest of them needs. From the
/// second call of a shape on Linformer attention of every kind allocates nothing; exact attention makes room for its keys and values in
/// every call. A short sequence uses one thread; a large batch uses all.
///
/// ```
/// use linformer::{Encoder, EncoderConfig, LinformerConfig, Workspace};
/// use linformer::ndarray::Array3;
///
/// let encoder = Encoder::<f32>::new(&EncoderConfig::new(LinformerConfig::new(16, 4, 32, 4), 1), 0)?;
/// let mut workspace = Workspace::new();
/// let mut x = Array3::ones((1, 32, 16));
/// for _ in 0..3 {
///     encoder.forward_in_place(&mut x, None, &mut workspace)?;
/// }
/// # Ok::<(), linformer::Error>(())
/// ```
pub struct Workspace<A = f32> {
    pub(crate) context: ContextSpace<A>,
    pub(crate) tiles: Pool<TileSpace<A>>,
    /// One for each thread that takes whole items.
    pub(crate) items: Pool<Workspace<A>>,
    watcher: Option<Box<dyn Fn(usize) + Send + Sync>>,
}

/// Memory in which keys and values are made.
pub(crate) struct ContextSpace<A> {
    pub(crate) compression: CompressionScratch<A>,
    pub(crate) totals: Totals<A>,
    pub(crate) compressed: Compressed<A>,
    pub(crate) packed: PackedKeyValues<A>,
    pub(crate) local_global: (ItemContext<A>, PackedItem<A>, ItemScratch<A>),
    pub(crate) normed: Vec<A>,
}

/// Scratch space for one tile of rows.
#[derive(Debug)]
pub(crate) struct TileSpace<A> {
    normed: Vec<A>,
    pub(crate) x: Tile<A>,
    pub(crate) attention: AttendScratch<A>,
    pub(crate) local_global: LocalGlobalScratch<A>,
    pub(crate) feed_forward: FeedForwardScratch<A>,
}

impl<A: Scalar> Default for TileSpace<A> {
    fn default() -> Self {
        Self {
            normed: Vec::new(),
            x: Tile::default(),
            attention: AttendScratch::default(),
            local_global: LocalGlobalScratch::default(),
            feed_forward: FeedForwardScratch::default(),
        }
    }
}

impl<A: Scalar> TileSpace<A> {
    /// Takes over the rows that a product reads: normed where the norm comes first.
    pub(crate) fn take(&mut self, rows: ArrayView2<'_, A>, norm: Option<&LayerNorm<A>>) {
        let runs = Runs::of(rows.ncols());
        match norm {
            None => self.x.fill(rows, runs),
            Some(norm) => {
                let mut normed = tile(&mut self.normed, rows.nrows(), rows.ncols());
                norm.apply(rows, &mut normed);
                self.x.fill(normed.view(), runs);
            }
        }
    }
}

impl<A: Scalar> Default for Workspace<A> {
    fn default() -> Self {
        Self::new()
    }
}

impl<A> fmt::Debug for Workspace<A> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Workspace").finish_non_exhaustive()
    }
}

impl<A: Scalar> Workspace<A> {
    /// Creates an empty workspace, which allocates when it is used.
    pub fn new() -> Self {
        Self {
            context: ContextSpace {
                compression: CompressionScratch::default(),
                totals: Totals::default(),
                compressed: Compressed::empty(),
                packed: PackedKeyValues::default(),
                local_global: Default::default(),
                normed: Vec::new(),
            },
            tiles: Pool::default(),
            items: Pool::default(),
            watcher: None,
        }
    }

    /// Calls `progress` with the number of rows that have just left a block of an encoder: n rows per block and item in total. It is called from
    /// several threads.
    #[must_use]
    pub fn with_progress(mut self, progress: impl Fn(usize) + Send + Sync + 'static) -> Self {
        self.watcher = Some(Box::new(progress));
        self
    }

    /// Whether the caller watches the progress.
    pub(crate) fn is_watched(&self) -> bool {
        self.watcher.is_some()
    }

    /// Calls `work` for the tiles of one item's rows, each with scratch space.
    pub(crate) fn for_each_tile(
        &self,
        rows: ArrayViewMut2<'_, A>,
        cost: usize,
        work: impl Fn(&mut TileSpace<A>, Range<usize>, ArrayViewMut2<'_, A>) + Sync,
    ) {
        let size = tile_rows(rows.nrows());
        let parts = Parts { view: rows, axis: 0, size };
        for_each_part(parts, cost, |tile, part| {
            let (start, count) = (tile * size, part.view.nrows());
            self.tiles.with(|space| work(space, start..start + count, part.view));
            if let Some(watcher) = &self.watcher {
                watcher(count);
            }
        });
    }

    /// [`for_each_tile`](Self::for_each_tile) for the same rows of two arrays of one length; `work` gets the first row.
    pub(crate) fn for_each_tile_of_two(
        &self,
        first: ArrayViewMut2<'_, A>,
        second: ArrayViewMut2<'_, A>,
        cost: usize,
        work: impl Fn(&mut TileSpace<A>, usize, ArrayViewMut2<'_, A>, ArrayViewMut2<'_, A>) + Sync,
    ) {
        let size = tile_rows(first.nrows());
        let parts = |view| Parts { view, axis: 0, size };
        for_each_part((parts(first), parts(second)), cost, |tile, (first, second)| {
            let count = first.view.nrows();
            self.tiles.with(|space| work(space, tile * size, first.view, second.view));
            if let Some(watcher) = &self.watcher {
                watcher(count);
            }
        });
    }

    /// Calls `work` for every item of a batch: several at once on one thread each where there are enough of them, else one after the
    /// other on all threads. Neither changes a bit of the result.
    pub(crate) fn for_each_item(
        &mut self,
        items: ArrayViewMut3<'_, A>,
        cost: usize,
        work: impl Fn(&mut Self, usize, ArrayViewMut2<'_, A>) -> Result<()> + Sync,
    ) -> Result<()> {
        self.for_each_group(items, 1, cost, |space, item, one| {
            work(space, item, one.index_axis_move(Axis(0), 0))
        })
    }

    /// [`for_each_item`](Self::for_each_item) for `size` items at a time; `work` gets the index of the first of them.
    pub(crate) fn for_each_group(
        &mut self,
        items: ArrayViewMut3<'_, A>,
        size: usize,
        cost: usize,
        work: impl Fn(&mut Self, usize, ArrayViewMut3<'_, A>) -> Result<()> + Sync,
    ) -> Result<()> {
        let groups = parallel::along(items, 0, size);
        self.for_each_part(groups, cost, |space, group, part| work(space, group * size, part.view))
    }

    /// Calls `work` for every part of something, as [`for_each_item`](Self::for_each_item) does for items.
    pub(crate) fn for_each_part<P: Divide>(
        &mut self,
        parts: P,
        cost: usize,
        work: impl Fn(&mut Self, usize, P) -> Result<()> + Sync,
    ) -> Result<()> {
        self.tiles.prepare();
        if self.watcher.is_some() || !parallel::shares_out(parts.count(), cost) {
            return parallel::in_turn(parts).try_for_each(|(index, part)| work(self, index, part));
        }
        self.items.prepare();
        let failed = Mutex::new(None);
        for_each_part(parts, cost, |index, part| {
            let done = self.items.with(|space| {
                parallel::serially(|| {
                    space.tiles.prepare();
                    work(space, index, part)
                })
            });
            if let (Err(error), Ok(mut failed)) = (done, failed.lock()) {
                *failed = Some(error);
            }
        });
        failed.into_inner().ok().flatten().map_or(Ok(()), Err)
    }
}

impl<A: Scalar> ContextSpace<A> {
    /// Calls `push` with the rows of one item, a few segments at a time, normed.
    pub(crate) fn normed(
        normed: &mut Vec<A>,
        rows: ArrayView2<'_, A>,
        norm: &LayerNorm<A>,
        mut push: impl FnMut(ArrayView2<'_, A>, Range<usize>) -> Result<()>,
    ) -> Result<()> {
        for (index, part) in rows.axis_chunks_iter(Axis(0), ROWS_AT_ONCE).enumerate() {
            let (count, width) = part.dim();
            let mut normed = tile(normed, count, width);
            let size = tile_rows(count);
            let parts = Parts {
                view: normed.view_mut(),
                axis: 0,
                size,
            };
            for_each_part(parts, parallel::cost(&[count, width, 4]), |tile, mut to| {
                let start = tile * size;
                norm.apply(part.slice(s![start..start + to.view.nrows(), ..]), &mut to.view);
            });
            push(normed.view(), index * ROWS_AT_ONCE..index * ROWS_AT_ONCE + count)?;
        }
        Ok(())
    }
}
