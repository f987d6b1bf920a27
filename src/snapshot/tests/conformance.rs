//! CONTRACTS §1, for any backend: `run` is called with a way to make a fixture. Each case works in a
//! namespace of its own, so that one fixture serves them all.

use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::sync::atomic::AtomicBool;
use std::time::SystemTime;

use rustix::fs::fstat;

use super::fixture::{Code, Fixture, Scene, code, files, key, write};
use super::eventually;
use crate::snapshot::{Info, Result};
use crate::types::{Kind, Usage, VolumeId};
use crate::volume;

/// Runs every case, and says which one failed.
pub(crate) fn run(make: impl Fn() -> Fixture) {
    type Case = (&'static str, fn(&Scene<'_>));
    let cases: &[Case] = &[
        ("every-error", every_error),
        ("prepare", prepare_gives_an_empty_writable_root),
        ("on-parent", prepare_on_a_parent_starts_with_its_content),
        ("commit", commit_keeps_id_and_content_and_replaces_the_rest),
        ("commit-busy", commit_of_a_snapshot_being_written_is_refused_and_changes_nothing),
        ("rebase", an_active_snapshot_without_parent_can_be_committed_onto_one),
        ("view", a_view_shows_its_parents_files_read_only_and_costs_no_volume),
        ("empty-view", a_view_without_parent_is_empty_and_read_only),
        ("remove", a_removed_key_can_be_used_again_as_any_kind),
        ("remove-open", open_files_outlive_the_removal_of_their_snapshot),
        ("children", parents_go_after_their_children),
        ("update", update_changes_labels_only),
        ("walk", walk_passes_containerds_table),
        ("usage", usage_is_the_snapshots_own),
        ("keys", keys_seen_in_the_wild_work),
        ("ids", ids_are_unique_and_found),
    ];
    let mut fixture = make();
    for (name, case) in cases {
        println!("conformance: {name}");
        case(&fixture.scene(name));
    }
    fixture.assert_sound();
    println!("conformance: namespaces");
    namespaces_are_apart(&fixture);
    println!("conformance: restart");
    everything_survives_a_restart(&mut fixture);
    println!("conformance: close");
    closing_twice_is_fine_and_ends_changes(&fixture);
}

/// containerd's `baseTestSnapshots`: c1, c2 on c1, a1 on c2, a2, v1 of c2, v2.
fn base(scene: &Scene<'_>) {
    scene.layer("c1", "", "one");
    scene.layer("c2", "c1", "two");
    scene.prepare("a1", "c2").unwrap();
    scene.prepare("a2", "").unwrap();
    scene.view("v1", "c2").unwrap();
    scene.view("v2", "").unwrap();
}

