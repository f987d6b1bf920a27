//! Indexes, pages, scans as of one moment, and the invariant check.

use std::ops::ControlFlow;
use std::time::Instant;

use super::super::columns::{Children, Column, Digests, Ids, Kinds};
use super::*;

fn keys(store: &Store, namespace: &str) -> Vec<String> {
    let mut keys = Vec::new();
    store
        .for_each_snapshot(&ns(namespace), &mut |key, _| {
            keys.push(key.to_string());
            ControlFlow::Continue(())
        })
        .unwrap();
    keys
}

fn page(store: &Store, kind: Kind, after: Option<&str>, limit: usize) -> Vec<String> {
    let after = after.map(key);
    let page = store.page(&ns("default"), kind, after.as_ref(), limit).unwrap();
    page.into_iter().map(|(key, _)| key.to_string()).collect()
}

#[test]
fn a_snapshot_is_found_by_key_by_id_and_among_its_parents_children() {
    let (_dir, store) = fresh();
    let base = snapshot(1, Kind::Committed, None);
    let top = snapshot(2, Kind::Active, Some("base"));
    insert(&store, "default", "base", &base);
    insert(&store, "default", "top", &top);
    assert_eq!(store.snapshot(&ns("default"), &key("top")).unwrap().unwrap(), top);
    assert_eq!(
        store.snapshot_by_id(SnapshotId(2)).unwrap().unwrap(),
        (ns("default"), key("top"), top.clone())
    );
    assert!(store.has_children(&ns("default"), &key("base")).unwrap());
    assert!(!store.has_children(&ns("default"), &key("top")).unwrap());
    assert_eq!(store.children(&ns("default"), &key("base")).unwrap(), [key("top")]);

    let mut batch = Batch::default();
    batch.remove_snapshot(&ns("default"), &key("top"), &top);
    store.write(batch).unwrap();
    assert_eq!(store.snapshot(&ns("default"), &key("top")).unwrap(), None);
    assert_eq!(store.snapshot_by_id(SnapshotId(2)).unwrap(), None);
    assert!(!store.has_children(&ns("default"), &key("base")).unwrap());
}

#[test]
fn a_commit_in_one_batch_moves_every_index_row() {
    let (_dir, store) = fresh();
    store.next_snapshot_id().unwrap();
    let long = "x".repeat(3000);
    insert(&store, "default", "base", &snapshot(1, Kind::Committed, None));
    let active = snapshot(2, Kind::Active, Some("base"));
    let committed = snapshot(2, Kind::Committed, Some("base"));
    insert(&store, "default", &long, &active);
    let mut batch = Batch::default();
    batch.remove_snapshot(&ns("default"), &key(&long), &active);
    batch.insert_snapshot(&ns("default"), &key("name"), &committed);
    store.write(batch).unwrap();
    assert_eq!(store.children(&ns("default"), &key("base")).unwrap(), [key("name")]);
    assert_eq!(page(&store, Kind::Active, None, 9), Vec::<String>::new());
    assert_eq!(page(&store, Kind::Committed, None, 9), ["base", "name"]);
    assert_eq!(store.verify().unwrap(), Vec::<String>::new());
}

#[test]
fn nothing_crosses_a_namespace() {
    let (_dir, store) = fresh();
    for (at, namespace) in ["a", "a-b", "ab", "b"].into_iter().enumerate() {
        let id = 10 * (at as u32 + 1);
        insert(&store, namespace, "base", &snapshot(id, Kind::Committed, None));
        insert(&store, namespace, "top", &snapshot(id + 1, Kind::Active, Some("base")));
    }
    assert_eq!(store.namespaces().unwrap(), [ns("a"), ns("a-b"), ns("ab"), ns("b")]);
    for namespace in ["a", "a-b", "ab", "b"] {
        assert_eq!(keys(&store, namespace), ["base", "top"]);
        assert_eq!(store.children(&ns(namespace), &key("base")).unwrap(), [key("top")]);
        assert_eq!(store.page(&ns(namespace), Kind::Committed, None, 9).unwrap().len(), 1);
    }
    assert_eq!(keys(&store, "c"), Vec::<String>::new());
}

#[test]
fn a_page_starts_after_the_key_given_and_a_prefix_is_another_key() {
    let (_dir, store) = fresh();
    for (at, name) in ["a", "a\u{1}", "aa", "b/c", "ü"].into_iter().enumerate() {
        insert(&store, "default", name, &snapshot(at as u32 + 1, Kind::View, None));
    }
    assert_eq!(page(&store, Kind::View, None, 2), ["a", "a\u{1}"]);
    assert_eq!(page(&store, Kind::View, Some("a\u{1}"), 2), ["aa", "b/c"]);
    assert_eq!(page(&store, Kind::View, Some("b/"), 9), ["b/c", "ü"]);
    assert_eq!(page(&store, Kind::View, Some("ü"), 9), Vec::<String>::new());
    assert_eq!(page(&store, Kind::View, None, 0), Vec::<String>::new());
}

