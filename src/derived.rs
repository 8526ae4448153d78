//! What is computed of parameters, or of other results, and kept: packed operands.

use std::fmt;
use std::sync::OnceLock;

/// A value that is made of others when it is first needed, and forgotten when they may change. It is never saved, and a copy makes its own.
pub(crate) struct Derived<T>(OnceLock<T>);

impl<T> Derived<T> {
    pub(crate) fn new() -> Self {
        Self(OnceLock::new())
    }

    /// The value, made once; others who need it wait. `make` must not hand work to other threads: one that waits for them could take up
    /// a task that needs this value.
    pub(crate) fn get_or_make(&self, make: impl FnOnce() -> T) -> &T {
        self.0.get_or_init(make)
    }

    /// The value; nobody waits, so that `make` may use other threads. Several may make it at once, and the first one's stays.
    pub(crate) fn get_or_make_spread(&self, make: impl FnOnce() -> T) -> &T {
        if let Some(value) = self.0.get() {
            return value;
        }
        let value = make();
        self.0.get_or_init(|| value)
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
