//! Snapshots that come and go: what that means for the tree, and for what the kernel remembers of it.

use std::cell::Cell;
use std::sync::{Arc, Weak};

use super::tree::Place;
use super::types::NodeId;
use super::{Fs, Notice, Result, names};
use crate::snapshot::{Change, Info, Watcher};
use crate::types::{Kind, Namespace, SnapshotKey};

thread_local! {
    /// Whether this thread is answering a request that makes the change in the kernel's tree too.
    static BY_THE_KERNEL: Cell<bool> = const { Cell::new(false) };
}

/// Runs a change that the kernel makes in its own tree when it gets our answer.
pub(super) fn by_the_kernel<T>(work: impl FnOnce() -> T) -> T {
    struct Reset;
    impl Drop for Reset {
        fn drop(&mut self) {
            BY_THE_KERNEL.set(false);
        }
    }
    BY_THE_KERNEL.set(true);
    let _reset = Reset;
    work()
}

/// Follows the snapshots' changes for as long as the tree lives.
pub(super) fn start(fs: &Arc<Fs>) {
    fs.snapshots.watch(Arc::new(Follower(Arc::downgrade(fs))));
}

struct Follower(Weak<Fs>);

impl Watcher for Follower {
    fn changed(&self, change: &Change) {
        let Some(fs) = self.0.upgrade() else { return };
        match change {
            Change::Prepared(info) => fs.appeared(info),
            Change::Committed { key, info, .. } => fs.committed(key, info),
            Change::Removed(info) => fs.removed(info),
            // Labels are read anew each time.
            Change::Updated { .. } => {}
        }
    }

    fn handed_out(&self, info: &Info) {
        if let Some(fs) = self.0.upgrade() {
            fs.handed_out(info);
        }
    }
}

impl Fs {
    fn appeared(&self, info: &Info) {
        self.relist(&info.namespace, info.snapshot.kind);
        if info.namespace != *self.tree.shown() {
            self.relist_place(&Place::Namespaces);
        }
    }

    fn committed(&self, key: &SnapshotKey, info: &Info) {
        self.cached.slots.seal(info.snapshot.id);
        self.drop_name(&info.namespace, Kind::Active, key);
        self.relist(&info.namespace, Kind::Active);
        self.relist(&info.namespace, Kind::Committed);
    }

    /// Whatever the kernel and we remember of its files may be wrong from now on.
    fn handed_out(&self, info: &Info) {
        self.cached.slots.remove(info.snapshot.id);
        self.drop_name(&info.namespace, info.snapshot.kind, &info.key);
        self.invalidator.notify(Notice::Content(NodeId::root_of(info.snapshot.id)));
    }

    fn removed(&self, info: &Info) {
        self.cached.slots.remove(info.snapshot.id);
        self.drop_name(&info.namespace, info.snapshot.kind, &info.key);
        self.relist(&info.namespace, info.snapshot.kind);
        if info.namespace != *self.tree.shown() {
            self.relist_place(&Place::Namespaces);
        }
    }

    /// The kernel may know directories that an earlier daemon told it of: makes sure that we do too.
    pub fn know_all_places(&self) -> Result<()> {
        for namespace in self.snapshots.namespaces()? {
            self.tree.node(&Place::Namespace(namespace));
        }
        Ok(())
    }

    /// Has the kernel ask anew what the directories of snapshots hold.
    pub fn relist_all(&self) {
        let namespaces = self.snapshots.namespaces().unwrap_or_default();
        for namespace in namespaces {
            Kind::ALL.into_iter().for_each(|kind| self.relist(&namespace, kind));
        }
        self.relist_place(&Place::Namespaces);
        self.relist_place(&Place::Images);
    }

    fn relist(&self, namespace: &Namespace, kind: Kind) {
        self.relist_place(&Place::Snapshots(namespace.clone(), kind));
    }

    /// A directory has changed: its times, and its listing.
    pub(super) fn relist_place(&self, place: &Place) {
        self.tree.touch(place);
        if let Some(node) = self.node_to_notify(place) {
            self.invalidator.notify(Notice::Content(node));
        }
    }

    fn drop_name(&self, namespace: &Namespace, kind: Kind, key: &SnapshotKey) {
        if let Some(node) = self.node_to_notify(&Place::Snapshots(namespace.clone(), kind)) {
            self.invalidator.notify(Notice::Entry(node, names::encode(key).into()));
        }
    }

    fn node_to_notify(&self, place: &Place) -> Option<NodeId> {
        if BY_THE_KERNEL.get() { None } else { self.tree.known_node(place) }
    }
}
