//! Usage: what a snapshot holds of its own.

use std::collections::HashMap;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::{Info, Result, Snapshots};
use crate::types::{Kind, Namespace, Snapshot, SnapshotId, SnapshotKey, Usage, VolumeId};

/// How old a measurement may be. Kubernetes asks for every snapshot every ten seconds, and people's
/// `ls` and `info` come in bursts.
const FRESH: Duration = Duration::from_secs(2);

/// Measurements of active snapshots, kept for [`FRESH`].
#[derive(Debug)]
pub(super) struct Recent {
    measured: Mutex<Measured>,
}

#[derive(Debug)]
struct Measured {
    usages: HashMap<SnapshotId, (Instant, Usage)>,
    swept: Instant,
}

impl Default for Recent {
    fn default() -> Self {
        Self { measured: Mutex::new(Measured { usages: HashMap::new(), swept: Instant::now() }) }
    }
}

impl Recent {
    fn get(&self, id: SnapshotId) -> Option<Usage> {
        let measured = self.measured.lock();
        let (at, usage) = measured.usages.get(&id)?;
        (at.elapsed() < FRESH).then_some(*usage)
    }

    fn put(&self, id: SnapshotId, usage: Usage) {
        let mut measured = self.measured.lock();
        if measured.swept.elapsed() >= FRESH {
            measured.usages.retain(|_, (at, _)| at.elapsed() < FRESH);
            measured.swept = Instant::now();
        }
        measured.usages.insert(id, (Instant::now(), usage));
    }

    pub(super) fn forget(&self, id: SnapshotId) {
        self.measured.lock().usages.remove(&id);
    }
}

impl Snapshots {
    /// Bytes and inodes of this snapshot alone, without its parents. A committed snapshot's were
    /// recorded at commit; an active one's are measured, at most every two seconds; a view of a
    /// committed snapshot has none.
    ///
    /// Takes no lock, and gives up with [`Cancelled`](crate::volume::Error::Cancelled) once
    /// `cancel` is set.
    pub fn usage(&self, ns: &Namespace, key: &SnapshotKey, cancel: &AtomicBool) -> Result<Usage> {
        let Info { snapshot, .. } = self.stat(ns, key)?;
        let owns_volume = snapshot.volume == VolumeId::of(snapshot.id);
        match (snapshot.kind, snapshot.usage) {
            (_, Some(recorded)) => Ok(recorded),
            (Kind::Committed, None) | (Kind::Active, None) => {
                self.recent_or_measured(ns, key, &snapshot, cancel)
            }
            (Kind::View, None) if owns_volume => {
                self.recent_or_measured(ns, key, &snapshot, cancel)
            }
            (Kind::View, None) => Ok(Usage::default()),
        }
    }

    fn recent_or_measured(
        &self,
        ns: &Namespace,
        key: &SnapshotKey,
        snapshot: &Snapshot,
        cancel: &AtomicBool,
    ) -> Result<Usage> {
        if let Some(recent) = self.usages.get(snapshot.id) {
            return Ok(recent);
        }
        match self.measure(snapshot, cancel) {
            Ok(usage) => {
                self.usages.put(snapshot.id, usage);
                Ok(usage)
            }
            // Removed meanwhile: that is then the error, not what its volume was found like.
            Err(error) => match self.stat(ns, key)?.snapshot.id == snapshot.id {
                true => Err(error),
                false => Err(super::Error::NotFound(key.to_string())),
            },
        }
    }

    pub(super) fn measure(&self, snapshot: &Snapshot, cancel: &AtomicBool) -> Result<Usage> {
        let volume = self.live_volume(snapshot.volume)?;
        let origin = self.origin_of(&volume)?;
        Ok(self.volumes.usage(&volume, origin.as_ref(), cancel)?)
    }
}
