//! Starts real daemons on real mounts, and checks that nothing of them is left.
//!
//! `THINFS_TEST_BACKEND` (native, thin; default native) chooses the backend of every test;
//! `THINFS_TEST_DIR` the directory for roots, on a filesystem with file handles (default: cargo's
//! temporary directory). `scripts/test` runs the same binary on the host (native) and in the guest (thin).

mod client;
pub mod containerd;
mod daemon;
pub mod golang;
pub mod invariants;
pub mod proc;
#[path = "../../src/testing.rs"]
pub mod random;
pub mod tree;

pub use client::{Answer, Client};
pub use daemon::{Daemon, Options};
pub use proc::{kill, run, run_command, sh};

use std::path::PathBuf;

/// The backend that this run of the tests is about.
pub fn backend() -> String {
    let backend = std::env::var("THINFS_TEST_BACKEND").unwrap_or_else(|_| "native".to_owned());
    if backend == "thin" {
        assert!(
            std::path::Path::new("/dev/mapper/control").exists(),
            "THINFS_TEST_BACKEND=thin needs device-mapper: run through scripts/guest"
        );
    }
    backend
}

/// Whether this run is about dm-thin.
pub fn is_thin() -> bool {
    backend() == "thin"
}

/// Fails with the reason when the machine lacks what every end-to-end test needs.
pub fn require_mounts() {
    assert!(
        rustix::process::geteuid().is_root(),
        "end-to-end tests mount filesystems: run them as root"
    );
    assert!(
        std::fs::OpenOptions::new().read(true).write(true).open("/dev/fuse").is_ok(),
        "end-to-end tests need /dev/fuse: load the kernel module `fuse`"
    );
}

/// Where roots go.
pub fn work_dir() -> PathBuf {
    let dir = std::env::var_os("THINFS_TEST_DIR")
        .map_or_else(|| PathBuf::from(env!("CARGO_TARGET_TMPDIR")), PathBuf::from);
    std::fs::create_dir_all(&dir).unwrap_or_else(|e| panic!("make {}: {e}", dir.display()));
    dir
}

/// The errno of a failed call, for comparisons.
#[track_caller]
pub fn errno<T: std::fmt::Debug>(result: std::io::Result<T>) -> i32 {
    match result {
        Ok(value) => panic!("should have failed, but gave {value:?}"),
        Err(e) => e.raw_os_error().unwrap_or_else(|| panic!("no errno in {e:?}")),
    }
}

/// Polls until `done` holds; panics with `what` after a minute.
#[track_caller]
pub fn eventually(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
    while !done() {
        assert!(std::time::Instant::now() < deadline, "never happened: {what}");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
}
