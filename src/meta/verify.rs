//! The store's invariants, checked as of one moment: for `thinfs check`, and after each stress
//! test.

use std::collections::HashMap;
use std::ops::ControlFlow;

use super::Store;
use super::columns::{Children, Column, Digests, Ids, Kinds, Snapshots, System, Volumes};
use super::error::Result;
use super::read::{corrupt, snapshot_at};
use super::rows::Moment;
use crate::types::{Kind, Namespace, Snapshot, SnapshotKey, Volume, VolumeId, VolumeState};

impl Store {
    /// Checks every row against every other; one line for each disagreement, none if all is sound.
    ///
    /// - each snapshot has its rows in `ids`, `kinds`, `children` and `digests`, and no row there
    ///   is without its snapshot;
    /// - a parent exists and is committed; a committed snapshot has its usage recorded;
    /// - ids are below the reserved end;
    /// - each snapshot's volume exists and is no tombstone: its own, or for a view its parent's;
    /// - each live or lost volume belongs to the snapshot with its id, each tombstone to none;
    /// - layers have their snapshots and parents, and are held by whoever stands on them.
    pub fn verify(&self) -> Result<Vec<String>> {
        let moment = self.moment();
        let mut check = Check {
            volumes: volumes(&moment)?,
            reserved_end: reserved_end(&moment)?,
            moment,
            found: Vec::new(),
        };
        check.snapshots()?;
        check.ids()?;
        check.kinds()?;
        check.children()?;
        check.digests()?;
        check.volumes()?;
        super::verify_layers::verify(&check.moment, &mut check.found)?;
        Ok(check.found)
    }
}

struct Check<'a> {
    moment: Moment<'a>,
    volumes: HashMap<VolumeId, Volume>,
    reserved_end: u64,
    found: Vec<String>,
}

fn volumes(moment: &Moment<'_>) -> Result<HashMap<VolumeId, Volume>> {
    let mut volumes = HashMap::new();
    moment.scan(Column::Volumes, b"", None, &mut |row_key, record| {
        let id = Volumes::decode_row_key(row_key)
            .map_err(|e| corrupt("a volume's row".to_owned(), e))?;
        let volume = Volumes::decode(id, record)
            .map_err(|e| corrupt(format!("the record of volume {id}"), e))?;
        volumes.insert(id, volume);
        Ok(ControlFlow::Continue(()))
    })?;
    Ok(volumes)
}

fn reserved_end(moment: &Moment<'_>) -> Result<u64> {
    match moment.get(Column::System, System::SNAPSHOT_IDS)? {
        Some(record) => System::decode_snapshot_ids(&record)
            .map_err(|e| corrupt("the snapshot id counter".to_owned(), e)),
        None => Ok(1),
    }
}

