//! Failed writes, failed rollbacks, and what the next start makes of them.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::faulty::{Faults, broken};
use super::fixture::{Fixture, native_backend, write};
use crate::meta::{self, Batch, WriteFault};
use crate::snapshot::Error;
use crate::types::{Backing, Kind, Volume, VolumeId, VolumeState};
use crate::volume;

fn file(name: &str) -> BTreeSet<String> {
    BTreeSet::from([name.to_owned()])
}

/// The store refuses the next batches without trying them.
fn poison(fixture: &Fixture) {
    let scene = fixture.scene("poison");
    scene.prepare("victim", "").unwrap();
    fixture.store().fail_next_write(WriteFault::Before);
    assert!(matches!(
        scene.replace_labels("victim", &[]),
        Err(Error::Store(meta::Error::Write { .. }))
    ));
}

fn backend_check(fixture: &Fixture) -> Vec<String> {
    fixture.snapshots().check().unwrap().iter().map(ToString::to_string).collect()
}

#[test]
fn a_prepare_whose_record_was_refused_leaves_no_volume() {
    let fixture = Fixture::native();
    poison(&fixture);
    let error = fixture.scene("default").prepare("a", "").unwrap_err();
    assert!(matches!(error, Error::Store(meta::Error::Poisoned { .. })), "{error:?}");
    assert_eq!(backend_check(&fixture), Vec::<String>::new());
}

#[test]
fn when_undoing_a_prepare_fails_too_both_causes_are_told() {
    let faults = Faults::default();
    let mut fixture = faults.fixture();
    poison(&fixture);
    faults.before_destroy(|_| Err(broken()));
    let error = fixture.scene("default").prepare("a", "").unwrap_err();
    let text = error.to_string();
    assert!(matches!(error, Error::Rollback { .. }), "{error:?}");
    assert!(text.contains("restart thinfs") && text.contains("the device is broken"), "{text}");
    faults.clear();
    assert_eq!(fixture.crash().reaped, 1);
    fixture.assert_sound();
}

#[test]
fn a_prepare_that_failed_before_the_disk_is_undone_by_the_next_start() {
    let mut fixture = Fixture::native();
    fixture.scene("default").prepare("first", "").unwrap();
    fixture.store().fail_next_write(WriteFault::Before);
    fixture.scene("default").prepare("a", "").unwrap_err();
    assert_eq!(fixture.crash().reaped, 1);
    assert_eq!(fixture.scene("default").walk(&[]).unwrap(), ["first"]);
    fixture.assert_sound();
}

#[test]
fn a_prepare_that_failed_after_the_disk_is_there_after_the_next_start() {
    let mut fixture = Fixture::native();
    fixture.scene("default").prepare("first", "").unwrap();
    fixture.store().fail_next_write(WriteFault::After);
    fixture.scene("default").prepare("a", "").unwrap_err();
    let recovery = fixture.crash();
    assert_eq!((recovery.reaped, recovery.lost), (0, vec![]));
    assert_eq!(fixture.scene("default").files("a"), BTreeSet::new());
    fixture.assert_sound();
}

/// Whether the disk has the commit is unknown, so nobody may write until the next start knows.
#[test]
fn after_a_commit_with_unknown_outcome_nobody_writes_until_the_next_start() {
    for (fault, kind) in [(WriteFault::Before, Kind::Active), (WriteFault::After, Kind::Committed)]
    {
        let mut fixture = Fixture::native();
        let scene = fixture.scene("default");
        let active = scene.prepare("a", "").unwrap();
        let pin = scene.open(&active);
        write(&pin, "file", "1").unwrap();
        fixture.store().fail_next_write(fault);
        assert!(matches!(scene.commit("c", "a"), Err(Error::Store(meta::Error::Write { .. }))));
        assert!(matches!(write(&pin, "more", "1"), Err(volume::Error::ReadOnly(_))), "{fault:?}");
        drop(pin);
        fixture.crash();
        let scene = fixture.scene("default");
        let name = if kind == Kind::Active { "a" } else { "c" };
        assert_eq!(scene.walk(&[]).unwrap(), [name]);
        assert_eq!(scene.stat(name).unwrap().snapshot.kind, kind);
        assert_eq!(scene.files(name), file("file"));
        assert_eq!(scene.open(&active).writer().is_ok(), kind == Kind::Active);
        fixture.assert_sound();
    }
}

#[test]
fn a_commit_whose_record_was_refused_leaves_the_snapshot_writable() {
    let fixture = Fixture::native();
    let scene = fixture.scene("default");
    let active = scene.prepare("a", "").unwrap();
    let pin = scene.open(&active);
    poison(&fixture);
    assert!(matches!(scene.commit("c", "a"), Err(Error::Store(meta::Error::Poisoned { .. }))));
    write(&pin, "file", "1").unwrap();
}

