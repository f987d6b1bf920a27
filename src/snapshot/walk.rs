//! Walk: all snapshots that pass some filters.

use std::ops::ControlFlow;

use super::filter::{Filter, Reach};
use super::{Info, Result, Snapshots};
use crate::types::{Namespace, Snapshot, SnapshotKey};

impl Snapshots {
    /// Calls `visit` for each snapshot that passes any of the filters (with none: for each), as of
    /// one moment, until it breaks. No lock is held: `visit` may call anything here.
    ///
    /// Filters are in containerd's language; one that isn't is an
    /// [`InvalidArgument`](super::Error::InvalidArgument). A filter on name, parent or kind reads
    /// an index instead of all records.
    pub fn walk(
        &self,
        ns: &Namespace,
        filters: &[String],
        visit: &mut dyn FnMut(Info) -> ControlFlow<()>,
    ) -> Result<()> {
        let filter = Filter::parse(filters)?;
        let mut sift = |key: SnapshotKey, snapshot: Snapshot| {
            let info = Info { namespace: ns.clone(), key, snapshot };
            if filter.matches(&info) { visit(info) } else { ControlFlow::Continue(()) }
        };
        match filter.reach() {
            Reach::Everything => self.store.for_each_snapshot(ns, &mut sift)?,
            Reach::Kind(kind) => self.store.for_each_of_kind(ns, kind, &mut sift)?,
            Reach::ChildrenOf(parent) => {
                if let Ok(parent) = SnapshotKey::new(parent) {
                    self.store.for_each_child(ns, &parent, &mut sift)?;
                }
            }
            Reach::Named(name) => {
                if let Ok(name) = SnapshotKey::new(name)
                    && let Some(snapshot) = self.store.snapshot(ns, &name)?
                {
                    let _ = sift(name, snapshot);
                }
            }
        }
        Ok(())
    }
}
