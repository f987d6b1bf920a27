//! Durability, fail-stop and ids.

use std::collections::HashSet;
use std::sync::Arc;

use super::*;
use crate::meta::{Error, WriteFault};

#[test]
fn ids_start_at_one_and_are_never_given_twice_by_many_threads() {
    let (_dir, store) = fresh();
    assert_eq!(store.next_snapshot_id().unwrap(), SnapshotId(1));
    let store = Arc::new(store);
    let threads: Vec<_> = (0..8)
        .map(|_| {
            let store = store.clone();
            std::thread::spawn(move || {
                (0..500).map(|_| store.next_snapshot_id().unwrap()).collect::<Vec<_>>()
            })
        })
        .collect();
    let ids: Vec<_> = threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect();
    assert_eq!(ids.iter().collect::<HashSet<_>>().len(), 4000);
}

#[test]
fn ids_of_a_former_process_are_not_given_again() {
    let (dir, store) = fresh();
    let last = (0..1500).map(|_| store.next_snapshot_id().unwrap()).last().unwrap();
    drop(store);
    let store = Store::open(&dir.path().join("store")).unwrap();
    let next = store.next_snapshot_id().unwrap();
    assert!(next > last && next.0 <= last.0 + 1024, "{last} then {next}");
}

#[test]
fn a_failed_write_poisons_the_store_for_writing_until_it_is_opened_anew() {
    let (dir, store) = fresh();
    insert(&store, "default", "a", &snapshot(1, Kind::Active, None));
    assert_eq!(store.poisoned(), None);

    store.fail_next_write(WriteFault::Before);
    let mut batch = Batch::default();
    batch.insert_snapshot(&ns("default"), &key("b"), &snapshot(2, Kind::Active, None));
    let error = store.write(batch).unwrap_err();
    assert!(matches!(error, Error::Write { .. }) && error.may_have_been_written(), "{error:?}");

    let error = store.write(Batch::default()).unwrap_err();
    assert!(matches!(error, Error::Poisoned { .. }) && !error.may_have_been_written(), "{error:?}");
    assert!(error.to_string().contains("restart thinfs"), "{error}");
    assert!(store.poisoned().is_some());
    assert!(matches!(store.next_snapshot_id(), Err(Error::Poisoned { .. })));
    assert!(store.snapshot(&ns("default"), &key("a")).unwrap().is_some());

    drop(store);
    let store = Store::open(&dir.path().join("store")).unwrap();
    insert(&store, "default", "b", &snapshot(2, Kind::Active, None));
}

#[test]
fn a_write_that_reached_the_disk_but_failed_is_found_at_the_next_opening() {
    let (dir, store) = fresh();
    store.fail_next_write(WriteFault::After);
    let mut batch = Batch::default();
    batch.insert_snapshot(&ns("default"), &key("b"), &snapshot(2, Kind::Active, None));
    assert!(store.write(batch).unwrap_err().may_have_been_written());
    drop(store);
    let store = Store::open(&dir.path().join("store")).unwrap();
    assert!(store.snapshot(&ns("default"), &key("b")).unwrap().is_some());
}

/// A disk of a few megabytes in memory, gone when dropped.
struct SmallDisk(TempDir);

impl SmallDisk {
    fn new(size: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let options = std::ffi::CString::new(format!("size={size}")).unwrap();
        rustix::mount::mount(
            "tmpfs",
            dir.path(),
            "tmpfs",
            rustix::mount::MountFlags::empty(),
            options.as_c_str(),
        )
        .expect("mounting a tmpfs; this test needs root");
        Self(dir)
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        rustix::mount::unmount(self.0.path(), rustix::mount::UnmountFlags::DETACH).unwrap();
    }
}

