//! Damage made by hand, of every kind: what is found, what is mended, what is saved.

use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use super::super::columns::{
    Children, Column, Digests, Ids, Kinds, Labels, References, Snapshots, System, Volumes,
};
use super::super::damaged_log::Note;
use super::super::open::open_for_writing;
use super::*;
use crate::meta::{Error, FOUND, check_closed, repair_closed};
use crate::types::LabelReference;

/// base ← top ← look (a view), a lone active one with a long key, all with labels.
fn family() -> (TempDir, Store) {
    let (dir, store) = fresh();
    for _ in 0..4 {
        store.next_snapshot_id().unwrap();
    }
    insert(&store, "default", "base", &snapshot(1, Kind::Committed, None));
    let mut top = snapshot(2, Kind::Committed, Some("base"));
    top.labels.insert("containerd.io/gc.ref.snapshot.thinfs".into(), "base".into());
    insert(&store, "default", "top", &top);
    let mut look = snapshot(3, Kind::View, Some("top"));
    look.volume = VolumeId(2);
    let mut batch = Batch::default();
    batch.insert_snapshot(&ns("default"), &key("look"), &look);
    store.write(batch).unwrap();
    insert(&store, "default", &long(), &snapshot(4, Kind::Active, Some("top")));
    assert_eq!(store.verify().unwrap(), Vec::<String>::new());
    (dir, store)
}

/// The row of the reference from `key` to this.
fn reference(id: &str, key_text: &str) -> Vec<u8> {
    let named = LabelReference { kind: "snapshot", id, back: false };
    References::row_key(&ns("default"), &named, &key(key_text)).unwrap()
}

fn long() -> String {
    "x".repeat(300)
}

type Damage = fn(&mut Batch);

