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
//!            scan it, or trace the suspects ─▶ mark (pure) ─▶ order (pure) ─▶ remove, 64 a batch
//! ```
//!
//! No lock is held over a run. Sources are read as others go on changing things; a reference that is made
//! after it was read is noted ([`References`](crate::snapshot::References)), and a batch removes
//! only what is not noted, under the keys' locks. Whoever refers goes first, so what stays keeps
//! what it refers to. A namespace that nobody touched since its last run isn't looked at, nor one in
//! which nothing is subject to collection.
//!
//! # What a run costs
//!
//! What is reachable can only become garbage by a change that takes something from it: a label, a lease's hold, a
//! child, a time that comes. So each change names its *suspects* (`listener.rs`; leases and expiries by themselves),
//! and the next run asks of these alone whether a root still reaches them: backwards, who refers to it, who to that,
//! until it meets a root (`search.rs`, pure), by indexes of children, labels and leases (`trace.rs`). What turns out
//! to be garbage makes suspects of all that it kept. What the search has looked at is a graph that holds everything
//! that refers to the lost ones, so the same mark judges it as judges a whole namespace. What was found to be garbage
//! and stayed (busy, mounted, referred to anew) stays suspect.
//!
//! So a run costs by what has changed, by the garbage, and by the way up from a suspect to its next root; not by what
//! there is. A whole namespace is scanned where nobody knows: in the first run after a start, after a failure, when a
//! namespace's rule or a lease's reach has changed, in a dry run and in one asked for by hand; where following so many
//! suspects would cost more than that; and for a namespace of a source that can't trace (the layer store's, which is
//! looked at only when it says that something is loose).
//!
//! Mounts and open files end without a word to anybody. What nothing but these keeps is reported as having stayed, and
//! looked at again after a second, two, four, and so on, at last once a minute. (containerd wouldn't before the
//! next deletion.)
//!
//! After a crash anywhere here, each batch has happened or it hasn't; the next start's first run
//! finds the rest.
//!
//! Knows no device, no gRPC and no FUSE; snapshots it knows by [`crate::snapshot`].

mod doomed;
mod graph;
pub mod labels;
mod leases;
mod listener;
mod mark;
mod mounted;
mod namespaces;
mod order;
mod policy;
mod report;
mod run;
mod scheduler;
mod search;
mod snapshots;
mod source;
mod suspects;
#[cfg(test)]
mod tests;
mod trace;
mod turn;

pub use doomed::Doomed;
pub use mounted::{ListMounts, Mount, Mounted};
pub use namespaces::{COLLECT_LABEL, COLLECT_UNREFERENCED};
pub use policy::Settings;
pub use report::{Item, Report, Totals};
pub use source::{Found, Kind, Link, Resource, Root, SNAPSHOT, Source, Tie};

use std::fmt;
use std::sync::Arc;

use parking_lot::{Mutex, RwLock};

use crate::meta::Store;
use crate::snapshot::Snapshots;
use crate::types::{Leased, Namespace};
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
        listener::listen(&collector);
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

    /// What a lease names, if it is of a kind that is known.
    fn resource(&self, held: Leased) -> Option<Resource> {
        let sources = self.sources.read();
        let kind = sources.iter().map(|source| source.kind()).find(|kind| *kind == held.kind)?;
        Some(Resource::new(kind, held.id))
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
