//! Readers on a real store.

use std::sync::Arc;
use std::time::Duration;

use super::*;
use crate::meta::{Batch, KEPT};
use crate::types::{Event, Topic};

fn publish(store: &Store, count: u64) {
    let mut batch = Batch::default();
    for _ in 0..count {
        batch.publish(Event::new(Topic::GC_DONE));
    }
    store.write(batch).unwrap();
}

fn fresh() -> (tempfile::TempDir, Arc<Store>) {
    let dir = tempfile::tempdir().unwrap();
    let store = Arc::new(Store::open(&dir.path().join("store")).unwrap());
    (dir, store)
}

fn numbers(items: Vec<Item>) -> Vec<u64> {
    let number = |item| match item {
        Item::Event(event) => event.sequence,
        Item::Gone { from, to } => panic!("{from} to {to} are gone"),
    };
    items.into_iter().map(number).collect()
}

#[test]
fn a_reader_resumes_where_it_was_also_after_a_restart() {
    let (dir, store) = fresh();
    publish(&store, 3);
    let mut reader = Reader::new(store.clone(), Some(1)).unwrap();
    assert_eq!(numbers(reader.read().unwrap()), [2, 3]);
    assert_eq!(numbers(reader.read().unwrap()), [0; 0]);
    let position = reader.position();
    drop((reader, store));
    let store = Arc::new(Store::open(&dir.path().join("store")).unwrap());
    publish(&store, 1);
    let mut reader = Reader::new(store.clone(), Some(position)).unwrap();
    assert_eq!(numbers(reader.read().unwrap()), [4]);
    assert!(matches!(Reader::new(store, Some(9)), Err(Error::Ahead { since: 9, newest: 4 })));
}

#[test]
fn a_reader_that_was_too_slow_is_told_what_it_missed_and_goes_on() {
    let (_dir, store) = fresh();
    publish(&store, 1);
    let mut slow = Reader::new(store.clone(), Some(1)).unwrap();
    for _ in 0..3 {
        publish(&store, KEPT / 2);
    }
    publish(&store, 2000); // past the slack
    let items = slow.read().unwrap();
    let Item::Gone { from: 2, to } = items[0] else { panic!("{:?}", items[0]) };
    let bounds = store.event_bounds();
    assert_eq!(to + 1, bounds.first);
    assert!(bounds.last - bounds.first < KEPT + 2000, "{bounds:?}");
    assert!(matches!(&items[1], Item::Event(event) if event.sequence == bounds.first));
    let mut all = Reader::new(store.clone(), Some(0)).unwrap();
    assert_eq!(numbers(all.read().unwrap())[0], bounds.first, "all that is kept, and no gap");
}

#[test]
fn a_waiting_reader_wakes_up_for_an_event_and_for_the_end() {
    let (_dir, store) = fresh();
    let reader = Reader::new(store.clone(), None).unwrap();
    assert!(!reader.wait(Duration::ZERO).unwrap());
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| reader.wait(Duration::from_secs(600)).unwrap());
        publish(&store, 1);
        assert!(waiting.join().unwrap());
        let reader = Reader::new(store.clone(), None).unwrap();
        let waiting = scope.spawn(move || reader.wait(Duration::from_secs(600)));
        store.end_events();
        assert!(matches!(waiting.join().unwrap(), Err(Error::Ended(1))));
    });
}

/// A reader never sees a number and later a smaller one, whatever many writers do.
#[test]
fn numbers_appear_in_order_without_gaps_under_many_writers() {
    let (_dir, store) = fresh();
    let mut reader = Reader::new(store.clone(), None).unwrap();
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| (0..50).for_each(|_| publish(&store, 1)));
        }
        let mut seen = 0;
        while seen < 400 {
            reader.wait(Duration::from_secs(600)).unwrap();
            for number in numbers(reader.read().unwrap()) {
                seen += 1;
                assert_eq!(number, seen);
            }
        }
    });
}
