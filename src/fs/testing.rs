//! Snapshots on a native backend in a scratch directory, with a tree over them.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use tempfile::TempDir;

use super::types::{Caller, Entry, Found, NodeId};
use super::{Config, Fs, Result};
use crate::meta::Store;
use crate::snapshot::{Info, Snapshots};
use crate::types::{Labels, Namespace, SnapshotKey};
use crate::volume::{NativeBackend, NativeConfig, Volumes};

/// Root, who may wait.
pub const ROOT: Caller =
    Caller { uid: 0, gid: 0, pid: 0, umask: 0o022, fsetid: None, may_wait: true };

pub struct Rig {
    pub fs: Arc<Fs>,
    pub snapshots: Arc<Snapshots>,
    pub dir: TempDir,
}

impl Rig {
    pub fn new() -> Self {
        Self::with_limit(64)
    }

    /// On tmpfs, where preparing many is fast, and nodes can't be found again by inode number alone.
    pub fn in_memory(limit: usize) -> Self {
        let dir = tempfile::tempdir_in("/dev/shm").expect("needs /dev/shm");
        let native = dir.path().join("native");
        Self::on(dir, native, limit)
    }

    /// `limit`: how many volumes stay activated.
    pub fn with_limit(limit: usize) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let native = dir.path().join("native");
        Self::on(dir, native, limit)
    }

    /// With the trees in a directory of their own, as on another filesystem.
    pub fn on(dir: TempDir, native: PathBuf, limit: usize) -> Self {
        let backend = NativeBackend::start(NativeConfig { dir: native }).expect("needs root");
        let volumes = Volumes::new(Arc::new(backend), limit);
        let store = Arc::new(Store::open(&dir.path().join("meta")).unwrap());
        let (snapshots, _) = Snapshots::start(store, volumes).unwrap();
        let fs = Fs::new(Arc::clone(&snapshots), Config::default());
        Self { fs, snapshots, dir }
    }

    pub fn prepare(&self, name: &str, parent: Option<&str>) -> Info {
        self.snapshots.prepare(&ns(), &key(name), parent.map(key).as_ref(), Labels::new()).unwrap()
    }

    pub fn view(&self, name: &str, parent: &str) -> Info {
        self.snapshots.view(&ns(), &key(name), Some(&key(parent)), Labels::new()).unwrap()
    }

    pub fn commit(&self, name: &str, key_: &str) -> Info {
        self.snapshots.commit(&ns(), &key(name), &key(key_), Labels::new(), None).unwrap()
    }

    /// The volumes that are activated.
    pub fn activated(&self) -> usize {
        self.snapshots.volumes().status().len()
    }

    /// Where the native backend keeps a snapshot's files.
    pub fn backing(&self, info: &Info) -> PathBuf {
        self.dir.path().join("native/volumes").join(info.snapshot.volume.to_string()).join("fs")
    }

    /// Looks a path up from the top.
    pub fn walk(&self, caller: &Caller, path: impl AsRef<Path>) -> Result<Entry> {
        let mut node = NodeId(1);
        let mut last = None;
        for name in path.as_ref() {
            let Found::Entry(entry) = self.fs.lookup(caller, node, name)? else {
                return Err(rustix::io::Errno::NOENT.into());
            };
            node = entry.known.attr.node;
            last = Some(entry);
        }
        Ok(last.unwrap())
    }

    pub fn node(&self, path: impl AsRef<Path>) -> NodeId {
        self.walk(&ROOT, path).unwrap().known.attr.node
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        self.fs.disconnect();
        let _ = self.snapshots.close();
        let _ = self.snapshots.volumes().stop();
    }
}

pub fn ns() -> Namespace {
    Namespace::default()
}

pub fn key(name: &str) -> SnapshotKey {
    SnapshotKey::new(name).unwrap()
}

/// Polls for what happens a moment later.
pub fn wait_until(what: &str, condition: impl Fn() -> bool) {
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
    while !condition() {
        assert!(std::time::Instant::now() < deadline, "{what}: not within 10 s");
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
}
