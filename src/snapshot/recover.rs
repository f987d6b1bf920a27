//! Recover: store and backend are compared, both ways, before anything is served.

use std::collections::HashSet;
use std::sync::Arc;

use super::census::Census;
use super::reaper::Reaper;
use super::references::References;
use super::{Result, Snapshots, locks, usage};
use crate::crashpoint::Step;
use crate::meta::{Batch, Store};
use crate::types::{SnapshotId, Volume, VolumeId, VolumeState};
use crate::volume::{Reconciled, Volumes};

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
    /// Volumes that nobody named, and that were kept.
    pub kept: usize,
    /// Why such volumes were kept, if they were to be.
    pub keeping: Option<String>,
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
    /// 1. read all ids and volumes;
    /// 2. the backend destroys what none of them names, and says which of them it doesn't have;
    /// 3. one batch marks those as lost, and as live again what was lost and is back;
    /// 4. tombstones go to the reaper.
    ///
    /// What nobody names is garbage only if the store can be trusted to name what it has. It can't
    /// where it was restored from a backup, where its log was damaged, where it names a volume of
    /// which it has no record, and where it has never given an id. Then such volumes are kept, at
    /// this start and later ones, until [`repair`](Snapshots::repair) lets go of them.
    pub fn start(store: Arc<Store>, volumes: Arc<Volumes>) -> Result<(Arc<Self>, Recovery)> {
        let census = Census::take(&store)?;
        let (reconciled, keeping) = reconcile(&store, &volumes, &census)?;
        let lost: HashSet<VolumeId> = reconciled.lost.into_iter().collect();
        record_lost(&store, &census.volumes, &lost)?;

        let mut recovery = Recovery {
            reaped: reconciled.reaped,
            kept: reconciled.kept,
            keeping,
            snapshots: census.ids.len(),
            ..Recovery::default()
        };
        name_lost(&store, &census, &lost, &mut recovery)?;
        let tombstones = census.tombstones();
        recovery.tombstones = tombstones.len();
        let snapshots = Snapshots {
            reaper: Reaper::start(store.clone(), volumes.clone(), tombstones)?,
            store,
            volumes,
            locks: locks::Locks::default(),
            gate: Default::default(),
            watchers: Default::default(),
            usages: usage::Recent::default(),
            references: References::default(),
            leases: Default::default(),
        };
        Ok((Arc::new(snapshots), recovery))
    }
}

/// Also says why volumes that nobody names were kept, if so.
fn reconcile(
    store: &Store,
    volumes: &Volumes,
    census: &Census,
) -> Result<(Reconciled, Option<String>)> {
    let known = census.as_if_none_were_lost();
    let noted = store.keeping()?;
    let reason = match noted.clone() {
        Some(reason) => Some(reason),
        None => distrust(store, volumes, census)?,
    };
    let Some(reason) = reason else { return Ok((volumes.backend().reconcile(&known)?, None)) };
    let reconciled = volumes.backend().reconcile_keeping(&known)?;
    if noted.is_none() && reconciled.kept > 0 {
        let mut batch = Batch::of(Step::StoreKeep);
        batch.keep_unnamed(&reason);
        store.write(batch)?;
    }
    let keeping = (noted.is_some() || reconciled.kept > 0).then_some(reason);
    Ok((reconciled, keeping))
}

/// Why the store can't be trusted to name all that it should.
fn distrust(store: &Store, volumes: &Volumes, census: &Census) -> Result<Option<String>> {
    if let Some((ns, key)) = census.first_without_volume(store)? {
        return Ok(Some(format!("snapshot {ns}/{key} has a volume without a record")));
    }
    let is_odd = !store.has_given_ids() && !volumes.backend().check(&[])?.is_empty();
    Ok(is_odd.then(|| "the store is new, the volumes are not".to_owned()))
}

pub(super) fn record_lost(store: &Store, known: &[Volume], lost: &HashSet<VolumeId>) -> Result<()> {
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
    census: &Census,
    lost: &HashSet<VolumeId>,
    recovery: &mut Recovery,
) -> Result<()> {
    for volume in census.volumes.iter().filter(|volume| volume.state != VolumeState::Tombstone) {
        recovery.volumes += 1;
        if !census.is_named(volume.id) {
            tracing::warn!(volume = %volume.id, "a volume belongs to no snapshot; it is left alone");
            recovery.unnamed.push(volume.id);
        } else if lost.contains(&volume.id)
            && let Some((ns, key, _)) = store.snapshot_by_id(SnapshotId(volume.id.0))?
        {
            let volume = volume.id;
            tracing::error!(%ns, %key, %volume, "the backend doesn't have this volume");
            recovery.lost.push(format!("{ns}/{key}"));
        }
    }
    Ok(())
}
