//! The rules of snapshots: prepare, view, commit, remove, stat, update, usage, walk.
//!
//! What containerd's snapshot service promises its callers is decided here, for every front door
//! alike; see [`Snapshots`]. This module knows the store and the volumes, but no device, no FUSE
//! and no gRPC.
//!
//! # States
//!
//! A key names a snapshot of one [`Kind`](crate::types::Kind), and the snapshot has a volume, with
//! its own state ([`VolumeState`](crate::types::VolumeState)). Each edge is one synced batch:
//!
//! ```text
//!              prepare                       commit (key → name)
//!   (no key) ───────────▶ Active ────────────────────────────────▶ Committed
//!      │  ▲                  │ remove                               │  ▲
//!      │  └──────────────────┴───────────── remove, no children ────┘  │ parent of
//!      │ view                                                          │
//!      └─────────▶ View ─ remove ─▶ (no key)            Active, View, Committed
//! ```
//!
//! - `prepare` ([`prepare`](Snapshots::prepare)) makes the volume, then the batch names it.
//! - `view` ([`view`](Snapshots::view)) of a parent shares its volume; without one it has an empty
//!   one.
//! - `commit` ([`commit`](Snapshots::commit)) seals the volume, then the batch renames; id and
//!   volume stay. If somebody has the volume's block device open, the volume gets a copy of it, and the
//!   device becomes a tombstone of its own.
//! - `remove` ([`remove`](Snapshots::remove)) frees the key and turns the volume into a tombstone.
//! - The reaper alone takes a tombstone away, after destroying what it names.
//! - A start ([`start`](Snapshots::start)) alone marks volumes as lost, or as live again.
//!
//! # Crashes
//!
//! A volume is made before the batch that names it and destroyed after the batch that forgets it.
//! So after a crash a volume without a name is garbage, destroyed at the next start, and a
//! tombstone is work that the reaper takes up again. Whether a *failed* write reached the disk is
//! unknown; the store then takes no more writes, and nothing that the batch named is undone: the
//! next start finds out.

mod census;
mod check;
mod collect;
mod commit;
mod create;
mod error;
pub(crate) mod events;
mod filter;
mod handout;
mod leases;
mod lineage;
pub(crate) mod locks;
mod open;
mod prepare;
mod query;
mod reaper;
mod recover;
mod references;
mod remove;
mod repair;
mod settled;
mod space;
#[cfg(test)]
pub(crate) mod tests;
mod together;
mod update;
mod usage;
mod view;
mod walk;

pub use collect::Doom;
pub(crate) use error::with_causes;
pub use error::{Error, Result};
pub use handout::{MOUNT_FORM_LABEL, mount_form};
pub use lineage::Lineage;
pub use reaper::{Pending, PendingState, Reaped};
pub use recover::Recovery;
pub use references::{Noted, References};
pub use repair::Repair;
pub use space::Space;
pub use together::Wish;
pub use update::LabelUpdate;

use std::sync::Arc;

use parking_lot::{RwLock, RwLockReadGuard};

use crate::meta::{Batch, Store};
use crate::types::{LAYERS, Labels, Namespace, Snapshot, SnapshotKey, Volume, VolumeId};
use crate::volume::{self, Pin, Volumes};

/// Label with the size of a new volume, in decimal bytes.
pub const MAX_SIZE_LABEL: &str = "containerd.io/snapshot/max-size";

/// Label with the filesystem (`ext4`, `xfs`, `ext2`) of a snapshot that starts empty, where the backend makes filesystems.
/// Children have their parent's.
pub const FILESYSTEM_LABEL: &str = "containerd.io/snapshot/thinfs.fs-type";

/// One snapshot with its key.
#[derive(Debug, Clone, PartialEq)]
pub struct Info {
    /// Where its key is unique.
    pub namespace: Namespace,
    /// Its key, or name once committed.
    pub key: SnapshotKey,
    /// All else.
    pub snapshot: Snapshot,
}

/// A change that has become durable.
#[derive(Debug, Clone)]
pub enum Change {
    /// A snapshot was prepared, or a view made.
    Prepared(Info),
    /// An active snapshot was committed.
    Committed {
        /// The active snapshot's former key.
        key: SnapshotKey,
        /// The committed snapshot.
        info: Info,
        /// The active snapshot's labels.
        was: Labels,
    },
    /// A snapshot was removed; this is what it was.
    Removed(Info),
    /// Labels were changed.
    Updated {
        /// The snapshot as it is now.
        info: Info,
        /// Its labels before.
        was: Labels,
    },
}

