//! The events of snapshots, each put into the batch that makes its change.

use crate::types::{Event, Namespace, Snapshot, SnapshotKey, Topic};

/// A snapshot was prepared, or a view made.
pub(crate) fn prepared(ns: &Namespace, key: &SnapshotKey, new: &Snapshot) -> Event {
    about(Topic::SNAPSHOT_PREPARE, ns, key, new).with("kind", new.kind)
}

/// The active snapshot `key` was committed as `name`.
pub(crate) fn committed(
    ns: &Namespace,
    key: &SnapshotKey,
    name: &SnapshotKey,
    new: &Snapshot,
) -> Event {
    about(Topic::SNAPSHOT_COMMIT, ns, key, new).with("name", name)
}

/// A snapshot was removed; `old` is what it was.
pub(crate) fn removed(ns: &Namespace, key: &SnapshotKey, old: &Snapshot) -> Event {
    about(Topic::SNAPSHOT_REMOVE, ns, key, old).with("kind", old.kind)
}

/// Labels were changed.
pub(crate) fn updated(ns: &Namespace, key: &SnapshotKey, new: &Snapshot) -> Event {
    about(Topic::SNAPSHOT_UPDATE, ns, key, new).with("kind", new.kind)
}

fn about(topic: Topic, ns: &Namespace, key: &SnapshotKey, snapshot: &Snapshot) -> Event {
    let event = Event::about(topic, ns, key).with("id", snapshot.id);
    match &snapshot.parent {
        Some(parent) => event.with("parent", parent),
        None => event,
    }
}
