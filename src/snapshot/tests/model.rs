//! Random operations on the rules and on a reference that holds the whole contract in one screen.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

use super::fixture::{Code, Fixture, Scene, code, write};
use crate::types::{Kind, Labels, SnapshotId};

/// Names are few, so that operations meet.
type Name = u8;

#[derive(Debug, Clone)]
pub(super) enum Op {
    Prepare { key: Name, parent: Option<Name> },
    View { key: Name, parent: Option<Name> },
    Commit { name: Name, key: Name, rebase: Option<Name> },
    Remove { key: Name },
    Replace { key: Name, label: Name, empty: bool },
    Merge { key: Name, label: Name, empty: bool },
    Write { key: Name, file: Name },
    Cleanup,
    Restart,
    Crash,
}

pub(super) fn op() -> impl Strategy<Value = Op> {
    let name = || 0..6u8;
    prop_oneof![
        6 => (name(), option::of(name())).prop_map(|(key, parent)| Op::Prepare { key, parent }),
        3 => (name(), option::of(name())).prop_map(|(key, parent)| Op::View { key, parent }),
        6 => (name(), name(), option::weighted(0.3, name())).prop_map(|(name, key, rebase)| Op::Commit { name, key, rebase }),
        4 => name().prop_map(|key| Op::Remove { key }),
        1 => (name(), 0..3u8, any::<bool>()).prop_map(|(key, label, empty)| Op::Replace { key, label, empty }),
        1 => (name(), 0..3u8, any::<bool>()).prop_map(|(key, label, empty)| Op::Merge { key, label, empty }),
        4 => (name(), 0..20u8).prop_map(|(key, file)| Op::Write { key, file }),
        1 => Just(Op::Cleanup),
        1 => Just(Op::Restart),
        1 => Just(Op::Crash),
    ]
}

/// What is right.
#[derive(Debug, Default)]
struct Reference {
    snapshots: BTreeMap<String, Expected>,
}

#[derive(Debug, Clone, PartialEq)]
struct Expected {
    id: SnapshotId,
    kind: Kind,
    parent: Option<String>,
    labels: Labels,
    files: BTreeSet<String>,
}

impl Reference {
    fn new_snapshot(&self, key: &str, parent: Option<&str>, kind: Kind) -> Result<Expected, Code> {
        let files = match parent.map(|parent| self.snapshots.get(parent)) {
            None => BTreeSet::new(),
            Some(None) => return Err(Code::NotFound),
            Some(Some(parent)) if parent.kind != Kind::Committed => {
                return Err(Code::InvalidArgument);
            }
            Some(Some(parent)) => parent.files.clone(),
        };
        if self.snapshots.contains_key(key) {
            return Err(Code::AlreadyExists);
        }
        Ok(Expected {
            id: SnapshotId(0),
            kind,
            parent: parent.map(str::to_owned),
            labels: Labels::new(),
            files,
        })
    }

    fn committed(&self, name: &str, key: &str, rebase: Option<&str>) -> Result<Expected, Code> {
        if self.snapshots.contains_key(name) {
            return Err(Code::AlreadyExists);
        }
        let active = self.snapshots.get(key).ok_or(Code::NotFound)?;
        if active.kind != Kind::Active {
            return Err(Code::FailedPrecondition);
        }
        let parent = match (&active.parent, rebase) {
            (Some(parent), Some(rebase)) if parent != rebase => return Err(Code::InvalidArgument),
            (Some(parent), _) => Some(parent.clone()),
            (None, Some(rebase)) => match self.snapshots.get(rebase) {
                None => return Err(Code::NotFound),
                Some(found) if found.kind != Kind::Committed => {
                    return Err(Code::FailedPrecondition);
                }
                Some(_) => Some(rebase.to_owned()),
            },
            (None, None) => None,
        };
        Ok(Expected { kind: Kind::Committed, parent, labels: Labels::new(), ..active.clone() })
    }

    fn removable(&self, key: &str) -> Result<(), Code> {
        if !self.snapshots.contains_key(key) {
            return Err(Code::NotFound);
        }
        match self.snapshots.values().any(|other| other.parent.as_deref() == Some(key)) {
            true => Err(Code::FailedPrecondition),
            false => Ok(()),
        }
    }
}

fn word(name: Name) -> String {
    format!("name {name}/\u{fc}")
}

