//! Ten thousand snapshots.

use std::time::Instant;

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

/// What an index answers is compared with a look at all records, in the same run: a busy machine slows
/// down both.
#[test]
fn ten_thousand_snapshots_start_and_an_index_answers_without_reading_them_all() {
    let mut fixture = Fixture::native();
    ten_thousand(&fixture);
    let timed = |what: &str, work: &mut dyn FnMut()| {
        let started = Instant::now();
        work();
        println!("{what}: {:?}", started.elapsed());
        started.elapsed()
    };
    timed("start", &mut || assert_eq!(fixture.restart().snapshots, 10_002));
    let scene = fixture.scene("default");
    let all = timed("list", &mut || assert_eq!(scene.walk(&[]).unwrap().len(), 10_002));
    let by_index: [(&str, &[&str], &str); 5] = [
        ("one kind", &["kind==committed"], "base"),
        ("one name", &["name==base,labels.at!=3"], "base"),
        ("one label", &["labels.at==77"], "k8s.io/77/view-of-a-longer-name"),
        ("a label and a parent", &["labels.at==77,parent==nobody"], ""),
        ("several", &["labels.at==77,kind==active", "kind==committed"], "base"),
    ];
    for (what, filters, found) in by_index {
        let expected: Vec<&str> = Some(found).into_iter().filter(|key| !key.is_empty()).collect();
        let took =
            timed(what, &mut || assert_eq!(scene.walk(filters).unwrap(), expected, "{what}"));
        assert!(took * 4 < all, "{what} took {took:?}, all {all:?}");
    }
    let page = timed("one page", &mut || {
        let page =
            scene.snapshots.page(&scene.ns, Kind::View, Some(&key("k8s.io/5")), 100).unwrap();
        assert_eq!(page.len(), 100);
    });
    assert!(page * 4 < all, "a page took {page:?}, all {all:?}");
    timed("check", &mut || {
        assert_eq!(scene.snapshots.check().unwrap(), Vec::<String>::new());
    });
    assert_eq!(scene.snapshots.volumes().status(), [], "listing activates nothing");
}
