//! Histories against a model: after a run exactly what the rules say is there.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;
use crate::types::Leased;

const REFERENCE: &str = "containerd.io/gc.ref.snapshot.thinfs";
const BACK: &str = "containerd.io/gc.bref.snapshot.thinfs";

/// One snapshot of a history. The numbers name earlier or later snapshots, or ones that never were.
#[derive(Debug, Clone)]
struct Made {
    parent: Option<usize>,
    leased: bool,
    root: bool,
    refers: Option<usize>,
    back: Option<usize>,
    /// Held by a lease that stays: a flat one, or not.
    held: Option<bool>,
}

fn made() -> impl Strategy<Value = Made> {
    let number = || prop::option::of(0_usize..14);
    let seldom = || prop::bool::weighted(0.15);
    (
        number(),
        prop::bool::weighted(0.85),
        seldom(),
        number(),
        number(),
        prop::option::weighted(0.2, any::<bool>()),
    )
        .prop_map(|(parent, leased, root, refers, back, held)| Made {
            parent,
            leased,
            root,
            refers,
            back,
            held,
        })
}

/// The rules once more, as sets that grow until they don't.
fn survivors(history: &[Made]) -> BTreeSet<usize> {
    let parent = |at: usize| history[at].parent.filter(|parent| *parent < at);
    let exists = |at: &usize| *at < history.len();
    let mut full: BTreeSet<usize> = BTreeSet::new();
    let mut flat: BTreeSet<usize> = BTreeSet::new();
    for (at, made) in history.iter().enumerate() {
        if !made.leased || made.root || made.held == Some(false) {
            full.insert(at);
        }
        if made.held == Some(true) {
            flat.insert(at);
        }
    }
    loop {
        let before = (full.len(), flat.len());
        for (at, made) in history.iter().enumerate() {
            if full.contains(&at) {
                full.extend(parent(at));
                full.extend(made.refers.filter(exists));
            }
            if made.back.filter(exists).is_some_and(|by| full.contains(&by)) {
                full.insert(at);
            }
            if flat.contains(&at) {
                flat.extend(parent(at));
            }
        }
        if before == (full.len(), flat.len()) {
            return &full | &flat;
        }
    }
}

proptest! {
    #![proptest_config(crate::testing::random(12, 1_000))]

    /// Never collects what is reachable, always collects the rest; cycles and missing targets
    /// included.
    #[test]
    fn a_run_leaves_exactly_what_the_rules_say(history in prop::collection::vec(made(), 1..12)) {
        let yard = Yard::new();
        let ends = yard.lease("ends", &[]);
        let stays = [yard.lease("full", &[]), yard.lease("flat", &[("containerd.io/gc.flat", "1")])];
        let name = |at: usize| format!("s{at}");
        for (at, made) in history.iter().enumerate() {
            let mut labels = BTreeMap::new();
            labels.extend(made.refers.map(|to| (REFERENCE.to_owned(), name(to))));
            labels.extend(made.back.map(|to| (BACK.to_owned(), name(to))));
            labels.extend(made.root.then(|| ("containerd.io/gc.root".to_owned(), "1".to_owned())));
            let parent = made.parent.filter(|parent| *parent < at).map(|parent| key(&name(parent)));
            let lease = made.leased.then_some(&ends);
            let snapshots = yard.fixture.snapshots();
            let active = key(&format!("{}-active", name(at)));
            snapshots.prepare_under(&ns("default"), &active, parent.as_ref(), Labels::new(), lease).unwrap();
            snapshots.commit(&ns("default"), &key(&name(at)), &active, labels, None).unwrap();
            if let Some(flat) = made.held {
                let what = Leased::snapshot(&key(&name(at)));
                yard.collector.hold(&ns("default"), &stays[usize::from(flat)], &what).unwrap();
            }
        }
        yard.end(&ends);
        let expected: BTreeSet<String> = survivors(&history).into_iter().map(name).collect();
        let dry: BTreeSet<String> = went(&yard.collector.collect(true).unwrap()).into_iter().collect();
        let gone: BTreeSet<String> = yard.collect().into_iter().collect();
        prop_assert_eq!(&dry, &gone, "a dry run says the same");
        let left: BTreeSet<String> = yard.keys().into_iter().collect();
        prop_assert_eq!(left, expected);
        yard.fixture.assert_sound();
    }
}
