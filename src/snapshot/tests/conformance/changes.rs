//! What prepare, view, commit, remove and update do.

use super::*;

pub(super) fn prepare_gives_an_empty_writable_root(scene: &Scene<'_>) {
    let before = SystemTime::now();
    let info = scene.prepare_labelled("a", "", &[("l", "1"), ("empty", "")]).unwrap();
    let snapshot = &info.snapshot;
    assert_eq!((snapshot.kind, &snapshot.parent, snapshot.usage), (Kind::Active, &None, None));
    assert_eq!(
        snapshot.labels,
        crate::snapshot::tests::fixture::labels(&[("l", "1"), ("empty", "")])
    );
    assert!(before <= snapshot.created && snapshot.created <= SystemTime::now());
    assert_eq!(snapshot.created, snapshot.updated);
    assert_eq!(scene.stat("a").unwrap(), info);
    assert_eq!(scene.mounts("a").unwrap(), info);

    let opened = scene.snapshots.open(snapshot.id).unwrap();
    assert!(!opened.read_only);
    let root = fstat(opened.pin.root()).unwrap();
    assert_eq!((root.st_mode & 0o7777, root.st_uid, root.st_gid), (0o755, 0, 0));
    assert_eq!(files(&opened.pin), BTreeSet::new());
    write(&opened.pin, "file", "content").unwrap();
    assert_eq!(scene.files("a"), BTreeSet::from(["file".to_owned()]));
}

pub(super) fn prepare_on_a_parent_starts_with_its_content(scene: &Scene<'_>) {
    scene.layer("c1", "", "one");
    scene.layer("c2", "c1", "two");
    let child = scene.prepare("a", "c2").unwrap();
    assert_eq!(child.snapshot.parent, Some(key("c2")));
    assert_eq!(scene.files("a"), BTreeSet::from(["one", "two"].map(str::to_owned)));
    write(&scene.open(&child), "three", "3").unwrap();
    assert_eq!(scene.files("c2"), BTreeSet::from(["one", "two"].map(str::to_owned)));
    let sibling = scene.prepare("b", "c2").unwrap();
    assert_eq!(files(&scene.open(&sibling)), BTreeSet::from(["one", "two"].map(str::to_owned)));
}

pub(super) fn commit_keeps_id_and_content_and_replaces_the_rest(scene: &Scene<'_>) {
    scene.layer("c1", "", "one");
    let active = scene.prepare_labelled("a", "c1", &[("old", "1")]).unwrap();
    let pin = scene.open(&active);
    write(&pin, "two", "2").unwrap();
    let committed = scene.commit_labelled("c2", "a", &[("new", "2")]).unwrap();
    let snapshot = &committed.snapshot;
    assert_eq!((snapshot.kind, &snapshot.parent), (Kind::Committed, &Some(key("c1"))));
    assert_eq!((snapshot.id, snapshot.volume), (active.snapshot.id, active.snapshot.volume));
    assert_eq!(snapshot.labels, crate::snapshot::tests::fixture::labels(&[("new", "2")]));
    assert!(snapshot.created > active.snapshot.created && snapshot.created == snapshot.updated);
    assert!(snapshot.usage.unwrap().inodes > 0);
    assert_eq!(code(&scene.stat("a").unwrap_err()), Code::NotFound);
    assert_eq!(scene.stat("c2").unwrap(), committed);

    // Whoever holds the files goes on reading them, and can't write them.
    assert!(matches!(write(&pin, "three", "3"), Err(volume::Error::ReadOnly(_))));
    assert_eq!(files(&pin), BTreeSet::from(["one", "two"].map(str::to_owned)));
    drop(pin);
    let opened = scene.snapshots.open(snapshot.id).unwrap();
    assert!(opened.read_only);
    assert!(matches!(opened.pin.writer(), Err(volume::Error::ReadOnly(_))));
    // The key is free.
    scene.prepare("a", "c2").unwrap();
}

pub(super) fn commit_of_a_snapshot_being_written_is_refused_and_changes_nothing(scene: &Scene<'_>) {
    let active = scene.prepare("a", "").unwrap();
    let pin = scene.open(&active);
    let writer = pin.writer().unwrap();
    let error = scene.commit("c", "a").unwrap_err();
    assert_eq!(code(&error), Code::FailedPrecondition, "{error}");
    assert_eq!(scene.stat("a").unwrap(), active);
    drop(writer);
    write(&pin, "later", "1").unwrap();
    scene.commit("c", "a").unwrap();
    assert_eq!(scene.files("c"), BTreeSet::from(["later".to_owned()]));
}

pub(super) fn an_active_snapshot_without_parent_can_be_committed_onto_one(scene: &Scene<'_>) {
    scene.layer("base", "", "one");
    let active = scene.prepare("a", "").unwrap();
    write(&scene.open(&active), "two", "2").unwrap();
    let committed = scene.rebase("c", "a", "base").unwrap();
    assert_eq!(committed.snapshot.parent, Some(key("base")));
    assert_eq!(scene.files("c"), BTreeSet::from(["two".to_owned()]));
    assert_eq!(code(&scene.remove("base").unwrap_err()), Code::FailedPrecondition);
    // Naming the parent that it has is no change.
    scene.prepare("b", "base").unwrap();
    assert_eq!(scene.rebase("d", "b", "base").unwrap().snapshot.parent, Some(key("base")));
}

