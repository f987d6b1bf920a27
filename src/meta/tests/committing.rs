//! Many callers at once: order, failures, and nobody forgotten.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use parking_lot::Mutex;
use rocksdb::WriteBatch;

use super::*;
use crate::meta::columns::Column;
use crate::meta::encoded::{Encoded, Numbers};
use crate::meta::group::Group;
use crate::meta::rows::{self, handle};
use crate::meta::{Error, WriteFault};
use crate::types::{Event, Topic};

const CALLERS: usize = 16;

/// What the callers were told of their changes.
#[derive(Default)]
struct Told {
    done: BTreeSet<String>,
    unknown: BTreeSet<String>,
    refused: BTreeSet<String>,
}

impl Told {
    fn add(&mut self, name: String, written: Result<(), Error>) {
        let place = match written {
            Ok(()) => &mut self.done,
            Err(error) if error.may_have_been_written() => &mut self.unknown,
            Err(Error::Poisoned { .. }) => &mut self.refused,
            Err(error) => panic!("{error:?}"),
        };
        place.insert(name);
    }
}

/// Makes changes until one is not made.
fn change_until_refused(store: &Store, caller: usize, told: &Mutex<Told>) {
    for change in 0.. {
        let Ok(id) = store.next_snapshot_id() else { return };
        let name = format!("{caller}-{change}");
        let mut batch = Batch::default();
        batch.insert_snapshot(&ns("default"), &key(&name), &snapshot(id.0, Kind::Active, None));
        batch.put_volume(&volume(id.0, VolumeState::Live));
        batch.publish(Event::about(Topic::SNAPSHOT_PREPARE, &ns("default"), &name));
        let written = store.write(batch);
        let goes_on = written.is_ok();
        told.lock().add(name, written);
        if !goes_on {
            return;
        }
    }
}

/// The keys that events name, in order, as a reader sees them that never waits.
fn read_along(store: &Store, ended: &AtomicBool) -> Vec<String> {
    let mut seen = Vec::new();
    loop {
        let last = ended.load(Ordering::Acquire);
        for event in store.events_after(seen.len() as u64, usize::MAX).unwrap() {
            assert_eq!(event.sequence, seen.len() as u64 + 1, "no gap, at no moment");
            seen.push(event.event.key);
        }
        if last {
            return seen;
        }
    }
}

/// At some write, `fault` strikes.
fn storm(fault: WriteFault, seed: u64) {
    let strike = fastrand::Rng::with_seed(seed).usize(2..60);
    let (dir, store) = fresh();
    let writes = AtomicUsize::new(0);
    let fate = move || (writes.fetch_add(1, Ordering::Relaxed) == strike).then_some(fault);
    let store = store.revived(Box::new(fate)).unwrap();
    let (told, ended) = (Mutex::new(Told::default()), AtomicBool::new(false));
    let seen = std::thread::scope(|scope| {
        let reader = scope.spawn(|| read_along(&store, &ended));
        let (store, told) = (&store, &told);
        let caller = |caller| scope.spawn(move || change_until_refused(store, caller, told));
        let callers: Vec<_> = (0..CALLERS).map(caller).collect();
        callers.into_iter().for_each(|caller| caller.join().unwrap());
        ended.store(true, Ordering::Release);
        reader.join().unwrap()
    });
    let told = told.into_inner();
    assert!(
        store.poisoned().is_some()
            && matches!(store.write(Batch::default()), Err(Error::Poisoned { .. }))
    );
    let counted = store.count_in(&ns("default"));

    drop(store);
    let store = Store::open(&dir.path().join("store")).unwrap();
    assert_eq!(store.verify().unwrap(), Vec::<String>::new());
    let events: Vec<_> = read_along(&store, &AtomicBool::new(true)).into_iter().collect();
    assert!(events.starts_with(&seen), "what was read stays as it was");
    let there: BTreeSet<String> = events.iter().cloned().collect();
    assert_eq!(there.len(), events.len(), "an event a change");
    assert_eq!(store.count_in(&ns("default")), there.len() as u64, "and a change an event");
    assert!(told.refused.is_disjoint(&there));
    let expected = match fault {
        WriteFault::Before | WriteFault::Panic => told.done,
        WriteFault::After => &told.done | &told.unknown,
    };
    assert_eq!(counted, expected.len() as u64);
    assert_eq!(there, expected, "{fault:?} at write {strike}");
}

#[test]
fn whatever_strikes_many_callers_each_is_told_the_truth_and_events_have_no_gap() {
    for fault in [WriteFault::Before, WriteFault::After, WriteFault::Panic] {
        (0..2).for_each(|seed| storm(fault, seed));
    }
}

/// A few keys in a few columns, put and deleted at random: columns, keys and values.
fn random_rows(random: &mut fastrand::Rng) -> Vec<(Column, Vec<u8>, Option<Vec<u8>>)> {
    let columns = [Column::Snapshots, Column::Labels, Column::Volumes];
    let mut row = || {
        let key = vec![b'k'; random.usize(1..4)];
        let value = random.bool().then(|| random.u64(..).to_be_bytes().to_vec());
        (columns[random.usize(..3)], key, value)
    };
    (0..20).map(|_| row()).collect()
}

#[test]
fn a_group_comes_to_the_same_as_its_batches_one_after_the_other() {
    let (_dir, store) = fresh();
    let mut random = fastrand::Rng::with_seed(7);
    let mut expected = BTreeMap::new();
    for _ in 0..50 {
        let mut group = Group::default();
        for _ in 0..random.usize(1..6) {
            let mut batch = Batch::default();
            for (column, key, value) in random_rows(&mut random) {
                match &value {
                    Some(value) => batch.put(column, &key, value),
                    None => batch.delete(column, &key),
                }
                expected.insert((column.name(), key), (column, value));
            }
            batch.rows.address(&store.numbers);
            group.add(batch);
        }
        group.write(&store.db, &store.tail, &store.counted).unwrap();
        for ((_, key), (column, value)) in &expected {
            let found = rows::get(&store.db, *column, key, String::new).unwrap();
            assert_eq!(found, *value, "{} {key:?}", column.name());
        }
    }
}

#[test]
fn rows_are_encoded_as_rocksdb_does_it() {
    let (_dir, store) = fresh();
    let (mut ours, mut theirs) = (Encoded::default(), WriteBatch::default());
    for (at, length) in [0, 1, 127, 128, 300, 16_383, 16_384, 2_097_152].into_iter().enumerate() {
        let (column, text) = (Column::ALL[at], vec![at as u8; length]);
        ours.put(column, &text, b"value");
        ours.put(column, b"key", &text);
        ours.delete(column, &text);
        theirs.put_cf(handle(&store.db, column), &text, b"value");
        theirs.put_cf(handle(&store.db, column), b"key", &text);
        theirs.delete_cf(handle(&store.db, column), &text);
    }
    ours.address(&Numbers::learn(&store.db).unwrap());
    assert!(ours.to_rocksdb().data() == theirs.data());
}
