//! Threads share models, and their number changes no bit.

mod counts;
mod types;
