//! From schema to schema: `schema-1/` and `schema-2/` are stores as the last programs of these schemas left them, made
//! by `schema-1.sh` and `schema-2.sh`; half of each is in tables and half in the log.

use std::path::Path;

use super::super::columns::{Column, Digests, Labels, System};
use super::super::rows;
use super::*;
use crate::meta::Among;
use crate::types::LabelReference;

fn copy_of_schema_1() -> TempDir {
    copy_of("schema-1")
}

fn copy_of(schema: &str) -> TempDir {
    let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/meta/tests").join(schema);
    let dir = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), dir.path().join(entry.file_name())).unwrap();
    }
    dir
}

fn labelled(store: &Store, label: &str, value: Option<&str>) -> Vec<String> {
    let mut keys = Vec::new();
    store
        .for_each_among(&ns("default"), Among::Label(label, value), None, &mut |key, _| {
            keys.push(key.to_string());
            std::ops::ControlFlow::Continue(())
        })
        .unwrap();
    keys
}

#[test]
fn a_store_of_schema_1_is_migrated_with_all_that_is_in_it() {
    let dir = copy_of_schema_1();
    let store = Store::open(dir.path()).unwrap();
    assert_eq!(schema_of(&store), 3);
    assert_eq!(store.verify().unwrap(), Vec::<String>::new());
    assert_eq!(store.namespaces().unwrap(), [ns("default"), ns("other")]);
    let extract = format!("k8s.io/12/extract-1 sha256:{}", "0".repeat(64));
    let mut keys = Vec::new();
    store
        .for_each_snapshot(&ns("default"), &mut |key, _| {
            keys.push(key.to_string());
            std::ops::ControlFlow::Continue(())
        })
        .unwrap();
    assert_eq!(keys, ["base", &extract, "look", "top", "web"]);
    let top = store.snapshot(&ns("default"), &key("top")).unwrap().unwrap();
    assert_eq!((top.kind, top.parent), (Kind::Committed, Some(key("base"))));
    // What is new.
    assert_eq!(labelled(&store, "owner", Some("ci")), ["base", "top"]);
    assert_eq!(labelled(&store, "owner", None), ["base", "top", "web"]);
    assert_eq!(labelled(&store, "quoted\"key", Some("ü")), std::slice::from_ref(&extract));
    assert_eq!(labelled(&store, "stage", Some("build")), [""; 0], "replaced at commit");
    assert_eq!((store.event_bounds().first, store.event_bounds().last), (1, 0));
    let digest = Digests::of(&key(&extract));
    assert_eq!(store.key_by_digest(&ns("default"), &digest).unwrap(), None, "a file name holds it");
    // It goes on from there, and a second opening finds it as it is.
    let id = store.next_snapshot_id().unwrap();
    assert!(id.0 >= 7, "{id}");
    drop(store);
    assert_eq!(Store::open(dir.path()).unwrap().verify().unwrap(), Vec::<String>::new());
}

fn schema_of(store: &Store) -> u32 {
    let schema = rows::get(&store.db, Column::System, System::SCHEMA, String::new);
    System::decode_schema(&schema.unwrap().unwrap()).unwrap()
}

#[test]
fn a_store_of_schema_2_finds_snapshots_by_what_their_labels_name() {
    let dir = copy_of("schema-2");
    let store = Store::open(dir.path()).unwrap();
    assert_eq!(schema_of(&store), 3);
    assert_eq!(store.verify().unwrap(), Vec::<String>::new());
    let naming = |kind: &str, id: &str, back: bool| {
        let among = Among::Naming(LabelReference { kind, id, back });
        let keys = store.keys_among(&ns("default"), among, None, 10).unwrap();
        keys.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    assert_eq!(naming("snapshot", "aside", false), ["top", "web"]);
    assert_eq!(naming("snapshot", "base", true), ["aside"]);
    assert_eq!(naming("layer", "sha256:1", false), ["web"]);
    assert_eq!(naming("snapshot", "base", false), [""; 0], "it was removed");
    // What schema 2 had already.
    assert_eq!(labelled(&store, "owner", Some("ci")), ["top"]);
    assert_eq!(store.leases(&ns("default")).unwrap().len(), 1);
    assert!(store.event_bounds().last > 5);
    drop(store);
    assert_eq!(Store::open(dir.path()).unwrap().verify().unwrap(), Vec::<String>::new());
}

/// Rows of the index that a half-done migration might leave are overwritten by the next.
#[test]
fn a_migration_that_a_crash_cut_off_runs_again() {
    let dir = copy_of_schema_1();
    drop(Store::open(dir.path()).unwrap());
    {
        let options = rocksdb::Options::default();
        let db = rocksdb::DB::open_cf(&options, dir.path(), Column::ALL.map(Column::name)).unwrap();
        let row = System::encode_schema(1);
        db.put_cf(rows::handle(&db, Column::System), System::SCHEMA, row).unwrap();
        let lost = Labels::row_key(&ns("default"), "owner", "ci", &key("top"));
        db.delete_cf(rows::handle(&db, Column::Labels), lost).unwrap();
    }
    let store = Store::open(dir.path()).unwrap();
    assert_eq!(labelled(&store, "owner", Some("ci")), ["base", "top"]);
    assert_eq!(store.verify().unwrap(), Vec::<String>::new());
}
