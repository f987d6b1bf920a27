//! Counts of snapshots: what `status` shows without reading a record.

use super::*;
use crate::meta::WriteFault;
use crate::types::Counts;

fn counts(store: &Store) -> Vec<(String, Counts)> {
    store.counts().into_iter().map(|(ns, counts)| (ns.to_string(), counts)).collect()
}

#[test]
fn counts_follow_every_change_that_became_durable_and_are_there_after_a_restart() {
    let (dir, store) = fresh();
    assert_eq!(counts(&store), []);
    for id in 1..=3 {
        let kind = if id == 3 { Kind::View } else { Kind::Active };
        insert(&store, "default", &format!("k{id}"), &snapshot(id, kind, None));
    }
    insert(&store, "other", "k", &snapshot(4, Kind::Active, None));
    // A commit renames and changes the kind; a change of labels changes nothing.
    let (ns, old) = (ns("default"), snapshot(1, Kind::Active, None));
    let committed = snapshot(1, Kind::Committed, None);
    let labelled =
        Snapshot { labels: Labels::from([("a".into(), "b".into())]), ..committed.clone() };
    let mut batch = Batch::default();
    batch.remove_snapshot(&ns, &key("k1"), &old);
    batch.insert_snapshot(&ns, &key("base"), &committed);
    store.write(batch).unwrap();
    let mut batch = Batch::default();
    batch.update_snapshot(&ns, &key("base"), &committed, &labelled);
    store.write(batch).unwrap();
    let expected = [
        ("default".to_owned(), Counts { active: 1, view: 1, committed: 1 }),
        ("other".to_owned(), Counts { active: 1, ..Counts::default() }),
    ];
    assert_eq!(counts(&store), expected);

    let mut batch = Batch::default();
    batch.remove_snapshot(&ns, &key("base"), &labelled);
    store.fail_next_write(WriteFault::Before);
    store.write(batch).unwrap_err();
    assert_eq!(counts(&store), expected, "what failed counts for nothing");
    drop(store);
    let store = Store::open(&dir.path().join("store")).unwrap();
    assert_eq!(counts(&store), expected);
    let mut batch = Batch::default();
    batch.remove_snapshot(&super::ns("other"), &key("k"), &snapshot(4, Kind::Active, None));
    store.write(batch).unwrap();
    assert_eq!(counts(&store), expected[..1], "a namespace that holds nothing is not shown");
}
