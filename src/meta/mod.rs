//! The metadata store: which snapshots exist, and which volumes. The only module that names RocksDB.
//!
//! Placeholder signatures; see the design notes.
#![allow(missing_docs)]

use std::path::Path;

use crate::types::{Kind, Namespace, Pool, Snapshot, SnapshotId, SnapshotKey, Volume, VolumeId};

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("metadata store: {0}")]
    Other(String),
}
pub type Result<T> = std::result::Result<T, Error>;

/// The store. Cheap to share behind an `Arc`; every method may be called from any thread.
#[derive(Debug)]
pub struct Store {}

/// A set of changes that becomes durable as a whole, or not at all.
#[derive(Default)]
pub struct Batch {}

impl Batch {
    pub fn insert_snapshot(&mut self, _ns: &Namespace, _key: &SnapshotKey, _new: &Snapshot) { unimplemented!() }
    pub fn update_snapshot(&mut self, _ns: &Namespace, _key: &SnapshotKey, _old: &Snapshot, _new: &Snapshot) { unimplemented!() }
    pub fn remove_snapshot(&mut self, _ns: &Namespace, _key: &SnapshotKey, _old: &Snapshot) { unimplemented!() }
    pub fn put_volume(&mut self, _volume: &Volume) { unimplemented!() }
    pub fn delete_volume(&mut self, _id: VolumeId) { unimplemented!() }
    pub fn put_pool(&mut self, _pool: &Pool) { unimplemented!() }
}

impl Store {
    /// Opens or makes the store in `dir`.
    pub fn open(_dir: &Path) -> Result<Store> { unimplemented!() }
    /// Applies a batch; when it returns Ok the batch is on stable storage. Concurrent callers share an fsync.
    pub fn write(&self, _batch: Batch) -> Result<()> { unimplemented!() }
    /// Hands out the next snapshot id; ranges of 1024 are reserved durably ahead of use.
    pub fn next_snapshot_id(&self) -> Result<SnapshotId> { unimplemented!() }
    pub fn snapshot(&self, _ns: &Namespace, _key: &SnapshotKey) -> Result<Option<Snapshot>> { unimplemented!() }
    pub fn snapshot_by_id(&self, _id: SnapshotId) -> Result<Option<(Namespace, SnapshotKey, Snapshot)>> { unimplemented!() }
    pub fn has_children(&self, _ns: &Namespace, _key: &SnapshotKey) -> Result<bool> { unimplemented!() }
    pub fn children(&self, _ns: &Namespace, _key: &SnapshotKey) -> Result<Vec<SnapshotKey>> { unimplemented!() }
    /// Up to `limit` snapshots of one kind with keys greater than `after`, in key order (range scan of the kind index).
    pub fn page(&self, _ns: &Namespace, _kind: Kind, _after: Option<&SnapshotKey>, _limit: usize) -> Result<Vec<(SnapshotKey, SnapshotId)>> { unimplemented!() }
    /// Calls `visit` for each snapshot of the namespace as of one moment, in key order, until it breaks; no lock is held meanwhile.
    pub fn for_each_snapshot(&self, _ns: &Namespace, _visit: &mut dyn FnMut(SnapshotKey, Snapshot) -> std::ops::ControlFlow<()>) -> Result<()> { unimplemented!() }
    /// Namespaces that hold at least one snapshot, in order.
    pub fn namespaces(&self) -> Result<Vec<Namespace>> { unimplemented!() }
    pub fn volume(&self, _id: VolumeId) -> Result<Option<Volume>> { unimplemented!() }
    pub fn for_each_volume(&self, _visit: &mut dyn FnMut(Volume) -> std::ops::ControlFlow<()>) -> Result<()> { unimplemented!() }
    pub fn pool(&self) -> Result<Option<Pool>> { unimplemented!() }
    /// Finds a key too long for a directory name by the digest that stands in its directory name (see `fs::names`).
    pub fn key_by_digest(&self, _ns: &Namespace, _digest: &[u8; 32]) -> Result<Option<SnapshotKey>> { unimplemented!() }
}
