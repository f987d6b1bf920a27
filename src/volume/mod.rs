//! Volumes: one filesystem each, for one snapshot's files. Knows ids, devices and directories; knows no
//! key, name or RocksDB.
//!
//! [`Backend`] is what `thin` and `native` do differently. [`Volumes`] keeps a bounded number of
//! volumes activated and counts who uses them.
#![allow(missing_docs)]

pub mod thin;

use std::collections::HashMap;
use std::fmt;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use crate::types::{Usage, Volume, VolumeId};

/// Whether a volume is activated for writing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access { ReadWrite, ReadOnly }

#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Files are open for writing (or a write is running) and didn't finish in time. → FailedPrecondition / EBUSY
    #[error("volume {0} is in use: {1}")]
    Busy(VolumeId, String),
    /// The volume is sealed (committed). → EROFS
    #[error("volume {0} is read-only")]
    ReadOnly(VolumeId),
    /// The backend has no such volume. → EIO / Unavailable
    #[error("volume {0} is missing from the backend")]
    Missing(VolumeId),
    /// Pool, disk or id space is full. → ResourceExhausted / ENOSPC
    #[error("{0}")]
    NoSpace(String),
    #[error("{0}")]
    Cancelled(String),
    #[error("{context}")]
    Io { context: String, #[source] source: std::io::Error },
    #[error("{context}")]
    Backend { context: String, #[source] source: Box<dyn std::error::Error + Send + Sync> },
}
pub type Result<T> = std::result::Result<T, Error>;

/// A volume's filesystem, reachable below a descriptor.
#[derive(Debug)]
pub struct Mounted {
    /// The root directory, opened O_RDONLY|O_DIRECTORY (for thin: inside a detached mount; also the
    /// mount descriptor for open_by_handle_at).
    pub root: OwnedFd,
    pub access: Access,
}

/// Free and total space, for `df` on the root and for `status`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Capacity { pub total: u64, pub used: u64, pub block_size: u64, pub metadata_total: u64, pub metadata_used: u64 }

/// What a reconciliation at start found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reconciled {
    /// Live volumes that the backend doesn't have.
    pub lost: Vec<VolumeId>,
    /// How many volumes (thin ids, trees, half-made trees) nobody named were destroyed.
    pub reaped: usize,
}

/// What differs between dm-thin and plain directories. All methods may block; none is called with a lock held that
/// another volume needs.
pub trait Backend: Send + Sync + fmt::Debug + 'static {
    /// "thin" or "native".
    fn name(&self) -> &'static str;
    /// Makes a volume, empty or with `origin`'s content. Durable when it returns, but unnamed: a crash before the
    /// caller's batch leaves garbage that `reconcile` destroys. `size`: bytes, None = origin's / the default.
    fn create(&self, id: VolumeId, origin: Option<&Volume>, size: Option<u64>) -> Result<Volume>;
    /// Makes the volume's files reachable.
    fn activate(&self, volume: &Volume, access: Access) -> Result<Mounted>;
    /// Flushes everything to stable storage and turns the mounted filesystem read-only. No writer exists (Volumes
    /// has drained them) but readers may go on. Afterwards `create` with this origin needs no suspend.
    fn seal(&self, volume: &Volume, mounted: &mut Mounted) -> Result<()>;
    /// Writes everything back (durable) without changing the access.
    fn flush(&self, volume: &Volume, mounted: &Mounted) -> Result<()>;
    /// Unmounts and deactivates. Every descriptor below the root has been closed.
    fn deactivate(&self, volume: &Volume, mounted: Mounted) -> Result<()>;
    /// Destroys the content. What is gone already counts as done.
    fn destroy(&self, volume: &Volume) -> Result<()>;
    /// What the volume holds of its own against `origin`; `mounted` where it happens to be activated.
    /// Gives up with Cancelled once `cancel` is set.
    fn usage(&self, volume: &Volume, origin: Option<&Volume>, mounted: Option<&Mounted>, cancel: &AtomicBool) -> Result<Usage>;
    fn capacity(&self) -> Result<Capacity>;
    /// Start: compares all records with what exists. Destroys what nobody names, reports what is lost.
    fn reconcile(&self, known: &[Volume]) -> Result<Reconciled>;
    /// Like `reconcile` but changes nothing: one line for each disagreement.
    fn check(&self, known: &[Volume]) -> Result<Vec<String>>;
    /// Key/value lines for `status` (pool name, data device, transaction id, needs_check, copy method …).
    fn describe(&self) -> Vec<(String, String)>;
    /// Clean stop: everything that `start` made is taken down (no volume is activated any more).
    fn stop(&self) -> Result<()>;
}

