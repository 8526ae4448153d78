//! Temporary.
#![allow(missing_docs, dead_code, unreachable_pub)]
#[path = "all/attention/mod.rs"]
mod attention;
#[path = "all/common/mod.rs"]
mod common;
#[path = "all/generation/mod.rs"]
mod generation;
