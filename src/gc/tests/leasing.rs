//! Leases and namespaces as things of their own, and the scheduler that knows when they end.

use std::time::{Duration, SystemTime};

use super::*;
use crate::gc::{Doomed, Found, Kind, Source};
use crate::snapshot::tests::fixture::{Code, code};
use crate::snapshot::{Error, LabelUpdate};
use crate::types::Leased;

fn refused<T: std::fmt::Debug>(result: Result<T, Error>) -> Code {
    code(&result.unwrap_err())
}

#[test]
fn a_lease_lives_over_a_restart_with_what_it_holds() {
    let mut yard = Yard::new();
    let lease = yard.lease("l", &[("owner", "ci")]);
    yard.layer("one", "", &lease, &[]);
    yard.prepare("two", "one", &lease, &[]);
    drop(yard.collector);
    yard.fixture.crash();
    yard.collector = collector_of(&yard.fixture);
    let (found, holds) = yard.collector.lease(&ns("default"), &lease).unwrap();
    assert_eq!(found.labels, pairs(&[("owner", "ci")]));
    assert_eq!(holds, [Leased::snapshot(&key("one")), Leased::snapshot(&key("two"))]);
    assert_eq!(yard.collect(), Vec::<String>::new());
    yard.end(&lease);
    assert_eq!(yard.collect(), ["two", "one"]);
    yard.fixture.assert_sound();
}

#[test]
fn leases_are_unique_and_named_in_errors() {
    let yard = Yard::new();
    let here = ns("default");
    let lease = yard.lease("l", &[]);
    assert_eq!(
        refused(yard.collector.create_lease(&here, Some(lease.clone()), Labels::new())),
        Code::AlreadyExists
    );
    assert_eq!(refused(yard.collector.delete_lease(&here, &lease_id("absent"))), Code::NotFound);
    assert_eq!(refused(yard.collector.delete_lease(&ns("other"), &lease)), Code::NotFound);
    let snapshots = yard.fixture.snapshots();
    let absent = lease_id("absent");
    let made = snapshots.prepare_under(&here, &key("k"), None, Labels::new(), Some(&absent));
    assert_eq!(refused(made), Code::NotFound);
    assert_eq!(yard.keys(), Vec::<String>::new(), "a refused prepare leaves nothing");
    let (one, two) = (
        yard.collector.create_lease(&here, None, Labels::new()).unwrap().id,
        yard.collector.create_lease(&here, None, Labels::new()).unwrap().id,
    );
    assert_ne!(one, two);
    yard.fixture.assert_sound();
}

#[test]
fn a_lease_holds_what_exists_and_lets_go_of_it() {
    let yard = Yard::new();
    let (maker, keeper) = (yard.lease("maker", &[]), yard.lease("keeper", &[]));
    yard.layer("kept", "", &maker, &[]);
    let here = ns("default");
    let kept = Leased::snapshot(&key("kept"));
    yard.collector.hold(&here, &keeper, &kept).unwrap();
    yard.collector.hold(&here, &keeper, &kept).unwrap();
    let absent = yard.collector.hold(&here, &keeper, &Leased::snapshot(&key("absent")));
    assert_eq!(refused(absent), Code::NotFound);
    let odd = yard.collector.hold(&here, &keeper, &Leased { kind: "mount".into(), id: "x".into() });
    assert_eq!(refused(odd), Code::InvalidArgument);
    yard.end(&maker);
    assert_eq!(yard.collect(), Vec::<String>::new());
    yard.collector.let_go(&here, &keeper, &kept).unwrap();
    assert_eq!(yard.collect(), ["kept"]);
}