#[test]
fn a_removal_that_reached_the_disk_is_finished_by_the_next_start() {
    for (fault, tombstones) in [(WriteFault::Before, 0), (WriteFault::After, 1)] {
        let mut fixture = Fixture::native();
        let scene = fixture.scene("default");
        scene.layer("c", "", "file");
        fixture.store().fail_next_write(fault);
        scene.remove("c").unwrap_err();
        let recovery = fixture.crash();
        assert_eq!(recovery.tombstones, tombstones, "{fault:?}");
        let left = fixture.scene("default").walk(&[]).unwrap().len();
        assert_eq!(left, 1 - tombstones);
        fixture.assert_sound();
    }
}

#[test]
fn tombstones_outlive_restarts_until_their_volumes_are_destroyed() {
    let faults = Faults::default();
    let mut fixture = faults.fixture();
    let scene = fixture.scene("default");
    for name in ["a", "b", "c"] {
        scene.prepare(name, "").unwrap();
    }
    faults.before_destroy(|_| Err(broken()));
    for name in ["a", "b", "c"] {
        scene.remove(name).unwrap();
    }
    assert_eq!(fixture.restart().tombstones, 3);
    assert_eq!(fixture.snapshots().pending().unwrap(), 3);
    assert_eq!(fixture.crash().tombstones, 3);
    // Not sooner: the reaper tries again by itself.
    faults.clear();
    fixture.assert_sound();
    assert_eq!(fixture.restart().tombstones, 0);
}

#[test]
fn a_volume_that_the_backend_lost_is_reported_by_key_never_made_anew_and_welcome_back() {
    let dir = tempfile::tempdir().unwrap();
    let trees = dir.path().join("native");
    let tree = {
        let trees = trees.clone();
        move |id: VolumeId| trees.join("volumes").join(id.to_string())
    };
    let aside = dir.path().join("aside");
    let mut fixture = Fixture::new(dir, move |_| native_backend(&trees));
    let scene = fixture.scene("default");
    let committed = scene.layer("c", "", "file");
    scene.view("v", "c").unwrap();
    scene.prepare("whole", "").unwrap();
    let tree = tree(committed.snapshot.volume);
    std::fs::rename(&tree, &aside).unwrap();

    for _ in 0..2 {
        let recovery = fixture.restart();
        assert_eq!((recovery.lost, recovery.reaped), (vec!["default/c".to_owned()], 0));
        let scene = fixture.scene("default");
        for id in [committed.snapshot.id, scene.stat("v").unwrap().snapshot.id] {
            let opened = scene.snapshots.open(id);
            assert!(matches!(opened, Err(Error::Volume(volume::Error::Missing(_)))), "{opened:?}");
        }
        assert!(matches!(
            scene.prepare("child", "c"),
            Err(Error::Volume(volume::Error::Missing(_)))
        ));
        assert_eq!(backend_check(&fixture).len(), 1, "{:?}", backend_check(&fixture));
        assert!(!tree.exists());
    }

    std::fs::rename(&aside, &tree).unwrap();
    assert_eq!(fixture.restart().lost, Vec::<String>::new());
    let scene = fixture.scene("default");
    assert_eq!(scene.files("v"), file("file"));
    std::fs::rename(&tree, &aside).unwrap();
    fixture.restart();
    let scene = fixture.scene("default");
    scene.remove("v").unwrap();
    scene.remove("c").unwrap();
    fixture.assert_sound();
}

#[test]
fn a_volume_record_without_a_snapshot_is_reported_and_left_alone() {
    let mut fixture = Fixture::native();
    let volume = Volume {
        id: VolumeId(77),
        state: VolumeState::Live,
        origin: None,
        size: 0,
        backing: Backing::Native,
    };
    let mut batch = Batch::default();
    batch.put_volume(&volume);
    fixture.store().write(batch).unwrap();
    fixture.snapshots().volumes().backend().create(volume.id, None, None).unwrap();
    let recovery = fixture.restart();
    assert_eq!((recovery.unnamed, recovery.reaped), (vec![VolumeId(77)], 0));
    assert_eq!(
        backend_check(&fixture),
        [
            "the snapshot id counter: it says 1, but id 77 was never reserved",
            "volume 77: it belongs to no snapshot"
        ]
    );
}

#[test]
fn a_failed_create_leaves_the_key_free_and_its_error_is_the_backends() {
    let faults = Faults::default();
    let fixture = faults.fixture();
    faults.before_create(|_| Err(volume::Error::NoSpace("the pool is full".into())));
    let scene = fixture.scene("default");
    let error = scene.prepare("a", "").unwrap_err();
    assert!(matches!(error, Error::Volume(volume::Error::NoSpace(_))), "{error:?}");
    faults.clear();
    scene.prepare("a", "").unwrap();
    fixture.assert_sound();
}

/// The last `Arc` of a closed one may go while the reaper is at work.
#[test]
fn dropping_the_rules_without_closing_them_ends_their_threads() {
    let fixture = Fixture::native();
    let store = Arc::downgrade(fixture.store());
    fixture.scene("default").prepare("a", "").unwrap();
    fixture.scene("default").remove("a").unwrap();
    drop(fixture);
    assert!(store.upgrade().is_none());
}
