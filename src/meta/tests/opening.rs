//! Opening, locking and migrating.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use super::super::columns::{Column, System};
use super::super::migrations::{MIGRATIONS, Migration, newest};
use super::super::rows;
use super::*;
use crate::meta::{Error, Result};

fn schema(store: &Store) -> u32 {
    let record =
        rows::get(&store.db, Column::System, System::SCHEMA, String::new).unwrap().unwrap();
    System::decode_schema(&record).unwrap()
}

#[test]
fn a_fresh_store_has_the_newest_schema_and_is_sound() {
    let (_dir, store) = fresh();
    assert_eq!(schema(&store), newest(MIGRATIONS));
    assert!(store.namespaces().unwrap().is_empty());
    assert_eq!(store.pool().unwrap(), None);
    assert_eq!(store.verify().unwrap(), Vec::<String>::new());
}

#[test]
fn a_second_opening_names_the_daemon_that_has_the_store() {
    let (dir, store) = fresh();
    let path = dir.path().join("store");
    let error = Store::open(&path).unwrap_err();
    assert!(
        matches!(&error, Error::InUse { owner: Some(pid), .. } if *pid == std::process::id()),
        "{error:?}"
    );
    let text = error.to_string();
    assert!(text.starts_with("another thinfs daemon (process "), "{text}");
    assert!(text.contains(path.to_str().unwrap()), "{text}");
    drop(store);
    Store::open(&path).unwrap();
}

#[test]
fn a_store_opened_by_another_program_is_in_use() {
    let (dir, store) = fresh();
    let path = dir.path().join("store");
    drop(store);
    let _other =
        rocksdb::DB::open_cf(&rocksdb::Options::default(), &path, Column::ALL.map(Column::name))
            .unwrap();
    assert!(matches!(Store::open(&path), Err(Error::InUse { owner: None, .. })));
}

/// Schema 2 only adds column families: a store of schema 1 keeps what it holds.
#[test]
fn a_store_from_before_the_layers_is_taken_over() {
    let dir = tempfile::tempdir().unwrap();
    drop(Store::open_with(dir.path(), &MIGRATIONS[..1]).unwrap());
    assert_eq!(schema(&Store::open_with(dir.path(), &MIGRATIONS[..1]).unwrap()), 1);
    let store = Store::open(dir.path()).unwrap();
    assert_eq!(schema(&store), newest(MIGRATIONS));
    assert_eq!(store.images().unwrap(), []);
    assert_eq!(store.verify().unwrap(), Vec::<String>::new());
}

/// Steps that a later program might have: the last rewrites the pool record.
fn later() -> Vec<Migration> {
    fn last(db: &rocksdb::DB, batch: &mut Batch) -> Result<()> {
        let record = rows::get(db, Column::System, System::POOL, String::new)?.unwrap();
        let mut pool = System::decode_pool(&record).unwrap();
        pool.transaction_id += 100;
        batch.put_pool(&pool);
        Ok(())
    }
    let mut migrations = MIGRATIONS.to_vec();
    let to = newest(MIGRATIONS) + 1;
    migrations.push(Migration { to, what: "transaction ids count from 100", run: last });
    migrations
}

fn with_pool(dir: &Path) {
    let store = Store::open(dir).unwrap();
    let mut batch = Batch::default();
    batch.put_pool(&crate::types::Pool { transaction_id: 5, ..Default::default() });
    store.write(batch).unwrap();
}

#[test]
fn each_missing_migration_runs_once() {
    let dir = tempfile::tempdir().unwrap();
    with_pool(dir.path());
    for _ in 0..2 {
        let store = Store::open_with(dir.path(), &later()).unwrap();
        assert_eq!(schema(&store), newest(&later()));
        assert_eq!(store.pool().unwrap().unwrap().transaction_id, 105);
    }
}

#[test]
fn a_failed_migration_leaves_the_former_schema() {
    let dir = tempfile::tempdir().unwrap();
    with_pool(dir.path());
    let mut migrations = later();
    let last = migrations.last_mut().unwrap();
    last.run = |_, batch| {
        batch.put_pool(&crate::types::Pool::default());
        Err(Error::IdsExhausted)
    };
    let error = Store::open_with(dir.path(), &migrations).unwrap_err();
    assert!(matches!(error, Error::Migration { to, .. } if to == newest(&later())), "{error:?}");
    let store = Store::open(dir.path()).unwrap();
    assert_eq!(schema(&store), newest(MIGRATIONS));
    assert_eq!(store.pool().unwrap().unwrap().transaction_id, 5);
}

/// Every file of the store with its content; RocksDB's own text logs are no part of it.
fn files(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut files = BTreeMap::new();
    for entry in fs::read_dir(dir).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name().into_string().unwrap();
        if !name.starts_with("LOG") {
            files.insert(name, fs::read(entry.path()).unwrap());
        }
    }
    files
}

#[test]
fn opening_a_newer_schema_is_an_error_that_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    with_pool(dir.path());
    drop(Store::open_with(dir.path(), &later()).unwrap());
    let before = files(dir.path());
    let error = Store::open(dir.path()).unwrap_err();
    let (newer, ours) = (newest(&later()), newest(MIGRATIONS));
    assert!(
        matches!(error, Error::NewerSchema { found, known, .. } if (found, known) == (newer, ours)),
        "{error:?}"
    );
    assert!(error.to_string().contains("use a newer thinfs"), "{error}");
    assert_eq!(files(dir.path()), before);
}

#[test]
fn a_directory_that_cannot_be_made_is_named() {
    let error = Store::open(Path::new("/proc/thinfs/store")).unwrap_err();
    assert!(error.to_string().contains("/proc/thinfs/store"), "{error}");
    assert!(std::error::Error::source(&error).is_some());
}
