//! thinfs: snapshots as plain directories, on device-mapper thin volumes.
#![allow(dead_code)]

pub mod cli;
pub mod config;
pub mod daemon;
pub mod fs;
pub mod fuse;
pub mod grpc;
pub mod meta;
pub mod snapshot;
pub mod sys;
pub mod thin;
pub mod tree;
pub mod types;
pub mod volume;
