//! Runs that follow what has changed: they find what a look at everything finds, and look at little.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use parking_lot::Mutex;
use proptest::prelude::*;

use super::*;
use crate::gc::{COLLECT_LABEL, COLLECT_UNREFERENCED, Mounted, Resource, SNAPSHOT};
use crate::meta::Batch;
use crate::snapshot::LabelUpdate;
use crate::types::{EXPIRE_LABEL, FLAT_LABEL, Lease, Leased, ROOT_LABEL, Snapshot};

const REFERENCE: &str = "containerd.io/gc.ref.snapshot.thinfs";
const BACK: &str = "containerd.io/gc.bref.snapshot.thinfs";
const NAMES: usize = 6;
const LEASES: usize = 3;

/// Labels of a snapshot. The numbers name snapshots that are there, were there or never were.
#[derive(Debug, Clone)]
struct Marks {
    root: bool,
    refers: Option<usize>,
    back: Option<usize>,
}

#[derive(Debug, Clone)]
enum Op {
    /// Prepared under a lease and committed, where the name is free; the lease lets go of it at once, or doesn't.
    Make {
        at: usize,
        parent: Option<usize>,
        lease: Option<usize>,
        marks: Marks,
        stays: bool,
    },
    Label {
        at: usize,
        marks: Marks,
    },
    Remove {
        at: usize,
    },
    Hold {
        lease: usize,
        at: usize,
    },
    LetGo {
        lease: usize,
        at: usize,
    },
    Flatten {
        lease: usize,
    },
    End {
        lease: usize,
    },
    /// The namespace is collected as a whole, or not.
    Policy {
        all: bool,
    },
    Run,
}

fn marks() -> impl Strategy<Value = Marks> {
    let other = || prop::option::weighted(0.5, 0..NAMES);
    (prop::bool::weighted(0.3), other(), other()).prop_map(|(root, refers, back)| Marks {
        root,
        refers,
        back,
    })
}

fn op() -> impl Strategy<Value = Op> {
    let (at, lease) = (0..NAMES, 0..LEASES);
    let parent = prop::option::weighted(0.6, 0..NAMES);
    let held = prop::option::weighted(0.9, 0..LEASES);
    prop_oneof![
        10 => (at.clone(), parent, held, marks(), prop::bool::weighted(0.3)).prop_map(
            |(at, parent, lease, marks, stays)| Op::Make { at, parent, lease, marks, stays }
        ),
        8 => (at.clone(), marks()).prop_map(|(at, marks)| Op::Label { at, marks }),
        4 => at.clone().prop_map(|at| Op::Remove { at }),
        3 => (lease.clone(), at.clone()).prop_map(|(lease, at)| Op::Hold { lease, at }),
        3 => (lease.clone(), at).prop_map(|(lease, at)| Op::LetGo { lease, at }),
        1 => lease.clone().prop_map(|lease| Op::Flatten { lease }),
        2 => lease.prop_map(|lease| Op::End { lease }),
        1 => any::<bool>().prop_map(|all| Op::Policy { all }),
        8 => Just(Op::Run),
    ]
}

fn name(at: usize) -> String {
    format!("s{at}")
}

fn labels_of(marks: &Marks) -> Labels {
    let mut labels = BTreeMap::new();
    labels.extend(marks.refers.map(|to| (REFERENCE.to_owned(), name(to))));
    labels.extend(marks.back.map(|by| (BACK.to_owned(), name(by))));
    labels.extend(marks.root.then(|| (ROOT_LABEL.to_owned(), "1".to_owned())));
    labels
}

