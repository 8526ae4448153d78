//! Threads share models, and their number changes no bit.

mod types;