/// Each row: an operation, what it must answer, and a word that the text must hold. Where two rules are
/// broken at once, the row tells which one is checked first. Nothing may change.
fn every_error(scene: &Scene<'_>) {
    use Code::*;
    base(scene);
    let before = all(scene);
    let long = "x".repeat(4090);
    let size = |text| [("containerd.io/snapshot/max-size", text)];
    let void = |result: Result<Info>| result.map(drop);
    let table: Vec<(&str, Result<()>, Code, &str)> = vec![
        ("prepare: parent missing", void(scene.prepare("new", "none")), NotFound, "none"),
        ("prepare: parent missing, key taken", void(scene.prepare("a1", "none")), NotFound, "none"),
        ("prepare: on itself", void(scene.prepare("new", "new")), NotFound, "new"),
        ("prepare: parent active", void(scene.prepare("new", "a1")), InvalidArgument, "a1"),
        ("prepare: parent a view", void(scene.prepare("new", "v1")), InvalidArgument, "v1"),
        ("prepare: parent active, key taken", void(scene.prepare("c1", "a1")), InvalidArgument, "a1"),
        ("prepare: key is active", void(scene.prepare("a1", "c1")), AlreadyExists, "a1"),
        ("prepare: key is a view", void(scene.prepare("v1", "c1")), AlreadyExists, "v1"),
        ("prepare: key is committed", void(scene.prepare("c2", "")), AlreadyExists, "c2"),
        ("prepare: label too long", void(scene.prepare_labelled("new", "", &[("label", &long), ("l", &"y".repeat(4096))])), InvalidArgument, "4097"),
        ("prepare: size with a unit", void(scene.prepare_labelled("new", "", &size("10G"))), InvalidArgument, "10G"),
        ("prepare: negative size", void(scene.prepare_labelled("new", "", &size("-1"))), InvalidArgument, "-1"),
        ("prepare: no size", void(scene.prepare_labelled("new", "", &size("0"))), InvalidArgument, "max-size"),
        ("view: parent missing", void(scene.view("new", "none")), NotFound, "none"),
        ("view: parent missing, key taken", void(scene.view("v1", "none")), NotFound, "none"),
        ("view: parent active", void(scene.view("new", "a1")), InvalidArgument, "a1"),
        ("view: parent a view", void(scene.view("new", "v2")), InvalidArgument, "v2"),
        ("view: key is active", void(scene.view("a1", "c2")), AlreadyExists, "a1"),
        ("view: key is a view", void(scene.view("v2", "")), AlreadyExists, "v2"),
        ("view: key is committed", void(scene.view("c1", "c1")), AlreadyExists, "c1"),
        ("mounts: missing", void(scene.mounts("none")), NotFound, "none"),
        ("mounts: committed", void(scene.mounts("c1")), FailedPrecondition, "committed"),
        ("commit: name taken", void(scene.commit("c1", "a1")), AlreadyExists, "c1"),
        ("commit: name taken by a view", void(scene.commit("v1", "a1")), AlreadyExists, "v1"),
        ("commit: name taken, key missing", void(scene.commit("c1", "none")), AlreadyExists, "c1"),
        ("commit: to itself", void(scene.commit("a1", "a1")), AlreadyExists, "a1"),
        ("commit: key missing", void(scene.commit("new", "none")), NotFound, "none"),
        ("commit: a view", void(scene.commit("new", "v1")), FailedPrecondition, "view"),
        ("commit: a committed one", void(scene.commit("new", "c2")), FailedPrecondition, "committed"),
        ("rebase: another parent", void(scene.rebase("new", "a1", "c1")), InvalidArgument, "parent"),
        ("rebase: another parent, missing", void(scene.rebase("new", "a1", "none")), InvalidArgument, "parent"),
        ("rebase: parent missing", void(scene.rebase("new", "a2", "none")), NotFound, "none"),
        ("rebase: onto its own name", void(scene.rebase("new", "a2", "new")), NotFound, "new"),
        ("rebase: parent active", void(scene.rebase("new", "a2", "a1")), FailedPrecondition, "a1"),
        ("rebase: onto its own key", void(scene.rebase("new", "a2", "a2")), FailedPrecondition, "a2"),
        ("rebase: parent a view", void(scene.rebase("new", "a2", "v1")), FailedPrecondition, "v1"),
        ("remove: missing", scene.remove("none"), NotFound, "none"),
        ("remove: has a child", scene.remove("c1"), FailedPrecondition, "remove"),
        ("remove: has an active child and a view", scene.remove("c2"), FailedPrecondition, "remove"),
        ("stat: missing", void(scene.stat("none")), NotFound, "none"),
        ("update: missing", void(scene.replace_labels("none", &[])), NotFound, "none"),
        ("update: label too long", void(scene.merge_labels("a1", &[("label", &"z".repeat(4096))])), InvalidArgument, "4101"),
        ("usage: missing", scene.usage("none").map(drop), NotFound, "none"),
        ("walk: no filter", scene.walk(&["name=a1"]).map(drop), InvalidArgument, "unsupported operator"),
    ];
    for (row, result, expected, word) in table {
        let error = result.expect_err(row);
        assert_eq!(code(&error), expected, "{row}: {error}");
        assert!(error.to_string().contains(word), "{row}: {error}");
    }
    assert_eq!(all(scene), before);
}

fn all(scene: &Scene<'_>) -> Vec<Info> {
    let mut all = Vec::new();
    scene
        .snapshots
        .walk(&scene.ns, &[], &mut |info| {
            all.push(info);
            ControlFlow::Continue(())
        })
        .unwrap();
    all
}

