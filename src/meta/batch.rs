//! A set of changes that becomes durable as a whole, or not at all.

use rocksdb::{DB, WriteBatch};

use super::columns::{Children, Column, Digests, Ids, Kinds, Snapshots, System, Volumes};
use super::rows::handle;
use crate::crashpoint::Step;
use crate::types::{Namespace, Pool, Snapshot, SnapshotKey, Volume, VolumeId};

/// Collects changes for [`Store::write`](super::Store::write). Each method changes a record
/// together with all its index rows; later changes win over earlier ones.
#[derive(Debug, Default)]
pub struct Batch {
    /// What it is for, where a crash can be tried around it: in all but tests.
    step: Option<Step>,
    rows: Vec<Row>,
}

#[derive(Debug)]
struct Row {
    column: Column,
    key: Vec<u8>,
    /// `None` deletes.
    value: Option<Vec<u8>>,
}

impl Batch {
    /// An empty batch for this step.
    pub fn of(step: Step) -> Self {
        Self { step: Some(step), rows: Vec::new() }
    }

    pub(super) fn step(&self) -> Option<Step> {
        self.step
    }

    /// Adds a snapshot whose key is free.
    pub fn insert_snapshot(&mut self, ns: &Namespace, key: &SnapshotKey, new: &Snapshot) {
        self.put(Column::Snapshots, Snapshots::row_key(ns, key), Snapshots::encode(new));
        self.put(Column::Kinds, Kinds::row_key(ns, new.kind, key), Kinds::encode(new.id));
        self.put(Column::Ids, Ids::row_key(new.id), Ids::encode(ns, key));
        if let Some(parent) = &new.parent {
            self.put(Column::Children, Children::row_key(ns, parent, key), []);
        }
        if Digests::needed(key) {
            self.put(
                Column::Digests,
                Digests::row_key(ns, &Digests::of(key)),
                Digests::encode(key),
            );
        }
    }

    /// Replaces the record of a snapshot, whatever differs.
    pub fn update_snapshot(
        &mut self,
        ns: &Namespace,
        key: &SnapshotKey,
        old: &Snapshot,
        new: &Snapshot,
    ) {
        self.remove_snapshot(ns, key, old);
        self.insert_snapshot(ns, key, new);
    }

    /// Removes a snapshot; its volume is the caller's to see to.
    pub fn remove_snapshot(&mut self, ns: &Namespace, key: &SnapshotKey, old: &Snapshot) {
        self.delete(Column::Snapshots, Snapshots::row_key(ns, key));
        self.delete(Column::Kinds, Kinds::row_key(ns, old.kind, key));
        self.delete(Column::Ids, Ids::row_key(old.id));
        if let Some(parent) = &old.parent {
            self.delete(Column::Children, Children::row_key(ns, parent, key));
        }
        if Digests::needed(key) {
            self.delete(Column::Digests, Digests::row_key(ns, &Digests::of(key)));
        }
    }

    /// Adds or replaces a volume.
    pub fn put_volume(&mut self, volume: &Volume) {
        self.put(Column::Volumes, Volumes::row_key(volume.id), Volumes::encode(volume));
    }

    /// Forgets a volume: it has been destroyed.
    pub fn delete_volume(&mut self, id: VolumeId) {
        self.delete(Column::Volumes, Volumes::row_key(id));
    }

    /// Replaces what is known of the pool.
    pub fn put_pool(&mut self, pool: &Pool) {
        self.put(Column::System, System::POOL, System::encode_pool(pool));
    }

    /// Any row of any column.
    pub(super) fn put(
        &mut self,
        column: Column,
        key: impl Into<Vec<u8>>,
        value: impl Into<Vec<u8>>,
    ) {
        self.rows.push(Row { column, key: key.into(), value: Some(value.into()) });
    }

    fn delete(&mut self, column: Column, key: impl Into<Vec<u8>>) {
        self.rows.push(Row { column, key: key.into(), value: None });
    }

    /// The same changes as RocksDB takes them.
    pub(super) fn into_rocksdb(self, db: &DB) -> WriteBatch {
        let mut batch = WriteBatch::default();
        for Row { column, key, value } in self.rows {
            match value {
                Some(value) => batch.put_cf(handle(db, column), key, value),
                None => batch.delete_cf(handle(db, column), key),
            }
        }
        batch
    }
}
