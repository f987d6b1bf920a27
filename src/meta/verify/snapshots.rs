//! Each snapshot against its index rows, its parent and its volume.

use super::{Check, snapshot_name};
use crate::meta::batch::{Batch, references};
use crate::meta::columns::{Children, Column, Digests, Ids, Kinds, Labels, Snapshots};
use crate::meta::error::Result;
use crate::types::{Kind, Namespace, Snapshot, SnapshotKey, VolumeId, VolumeState};

impl Check<'_> {
    pub(super) fn snapshots(&mut self) -> Result<()> {
        self.each(Column::Snapshots, |check, row_key, record| {
            let (ns, key) = match Snapshots::decode_row_key(row_key) {
                Ok(name) => name,
                Err(error) => return check.bad_row(Column::Snapshots, row_key, &error.to_string()),
            };
            match Snapshots::decode(record) {
                Ok(snapshot) => {
                    check.rows_of(&ns, &key, &snapshot)?;
                    check.collectable(&ns, &key, &snapshot)?;
                    check.parent_of(&ns, &key, &snapshot)?;
                    check.volume_of(&ns, &key, &snapshot)
                }
                Err(error) => check.bad_snapshot(&ns, &key, &error.to_string()),
            }
        })
    }

    fn rows_of(&mut self, ns: &Namespace, key: &SnapshotKey, snapshot: &Snapshot) -> Result<()> {
        let id = snapshot.id;
        let rows = [
            (Column::Ids, Ids::row_key(id).to_vec(), Some(Ids::encode(ns, key))),
            (
                Column::Kinds,
                Kinds::row_key(ns, snapshot.kind, key),
                Some(Kinds::encode(id).to_vec()),
            ),
        ];
        let parent = snapshot.parent.as_ref();
        let child = parent.map(|p| (Column::Children, Children::row_key(ns, p, key), None));
        let digest = Digests::needed(key).then(|| {
            (Column::Digests, Digests::row_key(ns, &Digests::of(key)), Some(Digests::encode(key)))
        });
        let labels = snapshot
            .labels
            .iter()
            .map(|(label, value)| (Column::Labels, Labels::row_key(ns, label, value, key), None));
        let targets =
            references(ns, key, &snapshot.labels).map(|row| (Column::References, row, None));
        let rows = rows.into_iter().chain(child).chain(digest).chain(labels).chain(targets);
        for (column, row_key, value) in rows {
            let found = self.moment.get(column, &row_key)?;
            if found.is_some() && (value.is_none() || found == value) {
                continue;
            }
            let problem = match found {
                None => format!("it has no row in {}", column.name()),
                Some(_) => format!("its row in {} leads elsewhere", column.name()),
            };
            self.remade.insert((column.name(), row_key.clone()));
            let mut mend = Batch::default();
            mend.put(column, row_key, value.unwrap_or_default());
            self.mendable(snapshot_name(ns, key), problem, "make the row anew", mend);
        }
        if snapshot.kind == Kind::Committed && snapshot.usage.is_none() {
            // The layer above can measure it.
            self.manual(
                snapshot_name(ns, key),
                "it is committed, but its usage isn't recorded".to_owned(),
                super::MEASURE,
            );
        }
        Ok(())
    }

    fn parent_of(&mut self, ns: &Namespace, key: &SnapshotKey, snapshot: &Snapshot) -> Result<()> {
        let Some(parent) = &snapshot.parent else { return Ok(()) };
        let shares = snapshot.kind == Kind::View;
        match self.record_or_make(ns, parent)? {
            // Its volume holds all of its content.
            None if !shares => self.change(
                (ns, key, snapshot),
                format!("its parent {parent} is missing"),
                "let it stand alone: its volume holds all of its content",
                Snapshot { parent: None, ..snapshot.clone() },
            ),
            None => self.manual(
                snapshot_name(ns, key),
                format!("the snapshot {parent} that it is a view of is missing"),
                "remove it with `thinfs rm`",
            ),
            Some(found) if found.kind != Kind::Committed => self.manual(
                snapshot_name(ns, key),
                format!("its parent {parent} is {}, not committed", found.kind),
                "commit the parent under another name, or remove this snapshot",
            ),
            Some(found) if shares && snapshot.volume != found.volume => self.change(
                (ns, key, snapshot),
                format!("it is a view of {parent}, but shows volume {}", snapshot.volume),
                "let it show its parent's volume",
                Snapshot { volume: found.volume, ..snapshot.clone() },
            ),
            Some(_) => {}
        }
        Ok(())
    }

    fn volume_of(&mut self, ns: &Namespace, key: &SnapshotKey, snapshot: &Snapshot) -> Result<()> {
        let shares = snapshot.kind == Kind::View && snapshot.parent.is_some();
        let own = VolumeId::of(snapshot.id);
        if !shares && snapshot.volume != own {
            self.change(
                (ns, key, snapshot),
                format!("volume {} isn't its own", snapshot.volume),
                "give it its own volume back",
                Snapshot { volume: own, ..snapshot.clone() },
            );
            return Ok(());
        }
        match self.volumes.get(&snapshot.volume).cloned() {
            Some(volume) if volume.state == VolumeState::Tombstone => {
                let mut mend = Batch::default();
                mend.put_volume(&crate::types::Volume { state: VolumeState::Live, ..volume });
                self.mendable(
                    snapshot_name(ns, key),
                    format!("volume {} is to be destroyed", snapshot.volume),
                    "keep the volume",
                    mend,
                );
            }
            Some(_) => {}
            // Told of already if it is there and can't be read.
            None if self.has_row(snapshot.volume)? => {}
            None => self.missing_volume(ns, key, snapshot)?,
        }
        Ok(())
    }

    fn has_row(&self, id: VolumeId) -> Result<bool> {
        let row_key = crate::meta::columns::Volumes::row_key(id);
        Ok(self.moment.get(Column::Volumes, &row_key)?.is_some())
    }

    /// Replaces a record.
    fn change(
        &mut self,
        (ns, key, old): (&Namespace, &SnapshotKey, &Snapshot),
        problem: String,
        remedy: &str,
        new: Snapshot,
    ) {
        let mut mend = Batch::default();
        mend.update_snapshot(ns, key, old, &new);
        self.mendable(snapshot_name(ns, key), problem, remedy, mend);
    }
}