/// What is refused is refused, and changes nothing.
fn apply(yard: &Yard, op: &Op) {
    let (here, snapshots) = (ns("default"), yard.fixture.snapshots());
    let held = |at: &usize| Leased::snapshot(&key(&name(*at)));
    let lease = |number: &usize| {
        let id = lease_id(&format!("l{number}"));
        let _ = yard.collector.create_lease(&here, Some(id.clone()), Labels::new());
        id
    };
    match op {
        Op::Make { at, .. } if yard.scene().stat(&name(*at)).is_ok() => {}
        Op::Make { at, parent, lease: under, marks, stays } => {
            let (active, parent) = (key(&format!("{}-active", name(*at))), parent.map(name));
            let (parent, under) = (parent.as_deref().map(key), under.as_ref().map(lease));
            let labels = labels_of(&Marks { root: false, ..marks.clone() });
            let made =
                snapshots.prepare_under(&here, &active, parent.as_ref(), labels, under.as_ref());
            if made.is_ok() {
                let marks = labels_of(marks);
                snapshots.commit(&here, &key(&name(*at)), &active, marks, None).unwrap();
            }
            if let Some(lease) = under.filter(|_| !stays) {
                yard.collector.let_go(&here, &lease, &held(at)).unwrap();
            }
        }
        Op::Label { at, marks } => {
            let change = LabelUpdate::Replace(labels_of(marks));
            let _ = snapshots.update(&here, &key(&name(*at)), change);
        }
        Op::Remove { at } => drop(snapshots.remove(&here, &key(&name(*at)))),
        Op::Hold { lease: by, at } => {
            let _ = yard.collector.hold(&here, &lease(by), &held(at));
        }
        Op::LetGo { lease: by, at } => {
            yard.collector.let_go(&here, &lease(by), &held(at)).unwrap();
        }
        Op::Flatten { lease: number } => {
            let change = LabelUpdate::Merge(pairs(&[(FLAT_LABEL, "1")]));
            yard.collector.label_lease(&here, &lease(number), change).unwrap();
        }
        Op::End { lease: number } => yard.end(&lease(number)),
        Op::Policy { all } => {
            let value = if *all { COLLECT_UNREFERENCED } else { "" };
            let change = LabelUpdate::Merge(pairs(&[(COLLECT_LABEL, value)]));
            yard.collector.label_namespace(&here, change).unwrap();
        }
        Op::Run => {}
    }
}

/// What a look at everything would remove.
fn garbage(yard: &Yard) -> BTreeSet<String> {
    went(&yard.collector.collect(true).unwrap()).into_iter().collect()
}

proptest! {
    #![proptest_config(crate::testing::random(24, 1_000))]

    /// Never removes what is reachable, always removes the rest: exactly what a look at everything says, whatever
    /// has happened since the run before.
    #[test]
    fn a_run_that_follows_changes_finds_what_a_look_at_everything_finds(
        history in prop::collection::vec(op(), 1..60),
    ) {
        let yard = Yard::new();
        prop_assert_eq!(yard.catch_up(), Vec::<String>::new(), "the first looks at everything");
        for op in history.iter().chain([&Op::Run]) {
            apply(&yard, op);
            if matches!(op, Op::Run) {
                let expected = garbage(&yard);
                let gone: BTreeSet<String> = yard.catch_up().into_iter().collect();
                prop_assert_eq!(&gone, &expected);
                prop_assert_eq!(garbage(&yard), BTreeSet::new(), "all of it is gone");
            }
        }
        yard.fixture.assert_sound();
    }
}

/// Lets go of something in one way.
type LetGo = fn(&Yard, &LeaseId);