/// Applies an operation to both; what they answer must be the same.
fn step(fixture: &mut Fixture, reference: &mut Reference, op: &Op) {
    let scene = fixture.scene("model");
    match op.clone() {
        Op::Prepare { key, parent } => {
            create(&scene, reference, &word(key), parent.map(word), Kind::Active)
        }
        Op::View { key, parent } => {
            create(&scene, reference, &word(key), parent.map(word), Kind::View)
        }
        Op::Commit { name, key, rebase } => {
            let (name, key, rebase) = (word(name), word(key), rebase.map(word));
            let expected = reference.committed(&name, &key, rebase.as_deref());
            let found = match &rebase {
                None => scene.commit(&name, &key),
                Some(rebase) => scene.rebase(&name, &key, rebase),
            };
            assert_eq!(found.map(drop).map_err(|e| code(&e)), expected.clone().map(drop));
            if let Ok(committed) = expected {
                reference.snapshots.remove(&key);
                reference.snapshots.insert(name, committed);
            }
        }
        Op::Remove { key } => {
            let expected = reference.removable(&word(key));
            assert_eq!(scene.remove(&word(key)).map_err(|e| code(&e)), expected);
            if expected.is_ok() {
                reference.snapshots.remove(&word(key));
            }
        }
        Op::Replace { key, label, empty } => relabel(&scene, reference, key, label, empty, true),
        Op::Merge { key, label, empty } => relabel(&scene, reference, key, label, empty, false),
        Op::Write { key, file } => {
            write_file(&scene, reference, &word(key), &format!("file{file}"))
        }
        Op::Cleanup => assert_eq!(scene.snapshots.cleanup().unwrap().failed, Vec::<String>::new()),
        Op::Restart => assert_eq!(fixture.restart().reaped, 0),
        Op::Crash => assert_eq!(fixture.crash().reaped, 0),
    }
}

fn create(
    scene: &Scene<'_>,
    reference: &mut Reference,
    key: &str,
    parent: Option<String>,
    kind: Kind,
) {
    let expected = reference.new_snapshot(key, parent.as_deref(), kind);
    let parent = parent.unwrap_or_default();
    let found =
        if kind == Kind::View { scene.view(key, &parent) } else { scene.prepare(key, &parent) };
    match (found, expected) {
        (Ok(info), Ok(expected)) => {
            let id = info.snapshot.id;
            assert!(reference.snapshots.values().all(|other| other.id != id));
            reference.snapshots.insert(key.to_owned(), Expected { id, ..expected });
        }
        (found, expected) => assert_eq!(found.map(drop).map_err(|e| code(&e)), expected.map(drop)),
    }
}

fn relabel(
    scene: &Scene<'_>,
    reference: &mut Reference,
    key: Name,
    label: Name,
    empty: bool,
    replace: bool,
) {
    let (key, label) = (word(key), format!("label.{label}"));
    let value = if empty { "" } else { "value" };
    let change = [(label.as_str(), value)];
    let found = if replace {
        scene.replace_labels(&key, &change)
    } else {
        scene.merge_labels(&key, &change)
    };
    let expected = reference.snapshots.get_mut(&key).ok_or(Code::NotFound);
    assert_eq!(
        found.map(drop).map_err(|e| code(&e)),
        expected.as_ref().map(drop).map_err(|code| *code)
    );
    let Ok(expected) = expected else { return };
    if replace {
        expected.labels.clear();
    }
    match empty {
        true => expected.labels.remove(&label),
        false => expected.labels.insert(label, value.to_owned()),
    };
}

fn write_file(scene: &Scene<'_>, reference: &mut Reference, key: &str, file: &str) {
    let Some(expected) = reference.snapshots.get_mut(key) else { return };
    let opened = scene.snapshots.open(expected.id).unwrap();
    assert_eq!(opened.read_only, expected.kind != Kind::Active);
    let written = write(&opened.pin, file, "content");
    assert_eq!(written.is_ok(), expected.kind == Kind::Active, "{written:?}");
    if written.is_ok() {
        expected.files.insert(file.to_owned());
    }
}

/// Everything that can be asked about the snapshots, against the reference.
fn compare(fixture: &Fixture, reference: &Reference, with_files: bool) {
    let scene = fixture.scene("model");
    let mut found = BTreeMap::new();
    scene
        .snapshots
        .walk(&scene.ns, &[], &mut |info| {
            let snapshot = info.snapshot;
            let expected = &reference.snapshots[info.key.as_str()];
            let files =
                if with_files { scene.files(info.key.as_str()) } else { expected.files.clone() };
            let parent = snapshot.parent.map(|parent| parent.to_string());
            let state = Expected {
                id: snapshot.id,
                kind: snapshot.kind,
                parent,
                labels: snapshot.labels,
                files,
            };
            found.insert(info.key.to_string(), state);
            ControlFlow::Continue(())
        })
        .unwrap();
    assert_eq!(found, reference.snapshots);
    for kind in Kind::ALL {
        let expected: Vec<_> = reference
            .snapshots
            .iter()
            .filter(|(_, s)| s.kind == kind)
            .map(|(key, _)| key.clone())
            .collect();
        assert_eq!(scene.page(kind), expected);
    }
}

/// Runs the operations on both, and compares after each.
pub(super) fn run(mut fixture: Fixture, ops: &[Op]) {
    let mut reference = Reference::default();
    for op in ops {
        step(&mut fixture, &mut reference, op);
        compare(&fixture, &reference, false);
    }
    compare(&fixture, &reference, true);
    fixture.assert_sound();
}

proptest! {
    #![proptest_config(crate::testing::random(24, 200))]

    #[test]
    fn the_rules_answer_as_the_reference_does_and_keep_every_file(ops in vec(op(), 1..50)) {
        run(Fixture::native(), &ops);
    }
}
