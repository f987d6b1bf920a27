//! The mount, seen by those who use it: real system calls on a real mount, native backend.
//!
//! Everything runs in one process, the kernel's requests being answered by its other threads.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use super::{MountConfig, Op, Session};
use crate::fs::testing::Rig;

mod basics;
mod caching;
mod corners;
mod faithful;
mod holds;
mod lifecycle;
mod permissions;
mod snapshots;
mod unlinked;
mod xattrs;

/// A mounted tree. Fields go in this order: the mount before the snapshots below it.
pub struct Mounted {
    pub session: Session,
    pub rig: Rig,
    pub mountpoint: TempDir,
}

impl Mounted {
    pub fn new() -> Self {
        Self::with(Rig::new(), true)
    }

    pub fn without_passthrough() -> Self {
        Self::with(Rig::new(), false)
    }

    pub fn with(rig: Rig, passthrough: bool) -> Self {
        let mountpoint = tempfile::tempdir().unwrap();
        let config = MountConfig { passthrough, ..MountConfig::at(mountpoint.path()) };
        let session = Session::mount(rig.fs.clone(), &config).expect("needs root and /dev/fuse");
        Self { session, rig, mountpoint }
    }

    pub fn path(&self, path: impl AsRef<Path>) -> PathBuf {
        self.mountpoint.path().join(path)
    }

    /// An active snapshot with nothing in it.
    pub fn empty(&self, key: &str) -> PathBuf {
        self.rig.prepare(key, None);
        self.path("active").join(key)
    }

    /// How many requests `work` causes that somebody waits for.
    pub fn requests(&self, work: impl FnOnce()) -> u64 {
        let before = self.session.stats().synchronous();
        work();
        self.session.stats().synchronous() - before
    }

    pub fn count(&self, op: Op) -> u64 {
        self.session.stats().of(op)
    }
}

pub fn mode(path: impl AsRef<Path>) -> u32 {
    path.as_ref().symlink_metadata().unwrap().mode() & 0o7777
}

/// The errno that an operation fails with.
pub fn errno<T: std::fmt::Debug>(result: std::io::Result<T>) -> i32 {
    result.unwrap_err().raw_os_error().unwrap()
}

/// The names in a directory, in order.
pub fn names(path: impl AsRef<Path>) -> Vec<String> {
    let entries = std::fs::read_dir(path).unwrap();
    let mut names: Vec<_> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// Polls for what happens a moment later.
pub fn wait_until(what: &str, condition: impl Fn() -> bool) {
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
    while !condition() {
        assert!(std::time::Instant::now() < deadline, "{what}: not within 10 s");
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
}
