//! Schema versions and the steps between them.
//!
//! A step writes one synced batch that also holds the new version, so a crash leaves the store
//! either before the step or after it. A column family that a step needs is made, empty, when the
//! store is opened.

use std::ops::ControlFlow;

use rocksdb::{DB, WriteOptions};

use super::batch::Batch;
use super::batch::references;
use super::columns::{Column, Digests, Labels, Snapshots, System};
use super::encoded::Numbers;
use super::error::{Error, Result};
use super::read::corrupt;
use super::rows::{self, Moment};
use crate::crashpoint::{Step, around};
use crate::types::{Namespace, Snapshot, SnapshotKey};

/// One step.
#[derive(Clone, Copy)]
pub(super) struct Migration {
    /// The version that it leads to, from the one before.
    pub(super) to: u32,
    /// What it does, for the log.
    pub(super) what: &'static str,
    /// Reads the store as it is, and adds the changes to the batch.
    pub(super) run: fn(&DB, &mut Batch) -> Result<()>,
}

/// All steps, in order. A store without a version is at 0.
pub(super) const MIGRATIONS: &[Migration] = &[
    Migration { to: 1, what: "the first schema", run: first },
    Migration { to: 2, what: "snapshots by label; events, leases, layers", run: labels_and_events },
    Migration {
        to: 3,
        what: "snapshots by what their labels refer to; fewer digests",
        run: label_targets,
    },
];

/// The version that the last step leads to.
pub(super) fn newest(migrations: &[Migration]) -> u32 {
    migrations.last().map_or(0, |last| last.to)
}

/// Takes the store from version `found` to the newest.
pub(super) fn run(db: &DB, numbers: &Numbers, found: u32, migrations: &[Migration]) -> Result<()> {
    for migration in migrations.iter().filter(|migration| migration.to > found) {
        let failed = |source| Error::Migration {
            to: migration.to,
            what: migration.what,
            source: Box::new(source),
        };
        step(db, numbers, migration).map_err(failed)?;
        tracing::info!(schema = migration.to, "metadata store migrated: {}", migration.what);
    }
    Ok(())
}

fn step(db: &DB, numbers: &Numbers, migration: &Migration) -> Result<()> {
    let mut batch = Batch::of(Step::StoreMigrate);
    (migration.run)(db, &mut batch)?;
    batch.put(Column::System, System::SCHEMA, System::encode_schema(migration.to));
    let mut durable = WriteOptions::default();
    durable.set_sync(true);
    let write = || db.write_opt(batch.into_rocksdb(numbers), &durable);
    around(Step::StoreMigrate, write).map_err(|source| Error::Write { source })
}

/// Ids start at 1: 0 stands for the virtual directories of the FUSE root. Behind a damaged log they start later.
fn first(db: &DB, batch: &mut Batch) -> Result<()> {
    let what = || "the snapshot id counter".to_owned();
    if rows::get(db, Column::System, System::SNAPSHOT_IDS, what)?.is_none() {
        batch.put(Column::System, System::SNAPSHOT_IDS, System::encode_snapshot_ids(1));
    }
    Ok(())
}

/// Rows in `labels` for the snapshots that there are; `events` starts empty.
fn labels_and_events(db: &DB, batch: &mut Batch) -> Result<()> {
    each_snapshot(db, &mut |ns, key, snapshot| {
        for (label, value) in &snapshot.labels {
            batch.put(Column::Labels, Labels::row_key(ns, label, value, key), []);
        }
    })
}

/// Rows in `references` for the snapshots that there are; none in `digests` for keys that a file name holds.
fn label_targets(db: &DB, batch: &mut Batch) -> Result<()> {
    each_snapshot(db, &mut |ns, key, snapshot| {
        for row_key in references(ns, key, &snapshot.labels) {
            batch.put(Column::References, row_key, []);
        }
        if key.as_str().len() > Digests::OF_SCHEMA_2 && !Digests::needed(key) {
            batch.delete(Column::Digests, Digests::row_key(ns, &Digests::of(key)));
        }
    })
}

fn each_snapshot(db: &DB, visit: &mut dyn FnMut(&Namespace, &SnapshotKey, Snapshot)) -> Result<()> {
    Moment::now(db).scan(Column::Snapshots, b"", None, &mut |row_key, record| {
        let (ns, key) = Snapshots::decode_row_key(row_key)
            .map_err(|e| corrupt("a snapshot's row".to_owned(), e))?;
        let snapshot = Snapshots::decode(record)
            .map_err(|e| corrupt(format!("the record of snapshot {ns}/{key}"), e))?;
        visit(&ns, &key, snapshot);
        Ok(ControlFlow::Continue(()))
    })
}
