//! What is computed of parameters and kept: packed weights.

use std::fmt;
use std::sync::OnceLock;

/// A value that is made of parameters when it is first needed, and forgotten when they may change. It is never saved, and a copy makes its own.
pub(crate) struct Derived<T>(OnceLock<T>);

impl<T> Derived<T> {
    pub(crate) fn new() -> Self {
        Self(OnceLock::new())
    }

    pub(crate) fn get_or_make(&self, make: impl FnOnce() -> T) -> &T {
        self.0.get_or_init(make)
    }

    pub(crate) fn forget(&mut self) {
        self.0.take();
    }
}

impl<T> Clone for Derived<T> {
    fn clone(&self) -> Self {
        Self::new()
    }
}

impl<T> fmt::Debug for Derived<T> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(if self.0.get().is_some() { "made" } else { "not made" })
    }
}
