//! Remove: the key is free at once, the reaper does the rest.

use std::time::Duration;

use super::error::{Error, Result};
use super::locks::Mode;
use super::{Change, Info, Snapshots};
use crate::crashpoint::Step;
use crate::meta::Batch;
use crate::types::{Namespace, SnapshotKey, Volume, VolumeId, VolumeState};

/// How long a removal waits for another operation on the same snapshot. A collector that meets a
/// snapshot in the making passes on and comes again; it must not wait for a copy of gigabytes.
const PATIENCE: Duration = Duration::from_millis(200);

impl Snapshots {
    /// Removes a snapshot without children, whatever its kind. It is gone when this returns, and
    /// its key can be used again; the reaper gives back its storage in the background, once no file
    /// of it is open any more.
    ///
    /// After a crash, either the snapshot is there as before, or its tombstone is, and the reaper
    /// goes on.
    ///
    /// Errors, in this order: the key is missing, it has children. While another operation works on
    /// the snapshot (one that is being prepared on it, too), it is busy:
    /// [`Error::FailedPrecondition`].
    pub fn remove(&self, ns: &Namespace, key: &SnapshotKey) -> Result<()> {
        let (info, tombstone) = self.remove_locked(ns, key)?;
        if let Some(tombstone) = tombstone {
            self.reaper.push(tombstone);
        }
        self.usages.forget(info.snapshot.id);
        tracing::info!(%ns, %key, id = %info.snapshot.id, "snapshot removed");
        self.tell(&Change::Removed(info));
        Ok(())
    }

    fn remove_locked(&self, ns: &Namespace, key: &SnapshotKey) -> Result<(Info, Option<Volume>)> {
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
        let tombstone = match snapshot.volume == VolumeId::of(snapshot.id) {
            true => self
                .store
                .volume(snapshot.volume)?
                .map(|volume| Volume { state: VolumeState::Tombstone, ..volume }),
            false => None, // a view of a committed snapshot looks at its parent's
        };
        let mut batch = Batch::of(Step::StoreRemove);
        batch.remove_snapshot(ns, key, &snapshot);
        if let Some(tombstone) = &tombstone {
            batch.put_volume(tombstone);
        }
        self.store.write(batch)?;
        Ok((Info { namespace: ns.clone(), key: key.clone(), snapshot }, tombstone))
    }
}
