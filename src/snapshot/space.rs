//! Space: how large snapshots are, whose the storage is, and giving it back.

use std::ops::ControlFlow;
use std::sync::atomic::AtomicBool;

use super::error::{Error, Result};
use super::locks::Mode;
use super::{Info, Snapshots};
use crate::crashpoint::Step;
use crate::meta::Batch;
use crate::types::{Kind, Namespace, SnapshotKey, Volume, VolumeId, VolumeState};
use crate::volume::{Share, Shares};

/// Whose the storage is that snapshots of one namespace are on.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Space {
    /// What each snapshot with a volume of its own has; the others look at their parent's.
    pub snapshots: Vec<(SnapshotKey, Share)>,
    /// The sums, over all of the pool.
    pub pool: Shares,
}

impl Snapshots {
    /// Makes an active snapshot's filesystem larger, while it is in use.
    ///
    /// After a crash the snapshot has the old size or the new one; with the new one recorded, the filesystem grows at the
    /// latest when its volume is activated for writing. Errors, in this order: the key is missing, the snapshot isn't
    /// active, the size is less than it has.
    ///
    /// 1. one batch records the size; 2. device and filesystem grow.
    pub fn resize(&self, ns: &Namespace, key: &SnapshotKey, size: u64) -> Result<Info> {
        let _running = self.running()?;
        let _held = self.locks.hold(ns, &[(key, Mode::Exclusive)]);
        let info = self.active(ns, key, "only an active one can be made larger")?;
        if !self.volumes.backend().has_sizes() {
            return Err(Error::FailedPrecondition(format!(
                "snapshot {:?} has no size: the {} backend bounds none",
                key.as_str(),
                self.volumes.backend().name()
            )));
        }
        let volume = self.live_volume(info.snapshot.volume)?;
        if size < volume.size {
            let has = volume.size;
            return Err(Error::InvalidArgument(format!(
                "snapshot {:?} has {has} bytes and cannot shrink to {size}: copy what is in it into a smaller one",
                key.as_str()
            )));
        }
        let larger = Volume { size, ..volume };
        let mut batch = Batch::of(Step::StoreResize);
        batch.put_volume(&larger);
        self.store.write(batch)?;
        self.volumes.resize(&larger)?;
        tracing::info!(%ns, %key, size, "snapshot made larger");
        Ok(info)
    }

    /// Hands the free space inside an active snapshot back to the pool and to what lies below. How many bytes came back.
    /// A committed one was trimmed by its commit, if that was worth it.
    pub fn trim(&self, ns: &Namespace, key: &SnapshotKey) -> Result<u64> {
        let _running = self.running()?;
        // Shared: files can be opened meanwhile, but no commit and no removal comes between.
        let _held = self.locks.hold(ns, &[(key, Mode::Shared)]);
        let info = self.active(ns, key, "only an active one can be trimmed")?;
        let volume = self.live_volume(info.snapshot.volume)?;
        let bytes = self.volumes.trim(&volume)?;
        tracing::info!(%ns, %key, bytes, "snapshot trimmed");
        Ok(bytes)
    }

    /// Whose the storage is: what each snapshot of the namespace has alone and what it shares, with the sums of all of the
    /// pool. `None` where the backend shares nothing. Walks all of the pool's mappings, at most every few seconds.
    pub fn space(&self, ns: &Namespace, cancel: &AtomicBool) -> Result<Option<Space>> {
        let mut keys = Vec::new();
        self.store.for_each_snapshot(ns, &mut |key, snapshot| {
            if snapshot.volume == VolumeId::of(snapshot.id) {
                keys.push((key, snapshot.volume));
            }
            ControlFlow::Continue(())
        })?;
        let mut volumes = Vec::with_capacity(keys.len());
        for (_, id) in &keys {
            volumes.extend(self.store.volume(*id)?.filter(|v| v.state == VolumeState::Live));
        }
        let Some(pool) = self.volumes.backend().shares(&volumes, cancel)? else { return Ok(None) };
        let by_id: std::collections::HashMap<_, _> = pool.volumes.iter().copied().collect();
        let snapshots =
            keys.into_iter().filter_map(|(key, id)| Some((key, *by_id.get(&id)?))).collect();
        Ok(Some(Space { snapshots, pool }))
    }

    fn active(&self, ns: &Namespace, key: &SnapshotKey, needs: &'static str) -> Result<Info> {
        let info = self.stat(ns, key)?;
        match info.snapshot.kind {
            Kind::Active => Ok(info),
            kind @ (Kind::View | Kind::Committed) => {
                Err(Error::WrongKind { key: key.to_string(), kind, needs })
            }
        }
    }
}
