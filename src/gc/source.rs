//! What can be collected: kinds of resources, each with a [`Source`] that knows them.
//!
//! The collector knows no kind but by its source. Snapshots are the built-in one; the layer store
//! registers layers and read-write layers, other parts what they hand out.

use std::fmt;
use std::time::SystemTime;

use super::doomed::Doomed;
use crate::snapshot;
use crate::types::Namespace;

/// A kind of resource, by the one lower-case word that lease resources name it with on disk.
pub type Kind = &'static str;

/// Snapshots: the built-in kind. Ids are keys.
pub const SNAPSHOT: Kind = "snapshot";

/// One resource, within a namespace: nothing refers across namespaces.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Resource {
    /// What it is.
    pub kind: Kind,
    /// Which one.
    pub id: String,
}

impl Resource {
    /// The resource of this kind with this id.
    pub fn new(kind: Kind, id: impl Into<String>) -> Self {
        Self { kind, id: id.into() }
    }
}

impl fmt::Display for Resource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {:?}", self.kind, self.id)
    }
}

/// How a resource refers to another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Tie {
    /// It can't be without the other: a snapshot's parent, a layer's snapshot.
    Part,
    /// A label says so. A lease labelled `containerd.io/gc.flat` doesn't follow it.
    Label,
}

/// How one resource names another in its record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Link {
    /// As a part of itself: [`Tie::Part`].
    Part,
    /// By a label, as what it keeps: [`Tie::Label`].
    Label,
    /// By a label, as what keeps it: [`Found::back`].
    Back,
}

/// A resource that a scan came by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Its id.
    pub id: String,
    /// Tells it from another one that has had the same id before or gets it later, should the
    /// source reuse ids; else 0. Comes back in [`Doomed`].
    pub version: u64,
    /// Why it stays whatever refers to it ("mounted", "label containerd.io/gc.root"); `None`: it
    /// stays only as long as something refers to it.
    pub root: Option<String>,
    /// When [`Found::root`] ceases to hold, if it does so by itself.
    pub until: Option<SystemTime>,
    /// What it refers to. A target that doesn't exist is fine.
    pub edges: Vec<(Tie, Resource)>,
    /// What refers to it by its own word (`gc.bref` labels).
    pub back: Vec<Resource>,
}

/// Something that a source holds, of whatever kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Root {
    /// What is held.
    pub resource: Resource,
    /// By what, in words that follow "held by".
    pub holder: String,
}

/// One kind of resource that can be collected.
///
/// # What a source owes
///
/// Mark reads each source once, one after the other, while others go on changing things. So
/// whoever makes a reference to something that exists already tells so *before* the reference can
/// be read ([`References::note`](crate::snapshot::References::note) for snapshots; a source's own
/// lock for its own kind), and [`Source::remove`] looks again, under whatever keeps new references
/// away, before it removes anything. New resources are no concern: what a scan hasn't seen is never
/// removed.
///
/// And whoever lets go of something tells so after the change can be read
/// ([`Watcher`](crate::snapshot::Watcher) for snapshots, [`Collector::freed`](super::Collector::freed) for others):
/// else a run that follows what has changed never comes by it.
pub trait Source: Send + Sync {
    /// The kind of what [`Source::scan`] visits and [`Source::remove`] removes.
    fn kind(&self) -> Kind;

    /// A run begins: what is said until the next one begins may be as of now.
    fn begin(&self) {}

    /// Whether anything of this namespace might be collected, as far as a cheap look tells. When no
    /// source of a namespace says so, the namespace isn't scanned.
    fn may_have_garbage(&self, ns: &Namespace) -> Result<bool, snapshot::Error>;

    /// Visits every resource of the kind in the namespace.
    fn scan(&self, ns: &Namespace, visit: &mut dyn FnMut(Found)) -> Result<(), snapshot::Error>;

    /// Whether [`Source::look`] and [`Source::naming`] answer for this namespace; also if none of the kind can be in it.
    /// A namespace for which all sources say so needs no scan: a run follows what has changed in it.
    fn can_trace(&self, _: &Namespace) -> bool {
        false
    }

    /// One resource, as [`Source::scan`] would find it now; `None`: there is none.
    fn look(&self, _: &Namespace, _: &str) -> Result<Option<Found>, snapshot::Error> {
        Ok(None)
    }

    /// Ids, greater than `after`, of some resources of the kind that name `to` in this way, in order, without a scan;
    /// none: there are no more.
    fn naming(
        &self,
        _: &Namespace,
        _to: &Resource,
        _: Link,
        _after: Option<&str>,
    ) -> Result<Vec<String>, snapshot::Error> {
        Ok(Vec::new())
    }

    /// What this source holds of other kinds: mounts that were handed out, streams in progress.
    fn roots(&self, _: &Namespace) -> Result<Vec<Root>, snapshot::Error> {
        Ok(Vec::new())
    }

    /// Whether it exists, so that a lease can hold it; `None`: leases don't hold this kind.
    fn exists(&self, ns: &Namespace, id: &str) -> Result<Option<bool>, snapshot::Error>;

    /// Calls `then`, which has a lease hold it, if it exists; lets nobody remove it meanwhile.
    fn while_existing(
        &self,
        ns: &Namespace,
        id: &str,
        then: &mut dyn FnMut() -> Result<(), snapshot::Error>,
    ) -> Result<Option<bool>, snapshot::Error> {
        let exists = self.exists(ns, id)?;
        if exists == Some(true) {
            then()?;
        }
        Ok(exists)
    }

    /// Removes what is left to remove of `doomed`, in its order, and says of the others why they
    /// stay ([`Doomed::keep`], [`Doomed::fail`]), which keeps what they refer to as well. Returns
    /// when the removal is durable; what takes long (destroying devices, deleting trees) is for
    /// later, in the background.
    fn remove(&self, ns: &Namespace, doomed: &mut Doomed<'_>);
}
