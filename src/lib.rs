//! thinfs: snapshots as plain directories, on device-mapper thin volumes.
#![allow(dead_code)]

pub mod layer;
pub mod meta;
pub mod snapshot;
pub mod sys;
pub mod tree;
pub mod types;
pub mod volume;
