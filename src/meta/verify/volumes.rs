//! Each volume against the snapshot that it was made for.

use std::time::SystemTime;

use super::{Check, FOUND, owner, snapshot_name};
use crate::meta::batch::Batch;
use crate::meta::columns::{Column, Ids};
use crate::meta::error::Result;
use crate::types::{
    Backing, Kind, Labels, Namespace, Snapshot, SnapshotKey, Volume, VolumeId, VolumeState,
};

/// What helps where a thin device's id is lost with its record.
const RESTORE: &str = "restore a backup with `thinfs restore`; until then devices that no record \
                       names are kept";

impl Check<'_> {
    pub(super) fn volumes(&mut self) -> Result<()> {
        let volumes: Vec<Volume> = self.volumes.values().cloned().collect();
        for volume in volumes {
            let Volume { id, state, origin, .. } = volume;
            let named = self.is_named(id)?;
            match state {
                // Told of with the snapshot that has it.
                VolumeState::Tombstone => continue,
                VolumeState::Live | VolumeState::Lost if !named => self.adopt(&volume),
                VolumeState::Live | VolumeState::Lost => {}
            }
            let gone = |origin: VolumeId, check: &Self| !matches!(check.volumes.get(&origin), Some(found) if found.state != VolumeState::Tombstone);
            if let Some(origin) = origin.filter(|_| state == VolumeState::Live)
                && gone(origin, self)
            {
                let mut mend = Batch::default();
                mend.put_volume(&Volume { origin: None, ..volume });
                let problem = format!("its origin {origin} is missing or to be destroyed");
                let remedy = "let it stand alone: it holds all of its content";
                self.mendable(format!("volume {id}"), problem, remedy, mend);
            }
        }
        Ok(())
    }

    fn is_named(&self, id: VolumeId) -> Result<bool> {
        let made = self.made.values().any(|snapshot| snapshot.id == owner(id));
        Ok(made || self.moment.get(Column::Ids, &Ids::row_key(owner(id)))?.is_some())
    }

    /// A volume of nobody: it may be all that is left of a snapshot.
    fn adopt(&mut self, volume: &Volume) {
        let now = SystemTime::now();
        let found = Snapshot {
            id: owner(volume.id),
            kind: Kind::Active,
            parent: None,
            labels: Labels::new(),
            created: now,
            updated: now,
            usage: None,
            volume: volume.id,
            collectable: false,
        };
        let ns = Namespace::new(FOUND).expect("a valid namespace");
        let key = SnapshotKey::new(format!("volume-{}", volume.id)).expect("a valid key");
        let mut mend = Batch::default();
        mend.insert_snapshot(&ns, &key, &found);
        self.mendable(
            format!("volume {}", volume.id),
            "it belongs to no snapshot".to_owned(),
            &format!("give it one: {ns}/{key}, to look at and remove"),
            mend,
        );
    }

    /// A volume's record that can't be read.
    pub(super) fn bad_volume(&mut self, id: VolumeId, why: &str) -> Result<()> {
        let problem = format!("its record is damaged ({why})");
        let named = self.is_named(id)?;
        if named && !self.is_native()? {
            self.manual(format!("volume {id}"), problem, RESTORE);
            return Ok(());
        }
        let mut mend = Batch::default();
        let remedy = match named {
            true => {
                let volume = native(id);
                mend.put_volume(&volume);
                self.volumes.insert(id, volume);
                "make the record again: a directory is named after its volume"
            }
            false => {
                mend.delete_volume(id);
                "drop the record: no snapshot has the volume"
            }
        };
        self.mendable(format!("volume {id}"), problem, remedy, mend);
        Ok(())
    }

    /// A snapshot whose volume has no record.
    pub(super) fn missing_volume(
        &mut self,
        ns: &Namespace,
        key: &SnapshotKey,
        snapshot: &Snapshot,
    ) -> Result<()> {
        let problem = format!("volume {} has no record", snapshot.volume);
        if snapshot.volume == VolumeId::of(snapshot.id) && self.is_native()? {
            let mut mend = Batch::default();
            mend.put_volume(&native(snapshot.volume));
            let remedy = "make the record again: a directory is named after its volume";
            self.mendable(snapshot_name(ns, key), problem, remedy, mend);
        } else {
            self.manual(snapshot_name(ns, key), problem, RESTORE);
        }
        Ok(())
    }
}

fn native(id: VolumeId) -> Volume {
    Volume { id, state: VolumeState::Live, origin: None, size: 0, backing: Backing::Native }
}
