//! Watchers.

use std::sync::Arc;

use parking_lot::Mutex;

use super::fixture::{Fixture, key};
use crate::snapshot::{Change, Snapshots, Watcher};

/// Writes down what it is told, after asking the rules about it.
struct Journal {
    snapshots: std::sync::Weak<Snapshots>,
    lines: Mutex<Vec<String>>,
}

impl Watcher for Journal {
    fn changed(&self, change: &Change) {
        let snapshots = self.snapshots.upgrade().unwrap();
        let there = |info: &crate::snapshot::Info| match snapshots.stat(&info.namespace, &info.key)
        {
            Ok(found) => found == *info,
            Err(_) => false,
        };
        let line = match change {
            Change::Prepared(info) => format!("prepared {} {}", info.key, there(info)),
            Change::Committed { key, info, .. } => {
                // What changes something must not wait for the change that it is told of.
                let view = self::key("from-within");
                snapshots
                    .view(&info.namespace, &view, Some(&info.key), Default::default())
                    .unwrap();
                snapshots.remove(&info.namespace, &view).unwrap();
                format!("committed {key} as {} {}", info.key, there(info))
            }
            Change::Removed(info) => format!("removed {} {}", info.key, there(info)),
            Change::Updated { info, .. } => format!("updated {} {}", info.key, there(info)),
        };
        self.lines.lock().push(line);
    }
}

#[test]
fn watchers_are_told_of_each_durable_change_outside_every_lock_and_of_no_refused_one() {
    let fixture = Fixture::native();
    let journal = Arc::new(Journal {
        snapshots: Arc::downgrade(fixture.snapshots()),
        lines: Mutex::default(),
    });
    fixture.snapshots().watch(journal.clone());
    let scene = fixture.scene("default");
    scene.prepare("a", "").unwrap();
    scene.prepare("a", "").unwrap_err();
    scene.merge_labels("a", &[("l", "1")]).unwrap();
    scene.commit("c", "a").unwrap();
    scene.view("v", "c").unwrap();
    scene.remove("c").unwrap_err();
    scene.remove("v").unwrap();
    let lines = journal.lines.lock().clone();
    assert_eq!(
        lines,
        [
            "prepared a true",
            "updated a true",
            "prepared from-within true",
            "removed from-within false",
            "committed a as c true",
            "prepared v true",
            "removed v false"
        ]
    );
}
