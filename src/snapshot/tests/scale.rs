//! Ten thousand snapshots.

use std::time::{Duration, Instant};

use super::fixture::{Fixture, key};
use crate::meta::Batch;
use crate::types::{Kind, Snapshot};

/// Views of one snapshot, written straight into the store: making them one by one is not what is
/// tested.
fn ten_thousand(fixture: &Fixture) {
    let scene = fixture.scene("default");
    scene.layer("base", "", "file");
    let view = scene.view("v", "base").unwrap().snapshot;
    let mut batch = Batch::default();
    for at in 0..10_000 {
        let id = fixture.store().next_snapshot_id().unwrap();
        let new = Snapshot {
            id,
            labels: super::fixture::labels(&[("at", &at.to_string())]),
            ..view.clone()
        };
        batch.insert_snapshot(&scene.ns, &key(&format!("k8s.io/{at}/view-of-a-longer-name")), &new);
    }
    fixture.store().write(batch).unwrap();
}

/// Bounds are loose: a debug build on a busy machine stays well below them.
#[test]
fn ten_thousand_snapshots_start_list_and_filter_quickly() {
    let mut fixture = Fixture::native();
    ten_thousand(&fixture);
    let timed = |what: &str, limit: Duration, work: &mut dyn FnMut()| {
        let started = Instant::now();
        work();
        assert!(started.elapsed() < limit, "{what} took {:?}", started.elapsed());
        println!("{what}: {:?}", started.elapsed());
    };
    timed("start", Duration::from_secs(4), &mut || assert_eq!(fixture.restart().snapshots, 10_002));
    let scene = fixture.scene("default");
    timed("list", Duration::from_secs(3), &mut || {
        assert_eq!(scene.walk(&[]).unwrap().len(), 10_002)
    });
    timed("one kind", Duration::from_millis(500), &mut || {
        assert_eq!(scene.walk(&["kind==committed"]).unwrap(), ["base"]);
    });
    timed("one name", Duration::from_millis(500), &mut || {
        assert_eq!(scene.walk(&["name==base,labels.at!=3"]).unwrap(), ["base"]);
    });
    timed("one page", Duration::from_millis(500), &mut || {
        let page =
            scene.snapshots.page(&scene.ns, Kind::View, Some(&key("k8s.io/5")), 100).unwrap();
        assert_eq!(page.len(), 100);
    });
    timed("check", Duration::from_secs(10), &mut || {
        assert_eq!(scene.snapshots.check().unwrap(), Vec::<String>::new());
    });
    assert_eq!(scene.snapshots.volumes().status(), [], "listing activates nothing");
}
