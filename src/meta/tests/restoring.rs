//! Backups, and what a restore must not forget.

use std::path::PathBuf;

use super::*;
use crate::meta::{Error, restore};
use crate::types::{Event, Pool, Topic};

struct Place {
    dir: TempDir,
}

impl Place {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }

    fn store(&self) -> PathBuf {
        self.dir.path().join("meta")
    }

    fn backup(&self) -> PathBuf {
        self.dir.path().join("backup")
    }

    /// A store whose backup has snapshot `a` only, while the store itself has gone on.
    fn with_backup(&self) -> Store {
        let store = Store::open(&self.store()).unwrap();
        let id = store.next_snapshot_id().unwrap();
        insert(&store, "default", "a", &snapshot(id.0, Kind::Active, None));
        let mut batch = Batch::default();
        batch.put_pool(&Pool { transaction_id: 1, reserved_end: 1024, ..Pool::default() });
        batch.publish(Event::new(Topic::GC_DONE));
        store.write(batch).unwrap();
        store.backup(&self.backup()).unwrap();
        for name in ["b", "c"] {
            let id = (0..1024).map(|_| store.next_snapshot_id().unwrap()).last().unwrap();
            insert(&store, "default", name, &snapshot(id.0, Kind::Active, None));
        }
        let mut batch = Batch::default();
        batch.put_pool(&Pool { transaction_id: 2, reserved_end: 2048, ..Pool::default() });
        batch.publish(Event::new(Topic::GC_DONE));
        store.write(batch).unwrap();
        store
    }
}

#[test]
fn a_restored_store_keeps_unnamed_volumes_and_gives_no_id_twice() {
    let place = Place::new();
    let store = place.with_backup();
    let newest = store.snapshot(&ns("default"), &key("c")).unwrap().unwrap().id;
    let last_event = store.event_bounds().last;
    let in_use = restore(&place.store(), &place.backup());
    assert!(matches!(in_use, Err(Error::InUse { .. })), "{in_use:?}");
    drop(store);

    let restored = restore(&place.store(), &place.backup()).unwrap();
    assert!(restored.replaced_was_readable && restored.findings == 0, "{restored:?}");
    let store = Store::open(&place.store()).unwrap();
    assert!(store.snapshot(&ns("default"), &key("a")).unwrap().is_some());
    assert!(store.snapshot(&ns("default"), &key("b")).unwrap().is_none());
    assert!(store.keeping().unwrap().unwrap().contains("backup"));
    assert!(store.next_snapshot_id().unwrap() > newest);
    assert_eq!(store.pool().unwrap().unwrap().transaction_id, 2, "the pool went on");
    // Numbers leap, so a reader is told.
    let events = store.events_after(last_event, 9).unwrap();
    assert_eq!(events.len(), 1);
    assert_eq!(events[0].event.topic, Topic::STORE_RESTORE);
    assert!(events[0].sequence > last_event + 1);
    drop(store);

    // What was replaced is whole.
    let aside = Store::open(&restored.set_aside.unwrap()).unwrap();
    assert!(aside.snapshot(&ns("default"), &key("c")).unwrap().is_some());
}

#[test]
fn where_the_replaced_store_cannot_be_read_numbers_leap_far() {
    let place = Place::new();
    let store = place.with_backup();
    let newest = store.snapshot(&ns("default"), &key("c")).unwrap().unwrap().id;
    drop(store);
    std::fs::remove_file(place.store().join("CURRENT")).unwrap();
    let restored = restore(&place.store(), &place.backup()).unwrap();
    assert!(!restored.replaced_was_readable && restored.set_aside.is_some(), "{restored:?}");
    let store = Store::open(&place.store()).unwrap();
    assert!(store.next_snapshot_id().unwrap() > newest);
}

#[test]
fn what_is_no_backup_is_refused_and_changes_nothing() {
    let place = Place::new();
    drop(place.with_backup());
    let refused = restore(&place.store(), place.dir.path());
    assert!(matches!(refused, Err(Error::NoBackup(_))), "{refused:?}");
    let store = Store::open(&place.store()).unwrap();
    assert!(store.snapshot(&ns("default"), &key("c")).unwrap().is_some());
    assert_eq!(store.keeping().unwrap(), None);
}

#[test]
fn a_backup_is_made_while_others_write_and_is_of_one_moment() {
    let place = Place::new();
    let store = Store::open(&place.store()).unwrap();
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            for _ in 0..200 {
                let id = store.next_snapshot_id().unwrap();
                insert(&store, "default", &format!("k{id}"), &snapshot(id.0, Kind::Active, None));
            }
        });
        store.backup(&place.backup()).unwrap();
        writer.join().unwrap();
    });
    assert!(store.backup(&place.backup()).is_err(), "never over another");
    let copy = Store::open(&place.backup()).unwrap();
    assert_eq!(copy.verify().unwrap(), Vec::<String>::new());
}
