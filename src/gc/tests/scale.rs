//! What a run costs. Counts are asserted, times are printed: machines differ.

use std::time::Instant;

use super::*;
use crate::meta::Batch;
use crate::types::{Lease, Leased, Snapshot};

/// Views of one committed snapshot, written straight into the store: making them one by one is not
/// what is measured. The first `garbage` were made under a lease that is no more.
fn fill(yard: &Yard, count: usize, garbage: usize) {
    let scene = yard.scene();
    scene.layer("base", "", "file");
    let view = scene.view("v", "base").unwrap().snapshot;
    let keeper = lease_id("keeper");
    let mut batch = Batch::default();
    batch.put_lease(
        &scene.ns,
        &Lease { id: keeper.clone(), created: view.created, labels: Labels::new() },
    );
    for at in 0..count {
        let id = yard.fixture.store().next_snapshot_id().unwrap();
        let new = Snapshot { id, collectable: true, ..view.clone() };
        let name = key(&format!("view-{at:06}"));
        batch.insert_snapshot(&scene.ns, &name, &new);
        if at >= garbage {
            batch.hold(&scene.ns, &keeper, &Leased::snapshot(&name));
        }
    }
    yard.fixture.store().write(batch).unwrap();
}

#[test]
fn a_run_over_ten_thousand_snapshots_removes_its_garbage_and_nothing_else() {
    let yard = Yard::new();
    fill(&yard, 10_000, 1_000);
    let started = Instant::now();
    let report = yard.collector.collect(false).unwrap();
    println!("mark {:?}, sweep {:?} of 1,000 in 10,000", report.mark, report.sweep);
    assert_eq!((report.collected.len(), report.stayed.len()), (1_000, 0));
    assert_eq!(report.scanned.get("snapshot"), Some(&10_002));
    println!("all: {:?}", started.elapsed());
    assert_eq!(yard.keys().len(), 9_002);
    yard.fixture.assert_sound();
}

#[test]
fn namespaces_without_anything_to_collect_are_not_scanned() {
    let yard = Yard::new();
    let scene = yard.scene();
    scene.layer("base", "", "file");
    (0..50).for_each(|at| drop(yard.fixture.scene(&format!("n{at}")).prepare("k", "").unwrap()));
    let report = yard.collector.collect(false).unwrap();
    assert_eq!((report.namespaces, report.scanned.len()), (0, 0));
}
