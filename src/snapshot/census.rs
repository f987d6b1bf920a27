//! All ids and volumes of the store at one look: what a start and a repair compare the backend with.

use std::collections::BTreeSet;
use std::ops::ControlFlow;

use super::Result;
use crate::meta::Store;
use crate::types::{Kind, Namespace, SnapshotId, SnapshotKey, Volume, VolumeId, VolumeState};

/// What the store holds. Some dozen bytes for each snapshot and volume.
#[derive(Debug, Default)]
pub(super) struct Census {
    /// Ids of all snapshots, in order.
    pub(super) ids: Vec<SnapshotId>,
    /// All volumes, in order of ids.
    pub(super) volumes: Vec<Volume>,
}

impl Census {
    pub(super) fn take(store: &Store) -> Result<Self> {
        let mut census = Census::default();
        store.for_each_id(&mut |id, _, _| {
            census.ids.push(id);
            ControlFlow::Continue(())
        })?;
        store.for_each_volume(&mut |volume| {
            census.volumes.push(volume);
            ControlFlow::Continue(())
        })?;
        Ok(census)
    }

    /// Whether a snapshot has this id, so that the volume with this id is its.
    pub(super) fn is_named(&self, volume: VolumeId) -> bool {
        self.ids.binary_search(&SnapshotId(volume.0)).is_ok()
    }

    /// The volumes as the backend is to be asked for them: one that was lost may have come back
    /// with its disk.
    pub(super) fn as_if_none_were_lost(&self) -> Vec<Volume> {
        let live = |volume: &Volume| match volume.state {
            VolumeState::Lost => Volume { state: VolumeState::Live, ..volume.clone() },
            VolumeState::Live | VolumeState::Tombstone => volume.clone(),
        };
        self.volumes.iter().map(live).collect()
    }

    /// Tombstones for the reaper. A volume that a snapshot has is none, whatever its record says.
    pub(super) fn tombstones(&self) -> Vec<Volume> {
        let mut tombstones = Vec::new();
        for volume in self.volumes.iter().filter(|volume| volume.state == VolumeState::Tombstone) {
            match self.is_named(volume.id) {
                true => {
                    tracing::error!(volume = %volume.id, "a snapshot has this volume, but its record says that it is to be destroyed; it is kept: run `thinfs check`")
                }
                false => tombstones.push(volume.clone()),
            }
        }
        tombstones
    }

    /// The first snapshot whose volume has no record: then what nobody names may be its content. A
    /// view of a committed snapshot has no volume of its own.
    pub(super) fn first_without_volume(
        &self,
        store: &Store,
    ) -> Result<Option<(Namespace, SnapshotKey)>> {
        let has = |id: SnapshotId| {
            self.volumes.binary_search_by_key(&VolumeId::of(id), |volume| volume.id).is_ok()
        };
        let mut missing: BTreeSet<_> = self.ids.iter().copied().filter(|id| !has(*id)).collect();
        if missing.is_empty() {
            return Ok(None);
        }
        store.for_each_kind(&mut |kind, id| {
            if kind == Kind::View {
                missing.remove(&id);
            }
            ControlFlow::Continue(())
        })?;
        let Some(first) = missing.first() else { return Ok(None) };
        let mut found = None;
        store.for_each_id(&mut |id, ns, key| {
            if id < *first {
                return ControlFlow::Continue(());
            }
            found = Some((ns, key));
            ControlFlow::Break(())
        })?;
        Ok(found)
    }
}
