//! Walk: all snapshots that pass some filters.

use std::ops::ControlFlow;

use super::filter::{Filter, Reach};
use super::{Info, Result, Snapshots};
use crate::meta::Among;
use crate::types::{Namespace, Snapshot, SnapshotKey};

impl Snapshots {
    /// Calls `visit` for each snapshot that passes any of the filters (with none: for each), as of
    /// one moment, in key order, until it breaks. No lock is held: `visit` may call anything here.
    ///
    /// Filters are in containerd's language; one that isn't is an
    /// [`InvalidArgument`](super::Error::InvalidArgument). Filters that all name a name, a parent,
    /// a kind or a label read indexes instead of all records.
    pub fn walk(
        &self,
        ns: &Namespace,
        filters: &[String],
        visit: &mut dyn FnMut(Info) -> ControlFlow<()>,
    ) -> Result<()> {
        self.walk_after(ns, filters, None, visit)
    }

    /// Like [`walk`](Snapshots::walk), from the first key after `after` on.
    pub fn walk_after(
        &self,
        ns: &Namespace,
        filters: &[String],
        after: Option<&SnapshotKey>,
        visit: &mut dyn FnMut(Info) -> ControlFlow<()>,
    ) -> Result<()> {
        let filter = Filter::parse(filters)?;
        let mut sift = |key: SnapshotKey, snapshot: Snapshot| {
            let info = Info { namespace: ns.clone(), key, snapshot };
            if filter.matches(&info) { visit(info) } else { ControlFlow::Continue(()) }
        };
        let reaches = filter.reaches();
        // One that names what is no key reaches nothing.
        let keys: Vec<_> = reaches.iter().map(Reach::key).collect();
        let mut several = Vec::with_capacity(reaches.len());
        for (reach, key) in reaches.iter().zip(&keys) {
            several.extend(match (reach, key) {
                (Reach::Everything, _) => Some(Among::All),
                (Reach::Kind(kind), _) => Some(Among::Kind(*kind)),
                (Reach::Labelled(label, value), _) => Some(Among::Label(label, *value)),
                (Reach::ChildrenOf(_), Some(parent)) => Some(Among::ChildrenOf(parent)),
                (Reach::Named(_), Some(name)) => Some(Among::Named(name)),
                (Reach::ChildrenOf(_) | Reach::Named(_), None) => None,
            });
        }
        Ok(self.store.for_each_among_any(ns, &several, after, &mut sift)?)
    }
}
