//! Benchmarks: ratios against a named baseline that runs in the same minute. `scripts/bench` starts them.
//!
//! `bench fuse` on the host: file operations in a snapshot's FUSE directory against the same operations directly on
//! the filesystem that backs it. `bench thin` in the guest: prepare, commit and remove against the raw
//! `create_snap` message and against `dmsetup` run as a process.
#![allow(clippy::unwrap_used, missing_docs)]

mod fuse;
mod report;
mod thin;

fn main() {
    // `cargo bench` adds `--bench`.
    let arguments: Vec<String> = std::env::args().skip(1).filter(|a| a != "--bench").collect();
    match arguments.first().map(String::as_str) {
        Some("fuse") => fuse::run(),
        Some("thin") => thin::run(),
        _ => {
            eprintln!("usage: bench fuse | bench thin   (through scripts/bench)");
            std::process::exit(2);
        }
    }
}