#[test]
fn a_removed_snapshot_is_forgotten_by_its_leases_and_its_key_starts_anew() {
    let yard = Yard::new();
    let lease = yard.lease("l", &[]);
    yard.prepare("k", "", &lease, &[]);
    yard.scene().remove("k").unwrap();
    assert_eq!(yard.collector.lease(&ns("default"), &lease).unwrap().1, []);
    yard.scene().prepare("k", "").unwrap();
    yard.end(&lease);
    assert_eq!(yard.collect(), Vec::<String>::new(), "this one was made without a lease");
    yard.fixture.assert_sound();
}

#[test]
fn a_flat_lease_keeps_parents_but_not_what_labels_refer_to() {
    let yard = Yard::new();
    let maker = yard.lease("maker", &[]);
    yard.layer("base", "", &maker, &[]);
    yard.layer("aside", "", &maker, &[]);
    yard.layer("top", "base", &maker, &[("containerd.io/gc.ref.snapshot.thinfs", "aside")]);
    let flat = yard.lease("flat", &[("containerd.io/gc.flat", "true")]);
    yard.collector.hold(&ns("default"), &flat, &Leased::snapshot(&key("top"))).unwrap();
    yard.end(&maker);
    assert_eq!(yard.collect(), ["aside"]);
    assert_eq!(yard.keys(), ["base", "top"]);
}

#[test]
fn a_lease_with_a_mistyped_expiry_holds_for_ever() {
    let yard = Yard::new();
    let lease = yard.lease("l", &[("containerd.io/gc.expire", "tomorrow")]);
    yard.layer("one", "", &lease, &[]);
    assert_eq!(yard.collect(), Vec::<String>::new());
    assert_eq!(yard.collector.leases(&ns("default")).unwrap().len(), 1);
}

#[test]
fn the_scheduler_ends_a_lease_in_time_unless_it_is_renewed() {
    let yard = Yard::new();
    let here = ns("default");
    let ends_in = |lease: &LeaseId, seconds| {
        let end = SystemTime::now() + Duration::from_secs(seconds);
        yard.collector.label_lease(&here, lease, LabelUpdate::Merge(expiring(end))).unwrap();
    };
    let (renewed, expires) = (yard.lease("renewed", &[]), yard.lease("expires", &[]));
    yard.layer("stays", "", &renewed, &[]);
    yard.layer("goes", "", &expires, &[]);
    let looked = SystemTime::now() + Duration::from_secs(60);
    ends_in(&renewed, 30);
    ends_in(&renewed, 3600);
    assert_eq!(
        yard.collector.end_lease(&here, &renewed, looked).unwrap(),
        None,
        "renewed since the look"
    );
    yard.collector.start().unwrap();
    ends_in(&expires, 1);
    eventually("the lease ends and what it held goes", || yard.keys() == ["stays"]);
    let leases = yard.collector.leases(&here).unwrap();
    assert_eq!(leases.into_iter().map(|lease| lease.id).collect::<Vec<_>>(), [lease_id("renewed")]);
    eventually("the run is counted", || yard.collector.totals().expired == 1);
    yard.collector.stop();
}

/// Ends a lease's time in the middle of a run: after it was asked what has ended, before it reads what holds.
struct Meanwhile {
    yard: std::sync::Weak<Collector>,
    end: parking_lot::Mutex<Option<SystemTime>>,
}

impl Source for Meanwhile {
    fn kind(&self) -> Kind {
        "meanwhile"
    }

    fn may_have_garbage(&self, _: &Namespace) -> crate::snapshot::Result<bool> {
        Ok(false)
    }

    fn scan(&self, _: &Namespace, _: &mut dyn FnMut(Found)) -> crate::snapshot::Result<()> {
        Ok(())
    }

    /// Asked by each run, just before it reads what there is.
    fn can_trace(&self, here: &Namespace) -> bool {
        let mut once = self.end.lock();
        if once.is_none() {
            let end = SystemTime::now();
            let change = LabelUpdate::Merge(expiring(end));
            self.yard.upgrade().unwrap().label_lease(here, &lease_id("l"), change).unwrap();
            *once = Some(end);
        }
        true
    }