/// One after the other what can take the last hold from something, each on a family of which only `top` is held, by a
/// root label, and the others by it: its parent `base`, `target` by its label, `attached` by its own word.
#[test]
fn each_way_to_let_go_of_something_is_followed() {
    #[rustfmt::skip] // a table: a row a line
    let ways: [(&str, LetGo, &[&str]); 8] = [
        ("the root label goes", |yard, _| drop(yard.scene().merge_labels("top", &[(ROOT_LABEL, "")]).unwrap()), &["attached", "base", "target", "top"]),
        ("a reference goes", |yard, _| drop(yard.scene().merge_labels("top", &[(REFERENCE, "")]).unwrap()), &["target"]),
        ("a reference leads elsewhere", |yard, _| drop(yard.scene().merge_labels("top", &[(REFERENCE, "base")]).unwrap()), &["target"]),
        ("a word goes", |yard, _| drop(yard.scene().merge_labels("attached", &[(BACK, "")]).unwrap()), &["attached"]),
        ("the last child is removed", |yard, _| yard.scene().remove("top").unwrap(), &["attached", "base", "target"]),
        ("a commit drops labels", |yard, _| yard.scene().commit_labelled("done", "active", &[(ROOT_LABEL, "1")]).map(drop).unwrap(), &["of active", "to active"]),
        ("a lease lets go", |yard, keeper| yard.collector.let_go(&ns("default"), keeper, &Leased::snapshot(&key("kept"))).unwrap(), &["kept", "of kept"]),
        ("a lease becomes flat", |yard, keeper| drop(yard.collector.label_lease(&ns("default"), keeper, LabelUpdate::Merge(pairs(&[(FLAT_LABEL, "1")]))).unwrap()), &["of kept"]),
    ];
    for (name, let_go, expected) in ways {
        let yard = Yard::new();
        let (maker, keeper) = (yard.lease("maker", &[]), yard.lease("keeper", &[]));
        yard.layer("base", "", &maker, &[]);
        yard.layer("target", "", &maker, &[]);
        yard.layer("top", "base", &maker, &[(ROOT_LABEL, "1"), (REFERENCE, "target")]);
        yard.layer("attached", "", &maker, &[(BACK, "top")]);
        yard.layer("of active", "", &maker, &[]);
        yard.prepare("active", "", &maker, &[(ROOT_LABEL, "1"), (REFERENCE, "of active")]);
        yard.layer("to active", "", &maker, &[(BACK, "active")]);
        yard.layer("of kept", "", &maker, &[]);
        yard.layer("kept", "", &maker, &[(REFERENCE, "of kept")]);
        yard.collector.hold(&ns("default"), &keeper, &Leased::snapshot(&key("kept"))).unwrap();
        yard.end(&maker);
        assert_eq!(yard.catch_up(), [""; 0], "{name}: the first run");
        let_go(&yard, &keeper);
        let expected: BTreeSet<String> = expected.iter().map(|key| (*key).to_owned()).collect();
        assert_eq!(garbage(&yard), expected, "{name}: all looked at");
        let gone: BTreeSet<String> = yard.catch_up().into_iter().collect();
        assert_eq!(gone, expected, "{name}: followed");
    }
}

/// Ten thousand views of one snapshot, leased, written straight into the store; and one run over all of it.
fn crowded() -> (Yard, LeaseId) {
    let yard = Yard::new();
    let scene = yard.scene();
    let maker = yard.lease("maker", &[]);
    yard.layer("base", "", &maker, &[]);
    let view = scene.view("v", "base").unwrap().snapshot;
    let keeper = lease_id("keeper");
    let mut batch = Batch::default();
    let made = Lease { id: keeper.clone(), created: view.created, labels: Labels::new() };
    batch.put_lease(&scene.ns, &made);
    for at in 0..10_000 {
        let id = yard.fixture.store().next_snapshot_id().unwrap();
        let new = Snapshot { id, collectable: true, ..view.clone() };
        let name = key(&format!("view-{at:06}"));
        batch.insert_snapshot(&scene.ns, &name, &new);
        batch.hold(&scene.ns, &keeper, &Leased::snapshot(&name));
    }
    yard.fixture.store().write(batch).unwrap();
    let report = yard.collector.catch_up().unwrap();
    assert_eq!(report.scanned.get("snapshot"), Some(&10_002), "the first looks at everything");
    (yard, keeper)
}

