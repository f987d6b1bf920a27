//! The layer store: OCI layers, read-write layers and images on snapshots, with references.
//!
//! ```text
//!  tar ─▶ register ─▶ layer ◀── child layers          layer  = committed snapshot named by its chain id
//!                       ▲ ▲                                   + record (tar-split), a file
//!                       │ └──── read-write layers            rw     = active snapshot on a layer, or on an
//!                       └────── images, users                        init layer between the two
//! ```
//!
//! All its snapshots are in the namespace [`LAYERS`](crate::types::LAYERS), keyed `sha256:…` (layers),
//! `import:…` (in the making), `init:NAME` and `rw:NAME`. A layer lives as long as somebody holds it
//! ([`Holder`](crate::types::Holder)); with its last reference it goes, and then, downward, every
//! layer below that nobody holds any more. A lease holds a layer or a read-write layer without being
//! a reference: what it held goes when it ends, by the collector.
//!
//! # Crashes
//!
//! Whatever changes a layer's snapshot, its record and its references is one synced batch
//! ([`Also`](crate::snapshot::Also)). A tar-split record is a file named by the snapshot's id; it is
//! on stable storage before the batch that names it, and goes after the batch that forgets it. So
//! after a crash a layer is there whole, or it is not there; what imports, unfinished removals and
//! unfinished records left behind is removed by [`LayerStore::start`].
//!
//! # Locks
//!
//! One table of key locks ([`Locks`](crate::snapshot::locks)), before any lock of the snapshots: a
//! layer is held shared by who comes to stand on it, exclusively by who counts its users or removes
//! it. A name (of an image, of a read-write layer) is held exclusively by who changes it. Nothing is
//! held while a layer, or an init layer, is unpacked: what is below is kept by a reference.

mod cleanup;
mod collected;
mod error;
mod export;
mod flush;
pub mod image;
mod keys;
mod pair;
mod progress;
mod query;
mod records;
mod references;
mod register;
mod rw;
mod rw_commit;
mod rw_release;
#[cfg(test)]
mod tests;

pub use cleanup::Restored;
pub use collected::{IMPORT, LAYER, RW, resource_of};
pub use error::{Error, Result};
pub use progress::{Counting, Progress};
pub use query::LayerInfo;
pub use references::Removed;
pub use register::{Register, Registered};
pub use rw::{CreateRw, Fill, RwInfo};

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64};

use parking_lot::RwLock;

use crate::snapshot::Snapshots;
use crate::snapshot::locks::Locks;
use crate::types::Namespace;
use records::Records;

/// The layer store. Every method may be called from any thread.
pub struct LayerStore {
    snapshots: Arc<Snapshots>,
    records: Records,
    locks: Locks,
    /// The layers' namespace.
    ns: Namespace,
    /// Numbers the imports of this process; those of an earlier one are gone when it starts.
    imports: AtomicU64,
    /// Are told that images came, went, or name another layer.
    image_watchers: RwLock<Vec<ImageWatcher>>,
    /// What is read or made at the moment.
    active: collected::Active,
    /// Whether there may be something that nobody refers to: a lease holds it, or it couldn't be removed.
    loose: AtomicBool,
    collected: collected::Collected,
}

/// Called after the change is durable, by the thread that made it.
type ImageWatcher = Box<dyn Fn() + Send + Sync>;

impl std::fmt::Debug for LayerStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LayerStore").field("records", &self.records).finish_non_exhaustive()
    }
}

impl LayerStore {
    /// The snapshots below.
    pub fn snapshots(&self) -> &Arc<Snapshots> {
        &self.snapshots
    }

    /// Calls `watcher` from now on whenever images came, went, or name another layer.
    pub fn watch_images(&self, watcher: impl Fn() + Send + Sync + 'static) {
        self.image_watchers.write().push(Box::new(watcher));
    }

    fn images_changed(&self) {
        self.image_watchers.read().iter().for_each(|watcher| watcher());
    }

    /// The namespace of all its snapshots.
    pub fn namespace(&self) -> &Namespace {
        &self.ns
    }
}