/// Is told of every change: after its batch, by the thread that made it, outside every lock. Two
/// changes by two threads may be told in another order than they were made in.
pub trait Watcher: Send + Sync {
    /// A change has become durable.
    fn changed(&self, change: &Change);

    /// An active snapshot's block device has been handed out: from here on others change its files, and nobody
    /// tells of it.
    fn handed_out(&self, _info: &Info) {}
}

/// Adds the caller's own rows to the batch that makes a change durable, given the snapshot as it
/// will be (for a removal: as it was): both are there after a crash, or neither. Called once, while
/// the snapshot's key is held.
pub type Also<'a> = &'a mut dyn FnMut(&Info, &mut Batch);

/// A snapshot whose files can be reached.
#[derive(Debug)]
pub struct Opened {
    /// The snapshot.
    pub info: Info,
    /// Keeps its volume activated.
    pub pin: Pin,
    /// Whether its files may not be changed: it is no active snapshot.
    pub read_only: bool,
}

/// The rules. Every method may be called from any thread; those that change something return when
/// the change is durable.
pub struct Snapshots {
    store: Arc<Store>,
    volumes: Arc<Volumes>,
    locks: locks::Locks,
    /// True once closed. Held shared by whatever changes something, so that closing waits for it.
    gate: RwLock<bool>,
    watchers: RwLock<Vec<Arc<dyn Watcher>>>,
    usages: usage::Recent,
    references: References,
    /// Held shared while a lease comes to hold something, exclusively while one is deleted. After
    /// the keys' locks, for no longer than one batch.
    leases: RwLock<()>,
    reaper: reaper::Reaper,
}

impl std::fmt::Debug for Snapshots {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Snapshots")
            .field("store", &self.store)
            .field("volumes", &self.volumes)
            .finish_non_exhaustive()
    }
}

impl Snapshots {
    /// The volumes below.
    pub fn volumes(&self) -> &Arc<Volumes> {
        &self.volumes
    }

    /// The store below.
    pub fn store(&self) -> &Arc<Store> {
        &self.store
    }

    /// Tells `watcher` of every change from now on.
    pub fn watch(&self, watcher: Arc<dyn Watcher>) {
        self.watchers.write().push(watcher);
    }

    /// Refuses further changes, waits for those that run, and stops the reaper; what it hadn't
    /// destroyed yet is destroyed after the next start. Reading goes on. Twice is fine.
    pub fn close(&self) -> Result<()> {
        *self.gate.write() = true;
        self.reaper.stop();
        Ok(())
    }

    /// To be held while something is changed.
    fn running(&self) -> Result<RwLockReadGuard<'_, bool>> {
        let gate = self.gate.read();
        if *gate { Err(Error::Stopping) } else { Ok(gate) }
    }

    /// Front doors change nothing in the layer store's namespace: its records would no longer fit.
    /// The layer store itself comes through the `…_with` methods.
    fn refuse_layers(ns: &Namespace) -> Result<()> {
        if ns.as_str() != LAYERS {
            return Ok(());
        }
        Err(Error::FailedPrecondition(format!(
            "namespace {LAYERS:?} belongs to the layer store: use `thinfs layer`, `image` and `rw`"
        )))
    }

    /// To be called outside every lock.
    fn tell(&self, change: &Change) {
        let watchers = self.watchers.read().clone();
        watchers.iter().for_each(|watcher| watcher.changed(change));
    }

    /// To be called outside every lock.
    fn tell_handed_out(&self, info: &Info) {
        let watchers = self.watchers.read().clone();
        watchers.iter().for_each(|watcher| watcher.handed_out(info));
    }

    /// The snapshot with this key.
    fn existing(&self, ns: &Namespace, key: &SnapshotKey) -> Result<Snapshot> {
        self.store.snapshot(ns, key)?.ok_or_else(|| Error::NotFound(key.to_string()))
    }

    /// A volume that the backend has.
    fn live_volume(&self, id: VolumeId) -> Result<Volume> {
        use crate::types::VolumeState::{Live, Lost, Tombstone};
        match self.store.volume(id)? {
            Some(volume) if volume.state == Live => Ok(volume),
            Some(Volume { state: Live | Lost | Tombstone, .. }) | None => {
                Err(volume::Error::Missing(id).into())
            }
        }
    }

    /// The volume that this one's content started from, as far as it is still there.
    fn origin_of(&self, volume: &Volume) -> Result<Option<Volume>> {
        match volume.origin {
            Some(origin) => Ok(self.store.volume(origin)?),
            None => Ok(None),
        }
    }
}

impl Drop for Snapshots {
    fn drop(&mut self) {
        self.reaper.stop();
    }
}