#[test]
fn a_run_looks_at_what_has_changed_and_not_at_ten_thousand_others() {
    let (yard, keeper) = crowded();
    let here = ns("default");
    let looked = |report: &Report| report.scanned.get("snapshot").copied().unwrap_or(0);
    let report = yard.collector.catch_up().unwrap();
    assert_eq!((looked(&report), report.namespaces), (0, 0), "nothing has changed");

    yard.scene().merge_labels("view-000005", &[("l", "1")]).unwrap();
    let report = yard.collector.catch_up().unwrap();
    assert_eq!((looked(&report), went(&report)), (1, vec![]));

    // One that goes leads to its parent, and that to one more child, which stays.
    let held = Leased::snapshot(&key("view-000007"));
    yard.collector.let_go(&here, &keeper, &held).unwrap();
    let report = yard.collector.catch_up().unwrap();
    assert_eq!(went(&report), ["view-000007"]);
    assert!(looked(&report) <= 4, "{}", looked(&report));

    let report = yard.collector.collect(false).unwrap();
    assert_eq!((looked(&report), went(&report)), (10_001, vec![]), "who asks by hand has all");
    yard.fixture.assert_sound();
}

/// Nothing is told when a mount ends: what only a mount has kept is looked at again by itself.
#[test]
fn what_only_a_mount_keeps_is_reported_and_goes_soon_after_it_without_any_other_change() {
    let yard = Yard::new();
    let held = Arc::new(Mutex::new(vec!["top"]));
    let mounts = Arc::clone(&held);
    let list = move || {
        let mount = |key: &&str| (ns("default"), Resource::new(SNAPSHOT, *key), "/x".to_owned());
        Ok(mounts.lock().iter().map(mount).collect())
    };
    yard.collector.register(Arc::new(Mounted::new(Box::new(list))));
    let lease = yard.lease("l", &[]);
    yard.layer("base", "", &lease, &[]);
    yard.layer("top", "base", &lease, &[]);
    yard.layer("kept", "base", &lease, &[(ROOT_LABEL, "1")]);
    held.lock().push("kept");
    yard.collector.catch_up().unwrap();
    yard.end(&lease);
    for run in 0..3 {
        let report = match run {
            0 | 1 => yard.collector.catch_up().unwrap(),
            _ => yard.collector.collect(false).unwrap(),
        };
        assert_eq!(went(&report), [""; 0]);
        let stayed: Vec<_> = report.stayed.iter().map(ToString::to_string).collect();
        assert_eq!(stayed, ["default snapshot \"top\": held by a mount at /x"], "run {run}");
    }
    yard.collector.start().unwrap();
    held.lock().clear();
    eventually("the snapshot goes with its mount", || yard.keys() == ["base", "kept"]);
    yard.collector.stop();
}

/// A dry run once forgot when holds end, so that the run that was to follow never came.
#[test]
fn a_dry_run_leaves_an_ended_hold_to_the_run_that_follows() {
    let yard = Yard::new();
    let lease = yard.lease("l", &[]);
    yard.catch_up();
    let end = SystemTime::now() + Duration::from_secs(1);
    yard.layer("until", "", &lease, &[(EXPIRE_LABEL, &labels::expiry(end))]);
    yard.end(&lease);
    assert_eq!(yard.catch_up(), [""; 0], "its label holds it");
    eventually("the hold ends", || garbage(&yard).contains("until"));
    assert!(garbage(&yard).contains("until"), "another dry run says the same");
    assert_eq!(yard.catch_up(), ["until"]);
}

/// The time in the label is known from the change itself, or from the first look after a start.
#[test]
fn an_ended_hold_is_found_by_the_scheduler_also_after_a_restart() {
    let mut yard = Yard::new();
    let lease = yard.lease("l", &[]);
    let end = SystemTime::now() + Duration::from_secs(2);
    yard.layer("until", "", &lease, &[(EXPIRE_LABEL, &labels::expiry(end))]);
    yard.end(&lease);
    drop(yard.collector);
    yard.fixture.crash();
    yard.collector = collector_of(&yard.fixture);
    yard.collector.start().unwrap();
    eventually("it goes", || yard.keys().is_empty());
    yard.collector.stop();
}
