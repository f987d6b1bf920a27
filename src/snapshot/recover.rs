//! Recover: store and backend are compared, both ways, before anything is served.

use std::collections::HashSet;
use std::ops::ControlFlow;
use std::sync::Arc;

use super::reaper::Reaper;
use super::{Result, Snapshots, locks, usage};
use crate::crashpoint::Step;
use crate::meta::{Batch, Store};
use crate::types::{SnapshotId, Volume, VolumeId, VolumeState};
use crate::volume::Volumes;

/// What a start found and did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Recovery {
    /// Snapshots in the store.
    pub snapshots: usize,
    /// Volumes in the store, without tombstones.
    pub volumes: usize,
    /// Removed volumes that the reaper has taken up again.
    pub tombstones: usize,
    /// Volumes that nobody named, and that are gone now.
    pub reaped: usize,
    /// Snapshots (`namespace/key`) whose volume the backend doesn't have.
    pub lost: Vec<String>,
    /// Volumes in the store that belong to no snapshot; left alone.
    pub unnamed: Vec<VolumeId>,
}

impl Snapshots {
    /// Compares store and backend, then is ready to serve, with the reaper running.
    ///
    /// It may be interrupted at any point and run again:
    ///
    /// 1. read all volumes;
    /// 2. the backend destroys what none of them names, and says which of them it doesn't have;
    /// 3. one batch marks those as lost, and as live again what was lost and is back;
    /// 4. tombstones go to the reaper.
    pub fn start(store: Arc<Store>, volumes: Arc<Volumes>) -> Result<(Arc<Self>, Recovery)> {
        let known = volumes_in(&store)?;
        let reconciled = volumes.backend().reconcile(&as_if_none_were_lost(&known))?;
        let lost: HashSet<VolumeId> = reconciled.lost.into_iter().collect();
        record_lost(&store, &known, &lost)?;

        let mut recovery = Recovery {
            reaped: reconciled.reaped,
            snapshots: count(&store)?,
            ..Recovery::default()
        };
        name_lost(&store, &known, &lost, &mut recovery)?;
        let tombstones: Vec<Volume> =
            known.into_iter().filter(|volume| volume.state == VolumeState::Tombstone).collect();
        recovery.tombstones = tombstones.len();
        let snapshots = Snapshots {
            reaper: Reaper::start(store.clone(), volumes.clone(), tombstones)?,
            store,
            volumes,
            locks: locks::Locks::default(),
            gate: Default::default(),
            watchers: Default::default(),
            usages: usage::Recent::default(),
        };
        Ok((Arc::new(snapshots), recovery))
    }
}

/// All volumes in the store.
pub(super) fn volumes_in(store: &Store) -> Result<Vec<Volume>> {
    let mut volumes = Vec::new();
    store.for_each_volume(&mut |volume| {
        volumes.push(volume);
        ControlFlow::Continue(())
    })?;
    Ok(volumes)
}

/// A volume that was lost may have come back with its disk, so the backend is asked again.
pub(super) fn as_if_none_were_lost(volumes: &[Volume]) -> Vec<Volume> {
    let live = |volume: &Volume| match volume.state {
        VolumeState::Lost => Volume { state: VolumeState::Live, ..volume.clone() },
        VolumeState::Live | VolumeState::Tombstone => volume.clone(),
    };
    volumes.iter().map(live).collect()
}

fn record_lost(store: &Store, known: &[Volume], lost: &HashSet<VolumeId>) -> Result<()> {
    let mut batch = Batch::of(Step::StoreLost);
    let mut changed = false;
    for volume in known {
        let state = match (volume.state, lost.contains(&volume.id)) {
            (VolumeState::Live, true) => VolumeState::Lost,
            (VolumeState::Lost, false) => VolumeState::Live,
            (VolumeState::Live, false)
            | (VolumeState::Lost, true)
            | (VolumeState::Tombstone, _) => continue,
        };
        batch.put_volume(&Volume { state, ..volume.clone() });
        changed = true;
    }
    if changed {
        store.write(batch)?;
    }
    Ok(())
}

/// Finds the snapshot that each volume was made for.
fn name_lost(
    store: &Store,
    known: &[Volume],
    lost: &HashSet<VolumeId>,
    recovery: &mut Recovery,
) -> Result<()> {
    for volume in known.iter().filter(|volume| volume.state != VolumeState::Tombstone) {
        recovery.volumes += 1;
        match store.snapshot_by_id(SnapshotId(volume.id.0))? {
            None => {
                tracing::warn!(volume = %volume.id, "a volume belongs to no snapshot; it is left alone");
                recovery.unnamed.push(volume.id);
            }
            Some((ns, key, _)) if lost.contains(&volume.id) => {
                let volume = volume.id;
                tracing::error!(%ns, %key, %volume, "the backend doesn't have this volume");
                recovery.lost.push(format!("{ns}/{key}"));
            }
            Some(_) => {}
        }
    }
    Ok(())
}

fn count(store: &Store) -> Result<usize> {
    let mut count = 0;
    for ns in store.namespaces()? {
        store.for_each_snapshot(&ns, &mut |_, _| {
            count += 1;
            ControlFlow::Continue(())
        })?;
    }
    Ok(count)
}
