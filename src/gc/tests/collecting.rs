//! What goes and what stays.

use std::time::{Duration, SystemTime};

use super::*;
use crate::gc::source::{Found, Kind, Root, Tie};
use crate::gc::{COLLECT_LABEL, COLLECT_UNREFERENCED, Doomed, Resource, SNAPSHOT, Source};
use crate::snapshot::{LabelUpdate, Result};

const ROOT: (&str, &str) = ("containerd.io/gc.root", "now");

#[test]
fn what_nobody_made_under_a_lease_stays_for_ever() {
    let yard = Yard::new();
    let scene = yard.scene();
    scene.layer("base", "", "f");
    scene.prepare("web", "base").unwrap();
    scene.view("look", "base").unwrap();
    assert_eq!(yard.collect(), Vec::<String>::new());
    assert_eq!(yard.keys(), ["base", "look", "web"]);
}

#[test]
fn what_was_made_under_a_lease_goes_with_it_children_first() {
    let yard = Yard::new();
    let lease = yard.lease("l", &[]);
    yard.layer("one", "", &lease, &[]);
    yard.layer("two", "one", &lease, &[]);
    yard.prepare("top", "two", &lease, &[]);
    assert_eq!(yard.collect(), Vec::<String>::new(), "the lease holds them, committed ones too");
    yard.end(&lease);
    assert_eq!(yard.collect(), ["top", "two", "one"]);
    assert_eq!(yard.keys(), Vec::<String>::new());
    yard.fixture.assert_sound();
}

#[test]
fn a_parent_stays_as_long_as_any_child_does() {
    let yard = Yard::new();
    let lease = yard.lease("l", &[]);
    yard.layer("base", "", &lease, &[]);
    yard.scene().prepare("kept", "base").unwrap();
    yard.prepare("goes", "base", &lease, &[]);
    yard.end(&lease);
    assert_eq!(yard.collect(), ["goes"]);
    yard.scene().remove("kept").unwrap();
    assert_eq!(yard.collect(), ["base"]);
}

#[test]
fn labels_keep_by_root_by_expiry_by_reference_and_by_back_reference() {
    let yard = Yard::new();
    let lease = yard.lease("l", &[]);
    let later = labels::expiry(SystemTime::now() + Duration::from_secs(3600));
    let past = labels::expiry(SystemTime::now() - Duration::from_secs(1));
    yard.layer("root", "", &lease, &[ROOT]);
    yard.layer("until", "", &lease, &[("containerd.io/gc.expire", &later)]);
    yard.layer("over", "", &lease, &[("containerd.io/gc.expire", &past)]);
    yard.layer("target", "", &lease, &[]);
    yard.layer("second", "", &lease, &[]);
    let refers = [
        ("containerd.io/gc.ref.snapshot.thinfs", "target"),
        ("containerd.io/gc.ref.snapshot.thinfs/2", "second"),
        ("containerd.io/gc.ref.snapshot.thinfs/3", "never was"),
        ROOT,
    ];
    yard.layer("refers", "", &lease, &refers);
    yard.layer("attached", "", &lease, &[("containerd.io/gc.bref.snapshot.thinfs", "root")]);
    yard.layer("loose", "", &lease, &[("containerd.io/gc.bref.snapshot.thinfs", "never was")]);
    yard.end(&lease);
    let mut gone = yard.collect();
    gone.sort();
    assert_eq!(gone, ["loose", "over"]);
    yard.scene().merge_labels("refers", &[("containerd.io/gc.root", "")]).unwrap();
    let mut gone = yard.collect();
    gone.sort();
    assert_eq!(gone, ["refers", "second", "target"]);
}

#[test]
fn snapshots_that_only_refer_to_each_other_go_together() {
    let yard = Yard::new();
    let lease = yard.lease("l", &[]);
    yard.layer("a", "", &lease, &[("containerd.io/gc.ref.snapshot.thinfs", "b")]);
    yard.layer("b", "", &lease, &[("containerd.io/gc.ref.snapshot.thinfs", "c")]);
    yard.layer("c", "", &lease, &[("containerd.io/gc.ref.snapshot.thinfs", "a")]);
    yard.layer("below", "", &lease, &[]);
    yard.scene().merge_labels("c", &[("containerd.io/gc.ref.snapshot.x", "below")]).unwrap();
    yard.end(&lease);
    let gone = yard.collect();
    assert_eq!(gone.len(), 4);
    assert_eq!(gone[3], "below");
}