pub(super) fn a_view_shows_its_parents_files_read_only_and_costs_no_volume(scene: &Scene<'_>) {
    let parent = scene.layer("c", "", "one");
    let view = scene.view_labelled("v", "c", &[("l", "1")]).unwrap();
    assert_eq!((view.snapshot.kind, view.snapshot.volume), (Kind::View, parent.snapshot.volume));
    assert_ne!(view.snapshot.id, parent.snapshot.id);
    assert_eq!(scene.mounts("v").unwrap(), view);
    let opened = scene.snapshots.open(view.snapshot.id).unwrap();
    assert!(opened.read_only);
    assert_eq!(files(&opened.pin), BTreeSet::from(["one".to_owned()]));
    assert!(matches!(opened.pin.writer(), Err(volume::Error::ReadOnly(_))));
    drop(opened);
    scene.remove("v").unwrap();
    assert_eq!(scene.files("c"), BTreeSet::from(["one".to_owned()]));
}

pub(super) fn a_view_without_parent_is_empty_and_read_only(scene: &Scene<'_>) {
    let view = scene.view("v", "").unwrap();
    assert_eq!(view.snapshot.volume, VolumeId::of(view.snapshot.id));
    let opened = scene.snapshots.open(view.snapshot.id).unwrap();
    assert!(opened.read_only);
    assert_eq!(fstat(opened.pin.root()).unwrap().st_mode & 0o7777, 0o755);
    assert_eq!(files(&opened.pin), BTreeSet::new());
    assert!(matches!(opened.pin.writer(), Err(volume::Error::ReadOnly(_))));
}

/// containerd's `checkRemove`.
pub(super) fn a_removed_key_can_be_used_again_as_any_kind(scene: &Scene<'_>) {
    scene.prepare("committed-a", "").unwrap();
    scene.commit("committed-1", "committed-a").unwrap();
    scene.prepare("reuse-1", "committed-1").unwrap();
    scene.remove("reuse-1").unwrap();
    scene.view("reuse-1", "committed-1").unwrap();
    scene.remove("reuse-1").unwrap();
    scene.prepare("reuse-1", "").unwrap();
    scene.remove("committed-1").unwrap();
    scene.commit("committed-1", "reuse-1").unwrap();
}

pub(super) fn open_files_outlive_the_removal_of_their_snapshot(scene: &Scene<'_>) {
    let active = scene.prepare("a", "").unwrap();
    let pin = scene.open(&active);
    write(&pin, "file", "content").unwrap();
    scene.remove("a").unwrap();
    assert_eq!(code(&scene.snapshots.open(active.snapshot.id).unwrap_err()), Code::NotFound);
    let reaped = scene.snapshots.cleanup().unwrap();
    assert_eq!((reaped.waiting, reaped.failed), (1, vec![]));
    assert_eq!(files(&pin), BTreeSet::from(["file".to_owned()]));
    drop(pin);
    assert_eq!(scene.snapshots.cleanup().unwrap().waiting, 0);
    assert_eq!(scene.snapshots.pending().unwrap(), 0);
}

pub(super) fn parents_go_after_their_children(scene: &Scene<'_>) {
    base(scene);
    for name in ["c1", "c2"] {
        assert_eq!(code(&scene.remove(name).unwrap_err()), Code::FailedPrecondition);
    }
    for name in ["a1", "a2", "v1", "v2", "c2", "c1"] {
        scene.remove(name).unwrap();
    }
    assert_eq!(all(scene), []);
}

/// containerd's `checkUpdate`.
pub(super) fn update_changes_labels_only(scene: &Scene<'_>) {
    base(scene);
    for name in ["c1", "c2", "a1", "a2", "v1", "v2"] {
        let old = scene.stat(name).unwrap();
        let before = SystemTime::now();
        let new = scene
            .replace_labels(name, &[("l1", "v1"), ("l2", "v2"), ("l3", "v3"), ("none", "")])
            .unwrap();
        assert!(before <= new.snapshot.updated && new.snapshot.updated <= SystemTime::now());
        assert_eq!(
            new.snapshot.labels,
            crate::snapshot::tests::fixture::labels(&[("l1", "v1"), ("l2", "v2"), ("l3", "v3")])
        );
        let same = |info: &Info| {
            (
                info.snapshot.id,
                info.snapshot.kind,
                info.snapshot.parent.clone(),
                info.snapshot.created,
                info.snapshot.usage,
            )
        };
        assert_eq!(same(&new), same(&old));
        assert_eq!(scene.stat(name).unwrap(), new);

        let merged =
            scene.merge_labels(name, &[("l1", "updated"), ("l2", ""), ("l9", "")]).unwrap();
        assert_eq!(
            merged.snapshot.labels,
            crate::snapshot::tests::fixture::labels(&[("l1", "updated"), ("l3", "v3")])
        );
        let replaced = scene.replace_labels(name, &[("l4", "v4")]).unwrap();
        assert_eq!(
            replaced.snapshot.labels,
            crate::snapshot::tests::fixture::labels(&[("l4", "v4")])
        );
    }
}