#[test]
fn rows_that_disagree_are_mended_without_loss() {
    #[rustfmt::skip] // a table: a row a line
    let cases: &[(&str, Damage, &str)] = &[
        ("an index row is gone", |b| b.delete(Column::Kinds, Kinds::row_key(&ns("default"), Kind::Committed, &key("top"))), "snapshot default/top: it has no row in kinds"),
        ("a child's row is gone", |b| b.delete(Column::Children, Children::row_key(&ns("default"), &key("base"), &key("top"))), "snapshot default/top: it has no row in children"),
        ("a digest is gone", |b| b.delete(Column::Digests, Digests::row_key(&ns("default"), &Digests::of(&key(&long())))), "it has no row in digests"),
        ("a label's row is gone", |b| b.delete(Column::Labels, Labels::row_key(&ns("default"), "id", "2", &key("top"))), "snapshot default/top: it has no row in labels"),
        ("a reference's row is gone", |b| b.delete(Column::References, reference("base", "top")), "snapshot default/top: it has no row in references"),
        ("a reference is left over", |b| b.put(Column::References, reference("look", "base"), []), "with a reference that its labels don't make"),
        ("an id leads elsewhere", |b| b.put(Column::Ids, Ids::row_key(SnapshotId(2)), Ids::encode(&ns("default"), &key("base"))), "its row in ids leads elsewhere"),
        ("a row is left over", |b| b.put(Column::Labels, Labels::row_key(&ns("default"), "no", "body", &key("top")), []), "with a label that it hasn't"),
        ("a row names nothing", |b| b.put(Column::Kinds, b"rubbish", []), "a row of kinds"),
        ("the counter is gone", |b| b.delete(Column::System, System::SNAPSHOT_IDS), "the snapshot id counter: it is missing"),
        ("the counter is behind", |b| b.put(Column::System, System::SNAPSHOT_IDS, System::encode_snapshot_ids(2)), "was never reserved"),
        ("a volume is to be destroyed", |b| b.put_volume(&volume(2, VolumeState::Tombstone)), "snapshot default/top: volume 2 is to be destroyed"),
        ("a volume's record is gone", |b| b.delete_volume(VolumeId(2)), "snapshot default/top: volume 2 has no record"),
        ("a volume's record is rubbish", |b| b.put(Column::Volumes, Volumes::row_key(VolumeId(2)), [9, 9]), "volume 2: its record is damaged"),
        ("a record is gone", |b| b.delete(Column::Snapshots, Snapshots::row_key(&ns("default"), &key("base"))), "snapshot default/base: its record is missing"),
        ("a record is rubbish", |b| b.put(Column::Snapshots, Snapshots::row_key(&ns("default"), &key("top")), [1, 0xff]), "snapshot default/top: its record is missing or damaged"),
        ("a view's record is gone", |b| b.delete(Column::Snapshots, Snapshots::row_key(&ns("default"), &key("look"))), "snapshot default/look: its record is missing"),
    ];
    for (name, damage, expected) in cases {
        let (_dir, store) = family();
        let mut batch = Batch::default();
        damage(&mut batch);
        store.write(batch).unwrap();
        let found = store.verify().unwrap();
        assert!(found.iter().any(|f| f.to_string().contains(expected)), "{name}: {found:#?}");
        let mended = store.mend().unwrap();
        assert!(!mended.is_empty(), "{name}");
        // What only the layer above can measure may be left.
        let left: Vec<_> = store
            .verify()
            .unwrap()
            .into_iter()
            .filter(|f| f.remedy != crate::meta::MEASURE)
            .collect();
        assert_eq!(left, Vec::<String>::new(), "{name}");
        // Nothing is lost: every snapshot is there, with its kind, parent, id and volume.
        for (key_text, id, kind, parent) in [
            ("base", 1, Kind::Committed, None),
            ("top", 2, Kind::Committed, Some("base")),
            ("look", 3, Kind::View, Some("top")),
            (&long(), 4, Kind::Active, Some("top")),
        ] {
            let found = store.snapshot(&ns("default"), &key(key_text)).unwrap();
            let found = found.unwrap_or_else(|| panic!("{name}: {key_text} is gone"));
            assert_eq!((found.id.0, found.kind), (id, kind), "{name}: {key_text}");
            assert_eq!(found.parent, parent.map(key), "{name}: {key_text}");
            let volume = store.volume(found.volume).unwrap().unwrap();
            assert_eq!(volume.state, VolumeState::Live, "{name}: {key_text}");
        }
        let topics: Vec<_> =
            store.events_after(0, 99).unwrap().into_iter().map(|e| e.event.topic).collect();
        assert!(
            topics.iter().all(|topic| topic.as_str() == "/store/repair")
                && topics.len() == mended.len()
        );
    }
}

#[test]
fn a_child_of_nobody_stands_alone_and_a_volume_of_nobody_gets_a_snapshot() {
    let (_dir, store) = family();
    let mut batch = Batch::default();
    let base = store.snapshot(&ns("default"), &key("base")).unwrap().unwrap();
    batch.remove_snapshot(&ns("default"), &key("base"), &base);
    batch.put_volume(&volume(4000, VolumeState::Live));
    store.write(batch).unwrap();
    store.mend().unwrap();
    assert_eq!(store.verify().unwrap(), Vec::<String>::new());
    let top = store.snapshot(&ns("default"), &key("top")).unwrap().unwrap();
    assert_eq!((top.parent, top.kind), (None, Kind::Committed));
    for id in [1, 4000] {
        let found = store.snapshot(&ns(FOUND), &key(&format!("volume-{id}"))).unwrap().unwrap();
        assert_eq!((found.volume, found.kind), (VolumeId(id), Kind::Active));
    }
    assert!(store.next_snapshot_id().is_ok());
}

#[test]
fn a_thin_volume_without_its_record_is_not_made_up() {
    let (_dir, store) = family();
    let mut batch = Batch::default();
    batch.put_pool(&crate::types::Pool::default());
    batch.delete_volume(VolumeId(1));
    store.write(batch).unwrap();
    store.mend().unwrap();
    let left = store.verify().unwrap();
    assert_eq!(left, ["snapshot default/base: volume 1 has no record".to_owned()]);
    assert!(!left[0].mendable && left[0].remedy.contains("thinfs restore"), "{left:?}");
}