fn prepare_gives_an_empty_writable_root(scene: &Scene<'_>) {
    let before = SystemTime::now();
    let info = scene.prepare_labelled("a", "", &[("l", "1"), ("empty", "")]).unwrap();
    let snapshot = &info.snapshot;
    assert_eq!((snapshot.kind, &snapshot.parent, snapshot.usage), (Kind::Active, &None, None));
    assert_eq!(snapshot.labels, super::fixture::labels(&[("l", "1"), ("empty", "")]));
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

fn prepare_on_a_parent_starts_with_its_content(scene: &Scene<'_>) {
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

fn commit_keeps_id_and_content_and_replaces_the_rest(scene: &Scene<'_>) {
    scene.layer("c1", "", "one");
    let active = scene.prepare_labelled("a", "c1", &[("old", "1")]).unwrap();
    let pin = scene.open(&active);
    write(&pin, "two", "2").unwrap();
    let committed = scene.commit_labelled("c2", "a", &[("new", "2")]).unwrap();
    let snapshot = &committed.snapshot;
    assert_eq!((snapshot.kind, &snapshot.parent), (Kind::Committed, &Some(key("c1"))));
    assert_eq!((snapshot.id, snapshot.volume), (active.snapshot.id, active.snapshot.volume));
    assert_eq!(snapshot.labels, super::fixture::labels(&[("new", "2")]));
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

fn commit_of_a_snapshot_being_written_is_refused_and_changes_nothing(scene: &Scene<'_>) {
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

fn an_active_snapshot_without_parent_can_be_committed_onto_one(scene: &Scene<'_>) {
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

fn a_view_shows_its_parents_files_read_only_and_costs_no_volume(scene: &Scene<'_>) {
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

fn a_view_without_parent_is_empty_and_read_only(scene: &Scene<'_>) {
    let view = scene.view("v", "").unwrap();
    assert_eq!(view.snapshot.volume, VolumeId::of(view.snapshot.id));
    let opened = scene.snapshots.open(view.snapshot.id).unwrap();
    assert!(opened.read_only);
    assert_eq!(fstat(opened.pin.root()).unwrap().st_mode & 0o7777, 0o755);
    assert_eq!(files(&opened.pin), BTreeSet::new());
    assert!(matches!(opened.pin.writer(), Err(volume::Error::ReadOnly(_))));
}

/// containerd's `checkRemove`.
fn a_removed_key_can_be_used_again_as_any_kind(scene: &Scene<'_>) {
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

fn open_files_outlive_the_removal_of_their_snapshot(scene: &Scene<'_>) {
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

fn parents_go_after_their_children(scene: &Scene<'_>) {
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
fn update_changes_labels_only(scene: &Scene<'_>) {
    base(scene);
    for name in ["c1", "c2", "a1", "a2", "v1", "v2"] {
        let old = scene.stat(name).unwrap();
        let before = SystemTime::now();
        let new = scene.replace_labels(name, &[("l1", "v1"), ("l2", "v2"), ("l3", "v3"), ("none", "")]).unwrap();
        assert!(before <= new.snapshot.updated && new.snapshot.updated <= SystemTime::now());
        assert_eq!(new.snapshot.labels, super::fixture::labels(&[("l1", "v1"), ("l2", "v2"), ("l3", "v3")]));
        let same = |info: &Info| (info.snapshot.id, info.snapshot.kind, info.snapshot.parent.clone(), info.snapshot.created, info.snapshot.usage);
        assert_eq!(same(&new), same(&old));
        assert_eq!(scene.stat(name).unwrap(), new);

        let merged = scene.merge_labels(name, &[("l1", "updated"), ("l2", ""), ("l9", "")]).unwrap();
        assert_eq!(merged.snapshot.labels, super::fixture::labels(&[("l1", "updated"), ("l3", "v3")]));
        let replaced = scene.replace_labels(name, &[("l4", "v4")]).unwrap();
        assert_eq!(replaced.snapshot.labels, super::fixture::labels(&[("l4", "v4")]));
    }
}

/// containerd's `checkWalk` and `checkStatInWalk`.
fn walk_passes_containerds_table(scene: &Scene<'_>) {
    let root = ("containerd.io/gc.root", "check-walk");
    scene.prepare_labelled("a-np", "", &[root]).unwrap();
    scene.prepare_labelled("p-tmp", "", &[root]).unwrap();
    scene.commit_labelled("p", "p-tmp", &[root]).unwrap();
    scene.prepare_labelled("a", "p", &[root]).unwrap();
    scene.view_labelled("v", "p", &[root]).unwrap();
    scene.prepare_labelled("p-wl-tmp", "", &[root]).unwrap();
    scene.commit_labelled("p-wl", "p-wl-tmp", &[("l", "1"), root]).unwrap();
    scene.prepare_labelled("a-wl", "p-wl", &[("l", "2"), root]).unwrap();
    scene.view_labelled("v-wl", "p-wl", &[("l", "3"), root]).unwrap();
    scene.prepare_labelled("a-np-wl", "", &[("l", "2"), root]).unwrap();

    let rooted = r#"labels."containerd.io/gc.root"==check-walk"#;
    let with = |condition: &str| format!("{condition},{rooted}");
    let table: &[(&[&str], &[&str])] = &[
        (&[rooted], &["a", "a-np", "a-np-wl", "a-wl", "p", "p-wl", "v", "v-wl"]),
        (&[&with("kind==active")], &["a", "a-np", "a-np-wl", "a-wl"]),
        (&[&with("kind==view")], &["v", "v-wl"]),
        (&[&with("kind==committed")], &["p", "p-wl"]),
        (&["name==p", "name==a-np-wl"], &["a-np-wl", "p"]),
        (&["name==a-wl,labels.l"], &["a-wl"]),
        (&["parent==p"], &["a", "v"]),
        (&[&with(r#"parent!="""#)], &["a", "a-wl", "v", "v-wl"]),
        (&["labels.l"], &["a-np-wl", "a-wl", "p-wl", "v-wl"]),
        (&["labels.l==2"], &["a-np-wl", "a-wl"]),
        (&[r#"labels.l==2,parent=="p-wl""#], &["a-wl"]),
        (&["name~=^a-,kind==active"], &["a-np", "a-np-wl", "a-wl"]),
        (&["name==missing"], &[]),
        (&["parent==missing"], &[]),
    ];
    for (filters, expected) in table {
        assert_eq!(scene.walk(filters).unwrap(), *expected, "{filters:?}");
    }
    let mut seen = 0;
    scene
        .snapshots
        .walk(&scene.ns, &[], &mut |info| {
            seen += 1;
            assert_eq!(scene.stat(info.key.as_str()).unwrap(), info);
            if seen < 3 { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        })
        .unwrap();
    assert_eq!(seen, 3);
}

fn usage_is_the_snapshots_own(scene: &Scene<'_>) {
    let committed = scene.layer("c", "", "one");
    assert_eq!(Some(scene.usage("c").unwrap()), committed.snapshot.usage);
    scene.view("v", "c").unwrap();
    assert_eq!(scene.usage("v").unwrap(), Usage::default());
    scene.view("empty", "").unwrap();
    scene.usage("empty").unwrap();

    let active = scene.prepare("a", "c").unwrap();
    let at_first = scene.usage("a").unwrap();
    let pin = scene.open(&active);
    for file in 0..20 {
        write(&pin, &format!("file{file}"), &"x".repeat(8192)).unwrap();
    }
    rustix::fs::syncfs(pin.root()).unwrap();
    // The first answer is kept for two seconds.
    assert_eq!(scene.usage("a").unwrap(), at_first);
    eventually("usage counts new files", || {
        let usage = scene.usage("a").unwrap();
        usage.size >= at_first.size + 20 * 8192 && usage.inodes == at_first.inodes + 20
    });
    scene.prepare("b", "c").unwrap();
    let cancelled = scene.snapshots.usage(&scene.ns, &key("b"), &AtomicBool::new(true));
    assert!(matches!(cancelled, Err(crate::snapshot::Error::Volume(volume::Error::Cancelled(_)))), "{cancelled:?}");
}

fn keys_seen_in_the_wild_work(scene: &Scene<'_>) {
    let long = "k8s.io/17/".to_owned() + &"日".repeat(1362);
    let keys = ["k8s.io/17/extract-1 sha256:ab", "/abs/path", "..", ".", "a\nb", "%41", "\u{1}", "🙂", &long];
    for name in keys {
        let info = scene.prepare(name, "").unwrap();
        assert_eq!(scene.stat(name).unwrap(), info);
        assert_eq!(scene.snapshots.stat_id(info.snapshot.id).unwrap().unwrap(), info);
    }
    let mut sorted: Vec<_> = keys.into_iter().map(str::to_owned).collect();
    sorted.sort();
    assert_eq!(scene.page(Kind::Active), sorted);
    let digest = <sha2::Sha256 as sha2::Digest>::digest(long.as_bytes()).into();
    assert_eq!(scene.snapshots.key_by_digest(&scene.ns, &digest).unwrap(), Some(key(&long)));
    scene.commit("short", &long).unwrap();
    assert_eq!(scene.snapshots.key_by_digest(&scene.ns, &digest).unwrap(), None);
}

fn ids_are_unique_and_found(scene: &Scene<'_>) {
    base(scene);
    let all = all(scene);
    let ids: BTreeSet<_> = all.iter().map(|info| info.snapshot.id).collect();
    assert_eq!(ids.len(), 6);
    for info in all {
        assert_eq!(scene.snapshots.stat_id(info.snapshot.id).unwrap(), Some(info.clone()));
        scene.snapshots.open(info.snapshot.id).unwrap();
    }
}

fn namespaces_are_apart(fixture: &Fixture) {
    let (one, two) = (fixture.scene("ns-one"), fixture.scene("ns-two"));
    one.layer("c", "", "one");
    assert_eq!(code(&two.prepare("a", "c").unwrap_err()), Code::NotFound);
    assert_eq!(code(&two.stat("c").unwrap_err()), Code::NotFound);
    two.layer("c", "", "two");
    assert_eq!(two.files("c"), BTreeSet::from(["two".to_owned()]));
    one.remove("c").unwrap();
    assert_eq!(two.walk(&[]).unwrap(), ["c"]);
    let namespaces = fixture.snapshots().namespaces().unwrap();
    assert!(namespaces.contains(&two.ns) && !namespaces.contains(&one.ns));
}

fn everything_survives_a_restart(fixture: &mut Fixture) {
    let scene = fixture.scene("restart");
    base(&scene);
    let a1 = scene.stat("a1").unwrap();
    write(&scene.open(&a1), "three", "3").unwrap();
    scene.replace_labels("a1", &[("l", "1")]).unwrap();
    let (before, last) = (all(&scene), scene.prepare("last", "").unwrap().snapshot.id);
    scene.remove("last").unwrap();

    let recovery = fixture.restart();
    assert_eq!((recovery.lost, recovery.unnamed, recovery.reaped), (vec![], vec![], 0));
    let scene = fixture.scene("restart");
    assert_eq!(all(&scene), before);
    assert_eq!(scene.files("a1"), BTreeSet::from(["one", "two", "three"].map(str::to_owned)));
    assert_eq!(scene.files("v1"), BTreeSet::from(["one", "two"].map(str::to_owned)));
    assert!(scene.prepare("next", "c2").unwrap().snapshot.id > last);
    assert!(matches!(scene.open(&scene.stat("c2").unwrap()).writer(), Err(volume::Error::ReadOnly(_))));
    fixture.assert_sound();
}

fn closing_twice_is_fine_and_ends_changes(fixture: &Fixture) {
    let scene = fixture.scene("close");
    scene.prepare("a", "").unwrap();
    fixture.snapshots().close().unwrap();
    fixture.snapshots().close().unwrap();
    for refused in [scene.prepare("b", "").map(drop), scene.commit("c", "a").map(drop), scene.remove("a")] {
        assert!(matches!(refused, Err(crate::snapshot::Error::Stopping)), "{refused:?}");
    }
    assert_eq!(scene.stat("a").unwrap().snapshot.kind, Kind::Active);
}