#[test]
fn in_a_namespace_that_says_so_everything_unreferenced_goes_however_it_was_made() {
    let yard = Yard::new();
    let other = yard.fixture.scene("ci");
    other.layer("base", "", "f");
    other.layer("kept", "base", "g");
    other.merge_labels("kept", &[ROOT]).unwrap();
    other.layer("old", "base", "h");
    yard.scene().layer("mine", "", "f");
    assert_eq!(yard.collect(), Vec::<String>::new());
    let policy = |value: &str| {
        let change = LabelUpdate::Merge(pairs(&[(COLLECT_LABEL, value)]));
        yard.collector.label_namespace(&ns("ci"), change)
    };
    policy("everything").unwrap_err();
    policy(COLLECT_UNREFERENCED).unwrap();
    assert_eq!(yard.collect(), ["old"]);
    policy("").unwrap();
    other.merge_labels("kept", &[("containerd.io/gc.root", "")]).unwrap();
    assert_eq!(yard.collect(), Vec::<String>::new());
    assert_eq!(yard.keys(), ["mine"]);
}

#[test]
fn containerds_namespace_is_never_collected_and_has_no_leases() {
    let yard = Yard::new();
    yard.fixture.scene(CONTAINERD).layer("sha256:1", "", "f");
    let labels = pairs(&[(COLLECT_LABEL, COLLECT_UNREFERENCED)]);
    let refused = yard.collector.create_namespace(&ns(CONTAINERD), labels).unwrap_err();
    assert!(refused.to_string().contains("containerd's"), "{refused}");
    yard.collector.create_lease(&ns(CONTAINERD), None, Labels::new()).unwrap_err();
    assert_eq!(yard.collect(), Vec::<String>::new());
    assert_eq!(yard.fixture.scene(CONTAINERD).walk(&[]).unwrap(), ["sha256:1"]);
}

#[test]
fn nothing_crosses_a_namespace() {
    let yard = Yard::new();
    let lease = yard.lease("l", &[]);
    yard.layer("target", "", &lease, &[]);
    let other = yard.fixture.scene("other");
    other.layer("refers", "", "f");
    other.merge_labels("refers", &[("containerd.io/gc.ref.snapshot.thinfs", "target")]).unwrap();
    yard.end(&lease);
    assert_eq!(yard.collect(), ["target"]);
}

#[test]
fn a_dry_run_tells_what_the_next_run_does_and_changes_nothing() {
    let yard = Yard::new();
    let ends = SystemTime::now() - Duration::from_secs(1);
    let lease = yard.collector.create_lease(&ns("default"), None, Labels::new()).unwrap().id;
    yard.layer("base", "", &lease, &[]);
    yard.prepare("top", "base", &lease, &[]);
    let change = LabelUpdate::Merge(expiring(ends));
    yard.collector.label_lease(&ns("default"), &lease, change).unwrap();
    let dry = yard.collector.collect(true).unwrap();
    assert!(dry.dry);
    assert_eq!(dry.expired, [format!("default/{lease}")]);
    let why: Vec<_> = dry.collected.iter().map(|item| item.why.as_str()).collect();
    assert_eq!(why, ["nothing refers to it", "only snapshot \"top\" refers to it, which goes too"]);
    assert_eq!(yard.keys(), ["base", "top"]);
    assert_eq!(yard.collector.leases(&ns("default")).unwrap().len(), 1);
    let real = yard.collector.collect(false).unwrap();
    assert_eq!((real.collected, real.expired), (dry.collected, dry.expired));
    assert!(yard.keys().is_empty() && yard.collector.leases(&ns("default")).unwrap().is_empty());
}