impl Check<'_> {
    fn snapshots(&mut self) -> Result<()> {
        self.each(Column::Snapshots, |check, row_key, record| {
            let (ns, key) = Snapshots::decode_row_key(row_key)
                .map_err(|e| corrupt("a snapshot's row".to_owned(), e))?;
            let snapshot = Snapshots::decode(record)
                .map_err(|e| corrupt(format!("the record of snapshot {ns}/{key}"), e))?;
            check.indexes_of(&ns, &key, &snapshot)?;
            check.parent_of(&ns, &key, &snapshot)?;
            check.volume_of(&ns, &key, &snapshot)
        })
    }

    fn indexes_of(&mut self, ns: &Namespace, key: &SnapshotKey, snapshot: &Snapshot) -> Result<()> {
        let id = snapshot.id;
        if self.moment.get(Column::Ids, &Ids::row_key(id))?.as_deref()
            != Some(&Ids::encode(ns, key)[..])
        {
            self.say(format!("snapshot {ns}/{key}: id {id} leads elsewhere"));
        }
        if self.moment.get(Column::Kinds, &Kinds::row_key(ns, snapshot.kind, key))?.as_deref()
            != Some(&Kinds::encode(id)[..])
        {
            self.say(format!("snapshot {ns}/{key}: missing among the {} ones", snapshot.kind));
        }
        if let Some(parent) = &snapshot.parent
            && self.moment.get(Column::Children, &Children::row_key(ns, parent, key))?.is_none()
        {
            self.say(format!("snapshot {ns}/{key}: missing among the children of {parent}"));
        }
        if Digests::needed(key)
            && self.moment.get(Column::Digests, &Digests::row_key(ns, &Digests::of(key)))?.is_none()
        {
            self.say(format!("snapshot {ns}/{key}: not found by its digest"));
        }
        if u64::from(id.0) >= self.reserved_end || id.0 == 0 {
            self.say(format!("snapshot {ns}/{key}: id {id} was never reserved"));
        }
        if (snapshot.kind == Kind::Committed) != snapshot.usage.is_some() {
            self.say(format!(
                "snapshot {ns}/{key}: {} with usage {:?}",
                snapshot.kind, snapshot.usage
            ));
        }
        Ok(())
    }

    fn parent_of(&mut self, ns: &Namespace, key: &SnapshotKey, snapshot: &Snapshot) -> Result<()> {
        let Some(parent) = &snapshot.parent else { return Ok(()) };
        match snapshot_at(&self.moment, ns, parent)? {
            None => self.say(format!("snapshot {ns}/{key}: its parent {parent} is missing")),
            Some(found) if found.kind != Kind::Committed => {
                self.say(format!("snapshot {ns}/{key}: its parent {parent} is {}", found.kind));
            }
            Some(found) if snapshot.kind == Kind::View && snapshot.volume != found.volume => {
                self.say(format!("snapshot {ns}/{key}: a view of {parent} with another volume"));
            }
            Some(_) => {}
        }
        Ok(())
    }

    fn volume_of(&mut self, ns: &Namespace, key: &SnapshotKey, snapshot: &Snapshot) -> Result<()> {
        let shares = snapshot.kind == Kind::View && snapshot.parent.is_some();
        if !shares && snapshot.volume != VolumeId::of(snapshot.id) {
            self.say(format!("snapshot {ns}/{key}: volume {} isn't its own", snapshot.volume));
        }
        match self.volumes.get(&snapshot.volume).map(|volume| volume.state) {
            None => {
                self.say(format!("snapshot {ns}/{key}: volume {} has no record", snapshot.volume))
            }
            Some(VolumeState::Tombstone) => {
                self.say(format!(
                    "snapshot {ns}/{key}: volume {} is to be destroyed",
                    snapshot.volume
                ));
            }
            Some(VolumeState::Live | VolumeState::Lost) => {}
        }
        Ok(())
    }

    fn ids(&mut self) -> Result<()> {
        self.each(Column::Ids, |check, row_key, value| {
            let id = Ids::decode_row_key(row_key)
                .map_err(|e| corrupt("an index row of ids".to_owned(), e))?;
            let (ns, key) = Ids::decode(value)
                .map_err(|e| corrupt(format!("the index row of snapshot id {id}"), e))?;
            match snapshot_at(&check.moment, &ns, &key)? {
                Some(snapshot) if snapshot.id == id => {}
                _ => check.say(format!(
                    "id {id} leads to {ns}/{key}, which has another id or is missing"
                )),
            }
            Ok(())
        })
    }

    fn kinds(&mut self) -> Result<()> {
        self.each(Column::Kinds, |check, row_key, _| {
            let (ns, kind, key) = Kinds::decode_row_key(row_key)
                .map_err(|e| corrupt("an index row of kinds".to_owned(), e))?;
            match snapshot_at(&check.moment, &ns, &key)? {
                Some(snapshot) if snapshot.kind == kind => {}
                _ => check.say(format!(
                    "{ns}/{key} is listed as {kind}, but is of another kind or missing"
                )),
            }
            Ok(())
        })
    }

    fn children(&mut self) -> Result<()> {
        self.each(Column::Children, |check, row_key, _| {
            let (ns, parent, child) =
                Children::decode_row_key(row_key).map_err(|e| corrupt("an index row of children".to_owned(), e))?;
            match snapshot_at(&check.moment, &ns, &child)? {
                Some(snapshot) if snapshot.parent.as_ref() == Some(&parent) => {}
                _ => check.say(format!(
                    "{ns}/{child} is listed as a child of {parent}, but has another parent or is missing"
                )),
            }
            Ok(())
        })
    }

    fn digests(&mut self) -> Result<()> {
        self.each(Column::Digests, |check, row_key, value| {
            let key =
                Digests::decode(value).map_err(|e| corrupt("a digest's row".to_owned(), e))?;
            let digest = Digests::of(&key);
            let sound = row_key
                .strip_suffix(&digest)
                .and_then(|rest| rest.strip_suffix(&[0]))
                .is_some_and(|ns| {
                    let row = [ns, &[0], key.as_str().as_bytes()].concat();
                    matches!(check.moment.get(Column::Snapshots, &row), Ok(Some(_)))
                });
            if !sound {
                check.say(format!("a digest leads to {key}, which is another key's or missing"));
            }
            Ok(())
        })
    }

    /// A volume's id is that of the snapshot that it was made for.
    fn volumes(&mut self) -> Result<()> {
        let mut volumes: Vec<(VolumeId, VolumeState, Option<VolumeId>)> =
            self.volumes.values().map(|volume| (volume.id, volume.state, volume.origin)).collect();
        volumes.sort_by_key(|(id, ..)| *id);
        for (id, state, origin) in volumes {
            let named = self.moment.get(Column::Ids, &id.0.to_be_bytes())?.is_some();
            match state {
                VolumeState::Tombstone if named => {
                    self.say(format!("volume {id} is to be destroyed, but a snapshot has it"))
                }
                VolumeState::Live | VolumeState::Lost if !named => {
                    self.say(format!("volume {id} belongs to no snapshot"))
                }
                VolumeState::Live | VolumeState::Lost | VolumeState::Tombstone => {}
            }
            let origin = origin.filter(|_| state == VolumeState::Live);
            if let Some(origin) = origin
                && !matches!(self.volumes.get(&origin), Some(volume) if volume.state != VolumeState::Tombstone)
            {
                self.say(format!("volume {id}: its origin {origin} is missing or to be destroyed"));
            }
        }
        Ok(())
    }

    /// Calls `check` with each row of a column family.
    fn each(
        &mut self,
        column: Column,
        mut check: impl FnMut(&mut Self, &[u8], &[u8]) -> Result<()>,
    ) -> Result<()> {
        let mut rows = Vec::new();
        self.moment.scan(column, b"", None, &mut |row_key, value| {
            rows.push((row_key.to_vec(), value.to_vec()));
            Ok(ControlFlow::Continue(()))
        })?;
        rows.iter().try_for_each(|(row_key, value)| check(self, row_key, value))
    }

    fn say(&mut self, line: String) {
        self.found.push(line);
    }
}
