//! Records made again from the index rows that name them.

use std::ops::ControlFlow;
use std::time::SystemTime;

use super::{Check, snapshot_name};
use crate::meta::batch::Batch;
use crate::meta::columns::{Children, Column, Kinds, Snapshots};
use crate::meta::error::Result;
use crate::types::{
    Kind, Labels, Namespace, Snapshot, SnapshotId, SnapshotKey, VolumeId, VolumeState,
};

impl Check<'_> {
    /// A record that can't be read. The kind index holds its id.
    pub(super) fn bad_snapshot(
        &mut self,
        ns: &Namespace,
        key: &SnapshotKey,
        why: &str,
    ) -> Result<()> {
        if self.made.contains_key(&(ns.clone(), key.clone())) {
            return Ok(());
        }
        let problem = format!("its record is damaged ({why})");
        let id = self.kind_row(ns, key)?.map(|(_, id)| id);
        match id {
            Some(id) if self.make_again(ns, key, id, &problem)? => {}
            Some(_) | None => self.manual(
                snapshot_name(ns, key),
                problem,
                "nothing else in the store tells of it: restore a backup with `thinfs restore`",
            ),
        }
        Ok(())
    }

    /// The record of a parent: if it is gone but can be made again, as it will be.
    pub(super) fn record_or_make(
        &mut self,
        ns: &Namespace,
        key: &SnapshotKey,
    ) -> Result<Option<Snapshot>> {
        if let Some(found) = self.record(ns, key)? {
            return Ok(Some(found));
        }
        if let Some((_, id)) = self.kind_row(ns, key)? {
            self.make_again(ns, key, id, "its record is missing or damaged")?;
        }
        self.record(ns, key)
    }

    /// Makes the record of a snapshot again. False: its volume isn't there, so there is nothing to
    /// name.
    pub(super) fn make_again(
        &mut self,
        ns: &Namespace,
        key: &SnapshotKey,
        id: SnapshotId,
        problem: &str,
    ) -> Result<bool> {
        let kind = self.kind_row(ns, key)?.filter(|(_, found)| *found == id).map(|(kind, _)| kind);
        let parent = self.parent_row(ns, key)?;
        let own = VolumeId::of(id);
        let is_there = |volume: VolumeId, check: &Self| {
            check.volumes.get(&volume).is_some_and(|volume| volume.state != VolumeState::Tombstone)
        };
        let volume = match (kind, &parent) {
            _ if is_there(own, self) => own,
            (Some(Kind::View), Some(parent)) => match self.record(ns, parent)? {
                Some(parent) if is_there(parent.volume, self) => parent.volume,
                Some(_) | None => return Ok(false),
            },
            _ => return Ok(false),
        };
        let now = SystemTime::now();
        let made = Snapshot {
            id,
            kind: kind.unwrap_or(Kind::Active),
            parent,
            labels: Labels::new(),
            created: now,
            updated: now,
            usage: None,
            volume,
            collectable: false,
        };
        let mut mend = Batch::default();
        mend.insert_snapshot(ns, key, &made);
        self.made.insert((ns.clone(), key.clone()), made);
        self.mendable(
            snapshot_name(ns, key),
            problem.to_owned(),
            "make the record again from the indexes; its labels and times are lost",
            mend,
        );
        Ok(true)
    }

    /// Kind and id, as the kind index has them.
    fn kind_row(&self, ns: &Namespace, key: &SnapshotKey) -> Result<Option<(Kind, SnapshotId)>> {
        for kind in Kind::ALL {
            if let Some(value) = self.moment.get(Column::Kinds, &Kinds::row_key(ns, kind, key))?
                && let Ok(id) = Kinds::decode(&value)
            {
                return Ok(Some((kind, id)));
            }
        }
        Ok(None)
    }

    /// The parent, as the index of children has it: a look at all rows of the namespace.
    fn parent_row(&self, ns: &Namespace, key: &SnapshotKey) -> Result<Option<SnapshotKey>> {
        let mut parent = None;
        let rows = Snapshots::prefix(ns);
        self.moment.scan_prefix(Column::Children, &rows, &mut |row_key, _| {
            match Children::decode_row_key(row_key) {
                Ok((_, found, child)) if child == *key => {
                    parent = Some(found);
                    Ok(ControlFlow::Break(()))
                }
                Ok(_) | Err(_) => Ok(ControlFlow::Continue(())),
            }
        })?;
        Ok(parent)
    }
}
