//! Prepare: a read-write snapshot.

use std::time::Duration;

use super::create::Request;
use super::locks::{Held, Mode};
use super::references::named;
use super::{Also, Change, Info, Result, Snapshots};
use crate::types::{Kind, Labels, LeaseId, Namespace, SnapshotKey};

impl Snapshots {
    /// Makes an active snapshot, empty or on a committed parent. Label
    /// [`MAX_SIZE_LABEL`](super::MAX_SIZE_LABEL) sets the volume's size.
    ///
    /// After a crash, either the snapshot is there or nothing is. Any number can be prepared at
    /// once, on one parent too.
    ///
    /// Errors, in this order: the parent is missing, isn't committed, the key is taken.
    pub fn prepare(
        &self,
        ns: &Namespace,
        key: &SnapshotKey,
        parent: Option<&SnapshotKey>,
        labels: Labels,
    ) -> Result<Info> {
        self.prepare_under(ns, key, parent, labels, None)
    }

    /// [`prepare`](Self::prepare) under a lease, which holds the snapshot from the start; the
    /// collector removes it when nothing holds it any more. Fails too if there is no such lease.
    pub fn prepare_under(
        &self,
        ns: &Namespace,
        key: &SnapshotKey,
        parent: Option<&SnapshotKey>,
        labels: Labels,
        lease: Option<&LeaseId>,
    ) -> Result<Info> {
        Self::refuse_layers(ns)?;
        let request = Request::new(ns, key, Kind::Active, parent, labels, lease)?;
        self.prepare_told(request, &mut |_, _| {})
    }

    /// [`prepare`](Snapshots::prepare) with more rows in its batch.
    pub fn prepare_with(
        &self,
        ns: &Namespace,
        key: &SnapshotKey,
        parent: Option<&SnapshotKey>,
        labels: Labels,
        also: Also<'_>,
    ) -> Result<Info> {
        self.prepare_told(Request::new(ns, key, Kind::Active, parent, labels, None)?, also)
    }

    fn prepare_told(&self, request: Request<'_>, also: Also<'_>) -> Result<Info> {
        let info = self.prepare_locked(request, also)?;
        self.prepared(&info);
        Ok(info)
    }

    /// To be called outside every lock.
    pub(super) fn prepared(&self, info: &Info) {
        let (ns, key, id) = (&info.namespace, &info.key, info.snapshot.id);
        tracing::info!(%ns, %key, %id, "snapshot prepared");
        self.tell(&Change::Prepared(info.clone()));
    }

    fn prepare_locked(&self, request: Request<'_>, also: Also<'_>) -> Result<Info> {
        let _running = self.running()?;
        let _held = self.hold_for(&request);
        let _noted = self.references.note(request.ns, named(request.key, &request.labels));
        let parent = self.check_new(&request)?;
        let origin = parent.map(|parent| self.live_volume(parent.volume)).transpose()?;
        self.create_with_volume(request, origin.as_ref(), also)
    }

    /// The new key, and the parent so that it stays.
    pub(super) fn hold_for(&self, request: &Request<'_>) -> Held<'_> {
        self.locks.hold(request.ns, &wanted(request))
    }

    /// The same; `None` where that takes waiting.
    pub(super) fn try_hold_for(&self, request: &Request<'_>) -> Option<Held<'_>> {
        self.locks.hold_within(request.ns, &wanted(request), Duration::ZERO)
    }
}

fn wanted<'a>(request: &Request<'a>) -> Vec<(&'a SnapshotKey, Mode)> {
    let mut wanted = vec![(request.key, Mode::Exclusive)];
    wanted.extend(request.parent.map(|parent| (parent, Mode::Shared)));
    wanted
}