/// Many snapshots, flushed to tables.
fn in_tables() -> (TempDir, PathBuf) {
    let (dir, store) = fresh();
    let path = dir.path().join("store");
    for chunk in 0..5u32 {
        let mut batch = Batch::default();
        for id in chunk * 400 + 1..=(chunk + 1) * 400 {
            while store.next_snapshot_id().unwrap().0 < id {}
            let mut new = snapshot(id, Kind::Active, None);
            new.labels.insert("filler".into(), "f".repeat(100));
            batch.insert_snapshot(&ns("default"), &key(&format!("key-{id:04}")), &new);
            batch.put_volume(&volume(id, VolumeState::Live));
        }
        store.write(batch).unwrap();
    }
    drop(store);
    drop(Store::open(&path).unwrap()); // replays the log into tables
    (dir, path)
}

fn largest_table(dir: &Path) -> PathBuf {
    let tables = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    tables
        .filter(|path| path.extension().is_some_and(|e| e == "sst"))
        .max_by_key(|path| fs::metadata(path).unwrap().len())
        .unwrap()
}

fn flip(path: &Path, at: usize) {
    let mut bytes = fs::read(path).unwrap();
    bytes[at] ^= 0xff;
    fs::write(path, bytes).unwrap();
}

fn count(store: &Store) -> usize {
    let mut count = 0;
    store
        .for_each_snapshot(&ns("default"), &mut |_, _| {
            count += 1;
            ControlFlow::Continue(())
        })
        .unwrap();
    count
}

/// The largest table holds the records themselves.
#[test]
fn flipped_bytes_in_a_table_are_found_and_every_snapshot_is_saved() {
    let (_dir, path) = in_tables();
    let table = largest_table(&path);
    let size = fs::metadata(&table).unwrap().len() as usize;
    flip(&table, size / 3);
    flip(&table, size / 2);
    let found = check_closed(&path).unwrap();
    assert!(
        found
            .iter()
            .any(|f| f.to_string().starts_with("column family snapshots: RocksDB cannot read it")),
        "{found:#?}"
    );
    let salvaged = repair_closed(&path).unwrap();
    assert!(salvaged.set_aside.is_some());
    let store = Store::open(&path).unwrap();
    assert_eq!(count(&store), 2000, "records in damaged blocks are made again from the indexes");
    assert_eq!(store.verify().unwrap(), Vec::<String>::new());
    assert!(store.keeping().unwrap().is_some(), "volumes that nobody names are kept");
    assert!(store.next_snapshot_id().unwrap().0 > 1 << 20, "no id is given twice");
    assert!(check_closed(&path).is_err(), "not while it is open");
}

#[test]
fn a_lost_manifest_is_made_again() {
    let (_dir, path) = in_tables();
    for entry in fs::read_dir(&path).unwrap() {
        let entry = entry.unwrap();
        if entry.file_name().to_string_lossy().starts_with("MANIFEST") {
            fs::remove_file(entry.path()).unwrap();
        }
    }
    let found = check_closed(&path).unwrap();
    assert!(found[0].to_string().contains("RocksDB cannot open it"), "{found:?}");
    repair_closed(&path).unwrap();
    assert_eq!(count(&Store::open(&path).unwrap()), 2000);
}

#[test]
fn a_store_that_lost_its_beginning_is_refused_not_made_anew() {
    let (_dir, path) = in_tables();
    fs::remove_file(path.join("CURRENT")).unwrap();
    assert!(matches!(Store::open(&path), Err(Error::Headless(_))));
    repair_closed(&path).unwrap();
    assert_eq!(count(&Store::open(&path).unwrap()), 2000);
}

fn log_of(dir: &Path) -> PathBuf {
    let logs = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    logs.filter(|path| path.extension().is_some_and(|e| e == "log"))
        .max_by_key(|path| fs::metadata(path).unwrap().len())
        .unwrap()
}

