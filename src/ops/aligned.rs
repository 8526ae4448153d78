//! Memory for vector loads.

use crate::scalar::Scalar;

/// Vector loads are fastest from addresses that are multiples of this.
const ALIGNMENT: usize = 64;

/// A buffer whose elements start at a multiple of 64 bytes.
#[derive(Debug, Default)]
pub(crate) struct Aligned<A> {
    data: Vec<A>,
    start: usize,
    len: usize,
}

impl<A: Scalar> Aligned<A> {
    /// Makes room for `len` elements of any value, and allocates only where there has never been as much.
    pub(crate) fn resize(&mut self, len: usize) -> &mut [A] {
        let slack = ALIGNMENT / size_of::<A>();
        if self.data.len() < len + slack {
            self.data = vec![A::zero(); len + slack];
            self.start = self.data.as_ptr().align_offset(ALIGNMENT).min(slack);
        }
        self.len = len;
        self.as_mut_slice()
    }

    pub(crate) fn as_slice(&self) -> &[A] {
        &self.data[self.start..self.start + self.len]
    }

    pub(crate) fn as_mut_slice(&mut self) -> &mut [A] {
        &mut self.data[self.start..self.start + self.len]
    }
}