#[test]
fn a_scan_sees_one_moment_and_may_be_left_early() {
    let (_dir, store) = fresh();
    for id in 1..=5 {
        insert(&store, "default", &format!("k{id}"), &snapshot(id, Kind::View, None));
    }
    let mut seen = Vec::new();
    store
        .for_each_snapshot(&ns("default"), &mut |key, snapshot| {
            insert(
                &store,
                "default",
                &format!("k{}", snapshot.id.0 + 5),
                &super::snapshot(snapshot.id.0 + 5, Kind::View, None),
            );
            seen.push(key);
            if seen.len() < 4 { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        })
        .unwrap();
    assert_eq!(seen, ["k1", "k2", "k3", "k4"].map(key));
    assert_eq!(keys(&store, "default").len(), 9);
}

#[test]
fn a_key_too_long_for_a_file_name_is_found_by_its_digest() {
    let (_dir, store) = fresh();
    let long = key(&format!("/{}", "k".repeat(253)));
    let old = snapshot(1, Kind::View, None);
    insert(&store, "default", long.as_str(), &old);
    insert(&store, "default", &"k".repeat(255), &snapshot(2, Kind::View, None));
    assert_eq!(
        store.key_by_digest(&ns("default"), &Digests::of(&long)).unwrap(),
        Some(long.clone())
    );
    assert_eq!(store.key_by_digest(&ns("other"), &Digests::of(&long)).unwrap(), None);
    let mut batch = Batch::default();
    batch.remove_snapshot(&ns("default"), &long, &old);
    store.write(batch).unwrap();
    assert_eq!(store.key_by_digest(&ns("default"), &Digests::of(&long)).unwrap(), None);
}

#[test]
fn volumes_and_the_pool_survive_a_restart() {
    let (dir, store) = fresh();
    let tombstone = Volume {
        origin: Some(VolumeId(3)),
        backing: Backing::Thin { thin_id: 77 },
        ..volume(9, VolumeState::Tombstone)
    };
    let pool = crate::types::Pool { transaction_id: 3, reserved_end: 2048, ..Default::default() };
    let mut batch = Batch::default();
    batch.put_volume(&volume(3, VolumeState::Lost));
    batch.put_volume(&tombstone);
    batch.put_volume(&volume(300, VolumeState::Live));
    batch.delete_volume(VolumeId(300));
    batch.put_pool(&pool);
    store.write(batch).unwrap();
    drop(store);
    let store = Store::open(&dir.path().join("store")).unwrap();
    let mut found = Vec::new();
    store
        .for_each_volume(&mut |volume| {
            found.push(volume);
            ControlFlow::Continue(())
        })
        .unwrap();
    assert_eq!(found, [volume(3, VolumeState::Lost), tombstone.clone()]);
    assert_eq!(store.volume(VolumeId(9)).unwrap(), Some(tombstone));
    assert_eq!(store.pool().unwrap(), Some(pool));
}

/// Bounded loosely: a debug build on a busy machine does this in well under a second.
#[test]
fn ten_thousand_snapshots_page_through_in_under_two_seconds() {
    let (_dir, store) = fresh();
    for chunk in 0..10u32 {
        let mut batch = Batch::default();
        for id in chunk * 1000 + 1..=(chunk + 1) * 1000 {
            batch.insert_snapshot(
                &ns("default"),
                &key(&format!("k8s.io/{id}/sha256:{id:064}")),
                &snapshot(id, Kind::Committed, None),
            );
            batch.put_volume(&volume(id, VolumeState::Live));
        }
        store.write(batch).unwrap();
    }
    let started = Instant::now();
    let mut after: Option<SnapshotKey> = None;
    let mut total = 0;
    loop {
        let page = store.page(&ns("default"), Kind::Committed, after.as_ref(), 128).unwrap();
        total += page.len();
        match page.into_iter().last() {
            Some((last, _)) => after = Some(last),
            None => break,
        }
    }
    assert_eq!(total, 10_000);
    assert!(started.elapsed().as_secs() < 2, "{:?}", started.elapsed());
}

#[test]
fn verify_names_every_row_that_disagrees() {
    type Damage = fn(&mut Batch);
    #[rustfmt::skip] // a table: a row a line
    let cases: [(Damage, &str); 8] = [
        (|b| b.put(Column::Ids, Ids::row_key(SnapshotId(2)), Ids::encode(&ns("default"), &key("base"))), "snapshot default/top: its row in ids leads elsewhere"),
        (|b| b.put(Column::Kinds, Kinds::row_key(&ns("default"), Kind::View, &key("top")), [0; 4]), "is listed as view"),
        (|b| b.put(Column::Children, Children::row_key(&ns("default"), &key("top"), &key("base")), []), "listed as a child"),
        (|b| b.put_volume(&volume(2, VolumeState::Tombstone)), "snapshot default/top: volume 2 is to be destroyed"),
        (|b| b.put_volume(&volume(7, VolumeState::Live)), "volume 7: it belongs to no snapshot"),
        (|b| b.delete_volume(VolumeId(2)), "volume 2 has no record"),
        (|b| b.remove_snapshot(&ns("default"), &key("base"), &snapshot(1, Kind::Committed, None)), "parent base is missing"),
        (|b| b.insert_snapshot(&ns("default"), &key("far"), &snapshot(5000, Kind::Active, None)), "never reserved"),
    ];
    for (damage, expected) in cases {
        let (_dir, store) = fresh();
        store.next_snapshot_id().unwrap();
        insert(&store, "default", "base", &snapshot(1, Kind::Committed, None));
        insert(&store, "default", "top", &snapshot(2, Kind::Active, Some("base")));
        assert_eq!(store.verify().unwrap(), Vec::<String>::new());
        let mut batch = Batch::default();
        damage(&mut batch);
        store.write(batch).unwrap();
        let found = store.verify().unwrap();
        assert!(
            found.iter().any(|finding| finding.to_string().contains(expected)),
            "{expected:?} not in {found:#?}"
        );
    }
}

#[test]
fn a_damaged_record_is_an_error_that_names_the_snapshot() {
    let (_dir, store) = fresh();
    let mut batch = Batch::default();
    let row = super::super::columns::Snapshots::row_key(&ns("default"), &key("a"));
    batch.put(Column::Snapshots, row, [9, 9, 9]);
    store.write(batch).unwrap();
    let error = store.snapshot(&ns("default"), &key("a")).unwrap_err();
    assert_eq!(
        error.to_string(),
        "the record of snapshot default/a in the metadata store is damaged"
    );
    assert_eq!(
        std::error::Error::source(&error).unwrap().to_string(),
        "record version 9 is unknown to this program"
    );
}

#[test]
fn scans_over_an_index_go_in_key_order_from_any_key_on() {
    use crate::meta::Among;
    use crate::types::LabelReference;
    let (_dir, store) = fresh();
    for (id, name, kind, parent, owner) in [
        (1, "base", Kind::Committed, None, "ci"),
        (2, "b", Kind::Active, Some("base"), "ci"),
        (3, "c", Kind::View, Some("base"), "web"),
        (4, "d", Kind::Active, Some("base"), "ci"),
        (5, "e", Kind::Active, None, "\0\u{ff}"),
    ] {
        let mut new = snapshot(id, kind, parent);
        new.labels.insert("owner".into(), owner.into());
        if matches!(name, "b" | "e") {
            new.labels.insert("containerd.io/gc.ref.snapshot.thinfs".into(), "c".into());
        }
        insert(&store, "default", name, &new);
        insert(&store, "other", name, &Snapshot { id: SnapshotId(id + 10), ..new });
    }
    let found = |several: &[Among<'_>], after: Option<&str>| {
        let (mut found, after) = (Vec::new(), after.map(key));
        store
            .for_each_among_any(&ns("default"), several, after.as_ref(), &mut |key, _| {
                found.push(key.to_string());
                ControlFlow::Continue(())
            })
            .unwrap();
        found
    };
    let base = key("base");
    let named = LabelReference { kind: "snapshot", id: "c", back: false };
    assert_eq!(found(&[Among::All], Some("c")), ["d", "e"]);
    assert_eq!(found(&[Among::Kind(Kind::Active)], Some("b")), ["d", "e"]);
    assert_eq!(found(&[Among::ChildrenOf(&base)], Some("c")), ["d"]);
    assert_eq!(found(&[Among::Label("owner", Some("ci"))], None), ["b", "base", "d"]);
    assert_eq!(found(&[Among::Label("owner", Some("ci"))], Some("b")), ["base", "d"]);
    assert_eq!(found(&[Among::Label("owner", Some("\0\u{ff}"))], None), ["e"]);
    assert_eq!(found(&[Among::Label("owner", None)], Some("base")), ["c", "d", "e"]);
    assert_eq!(found(&[Among::Naming(named)], Some("b")), ["e"]);
    assert_eq!(found(&[Among::Named(&base)], None), ["base"]);
    assert_eq!(found(&[Among::Named(&base)], Some("base")), [""; 0]);
    let several = [Among::Kind(Kind::View), Among::Label("owner", Some("ci")), Among::Named(&base)];
    assert_eq!(found(&several, None), ["b", "base", "c", "d"], "each once");
    assert_eq!(found(&several, Some("base")), ["c", "d"]);
    assert_eq!(found(&[], None), [""; 0]);
    let page = |after: Option<&SnapshotKey>, limit| {
        let keys = store.keys_among(&ns("default"), Among::ChildrenOf(&base), after, limit);
        keys.unwrap().iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    assert_eq!(page(None, 2), ["b", "c"]);
    assert_eq!(page(Some(&key("c")), 2), ["d"]);
    assert_eq!(page(Some(&key("d")), 2), [""; 0]);
}
