//! View: a read-only snapshot.

use super::create::Request;
use super::references::named;
use super::{Change, Info, Result, Snapshots};
use crate::types::{Kind, Labels, LeaseId, Namespace, SnapshotKey};

impl Snapshots {
    /// Makes a view of a committed snapshot, which costs no volume: it looks at the parent's.
    /// Without a parent it has an empty volume of its own.
    ///
    /// After a crash, either the view is there or nothing is. Errors are those of
    /// [`prepare`](Snapshots::prepare), in the same order.
    pub fn view(
        &self,
        ns: &Namespace,
        key: &SnapshotKey,
        parent: Option<&SnapshotKey>,
        labels: Labels,
    ) -> Result<Info> {
        self.view_under(ns, key, parent, labels, None)
    }

    /// [`view`](Self::view) under a lease, as [`prepare_under`](Self::prepare_under).
    pub fn view_under(
        &self,
        ns: &Namespace,
        key: &SnapshotKey,
        parent: Option<&SnapshotKey>,
        labels: Labels,
        lease: Option<&LeaseId>,
    ) -> Result<Info> {
        Self::refuse_layers(ns)?;
        let info = self.view_locked(Request::new(ns, key, Kind::View, parent, labels, lease)?)?;
        tracing::info!(%ns, %key, id = %info.snapshot.id, "view made");
        self.tell(&Change::Prepared(info.clone()));
        Ok(info)
    }

    fn view_locked(&self, request: Request<'_>) -> Result<Info> {
        let _running = self.running()?;
        let _held = self.hold_for(&request);
        let _noted = self.references.note(request.ns, named(request.key, &request.labels));
        match self.check_new(&request)? {
            Some(parent) => self.create_sharing(request, parent.volume),
            None => self.create_with_volume(request, None, &mut |_, _| {}),
        }
    }
}