/// Activated volumes, least recently used first out, and who uses them.
#[derive(Debug)]
pub struct Volumes { _p: HashMap<VolumeId, ()> }

/// Keeps a volume activated while it lives. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Pin { _p: Arc<()> }

/// Counts as a writer of the volume while it lives: a seal waits for it.
#[derive(Debug)]
pub struct Writer { _p: () }

impl Pin {
    /// Root directory of the volume's filesystem.
    pub fn root(&self) -> BorrowedFd<'_> { unimplemented!() }
    pub fn volume(&self) -> VolumeId { unimplemented!() }
    /// Registers a writer: for the time of one mutating call, or for the life of a handle open for writing.
    /// `ReadOnly` once the volume is sealed or was activated read-only.
    pub fn writer(&self) -> Result<Writer> { unimplemented!() }
}
impl AsFd for Pin { fn as_fd(&self) -> BorrowedFd<'_> { self.root() } }

/// One line of `status`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VolumeStatus { pub id: VolumeId, pub access: Access, pub pins: usize, pub writers: usize }

/// Something that holds descriptors inside activated volumes as a cache and can drop them on request (the descriptor
/// cache of `fs`).
pub trait Cache: Send + Sync {
    /// Closes every cached descriptor below this volume's root; descriptors of open handles hold a Pin and are not concerned.
    fn drop_volume(&self, id: VolumeId);
}

impl Volumes {
    /// `limit`: how many volumes may be activated at once when they aren't pinned (soft: pins may exceed it).
    pub fn new(_backend: Arc<dyn Backend>, _limit: usize) -> Arc<Self> { unimplemented!() }
    pub fn backend(&self) -> &Arc<dyn Backend> { unimplemented!() }
    pub fn register_cache(&self, _cache: Arc<dyn Cache>) { unimplemented!() }
    /// Pins if activated already; the fast path of every file operation (well under a microsecond).
    pub fn pinned(&self, _id: VolumeId) -> Option<Pin> { unimplemented!() }
    /// Activates if need be, and pins. Many callers for one volume cause one activation. A failed activation is the
    /// error of its callers only; the next call tries again.
    pub fn pin(&self, _volume: &Volume, _access: Access) -> Result<Pin> { unimplemented!() }
    /// Commit: refuses new writers, waits up to `patience` for the present ones (FUSE releases are asynchronous), then flushes and
    /// turns the volume read-only and, if nobody reads it, deactivates it. Busy when writers remain: then writing goes on as before.
    /// The guard un-seals when dropped without `keep()` (the batch failed).
    pub fn seal(&self, _volume: &Volume, _patience: Duration) -> Result<Seal> { unimplemented!() }
    /// Deactivates now if nobody has pinned it, else at the last unpin. For committed and removed volumes.
    pub fn retire(&self, _id: VolumeId) { unimplemented!() }
    /// Removed: no new pin is given; existing pins go on. Returns false while pins remain. The reaper destroys once it is true.
    pub fn try_close(&self, _volume: &Volume) -> Result<bool> { unimplemented!() }
    pub fn usage(&self, _volume: &Volume, _origin: Option<&Volume>, _cancel: &AtomicBool) -> Result<Usage> { unimplemented!() }
    pub fn status(&self) -> Vec<VolumeStatus> { unimplemented!() }
    /// Clean stop: flushes and deactivates everything (pins must be gone; those that aren't are reported), then stops the backend.
    pub fn stop(&self) -> Result<()> { unimplemented!() }
}

/// A sealed volume whose commit isn't recorded yet.
#[derive(Debug)]
pub struct Seal { _p: () }
impl Seal {
    /// The commit is durable: the volume stays read-only for ever.
    pub fn keep(self) { unimplemented!() }
}
