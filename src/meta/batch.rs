//! A set of changes that becomes durable as a whole, or not at all.

use rocksdb::WriteBatch;

use super::columns::{
    Children, Collectable, Column, Digests, Events, Ids, Kinds, Labels, References, Snapshots,
    System, Volumes,
};
use super::counts::Change;
use super::encoded::{Encoded, Numbers};
use crate::crashpoint::Step;
use crate::types::{
    self, Event, Namespace, Pool, Snapshot, SnapshotKey, Volume, VolumeId, label_references,
};

/// Room that a snapshot with some labels takes.
const ROWS: usize = 12;
const BYTES: usize = 2048;

/// Collects changes for [`Store::write`](super::Store::write). Each method changes a record
/// together with all its index rows; later changes win over earlier ones.
#[derive(Debug, Default)]
pub struct Batch {
    /// What it is for, where a crash can be tried around it: in all but tests.
    step: Option<Step>,
    pub(super) rows: Encoded,
    /// Where the numbers of the events stand in the rows: who writes a group puts them in.
    pub(super) events: Vec<usize>,
    pub(super) counts: Change,
}

impl Batch {
    /// An empty batch for this step.
    pub fn of(step: Step) -> Self {
        Self { step: Some(step), ..Self::default() }
    }

    pub(super) fn step(&self) -> Option<Step> {
        self.step
    }

    /// Adds a snapshot whose key is free.
    pub fn insert_snapshot(&mut self, ns: &Namespace, key: &SnapshotKey, new: &Snapshot) {
        self.counts.add(ns, new.kind);
        self.put(Column::Snapshots, Snapshots::row_key(ns, key), Snapshots::encode(new));
        self.put(Column::Kinds, Kinds::row_key(ns, new.kind, key), Kinds::encode(new.id));
        self.put(Column::Ids, Ids::row_key(new.id), Ids::encode(ns, key));
        if let Some(parent) = &new.parent {
            self.put(Column::Children, Children::row_key(ns, parent, key), []);
        }
        if new.collectable {
            self.put(Column::Collectable, Collectable::row_key(ns, key), []);
        }
        if Digests::needed(key) {
            self.put(
                Column::Digests,
                Digests::row_key(ns, &Digests::of(key)),
                Digests::encode(key),
            );
        }
        for (label, value) in &new.labels {
            self.put(Column::Labels, Labels::row_key(ns, label, value, key), []);
        }
        for row_key in references(ns, key, &new.labels) {
            self.put(Column::References, row_key, []);
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
        self.counts.remove(ns, old.kind);
        self.delete(Column::Snapshots, Snapshots::row_key(ns, key));
        self.delete(Column::Kinds, Kinds::row_key(ns, old.kind, key));
        self.delete(Column::Ids, Ids::row_key(old.id));
        if let Some(parent) = &old.parent {
            self.delete(Column::Children, Children::row_key(ns, parent, key));
        }
        if old.collectable {
            self.delete(Column::Collectable, Collectable::row_key(ns, key));
        }
        if Digests::needed(key) {
            self.delete(Column::Digests, Digests::row_key(ns, &Digests::of(key)));
        }
        for (label, value) in &old.labels {
            self.delete(Column::Labels, Labels::row_key(ns, label, value, key));
        }
        for row_key in references(ns, key, &old.labels) {
            self.delete(Column::References, row_key);
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

    /// Tells the readers of events, once the batch is durable; never, if it doesn't get so far.
    pub fn publish(&mut self, event: Event) {
        let at = self.rows.put(Column::Events, &Events::row_key(0), &Events::encode(event));
        self.events.push(at);
    }

    /// From now on volumes that nobody names are kept, for this reason.
    pub fn keep_unnamed(&mut self, reason: &str) {
        self.put(Column::System, System::KEEPING, System::encode_keeping(reason));
    }

    /// Volumes that nobody names are garbage again.
    pub fn forget_unnamed(&mut self) {
        self.delete(Column::System, System::KEEPING);
    }

    /// Adds the changes of another batch after those of this one.
    pub(super) fn append(&mut self, other: Batch) {
        let at = self.rows.append(&other.rows);
        self.events.extend(other.events.into_iter().map(|event| at + event));
        self.counts.append(other.counts);
    }

    /// This batch with the changes of another one after its own.
    pub(super) fn and(mut self, other: Batch) -> Self {
        self.append(other);
        self
    }

    /// Any row of any column.
    pub(super) fn put(&mut self, column: Column, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) {
        self.make_room();
        self.rows.put(column, key.as_ref(), value.as_ref());
    }

    pub(super) fn delete(&mut self, column: Column, key: impl AsRef<[u8]>) {
        self.make_room();
        self.rows.delete(column, key.as_ref());
    }

    /// For RocksDB as it is: without events, which have no number yet.
    pub(super) fn into_rocksdb(mut self, numbers: &Numbers) -> WriteBatch {
        self.rows.address(numbers);
        self.rows.to_rocksdb()
    }

    fn make_room(&mut self) {
        if self.rows.is_empty() {
            self.rows.reserve(BYTES, ROWS);
        }
    }
}

/// The rows of what a snapshot's labels name.
pub(super) fn references<'a>(
    ns: &'a Namespace,
    key: &'a SnapshotKey,
    labels: &'a types::Labels,
) -> impl Iterator<Item = Vec<u8>> + use<'a> {
    label_references(labels).filter_map(move |named| References::row_key(ns, &named, key))
}
