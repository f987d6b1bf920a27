//! Benchmarks: ratios against a named baseline that runs in the same minute. `scripts/bench` starts them.
//!
//! `bench fuse` on the host: file operations in a snapshot's FUSE directory against the same operations directly on
//! the filesystem that backs it, and in bindfs. `bench thin` in the guest: prepare, commit and remove against the raw
//! `create_snap` message and against `dmsetup` run as a process. `bench containerd`: layers as containerd makes them,
//! against containerd's own snapshotters, on either. `bench store` anywhere: durable mutations against what fsync allows,
//! and a store of 100,000 snapshots. `bench gc` on the host: the collector's runs, and what others feel of
//! them. `bench layer` on the host: import and export of a large layer against tar and containerd.
#![allow(clippy::unwrap_used, missing_docs)]

mod containerd;
mod disk;
mod fuse;
mod gc;
#[allow(dead_code, reason = "shared with the tests, which use more of it")]
#[path = "../harness/golang.rs"]
mod golang;
mod layer;
#[allow(dead_code, reason = "shared with the tests, which use more of it")]
#[path = "../harness/proc.rs"]
mod proc;
mod report;
mod rows;
mod store;
mod thin;

fn main() {
    // `cargo bench` adds `--bench`.
    let arguments: Vec<String> = std::env::args().skip(1).filter(|a| a != "--bench").collect();
    match arguments.first().map(String::as_str) {
        Some("fuse") => fuse::run(),
        Some("gc") => gc::run(),
        Some("layer") => layer::run(),
        Some("thin") => thin::run(),
        Some("store") => store::run(),
        Some("containerd") => containerd::run(),
        _ => {
            eprintln!(
                "usage: bench fuse | gc | layer | thin | store | containerd   (through scripts/bench)"
            );
            std::process::exit(2);
        }
    }
}
