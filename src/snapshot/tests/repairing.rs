//! Repair: the backend against the records, by hand made to disagree.

use std::fs;
use std::path::PathBuf;

use super::fixture::Fixture;
use crate::meta::{self, Batch, WriteFault};
use crate::types::Finding;

fn tree(fixture: &Fixture, volume: impl std::fmt::Display) -> PathBuf {
    fixture.path().join(format!("native/volumes/{volume}"))
}

fn stray(fixture: &Fixture, volume: u32) -> PathBuf {
    let tree = tree(fixture, volume);
    fs::create_dir_all(tree.join("fs")).unwrap();
    fs::write(tree.join("fs/precious"), "work").unwrap();
    tree
}

fn lines(findings: &[Finding]) -> Vec<String> {
    findings.iter().map(ToString::to_string).collect()
}

#[test]
fn a_tree_without_a_record_is_found_and_destroyed_a_foreign_one_is_left_alone() {
    let fixture = Fixture::native();
    fixture.scene("default").layer("base", "", "file");
    let stray = stray(&fixture, 700);
    let foreign = tree(&fixture, "somebody-elses");
    fs::create_dir(&foreign).unwrap();
    let found = fixture.snapshots().check().unwrap();
    assert_eq!(
        lines(&found),
        [
            "backend: volume 700 has a tree but no record",
            "backend: volumes/somebody-elses is not a volume"
        ]
    );
    assert_eq!(found.iter().map(|f| f.mendable).collect::<Vec<_>>(), [true, false]);
    assert!(stray.exists(), "a check changes nothing");
    let repair = fixture.snapshots().repair().unwrap();
    assert_eq!(lines(&repair.mended), ["backend: volume 700 has a tree but no record"]);
    assert_eq!(lines(&repair.left), ["backend: volumes/somebody-elses is not a volume"]);
    assert!(!stray.exists() && foreign.exists());
    fs::remove_dir(foreign).unwrap();
    fixture.assert_sound();
}

#[test]
fn a_missing_tree_is_told_and_comes_back_with_its_disk() {
    let mut fixture = Fixture::native();
    let volume = fixture.scene("default").layer("base", "", "file").snapshot.volume;
    let (tree, away) = (tree(&fixture, volume), fixture.path().join("away"));
    fs::rename(&tree, &away).unwrap();
    let repair = fixture.snapshots().repair().unwrap();
    assert_eq!(lines(&repair.mended), [""; 0]);
    assert_eq!(lines(&repair.left), [format!("backend: volume {volume} has a record but no tree")]);
    assert!(repair.left[0].remedy.contains("thinfs rm"), "{:?}", repair.left);
    assert_eq!(fixture.restart().lost, ["default/base"]);
    fs::rename(&away, &tree).unwrap();
    assert_eq!(fixture.restart().lost, [""; 0]);
    fixture.assert_sound();
}

#[test]
fn a_dropped_record_costs_no_content_not_even_over_restarts() {
    let mut fixture = Fixture::native();
    let base = fixture.scene("default").layer("base", "", "file");
    // Its volume's record, too: the tree is all that is left of it.
    let mut batch = Batch::default();
    batch.delete_volume(base.snapshot.volume);
    fixture.store().write(batch).unwrap();
    let recovery = fixture.restart();
    assert_eq!((recovery.reaped, recovery.kept), (0, 1));
    assert!(recovery.keeping.unwrap().contains("default/base"));
    let repair = fixture.snapshots().repair().unwrap();
    assert_eq!(lines(&repair.left), [""; 0], "{repair:?}");
    assert_eq!(fixture.restart().keeping, None);
    let scene = fixture.scene("default");
    let opened = scene.snapshots.open(base.snapshot.id).unwrap();
    assert!(opened.read_only);
    assert!(tree(&fixture, base.snapshot.volume).join("fs/file").exists());
    drop(opened);
    fixture.assert_sound();
}

