//! The layer engine's own sources, compiled alone: the whole of thinfs would have to be built with
//! the fuzzer's instrumentation, RocksDB's bindings and all.
#![allow(dead_code, unused_imports, missing_docs, clippy::unwrap_used)]

pub mod checks;
#[path = "../../../src/layer/mod.rs"]
pub mod layer;
#[path = "../../../src/tree/mod.rs"]
pub mod tree;
#[path = "../../../src/types/mod.rs"]
pub mod types;

/// What the tree's modules need of it.
#[path = "../../../src/sys"]
pub mod sys {
    pub mod handle;
}
