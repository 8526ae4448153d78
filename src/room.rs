//! The memory of arrays that every training step needs anew: memory from the system costs a page fault every few thousand bytes.

use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};

use ndarray::{Array, Array2, Array3, Dimension};

use crate::scalar::Scalar;

/// Arrays of fewer numbers are left to the allocator.
const SMALLEST: usize = 1 << 12;

/// Memory that a pass needed, kept for the next one. What one pass had no use for, the next gives up, and no more arrays come back than
/// were taken. A copy has none.
pub(crate) struct Reserve<A> {
    kept: Mutex<Kept<A>>,
}

struct Kept<A> {
    pass: u64,
    /// Arrays that this pass took and has not given back.
    taken: usize,
    /// With the pass that gave it.
    free: Vec<(u64, Vec<A>)>,
}

impl<A> Default for Reserve<A> {
    fn default() -> Self {
        let (pass, taken, free) = (0, 0, Vec::new());
        Self {
            kept: Mutex::new(Kept { pass, taken, free }),
        }
    }
}

impl<A> Clone for Reserve<A> {
    fn clone(&self) -> Self {
        Self::default()
    }
}

impl<A> fmt::Debug for Reserve<A> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} arrays", self.kept().free.len())
    }
}

impl<A> Reserve<A> {
    fn kept(&self) -> MutexGuard<'_, Kept<A>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    #[cfg(test)]
    pub(crate) fn fill(&self, value: A)
    where
        A: Copy,
    {
        let mut kept = self.kept();
        assert!(!kept.free.is_empty(), "something is kept");
        kept.free.iter_mut().for_each(|(_, numbers)| numbers.fill(value));
    }

    /// Begins a pass forward.
    pub(crate) fn begin(&self) {
        let mut kept = self.kept();
        let last = kept.pass;
        kept.free.retain(|&(pass, _)| pass == last);
        kept.pass += 1;
        kept.taken = 0;
    }

    /// Takes back memory that an array of `len` numbers was in, unless it is a part of something larger.
    fn give(&self, numbers: Vec<A>, len: usize) {
        if len < SMALLEST || numbers.capacity() / 2 > len {
            return;
        }
        let mut kept = self.kept();
        if kept.taken > 0 {
            kept.taken -= 1;
            let pass = kept.pass;
            kept.free.push((pass, numbers));
        }
    }

    /// The smallest memory that holds `len` numbers and is not much too large.
    fn take(&self, len: usize) -> Option<Vec<A>> {
        let mut kept = self.kept();
        kept.taken += usize::from(len >= SMALLEST);
        let fitting = kept
            .free
            .iter()
            .enumerate()
            .map(|(index, (_, numbers))| (numbers.capacity(), index));
        let (_, index) = fitting
            .filter(|&(capacity, _)| (len..=len.saturating_mul(2)).contains(&capacity))
            .min()?;
        Some(kept.free.swap_remove(index).1)
    }
}

/// Where arrays come from and go to: a reserve, or the allocator.
#[derive(Debug)]
pub(crate) struct Room<'r, A>(Option<&'r Reserve<A>>);

impl<A> Clone for Room<'_, A> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<A> Copy for Room<'_, A> {}

impl<'r, A> Room<'r, A> {
    /// The allocator.
    pub(crate) fn new() -> Self {
        Self(None)
    }

    pub(crate) fn of(reserve: &'r Reserve<A>) -> Self {
        Self(Some(reserve))
    }

    /// Takes an array back.
    pub(crate) fn give<D: Dimension>(self, array: Array<A, D>) {
        if let Some(reserve) = self.0 {
            let len = array.len();
            reserve.give(array.into_raw_vec_and_offset().0, len);
        }
    }
}

impl<A: Scalar> Room<'_, A> {
    /// An array of any values.
    pub(crate) fn array2(self, dim: (usize, usize)) -> Array2<A> {
        let numbers = self.0.and_then(|reserve| reserve.take(dim.0 * dim.1));
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
        let reserve = Reserve::<f64>::default();
        let room = Room::of(&reserve);
        reserve.begin();
        let (large, small) = (room.array2((64, 128)), room.array2((64, 70)));
        let places = [address(&large), address(&small)];
        room.give(large);
        room.give(small);
        reserve.begin();
        let again = room.array2((128, 64));
        assert_eq!(address(&again), places[0], "the one that fits");
        assert!(again.iter().all(|&value| value == 0.0));
        assert_eq!(format!("{reserve:?}"), "1 arrays");
        room.give(again);
        reserve.begin();
        assert_eq!(format!("{reserve:?}"), "1 arrays", "nobody took the small one");
        assert_eq!(address(&room.array2((64, 100))), places[0]);
        assert_eq!(format!("{:?}", reserve.clone()), "0 arrays");
    }

    /// Caches may be copied, and arrays may come from anywhere.
    #[test]
    fn no_more_comes_back_than_was_taken_and_nothing_that_is_a_part() {
        let reserve = Reserve::<f64>::default();
        let room = Room::of(&reserve);
        reserve.begin();
        let array = room.array2((64, 128));
        for _ in 0..5 {
            room.give(array.clone());
        }
        assert_eq!(format!("{reserve:?}"), "1 arrays");
        let _taken = room.array2((64, 128));
        room.give(Array3::<f64>::zeros((9, 64, 128)).index_axis_move(ndarray::Axis(0), 3));
        assert_eq!(format!("{reserve:?}"), "0 arrays");
    }

    #[test]
    fn arrays_have_the_shape_asked_for_whatever_is_there() {
        let reserve = Reserve::<f64>::default();
        let room = Room::of(&reserve);
        for (rows, cols) in [(64, 128), (100, 100), (64, 65), (0, 9), (9, 0), (1, 5000), (90, 90)] {
            let array = room.array2((rows, cols));
            assert_eq!(array.dim(), (rows, cols));
            room.give(array);
            assert_eq!(Room::<f64>::new().array3((2, rows, cols)).dim(), (2, rows, cols));
        }
    }
}
