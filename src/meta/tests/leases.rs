//! Leases, what they hold, and namespaces as records.

use std::time::UNIX_EPOCH;

use super::*;
use crate::types::{Lease, LeaseId, Leased, NamespaceRecord};

fn lease(id: &str) -> Lease {
    Lease { id: LeaseId::new(id).unwrap(), created: UNIX_EPOCH, labels: Labels::new() }
}

fn written(store: &Store, change: impl FnOnce(&mut Batch)) {
    let mut batch = Batch::default();
    change(&mut batch);
    store.write(batch).unwrap();
}

#[test]
fn a_lease_and_what_it_holds_know_of_each_other_until_it_is_deleted() {
    let (_dir, store) = fresh();
    store.next_snapshot_id().unwrap();
    let (here, one, two) = (ns("default"), lease("one"), lease("two"));
    insert(&store, "default", "a", &snapshot(1, Kind::Active, None));
    let a = Leased::snapshot(&key("a"));
    written(&store, |batch| {
        batch.put_lease(&here, &one);
        batch.put_lease(&here, &two);
        batch.hold(&here, &one.id, &a);
        batch.hold(&here, &two.id, &a);
    });
    assert_eq!(store.leases(&here).unwrap(), [one.clone(), two.clone()]);
    assert_eq!(store.lease(&here, &one.id).unwrap(), Some(one.clone()));
    assert_eq!(store.lease(&ns("other"), &one.id).unwrap(), None);
    assert_eq!(store.held_by(&here, &two.id).unwrap(), std::slice::from_ref(&a));
    assert_eq!(store.holders(&here, &a).unwrap(), [one.id.clone(), two.id.clone()]);
    assert_eq!(store.verify().unwrap(), Vec::<String>::new());
    written(&store, |batch| batch.delete_lease(&here, &one.id, std::slice::from_ref(&a)));
    assert_eq!(store.holders(&here, &a).unwrap(), std::slice::from_ref(&two.id));
    written(&store, |batch| batch.let_go(&here, &two.id, &a));
    assert_eq!(store.held_by(&here, &two.id).unwrap(), []);
    assert!(store.has_leases(&here).unwrap() && !store.has_leases(&ns("default-2")).unwrap());
    assert_eq!(store.verify().unwrap(), Vec::<String>::new());
}

#[test]
fn a_hold_of_a_missing_lease_or_snapshot_is_found_by_verify() {
    let (_dir, store) = fresh();
    let absent = LeaseId::new("absent").unwrap();
    let held = Leased::snapshot(&key("gone"));
    written(&store, |batch| batch.hold(&ns("default"), &absent, &held));
    let kept =
        Lease { created: UNIX_EPOCH, labels: Labels::new(), id: LeaseId::new("kept").unwrap() };
    written(&store, |batch| {
        batch.put_lease(&ns("default"), &kept);
        batch.hold(&ns("default"), &kept.id, &held);
    });
    let found: Vec<_> = store.verify().unwrap().iter().map(ToString::to_string).collect();
    assert_eq!(
        found,
        [
            "snapshot default/gone: it is held by lease absent, which is missing",
            "snapshot default/gone: it is held by lease kept, but is missing",
        ]
    );
    store.mend().unwrap();
    assert_eq!(store.verify().unwrap(), Vec::<String>::new());
}

#[test]
fn what_was_made_under_a_lease_is_listed_as_long_as_it_is_there() {
    let (_dir, store) = fresh();
    store.next_snapshot_id().unwrap();
    let made = Snapshot { collectable: true, ..snapshot(1, Kind::Active, None) };
    insert(&store, "default", "a", &made);
    insert(&store, "other", "b", &snapshot(2, Kind::Active, None));
    assert!(store.has_collectable(&ns("default")).unwrap());
    assert!(!store.has_collectable(&ns("other")).unwrap());
    let labelled = Snapshot { labels: Labels::new(), ..made.clone() };
    written(&store, |batch| batch.update_snapshot(&ns("default"), &key("a"), &made, &labelled));
    assert!(store.has_collectable(&ns("default")).unwrap());
    assert_eq!(store.verify().unwrap(), Vec::<String>::new());
    written(&store, |batch| {
        batch.remove_snapshot(&ns("default"), &key("a"), &labelled);
        batch.delete_volume(VolumeId(1));
    });
    assert!(!store.has_collectable(&ns("default")).unwrap());
}

#[test]
fn namespaces_are_those_with_a_record_a_snapshot_or_a_lease() {
    let (_dir, store) = fresh();
    let record = NamespaceRecord { created: UNIX_EPOCH, labels: Labels::new() };
    insert(&store, "b", "k", &snapshot(1, Kind::Active, None));
    written(&store, |batch| {
        batch.put_namespace(&ns("c"), &record);
        batch.put_lease(&ns("a"), &lease("l"));
    });
    let all: Vec<_> = store.all_namespaces().unwrap().into_iter().collect();
    assert_eq!(all, [(ns("a"), None), (ns("b"), None), (ns("c"), Some(record.clone()))]);
    assert_eq!(store.namespace(&ns("c")).unwrap(), Some(record));
    written(&store, |batch| batch.delete_namespace(&ns("c")));
    assert_eq!(store.all_namespaces().unwrap().len(), 2);
}