    fn exists(&self, _: &Namespace, _: &str) -> crate::snapshot::Result<Option<bool>> {
        Ok(None)
    }

    fn remove(&self, _: &Namespace, _: &mut Doomed<'_>) {}
}

/// It once was forgotten: what it held was taken while it could still be renewed, or stayed for ever.
#[test]
fn a_lease_that_ends_during_a_run_lasts_to_its_end_and_is_the_next_ones() {
    for whole in [true, false] {
        let yard = Yard::new();
        yard.collect();
        yard.catch_up();
        let lease = yard.lease("l", &[]);
        yard.layer("held", "", &lease, &[]); // a suspect, too
        let (end, collector) = (parking_lot::Mutex::default(), Arc::downgrade(&yard.collector));
        let meanwhile = Arc::new(Meanwhile { yard: collector, end });
        yard.collector.register(meanwhile.clone());
        let run = || match whole {
            true => yard.collector.collect(false).unwrap(),
            false => yard.collector.catch_up().unwrap(),
        };
        let report = run();
        assert_eq!((went(&report), report.expired.len()), (vec![], 0), "whole: {whole}");
        assert!(report.next_expiry.is_some(), "whole: {whole}");
        assert_eq!(report.next_expiry, *meanwhile.end.lock(), "whole: {whole}");
        let report = run();
        assert_eq!((went(&report), report.expired.len()), (vec!["held".to_owned()], 1));
        assert_eq!(report.next_expiry, None);
    }
}

#[test]
fn the_scheduler_collects_after_a_deletion_and_rests_when_there_is_no_more() {
    let yard = Yard::new();
    yard.collector.start().unwrap();
    let lease = yard.lease("l", &[]);
    yard.layer("one", "", &lease, &[]);
    yard.end(&lease);
    eventually("the snapshot goes", || yard.keys().is_empty());
    let mut before = yard.collector.totals().runs;
    // What it removes itself is no reason for another run: two looks a while apart agree.
    eventually("it rests", || {
        std::thread::sleep(Duration::from_millis(700));
        let now = yard.collector.totals().runs;
        std::mem::replace(&mut before, now) == now
    });
    yard.collector.stop();
    yard.collector.stop();
    assert_eq!(refused(yard.collector.collect(false)), Code::Unavailable);
}

#[test]
fn namespaces_are_made_listed_labelled_and_deleted_only_when_empty() {
    let yard = Yard::new();
    let (ci, used) = (ns("ci"), ns("used"));
    yard.collector.create_namespace(&ci, pairs(&[("team", "a")])).unwrap();
    assert_eq!(refused(yard.collector.create_namespace(&ci, Labels::new())), Code::AlreadyExists);
    yard.fixture.scene("used").prepare("k", "").unwrap();
    let all = yard.collector.namespaces().unwrap();
    assert_eq!(all.keys().cloned().collect::<Vec<_>>(), [ci.clone(), used.clone()]);
    assert!(all[&used].is_none());
    let change = LabelUpdate::Merge(pairs(&[("team", ""), ("stage", "1")]));
    assert_eq!(
        yard.collector.label_namespace(&ci, change).unwrap().labels,
        pairs(&[("stage", "1")])
    );
    assert_eq!(refused(yard.collector.delete_namespace(&used)), Code::FailedPrecondition);
    let lease = yard.collector.create_lease(&ci, None, Labels::new()).unwrap().id;
    let held = yard.collector.delete_namespace(&ci).unwrap_err();
    assert!(held.to_string().contains("ci") && held.to_string().contains("leases"), "{held}");
    yard.collector.delete_lease(&ci, &lease).unwrap();
    yard.collector.delete_namespace(&ci).unwrap();
    assert_eq!(refused(yard.collector.delete_namespace(&ci)), Code::NotFound);
    assert_eq!(yard.collector.namespaces().unwrap().into_keys().collect::<Vec<_>>(), [used]);
}
