//! Tests of the collector on a real store and real volumes.

mod collecting;
mod concurrent;
mod following;
mod leasing;
mod property;
mod scale;
mod telling;

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use super::{Collector, Report, Settings, labels};
use crate::snapshot::tests::fixture::{Fixture, Scene, key, labels as pairs};
use crate::types::{Labels, LeaseId, Namespace};

/// containerd's namespace, in these tests.
const CONTAINERD: &str = "containerd";

/// Snapshots with a collector that runs when it is asked.
struct Yard {
    fixture: Fixture,
    collector: Arc<Collector>,
}

/// Words for the default namespace.
struct Hands<'a> {
    scene: Scene<'a>,
    collector: &'a Collector,
}

fn ns(name: &str) -> Namespace {
    Namespace::new(name).unwrap()
}

fn lease_id(id: &str) -> LeaseId {
    LeaseId::new(id).unwrap()
}

impl Yard {
    fn new() -> Self {
        let fixture = Fixture::native();
        let collector = collector_of(&fixture);
        Self { fixture, collector }
    }

    fn scene(&self) -> Scene<'_> {
        self.fixture.scene("default")
    }

    /// What works in the default namespace; can be shared among threads.
    fn hands(&self) -> Hands<'_> {
        Hands { scene: self.scene(), collector: &self.collector }
    }

    fn lease(&self, id: &str, with: &[(&str, &str)]) -> LeaseId {
        self.hands().lease(id, with)
    }

    fn end(&self, id: &LeaseId) {
        self.hands().end(id);
    }

    fn prepare(&self, name: &str, parent: &str, lease: &LeaseId, with: &[(&str, &str)]) {
        self.hands().prepare(name, parent, lease, with);
    }

    fn layer(&self, name: &str, parent: &str, lease: &LeaseId, with: &[(&str, &str)]) {
        self.hands().layer(name, parent, lease, with);
    }

    /// Keys that the run removed, in its order.
    fn collect(&self) -> Vec<String> {
        let report = self.collector.collect(false).unwrap();
        assert_eq!(report.failed, Vec::<String>::new());
        went(&report)
    }

    /// The same for a run that follows what has changed.
    fn catch_up(&self) -> Vec<String> {
        let report = self.collector.catch_up().unwrap();
        assert_eq!(report.failed, Vec::<String>::new());
        went(&report)
    }

    fn keys(&self) -> Vec<String> {
        self.scene().walk(&[]).unwrap()
    }
}

impl Hands<'_> {
    /// A lease in the default namespace.
    fn lease(&self, id: &str, with: &[(&str, &str)]) -> LeaseId {
        self.collector.create_lease(&self.scene.ns, Some(lease_id(id)), pairs(with)).unwrap().id
    }

    fn end(&self, id: &LeaseId) {
        self.collector.delete_lease(&self.scene.ns, id).unwrap();
    }

    fn prepare(&self, name: &str, parent: &str, lease: &LeaseId, with: &[(&str, &str)]) {
        let parent = (!parent.is_empty()).then(|| key(parent));
        let made = self.scene.snapshots.prepare_under(
            &self.scene.ns,
            &key(name),
            parent.as_ref(),
            pairs(with),
            Some(lease),
        );
        made.unwrap();
    }

    /// A committed snapshot that was made under a lease.
    fn layer(&self, name: &str, parent: &str, lease: &LeaseId, with: &[(&str, &str)]) {
        let preparing = format!("{name}-preparing");
        self.prepare(&preparing, parent, lease, &[]);
        self.scene.commit_labelled(name, &preparing, with).unwrap();
    }
}

fn collector_of(fixture: &Fixture) -> Arc<Collector> {
    Collector::new(fixture.snapshots().clone(), ns(CONTAINERD), Settings::default())
}

fn went(report: &Report) -> Vec<String> {
    report.collected.iter().map(|item| item.resource.id.clone()).collect()
}

fn expiring(at: SystemTime) -> Labels {
    Labels::from([(crate::types::EXPIRE_LABEL.to_owned(), labels::expiry(at))])
}

/// Waits for what happens in the background.
fn eventually(what: &str, mut happened: impl FnMut() -> bool) {
    let started = Instant::now();
    while !happened() {
        assert!(started.elapsed() < Duration::from_secs(60), "not within a minute: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}
