//! The layer engine's own sources, compiled alone: the whole of thinfs would have to be built with
//! the fuzzer's instrumentation, RocksDB's bindings and all.
#![allow(dead_code, unused_imports, missing_docs)]

#[path = "../../../src/layer/mod.rs"]
pub mod layer;
#[path = "../../../src/tree/mod.rs"]
pub mod tree;
#[path = "../../../src/types/mod.rs"]
pub mod types;
