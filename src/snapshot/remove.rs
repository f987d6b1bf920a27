//! Remove: the key is free at once, the reaper does the rest.

use std::time::Duration;

use super::error::{Error, Result};
use super::locks::Mode;
use super::{Also, Change, Info, Snapshots, events};
use crate::crashpoint::Step;
use crate::meta::Batch;
use crate::types::{Leased, Namespace, SnapshotKey, Volume, VolumeId, VolumeState};

/// How long a removal waits for another operation on the same snapshot. A collector that meets a
/// snapshot in the making passes on and comes again; it must not wait for a copy of gigabytes.
const PATIENCE: Duration = Duration::from_millis(200);

impl Snapshots {
    /// Removes a snapshot without children, whatever its kind. It is gone when this returns, and
    /// its key can be used again; the reaper gives back its storage in the background, once no file
    /// of it is open any more, and nobody has its block device open.
    ///
    /// After a crash, either the snapshot is there as before, or its tombstone is, and the reaper
    /// goes on.
    ///
    /// Errors, in this order: the key is missing, it has children. While another operation works on
    /// the snapshot (one that is being prepared on it, too), it is busy:
    /// [`Error::FailedPrecondition`].
    pub fn remove(&self, ns: &Namespace, key: &SnapshotKey) -> Result<()> {
        Self::refuse_layers(ns)?;
        self.remove_with(ns, key, &mut |_, _| {})
    }

    /// [`remove`](Snapshots::remove) with more rows in its batch.
    pub fn remove_with(&self, ns: &Namespace, key: &SnapshotKey, also: Also<'_>) -> Result<()> {
        let (info, tombstone) = self.remove_locked(ns, key, also)?;
        match tombstone {
            Some(tombstone) => self.reaper.push(tombstone),
            None => self.view_is_gone(&info),
        }
        self.usages.forget(info.snapshot.id);
        tracing::info!(%ns, %key, id = %info.snapshot.id, "snapshot removed");
        self.tell(&Change::Removed(info));
        Ok(())
    }

    fn remove_locked(
        &self,
        ns: &Namespace,
        key: &SnapshotKey,
        also: Also<'_>,
    ) -> Result<(Info, Option<Volume>)> {
        let _running = self.running()?;
        let _held =
            self.locks.hold_within(ns, &[(key, Mode::Exclusive)], PATIENCE).ok_or_else(|| {
                Error::FailedPrecondition(format!(
                    "cannot remove snapshot {:?} now: another operation is working on it",
                    key.as_str()
                ))
            })?;
        let snapshot = self.existing(ns, key)?;
        if self.store.has_children(ns, key)? {
            return Err(Error::HasChildren(key.to_string()));
        }
        let info = Info { namespace: ns.clone(), key: key.clone(), snapshot };
        let mut batch = Batch::of(Step::StoreRemove);
        let tombstone = self.add_removal(&mut batch, &info)?;
        also(&info, &mut batch);
        self.store.write(batch)?;
        Ok((info, tombstone))
    }

    /// Adds to a batch all that removing this snapshot takes. Its key must be held. Gives the
    /// tombstone of its volume, for the reaper once the batch is durable.
    pub(super) fn add_removal(&self, batch: &mut Batch, info: &Info) -> Result<Option<Volume>> {
        let Info { namespace: ns, key, snapshot } = info;
        let tombstone = match snapshot.volume == VolumeId::of(snapshot.id) {
            true => self
                .store
                .volume(snapshot.volume)?
                .map(|volume| Volume { state: VolumeState::Tombstone, ..volume }),
            false => None, // a view of a committed snapshot looks at its parent's
        };
        batch.remove_snapshot(ns, key, snapshot);
        batch.publish(events::removed(ns, key, snapshot));
        let held = Leased::snapshot(key);
        for lease in self.store.holders(ns, &held)? {
            batch.let_go(ns, &lease, &held);
        }
        if let Some(tombstone) = &tombstone {
            batch.put_volume(tombstone);
        }
        Ok(tombstone)
    }
}