/// As after a power cut: the last batch is not there, all before it is, and nothing is distrusted.
#[test]
fn a_log_cut_short_loses_its_last_batch_only() {
    let (dir, store) = family();
    let path = dir.path().join("store");
    drop(store);
    let log = log_of(&path);
    let bytes = fs::read(&log).unwrap();
    fs::write(&log, &bytes[..bytes.len() - 5]).unwrap();
    assert_eq!(check_closed(&path).unwrap(), Vec::<String>::new());
    let store = Store::open(&path).unwrap();
    assert!(store.snapshot(&ns("default"), &key("look")).unwrap().is_some());
    assert!(store.snapshot(&ns("default"), &key(&long())).unwrap().is_none());
    assert_eq!(store.verify().unwrap(), Vec::<String>::new());
    assert_eq!(store.keeping().unwrap(), None);
}

/// Not what a power cut leaves: what was acknowledged is lost, so volumes are not taken for garbage.
#[test]
fn a_log_with_flipped_bytes_makes_the_store_keep_unnamed_volumes() {
    let (dir, store) = family();
    let path = dir.path().join("store");
    drop(store);
    let log = log_of(&path);
    flip(&log, fs::metadata(&log).unwrap().len() as usize / 2);
    let found = check_closed(&path).unwrap();
    assert!(
        found[0].to_string().contains("the log of the metadata store: it is damaged"),
        "{found:?}"
    );
    let store = Store::open(&path).unwrap();
    assert!(store.keeping().unwrap().unwrap().contains("log was damaged"));
    assert!(store.snapshot(&ns("default"), &key(&long())).unwrap().is_none());
    assert!(store.next_snapshot_id().unwrap().0 >= 1 << 20, "none of the lost ids again");
    assert!(store.event_bounds().last >= 1 << 20, "none of the lost numbers again");
    assert!(!path.join("thinfs.damaged-log").exists());
    let ids = store.next_snapshot_id().unwrap();
    drop(store);
    let store = Store::open(&path).unwrap();
    assert!(store.keeping().unwrap().is_some(), "until somebody says so");
    assert!(store.next_snapshot_id().unwrap().0 < ids.0 + 2048, "they leap once");
}

/// RocksDB once retired the damaged log in a start that was then killed: the next start saw a whole store, and the
/// volumes that the lost records had named were destroyed.
#[test]
fn a_start_that_dies_once_the_damaged_log_is_retired_leaves_word_to_the_next() {
    let (dir, store) = family();
    let path = dir.path().join("store");
    drop(store);
    let log = log_of(&path);
    flip(&log, fs::metadata(&log).unwrap().len() as usize / 2);
    drop(open_for_writing(&path, &Note::of(&path)).unwrap());
    let store = Store::open(&path).unwrap();
    assert!(store.snapshot(&ns("default"), &key(&long())).unwrap().is_none(), "it is lost");
    assert!(store.keeping().unwrap().unwrap().contains("log was damaged"));
}

/// A migration that can't read what it migrates once kept the offline repair from saving the rest.
#[test]
fn a_store_whose_migration_meets_damage_is_salvaged() {
    let (dir, store) = family();
    let path = dir.path().join("store");
    let mut batch = Batch::default();
    batch.put(Column::System, System::SCHEMA, System::encode_schema(2));
    batch.put(Column::Snapshots, Snapshots::row_key(&ns("default"), &key("top")), [1, 0xff]);
    store.write(batch).unwrap();
    drop(store);
    assert!(matches!(Store::open(&path), Err(Error::Migration { .. })));
    let salvaged = repair_closed(&path).unwrap();
    assert!(salvaged.set_aside.is_some(), "{salvaged:?}");
    let store = Store::open(&path).unwrap();
    for name in ["base", "top", "look", &long()] {
        assert!(store.snapshot(&ns("default"), &key(name)).unwrap().is_some(), "{name}");
    }
}