#[test]
fn after_a_restore_volumes_of_later_snapshots_are_kept_until_a_repair() {
    let mut fixture = Fixture::native();
    fixture.scene("default").layer("base", "", "file");
    let backup = fixture.path().join("backup");
    fixture.store().backup(&backup).unwrap();
    let later = fixture.scene("default").prepare("later", "base").unwrap().snapshot.volume;
    let store = fixture.path().join("store");
    let recovery = fixture.restart_after(|| {
        meta::restore(&store, &backup).unwrap();
    });
    assert_eq!((recovery.reaped, recovery.kept), (0, 1), "{recovery:?}");
    assert_eq!(fixture.restart().kept, 1, "over restarts");
    assert!(tree(&fixture, later).exists());
    let newer = fixture.scene("default").prepare("newer", "base").unwrap().snapshot.volume;
    assert!(newer > later, "no id is given twice");
    assert_eq!(
        lines(&fixture.snapshots().check().unwrap()),
        [
            format!("backend: volume {later} has a tree but no record"),
            "volumes that no record names: they are kept, because the store was restored from a \
             backup"
                .to_owned()
        ]
    );
    let repair = fixture.snapshots().repair().unwrap();
    assert_eq!(lines(&repair.left), [""; 0]);
    assert!(!tree(&fixture, later).exists() && tree(&fixture, newer).exists());
    fixture.assert_sound();
}

/// Somebody removed the store's directory: an empty one must not make garbage of all there is.
#[test]
fn a_new_store_over_old_trees_keeps_them() {
    let mut fixture = Fixture::native();
    let volume = fixture.scene("default").layer("base", "", "file").snapshot.volume;
    let store = fixture.path().join("store");
    let recovery = fixture.restart_after(|| fs::remove_dir_all(&store).unwrap());
    assert_eq!((recovery.reaped, recovery.kept), (0, 1));
    assert!(tree(&fixture, volume).join("fs/file").exists());
    assert_eq!(fixture.restart().kept, 1);
}

/// Runs beside others that change things: nobody is refused, nothing is lost.
#[test]
fn a_repair_while_others_work_finds_nothing_to_do() {
    let fixture = Fixture::native();
    fixture.scene("default").layer("base", "", "file");
    std::thread::scope(|scope| {
        for worker in 0..3 {
            let scene = fixture.scene("default");
            scope.spawn(move || {
                for round in 0..10 {
                    let key = format!("k{worker}-{round}");
                    scene.prepare(&key, "base").unwrap();
                    if round % 2 == 0 {
                        scene.remove(&key).unwrap();
                    }
                }
            });
        }
        for _ in 0..5 {
            let repair = fixture.snapshots().repair().unwrap();
            assert_eq!((lines(&repair.mended), lines(&repair.left)), (vec![], vec![]));
        }
    });
    assert_eq!(fixture.scene("default").walk(&["kind==active"]).unwrap().len(), 15);
    fixture.assert_sound();
}

/// The record of what nobody seems to name may be in the log all the same.
#[test]
fn after_a_failed_write_nothing_is_garbage_until_a_restart() {
    let mut fixture = Fixture::native();
    fixture.scene("default").layer("base", "", "file");
    let stray = stray(&fixture, 700);
    fixture.store().fail_next_write(WriteFault::Before);
    fixture.store().write(Batch::default()).unwrap_err();
    let found = fixture.snapshots().check().unwrap();
    assert_eq!(lines(&found), ["backend: volume 700 has a tree but no record"]);
    assert!(!found[0].mendable && found[0].remedy.contains("restart the daemon"), "{found:?}");
    let refused = fixture.snapshots().repair().unwrap_err();
    assert!(refused.to_string().contains("restart thinfs"), "{refused}");
    assert!(stray.exists());
    assert_eq!(fixture.restart().reaped, 1, "the start decides");
    fixture.assert_sound();
}
