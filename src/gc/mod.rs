//! The collector: removes what was made for a while and that nothing refers to any more.
//!
//! # What is collected, and what never is
//!
//! A snapshot is subject to collection if either
//!
//! - it was **made under a lease** (`thinfs --lease`, `thinfs lease run`, the `lease` field of the
//!   admin service). Whoever works under a lease says "hold this as long as I need it"; so when the
//!   lease ends and nothing else refers to the snapshot, it goes. Committing doesn't change that: a
//!   build that dies halfway leaves nothing behind, one that succeeds labels its result
//!   `containerd.io/gc.root` (`thinfs commit --keep`). Or
//! - its **namespace says so**: the label `thinfs.io/gc.collect=unreferenced` gives the namespace
//!   the rule of containerd's own database, where all that nothing refers to is garbage.
//!
//! Everything else stays until somebody removes it. containerd would collect it; but a person who
//! types `thinfs prepare web` has told nobody that `web` may go, and must find it tomorrow.
//!
//! The namespace behind containerd's socket is never collected, and has no leases: containerd
//! decides there, and removes by itself.
//!
//! # What keeps it
//!
//! Roots: what a lease holds until it expires; labels `containerd.io/gc.root` and an unexpired
//! `containerd.io/gc.expire`; a snapshot that is not subject to collection; one that is mounted
//! somewhere, by a bind mount in whatever mount namespace, and an active one with open files;
//! whatever another [`Source`] says. Edges: parents, and the labels `gc.ref` and `gc.bref` of
//! [`crate::types`]. Nothing crosses a namespace.
//!
//! # A run
//!
//! ```text
//! begin ─▶ watch new references ─▶ expire leases ─▶ for each namespace that may have garbage:
//!            scan sources, then leases ─▶ mark (pure) ─▶ order (pure) ─▶ remove, 64 a batch
//! ```
//!
//! No lock is held over a run. Scans read the store as of one moment each; a reference that is made
//! after it was read is noted ([`References`](crate::snapshot::References)), and a batch removes
//! only what is not noted, under the keys' locks. Whoever refers goes first, so what stays keeps
//! what it refers to. A namespace that nobody touched since its last run isn't scanned, nor one in
//! which nothing is subject to collection.
//!
//! After a crash anywhere here, each batch has happened or it hasn't; the next start's first run
//! finds the rest.
//!
//! Knows no device, no gRPC and no FUSE; snapshots it knows by [`crate::snapshot`].

mod doomed;
mod graph;
pub mod labels;
mod leases;
mod mark;
mod mounted;
mod namespaces;
mod order;
mod policy;
mod report;
mod run;
mod scheduler;
mod snapshots;
mod source;
#[cfg(test)]
mod tests;

pub use doomed::Doomed;
pub use mounted::{ListMounts, Mount, Mounted};
pub use namespaces::{COLLECT_LABEL, COLLECT_UNREFERENCED};
pub use policy::Settings;
pub use report::{Item, Report, Totals};
pub use source::{Found, Kind, Resource, Root, SNAPSHOT, Source, Tie};

use std::fmt;
use std::sync::Arc;

use parking_lot::{Mutex, RwLock};

use crate::meta::Store;
use crate::snapshot::Snapshots;
use crate::types::Namespace;
use snapshots::SnapshotSource;

/// Namespaces, leases, and the collector with its scheduler. Every method may be called from any
/// thread.
pub struct Collector {
    snapshots: Arc<SnapshotSource>,
    sources: RwLock<Vec<Arc<dyn Source>>>,
    /// Held over a run: one at a time. Before all other locks.
    running: Mutex<()>,
    scheduler: scheduler::Scheduler,
}

impl fmt::Debug for Collector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kinds: Vec<_> = self.sources().iter().map(|source| source.kind()).collect();
        f.debug_struct("Collector").field("kinds", &kinds).finish_non_exhaustive()
    }
}

impl Collector {
    /// A collector of snapshots that never touches the namespace `never`. It runs when asked;
    /// [`Collector::start`] has it run by itself.
    pub fn new(snapshots: Arc<Snapshots>, never: Namespace, settings: Settings) -> Arc<Self> {
        let source = Arc::new(SnapshotSource {
            snapshots,
            kinds: RwLock::default(),
            policies: RwLock::default(),
            never,
        });
        let collector = Arc::new(Self {
            sources: RwLock::new(vec![source.clone()]),
            snapshots: source,
            running: Mutex::default(),
            scheduler: scheduler::Scheduler::new(settings),
        });
        scheduler::listen(&collector);
        collector
    }

    /// One more kind of resource. Before [`Collector::start`], so that no run misses it.
    pub fn register(&self, source: Arc<dyn Source>) {
        self.snapshots.kinds.write().push(source.kind());
        self.sources.write().push(source);
    }

    fn sources(&self) -> Vec<Arc<dyn Source>> {
        self.sources.read().clone()
    }

    fn source_of(&self, kind: Kind) -> Option<Arc<dyn Source>> {
        self.sources.read().iter().find(|source| source.kind() == kind).cloned()
    }

    fn snapshot_source(&self) -> &SnapshotSource {
        &self.snapshots
    }

    fn snapshots(&self) -> &Snapshots {
        &self.snapshots.snapshots
    }

    fn store(&self) -> &Store {
        self.snapshots().store()
    }
}