#[test]
fn an_active_snapshot_with_open_files_stays_with_its_parent_until_they_are_closed() {
    let yard = Yard::new();
    let lease = yard.lease("l", &[]);
    yard.layer("base", "", &lease, &[]);
    yard.prepare("top", "base", &lease, &[]);
    let pin = yard.scene().open(&yard.scene().stat("top").unwrap());
    yard.end(&lease);
    let report = yard.collector.collect(false).unwrap();
    let stayed: Vec<_> = report.stayed.iter().map(|item| item.why.as_str()).collect();
    assert_eq!(stayed, ["files of it are open", "snapshot \"top\" stays and refers to it"]);
    drop(pin);
    assert_eq!(yard.collect(), ["top", "base"]);
}

/// Holds one snapshot, as a mount does; and has a resource of its own that refers to another.
struct Other {
    held: &'static str,
    left: parking_lot::Mutex<Vec<(&'static str, &'static str)>>,
}

impl Source for Other {
    fn kind(&self) -> Kind {
        "layer"
    }

    fn may_have_garbage(&self, _: &Namespace) -> Result<bool> {
        Ok(!self.left.lock().is_empty())
    }

    fn scan(&self, namespace: &Namespace, visit: &mut dyn FnMut(Found)) -> Result<()> {
        if *namespace != ns("default") {
            return Ok(());
        }
        for (id, snapshot) in self.left.lock().iter() {
            let edges = vec![(Tie::Part, Resource::new(SNAPSHOT, *snapshot))];
            let (id, version) = ((*id).to_owned(), 0);
            visit(Found { id, version, root: None, until: None, edges, back: Vec::new() });
        }
        Ok(())
    }

    fn roots(&self, _: &Namespace) -> Result<Vec<Root>> {
        let resource = Resource::new(SNAPSHOT, self.held);
        Ok(vec![Root { resource, holder: "a test".to_owned() }])
    }

    fn exists(&self, _: &Namespace, id: &str) -> Result<Option<bool>> {
        Ok(Some(self.left.lock().iter().any(|(known, _)| *known == id)))
    }

    fn remove(&self, _: &Namespace, doomed: &mut Doomed<'_>) {
        for at in doomed.left() {
            match doomed.id(at) {
                "stuck" => doomed.fail(at, "it is stuck"),
                id => self.left.lock().retain(|(known, _)| *known != id),
            }
        }
    }
}

#[test]
fn another_kind_holds_snapshots_is_held_by_leases_and_goes_before_what_it_refers_to() {
    let yard = Yard::new();
    let left = vec![("loose", "one"), ("leased", "two"), ("stuck", "three")];
    let other = Arc::new(Other { held: "held", left: parking_lot::Mutex::new(left) });
    yard.collector.register(other.clone());
    let lease = yard.lease("l", &[]);
    for name in ["held", "one", "two", "three"] {
        yard.layer(name, "", &lease, &[]);
    }
    let keeper = yard.lease("keeper", &[]);
    let layer = |id: &str| crate::types::Leased { kind: "layer".into(), id: id.into() };
    yard.collector.hold(&ns("default"), &keeper, &layer("leased")).unwrap();
    yard.collector.hold(&ns("default"), &keeper, &layer("absent")).unwrap_err();
    yard.end(&lease);
    let report = yard.collector.collect(false).unwrap();
    assert_eq!(report.failed, ["default: layer \"stuck\": it is stuck"]);
    assert_eq!(went(&report), ["loose", "one"]);
    assert_eq!(
        yard.keys(),
        ["held", "three", "two"],
        "what couldn't be removed keeps its snapshot"
    );
    yard.end(&keeper);
    let report = yard.collector.collect(false).unwrap();
    assert_eq!(went(&report), ["leased", "two"]);
    let totals = yard.collector.totals();
    assert_eq!((totals.runs, totals.failed), (2, 2));
    assert_eq!(totals.collected.get("layer"), Some(&2));
    assert!(totals.error.is_some());
    let events = yard.fixture.store().events_after(0, 1000).unwrap();
    let runs = events.iter().filter(|e| e.event.topic.as_str().starts_with("/gc/"));
    let runs: Vec<_> =
        runs.map(|e| (e.event.topic.as_str(), e.event.details.get("layer"))).collect();
    let one = "1".to_owned();
    let expected = [("/gc/done", Some(&one)), ("/gc/fail", None), ("/gc/done", Some(&one))];
    assert_eq!(runs, expected, "the same failure is told once");
}
