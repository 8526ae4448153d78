//! Values that are computed from parameters or from other results, and kept: packed operands.

use std::fmt;
use std::sync::{Mutex, OnceLock, PoisonError};

/// A value that is computed from others when it is first needed, and dropped when they may change. It is never saved, and a copy computes its own.
pub(crate) struct Derived<T> {
    value: OnceLock<T>,
    /// The value that was dropped last: the next one reuses its memory, since new memory costs more than packing does.
    dropped: Mutex<Option<T>>,
}

impl<T> Derived<T> {
    pub(crate) fn new() -> Self {
        Self {
            value: OnceLock::new(),
            dropped: Mutex::new(None),
        }
    }

    /// The value, made once, in place of a dropped one if there is any; others who need it wait. `make` must not hand work to other
    /// threads: one that waits for them could take up a task that needs this value.
    pub(crate) fn get_or_make(&self, make: impl FnOnce(Option<T>) -> T) -> &T {
        self.value.get_or_init(|| make(self.take_forgotten()))
    }

    /// The value; nobody waits, so that `make` may use other threads. Several may make it at once, and the first one's stays.
    pub(crate) fn get_or_make_spread(&self, make: impl FnOnce(Option<T>) -> T) -> &T {
        if let Some(value) = self.value.get() {
            return value;
        }
        let value = make(self.take_forgotten());
        self.value.get_or_init(|| value)
    }

    pub(crate) fn forget(&mut self) {
        if let Some(value) = self.value.take() {
            self.dropped = Mutex::new(Some(value));
        }
    }

    fn take_forgotten(&self) -> Option<T> {
        self.dropped.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl<T> Clone for Derived<T> {
    fn clone(&self) -> Self {
        Self::new()
    }
}

impl<T> fmt::Debug for Derived<T> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(if self.value.get().is_some() { "made" } else { "not made" })
    }
}
