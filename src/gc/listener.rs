//! What a change to a snapshot tells the collector: that it is to run, and what may have become garbage by it.

use std::sync::{Arc, Weak};

use super::policy::Event;
use super::source::{Resource, SNAPSHOT};
use super::{Collector, labels};
use crate::snapshot::{Change, Info, Watcher};
use crate::types::{Labels, SnapshotKey};

/// Hears of changes to snapshots. Holds the collector weakly: the snapshots hold it.
struct Listener(Weak<Collector>);

pub(super) fn listen(collector: &Arc<Collector>) {
    collector.snapshots().watch(Arc::new(Listener(Arc::downgrade(collector))));
}

impl Watcher for Listener {
    /// A changed label may have been what kept something, so it counts as a deletion.
    fn changed(&self, change: &Change) {
        let Some(collector) = self.0.upgrade() else { return };
        let (info, event) = match change {
            Change::Removed(info) | Change::Updated { info, .. } => (info, Event::Deletion),
            Change::Prepared(info) | Change::Committed { info, .. } => (info, Event::Mutation),
        };
        if info.namespace == collector.snapshot_source().never {
            return;
        }
        collector.scheduler.event(&info.namespace, event, Some(suspects(&collector, change)));
        let end = labels::expires(&info.snapshot.labels);
        if let Some(end) = end.filter(|_| !matches!(change, Change::Removed(_))) {
            collector.held_until(&info.namespace, [(end, snapshot(&info.key))]);
        }
    }
}

/// Whatever the change may have taken the last hold from: the snapshot itself, and what it referred to. A key that is
/// no more stands for those that named it as their keeper.
fn suspects(collector: &Collector, change: &Change) -> Vec<Resource> {
    match change {
        Change::Prepared(info) => vec![snapshot(&info.key)],
        Change::Committed { key, info, was } => {
            [vec![snapshot(key), snapshot(&info.key)], targets(collector, was)].concat()
        }
        Change::Removed(info) => {
            let Info { key, snapshot: removed, .. } = info;
            let parent = removed.parent.as_ref().map(snapshot);
            let own = [snapshot(key)].into_iter().chain(parent);
            own.chain(targets(collector, &removed.labels)).collect()
        }
        Change::Updated { info, was } => {
            [vec![snapshot(&info.key)], targets(collector, was)].concat()
        }
    }
}

fn snapshot(key: &SnapshotKey) -> Resource {
    Resource::new(SNAPSHOT, key.as_str())
}

fn targets(collector: &Collector, labels: &Labels) -> Vec<Resource> {
    let kinds = collector.snapshot_source().kinds.read();
    labels::references(labels, &kinds).0.into_iter().map(|(_, to)| to).collect()
}
