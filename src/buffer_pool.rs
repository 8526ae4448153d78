//! Buffers of training steps, reused from step to step: new memory costs a page fault every few thousand bytes.

use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};

use ndarray::{Array, Array2, Array3, Dimension};

use crate::scalar::Scalar;

/// Arrays of fewer numbers are left to the allocator.
const SMALLEST: usize = 1 << 12;

/// Buffers of a training step, reused by the next. Buffers that a pass did not use are freed by the next one, and no more are recycled than were
/// taken. Clones start without them.
pub(crate) struct BufferPool<A> {
    arrays: Mutex<Arrays<A>>,
}

struct Arrays<A> {
    pass: u64,
    /// Arrays that this pass took and has not recycled.
    taken: usize,
    /// Each with the pass that recycled it.
    free: Vec<(u64, Vec<A>)>,
}

impl<A> Default for BufferPool<A> {
    fn default() -> Self {
        let (pass, taken, free) = (0, 0, Vec::new());
        Self {
            arrays: Mutex::new(Arrays { pass, taken, free }),
        }
    }
}

impl<A> Clone for BufferPool<A> {
    fn clone(&self) -> Self {
        Self::default()
    }
}

impl<A> fmt::Debug for BufferPool<A> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} arrays", self.arrays().free.len())
    }
}

impl<A> BufferPool<A> {
    fn arrays(&self) -> MutexGuard<'_, Arrays<A>> {
        self.arrays.lock().unwrap_or_else(PoisonError::into_inner)
    }

    #[cfg(test)]
    pub(crate) fn fill(&self, value: A)
    where
        A: Copy,
    {
        let mut arrays = self.arrays();
        assert!(!arrays.free.is_empty(), "something is free");
        arrays.free.iter_mut().for_each(|(_, numbers)| numbers.fill(value));
    }

    /// Begins a pass forward.
    pub(crate) fn begin(&self) {
        let mut arrays = self.arrays();
        let last = arrays.pass;
        arrays.free.retain(|&(pass, _)| pass == last);
        arrays.pass += 1;
        arrays.taken = 0;
    }

    /// Recycles the memory of an array of `len` numbers, unless it is a part of something larger.
    fn recycle(&self, numbers: Vec<A>, len: usize) {
        if len < SMALLEST || numbers.capacity() / 2 > len {
            return;
        }
        let mut arrays = self.arrays();
        if arrays.taken > 0 {
            arrays.taken -= 1;
            let pass = arrays.pass;
            arrays.free.push((pass, numbers));
        }
    }

    /// The smallest memory that holds `len` numbers and is not much too large.
    fn take(&self, len: usize) -> Option<Vec<A>> {
        let mut arrays = self.arrays();
        arrays.taken += usize::from(len >= SMALLEST);
        let fitting = arrays
            .free
            .iter()
            .enumerate()
            .map(|(index, (_, numbers))| (numbers.capacity(), index));
        let (_, index) = fitting
            .filter(|&(capacity, _)| (len..=len.saturating_mul(2)).contains(&capacity))
            .min()?;
        Some(arrays.free.swap_remove(index).1)
    }
}

/// The source of arrays: a pool, or the allocator.
#[derive(Debug)]
pub(crate) struct Buffers<'r, A>(Option<&'r BufferPool<A>>);

impl<A> Clone for Buffers<'_, A> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<A> Copy for Buffers<'_, A> {}

impl<'r, A> Buffers<'r, A> {
    /// The allocator.
    pub(crate) fn new() -> Self {
        Self(None)
    }

    pub(crate) fn of(pool: &'r BufferPool<A>) -> Self {
        Self(Some(pool))
    }

    /// Recycles an array.
    pub(crate) fn recycle<D: Dimension>(self, array: Array<A, D>) {
        if let Some(pool) = self.0 {
            let len = array.len();
            pool.recycle(array.into_raw_vec_and_offset().0, len);
        }
    }
}

impl<A: Scalar> Buffers<'_, A> {
    /// An array of any values.
    pub(crate) fn array2(self, dim: (usize, usize)) -> Array2<A> {
        let numbers = self.0.and_then(|pool| pool.take(dim.0 * dim.1));
        numbers.map_or_else(
            || Array2::zeros(dim),
            |mut numbers| {
                numbers.resize(dim.0 * dim.1, A::zero());
                Array2::from_shape_vec(dim, numbers).expect("there are as many numbers")
            },
        )
    }

    /// An array of any values.
    pub(crate) fn array3(self, dim: (usize, usize, usize)) -> Array3<A> {
        let rows = self.array2((dim.0 * dim.1, dim.2));
        rows.into_shape_with_order(dim).expect("there are batch · length rows")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(array: &Array2<f64>) -> *const f64 {
        array.as_ptr()
    }

    #[test]
    fn what_a_pass_gave_the_next_one_takes_and_the_one_after_lets_go() {
        let pool = BufferPool::<f64>::default();
        let buffers = Buffers::of(&pool);
        pool.begin();
        let (large, small) = (buffers.array2((64, 128)), buffers.array2((64, 70)));
        let places = [address(&large), address(&small)];
        buffers.recycle(large);
        buffers.recycle(small);
        pool.begin();
        let again = buffers.array2((128, 64));
        assert_eq!(address(&again), places[0], "the one that fits");
        assert!(again.iter().all(|&value| value == 0.0));
        assert_eq!(format!("{pool:?}"), "1 arrays");
        buffers.recycle(again);
        pool.begin();
        assert_eq!(format!("{pool:?}"), "1 arrays", "nobody took the small one");
        assert_eq!(address(&buffers.array2((64, 100))), places[0]);
        assert_eq!(format!("{:?}", pool.clone()), "0 arrays");
    }

    /// Caches may be copied, and arrays may come from anywhere.
    #[test]
    fn no_more_comes_back_than_was_taken_and_nothing_that_is_a_part() {
        let pool = BufferPool::<f64>::default();
        let buffers = Buffers::of(&pool);
        pool.begin();
        let array = buffers.array2((64, 128));
        for _ in 0..5 {
            buffers.recycle(array.clone());
        }
        assert_eq!(format!("{pool:?}"), "1 arrays");
        let _taken = buffers.array2((64, 128));
        buffers.recycle(Array3::<f64>::zeros((9, 64, 128)).index_axis_move(ndarray::Axis(0), 3));
        assert_eq!(format!("{pool:?}"), "0 arrays");
    }

    #[test]
    fn arrays_have_the_shape_asked_for_whatever_is_there() {
        let pool = BufferPool::<f64>::default();
        let buffers = Buffers::of(&pool);
        for (rows, cols) in [(64, 128), (100, 100), (64, 65), (0, 9), (9, 0), (1, 5000), (90, 90)] {
            let array = buffers.array2((rows, cols));
            assert_eq!(array.dim(), (rows, cols));
            buffers.recycle(array);
            assert_eq!(Buffers::<f64>::new().array3((2, rows, cols)).dim(), (2, rows, cols));
        }
    }
}
