//! Update: labels, the only thing about a snapshot that may be changed.

use std::time::SystemTime;

use super::locks::Mode;
use super::references::named;
use super::{Change, Info, Result, Snapshots, events};
use crate::crashpoint::Step;
use crate::meta::Batch;
use crate::types::{Labels, Namespace, Snapshot, SnapshotKey, check_labels};

/// What [`Snapshots::update`] is to do with the labels. An empty value means that the label is to
/// go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LabelUpdate {
    /// All labels become these.
    Replace(Labels),
    /// Only these keys change.
    Merge(Labels),
}

impl LabelUpdate {
    /// The labels that come of it.
    pub fn apply(self, old: &Labels) -> Labels {
        let mut labels = match self {
            LabelUpdate::Replace(new) => new.into_iter().collect::<Labels>(),
            LabelUpdate::Merge(changes) => return merge(old, changes),
        };
        labels.retain(|_, value| !value.is_empty());
        labels
    }
}

fn merge(old: &Labels, changes: Labels) -> Labels {
    let mut labels = old.clone();
    for (key, value) in changes {
        match value.is_empty() {
            true => labels.remove(&key),
            false => labels.insert(key, value),
        };
    }
    labels
}

impl Snapshots {
    /// Changes labels, of a snapshot of any kind, and moves `updated`; all else stays.
    ///
    /// After a crash, either all of the change is there or nothing of it.
    pub fn update(&self, ns: &Namespace, key: &SnapshotKey, labels: LabelUpdate) -> Result<Info> {
        let (info, was) = self.update_locked(ns, key, labels)?;
        tracing::info!(%ns, %key, id = %info.snapshot.id, "labels changed");
        self.tell(&Change::Updated { info: info.clone(), was });
        Ok(info)
    }

    /// Also gives the labels before.
    fn update_locked(
        &self,
        ns: &Namespace,
        key: &SnapshotKey,
        labels: LabelUpdate,
    ) -> Result<(Info, Labels)> {
        let _running = self.running()?;
        let _held = self.locks.hold(ns, &[(key, Mode::Exclusive)]);
        let old = self.existing(ns, key)?;
        let labels = labels.apply(&old.labels);
        check_labels(&labels)?;
        self.check_form(&labels)?;
        self.switch_form(&old, &labels)?;
        let new = Snapshot { labels, updated: SystemTime::now(), ..old.clone() };
        let _noted = self.references.note(ns, named(key, &new.labels));
        let mut batch = Batch::of(Step::StoreLabels);
        batch.update_snapshot(ns, key, &old, &new);
        batch.publish(events::updated(ns, key, &new));
        self.store.write(batch)?;
        Ok((Info { namespace: ns.clone(), key: key.clone(), snapshot: new }, old.labels))
    }
}