/// No fault is injected here: the disk is really full.
#[test]
fn a_full_disk_poisons_the_store_and_loses_nothing_acknowledged() {
    let disk = SmallDisk::new("6m");
    let dir = disk.0.path().join("store");
    let store = Store::open(&dir).unwrap();
    let labels = Labels::from([("filler".to_owned(), "x".repeat(4000))]);
    let mut acknowledged = 0;
    let error = loop {
        let mut new = snapshot(acknowledged + 1, Kind::Active, None);
        new.labels = labels.clone();
        let mut batch = Batch::default();
        batch.insert_snapshot(&ns("default"), &key(&new.id.to_string()), &new);
        match store.write(batch) {
            Ok(()) => acknowledged += 1,
            Err(error) => break error,
        }
        assert!(acknowledged < 10_000, "the disk never filled");
    };
    assert!(error.may_have_been_written(), "{error:?}");
    assert!(
        store.poisoned().unwrap().contains("No space left on device"),
        "{:?}",
        store.poisoned()
    );
    drop(store);
    if let Err(error) = Store::open(&dir) {
        let error: &dyn std::error::Error = &error;
        let mut causes = std::iter::successors(Some(error), |error| error.source());
        let says = |error: &dyn std::error::Error| error.to_string().contains("No space left");
        assert!(causes.any(says), "{error:?}");
    }

    let room = rustix::mount::mount_remount(
        disk.0.path(),
        rustix::mount::MountFlags::empty(),
        std::ffi::CString::new("size=64m").unwrap().as_c_str(),
    );
    room.unwrap();
    let store = Store::open(&dir).unwrap();
    for id in 1..=acknowledged {
        assert!(
            store.snapshot(&ns("default"), &key(&id.to_string())).unwrap().is_some(),
            "{id} of {acknowledged}"
        );
    }
}

#[test]
fn concurrent_writers_all_become_durable() {
    let (dir, store) = fresh();
    let store = Arc::new(store);
    let threads: Vec<_> = (0..8u32)
        .map(|thread| {
            let store = store.clone();
            std::thread::spawn(move || {
                for _ in 0..25 {
                    let id = store.next_snapshot_id().unwrap();
                    insert(
                        &store,
                        &format!("ns{thread}"),
                        &format!("k{id}"),
                        &snapshot(id.0, Kind::View, None),
                    );
                }
            })
        })
        .collect();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    drop(Arc::into_inner(store).unwrap());
    let store = Store::open(&dir.path().join("store")).unwrap();
    assert_eq!(store.namespaces().unwrap().len(), 8);
    assert_eq!(store.verify().unwrap(), Vec::<String>::new());
}

/// Neither lost with a change that was made, nor told of one that was not.
#[test]
fn an_event_is_there_if_and_only_if_its_batch_is() {
    use crate::types::{Event, Topic};
    let change = |id: u32, name: &str| {
        let mut batch = Batch::default();
        batch.insert_snapshot(&ns("default"), &key(name), &snapshot(id, Kind::Active, None));
        batch.publish(Event::about(Topic::SNAPSHOT_PREPARE, &ns("default"), name));
        batch
    };
    for (fault, is_there) in [(WriteFault::Before, false), (WriteFault::After, true)] {
        let (dir, store) = fresh();
        store.write(change(1, "first")).unwrap();
        store.fail_next_write(fault);
        assert!(store.write(change(2, "second")).is_err());
        assert!(store.write(change(3, "third")).is_err(), "poisoned");
        drop(store);
        let store = Store::open(&dir.path().join("store")).unwrap();
        store.write(change(4, "fourth")).unwrap();
        let events = store.events_after(0, 9).unwrap();
        let keys: Vec<_> = events.iter().map(|event| event.event.key.as_str()).collect();
        let numbers: Vec<_> = events.iter().map(|event| event.sequence).collect();
        match is_there {
            true => assert_eq!((keys, numbers), (vec!["first", "second", "fourth"], vec![1, 2, 3])),
            false => assert_eq!((keys, numbers), (vec!["first", "fourth"], vec![1, 2])),
        }
        let second = store.snapshot(&ns("default"), &key("second")).unwrap();
        assert_eq!(second.is_some(), is_there);
    }
}
