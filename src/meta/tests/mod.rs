//! Tests of the store on real RocksDB in a temporary directory.

mod committing;
mod counting;
mod damage;
mod leases;
mod migrating;
mod opening;
mod querying;
mod restoring;
mod writing;

use std::time::{Duration, UNIX_EPOCH};

use tempfile::TempDir;

use super::{Batch, Store};
use crate::types::{
    Backing, Kind, Labels, Namespace, Snapshot, SnapshotId, SnapshotKey, Usage, Volume, VolumeId,
    VolumeState,
};

fn fresh() -> (TempDir, Store) {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("store")).unwrap();
    (dir, store)
}

fn ns(name: &str) -> Namespace {
    Namespace::new(name).unwrap()
}

fn key(key: &str) -> SnapshotKey {
    SnapshotKey::new(key).unwrap()
}

/// A snapshot with a volume of its own.
fn snapshot(id: u32, kind: Kind, parent: Option<&str>) -> Snapshot {
    let created = UNIX_EPOCH + Duration::from_nanos(1_700_000_000_123_456_789);
    Snapshot {
        id: SnapshotId(id),
        kind,
        parent: parent.map(key),
        labels: Labels::from([("id".into(), id.to_string())]),
        created,
        updated: created,
        usage: (kind == Kind::Committed).then_some(Usage { size: 4096, inodes: 3 }),
        volume: VolumeId(id),
        collectable: false,
    }
}

fn volume(id: u32, state: VolumeState) -> Volume {
    Volume { id: VolumeId(id), state, origin: None, size: 0, backing: Backing::Native }
}

/// Inserts a snapshot with its volume.
fn insert(store: &Store, namespace: &str, name: &str, new: &Snapshot) {
    let mut batch = Batch::default();
    batch.insert_snapshot(&ns(namespace), &key(name), new);
    batch.put_volume(&volume(new.id.0, VolumeState::Live));
    store.write(batch).unwrap();
}
