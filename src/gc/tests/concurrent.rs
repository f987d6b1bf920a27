//! Collections while others make and drop references.

use std::sync::atomic::{AtomicBool, Ordering};

use super::*;
use crate::types::Leased;

/// Each thread prepares under a lease of its own, on bases that only leases hold, has another lease
/// hold some, and lets all of it go; a collector runs all the time. What a thread holds must be
/// there whenever it looks, and in the end nothing may be left.
#[test]
fn what_is_held_is_never_collected_and_what_is_not_always_is() {
    let yard = Yard::new();
    let (here, done) = (ns("default"), AtomicBool::new(false));
    let hands = yard.hands();
    std::thread::scope(|scope| {
        let collector = hands.collector;
        let done = &done;
        let runs = scope.spawn(move || {
            let mut removed = 0;
            while !done.load(Ordering::Relaxed) {
                removed += collector.collect(false).unwrap().collected.len();
            }
            removed
        });
        let workers: Vec<_> = (0..4)
            .map(|worker| {
                let (hands, here) = (&hands, &here);
                scope.spawn(move || {
                    for round in 0..12 {
                        let name = |what: &str| format!("{what}-{worker}-{round}");
                        let lease = hands.lease(&name("l"), &[]);
                        hands.layer(&name("base"), "", &lease, &[]);
                        // On a base that a dying lease held a moment ago.
                        let keeper = hands.lease(&name("k"), &[]);
                        let base = Leased::snapshot(&key(&name("base")));
                        hands.collector.hold(here, &keeper, &base).unwrap();
                        hands.end(&lease);
                        hands.prepare(&name("top"), &name("base"), &keeper, &[]);
                        hands.collector.let_go(here, &keeper, &base).unwrap();
                        let refers = ("containerd.io/gc.ref.snapshot.thinfs", name("base"));
                        hands.layer(&name("side"), "", &keeper, &[(refers.0, &refers.1)]);
                        for what in ["base", "top", "side"] {
                            hands.scene.stat(&name(what)).unwrap();
                        }
                        hands.end(&keeper);
                    }
                })
            })
            .collect();
        let ended: Vec<_> = workers.into_iter().map(|worker| worker.join()).collect();
        done.store(true, Ordering::Relaxed);
        ended.into_iter().for_each(|worker| worker.unwrap());
        assert!(runs.join().unwrap() > 0, "it ran meanwhile");
    });
    yard.collect();
    assert_eq!(yard.keys(), Vec::<String>::new());
    yard.fixture.assert_sound();
}

/// Between the mark and the removal something comes to refer to garbage: the removal must see it.
/// A source that is scanned after the snapshots stands for whoever comes just then.
#[test]
fn a_reference_made_between_mark_and_sweep_keeps_its_target_and_what_that_stands_on() {
    use crate::gc::source::{Found, Kind};
    use crate::gc::{Doomed, Source};
    use crate::snapshot::Result;

    struct Late {
        snapshots: Arc<crate::snapshot::Snapshots>,
    }

    impl Source for Late {
        fn kind(&self) -> Kind {
            "late"
        }
        fn may_have_garbage(&self, _: &Namespace) -> Result<bool> {
            Ok(false)
        }
        /// After the snapshots' scan; what is prepared now is in nobody's scan.
        fn scan(&self, ns: &Namespace, _: &mut dyn FnMut(Found)) -> Result<()> {
            let parent = key("middle");
            let made = self.snapshots.prepare(ns, &key("new"), Some(&parent), Labels::new());
            if made.is_ok() {
                let refers = [("containerd.io/gc.ref.snapshot.thinfs", "aside")];
                let change = crate::snapshot::LabelUpdate::Merge(pairs(&refers));
                self.snapshots.update(ns, &key("new"), change)?;
            }
            Ok(())
        }
        fn exists(&self, _: &Namespace, _: &str) -> Result<Option<bool>> {
            Ok(None)
        }
        fn remove(&self, _: &Namespace, _: &mut Doomed<'_>) {}
    }

    let yard = Yard::new();
    let lease = yard.lease("l", &[]);
    yard.layer("bottom", "", &lease, &[]);
    yard.layer("middle", "bottom", &lease, &[]);
    yard.layer("aside", "", &lease, &[]);
    yard.layer("garbage", "middle", &lease, &[]);
    yard.collector.register(Arc::new(Late { snapshots: yard.fixture.snapshots().clone() }));
    yard.end(&lease);
    let report = yard.collector.collect(false).unwrap();
    assert_eq!(went(&report), ["garbage"]);
    assert_eq!(yard.keys(), ["aside", "bottom", "middle", "new"]);
    let mut stayed: Vec<_> = report.stayed.iter().map(|i| i.resource.id.as_str()).collect();
    stayed.sort_unstable();
    assert_eq!(stayed, ["aside", "bottom", "middle"]);
    assert_eq!(yard.collect(), Vec::<String>::new(), "the next run sees the reference itself");
}
