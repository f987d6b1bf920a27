//! The rules of snapshots: prepare, view, commit, remove, stat, update, usage, walk.
#![allow(missing_docs)]

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::ops::ControlFlow;

use crate::meta::Store;
use crate::types::{Kind, Labels, Namespace, Snapshot, SnapshotId, SnapshotKey, Usage};
use crate::volume::{Pin, Volumes};

/// One snapshot with its key.
#[derive(Debug, Clone, PartialEq)]
pub struct Info { pub namespace: Namespace, pub key: SnapshotKey, pub snapshot: Snapshot }

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{0}")]
    InvalidName(#[from] crate::types::InvalidName),
    #[error("snapshot {0:?} not found")]
    NotFound(String),
    #[error("parent snapshot {0:?} not found")]
    ParentNotFound(String),
    #[error("snapshot {0:?} already exists")]
    AlreadyExists(String),
    #[error("parent {parent:?} is {kind}: only a committed snapshot can be a parent")]
    ParentNotCommitted { parent: String, kind: Kind },
    #[error("snapshot {key:?} is {kind}, {needs}")]
    WrongKind { key: String, kind: Kind, needs: &'static str },
    #[error("cannot remove snapshot {0:?}: it has children, remove them first")]
    HasChildren(String),
    #[error("{0}")]
    InvalidArgument(String),
    #[error("{0}")]
    FailedPrecondition(String),
    #[error("thinfs is stopping")]
    Stopping,
    #[error(transparent)]
    Store(#[from] crate::meta::Error),
    #[error(transparent)]
    Volume(#[from] crate::volume::Error),
}
pub type Result<T> = std::result::Result<T, Error>;

/// A change that has become durable. Told to watchers after the batch, outside every lock.
#[derive(Debug, Clone)]
pub enum Change {
    Prepared(Info),
    /// `key` is the active snapshot's former key; `info` the committed snapshot.
    Committed { key: SnapshotKey, info: Info },
    Removed(Info),
    Updated(Info),
}
pub trait Watcher: Send + Sync { fn changed(&self, change: &Change); }

/// What `update` is to do with the labels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LabelUpdate {
    /// All labels become these.
    Replace(Labels),
    /// Only these keys; an empty value deletes.
    Merge(Labels),
}

/// A snapshot whose files can be reached.
#[derive(Debug)]
pub struct Opened { pub info: Info, pub pin: Pin, pub read_only: bool }

/// What a start found and did.
#[derive(Debug, Clone, Default)]
pub struct Recovery { pub snapshots: usize, pub volumes: usize, pub tombstones: usize, pub reaped: usize, pub lost: Vec<String> }

/// What a cleanup did.
#[derive(Debug, Clone, Default)]
pub struct Reaped { pub destroyed: usize, pub failed: Vec<String>, pub waiting: usize }

#[derive(Debug)]
pub struct Snapshots {}

impl Snapshots {
    /// Reconciles store and backend, then is ready to serve. Starts the reaper thread.
    pub fn start(_store: Arc<Store>, _volumes: Arc<Volumes>) -> Result<(Arc<Self>, Recovery)> { unimplemented!() }
    pub fn volumes(&self) -> &Arc<Volumes> { unimplemented!() }
    pub fn watch(&self, _watcher: Arc<dyn Watcher>) { unimplemented!() }
    pub fn prepare(&self, _ns: &Namespace, _key: &SnapshotKey, _parent: Option<&SnapshotKey>, _labels: Labels) -> Result<Info> { unimplemented!() }
    pub fn view(&self, _ns: &Namespace, _key: &SnapshotKey, _parent: Option<&SnapshotKey>, _labels: Labels) -> Result<Info> { unimplemented!() }
    /// The record of a snapshot that may be mounted: active or view, else the error CONTRACTS names.
    pub fn mounts(&self, _ns: &Namespace, _key: &SnapshotKey) -> Result<Info> { unimplemented!() }
    /// `rebase`: the parent given at commit.
    pub fn commit(&self, _ns: &Namespace, _name: &SnapshotKey, _key: &SnapshotKey, _labels: Labels, _rebase: Option<&SnapshotKey>) -> Result<Info> { unimplemented!() }
    pub fn remove(&self, _ns: &Namespace, _key: &SnapshotKey) -> Result<()> { unimplemented!() }
    pub fn stat(&self, _ns: &Namespace, _key: &SnapshotKey) -> Result<Info> { unimplemented!() }
    pub fn stat_id(&self, _id: SnapshotId) -> Result<Option<Info>> { unimplemented!() }
    pub fn update(&self, _ns: &Namespace, _key: &SnapshotKey, _labels: LabelUpdate) -> Result<Info> { unimplemented!() }
    /// filters: containerd's grammar; none is all.
    pub fn walk(&self, _ns: &Namespace, _filters: &[String], _visit: &mut dyn FnMut(Info) -> ControlFlow<()>) -> Result<()> { unimplemented!() }
    pub fn page(&self, _ns: &Namespace, _kind: Kind, _after: Option<&SnapshotKey>, _limit: usize) -> Result<Vec<(SnapshotKey, SnapshotId)>> { unimplemented!() }
    pub fn usage(&self, _ns: &Namespace, _key: &SnapshotKey, _cancel: &AtomicBool) -> Result<Usage> { unimplemented!() }
    pub fn namespaces(&self) -> Result<Vec<Namespace>> { unimplemented!() }
    pub fn key_by_digest(&self, _ns: &Namespace, _digest: &[u8; 32]) -> Result<Option<SnapshotKey>> { unimplemented!() }
    /// Activates the snapshot's volume if need be (writable for an active snapshot) and pins it.
    pub fn open(&self, _id: SnapshotId) -> Result<Opened> { unimplemented!() }
    /// Runs the reaper now and waits for one full pass.
    pub fn cleanup(&self) -> Result<Reaped> { unimplemented!() }
    /// Disagreements between store and backend, a line each; empty = sound.
    pub fn check(&self) -> Result<Vec<String>> { unimplemented!() }
    /// How many tombstones wait for the reaper.
    pub fn pending(&self) -> Result<usize> { unimplemented!() }
    /// Twice is fine.
    pub fn close(&self) -> Result<()> { unimplemented!() }
}
