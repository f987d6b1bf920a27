//! Collect: many snapshots removed at once, each only if nothing has come to need it.

use std::collections::HashSet;
use std::time::Duration;

use super::error::Result;
use super::locks::{Held, Mode};
use super::{Change, Info, Snapshots};
use crate::crashpoint::Step;
use crate::meta::Batch;
use crate::types::{Kind, Namespace, SnapshotId, SnapshotKey, Volume, VolumeId};

/// Snapshots that a collection found unreachable; a child stands before its parent.
pub trait Doom {
    /// Those that are still to be removed, by position.
    fn left(&self) -> Vec<usize>;
    /// Whether this one is still to be removed.
    fn goes(&self, at: usize) -> bool;
    /// Its key.
    fn key(&self, at: usize) -> &SnapshotKey;
    /// Its id as of the collection's look.
    fn snapshot_id(&self, at: usize) -> SnapshotId;
    /// It stays, and so does what it refers to.
    fn keep(&mut self, at: usize, why: &str);
}

/// What one batch removes.
struct Removal {
    batch: Batch,
    removed: Vec<Info>,
    tombstones: Vec<Volume>,
}

impl Snapshots {
    /// Removes what is left of `doom` in one batch, and says of the others why they stay. Waits for
    /// nobody: what another operation works on stays. Holds the keys for one batch.
    ///
    /// After a crash, either all of them are there as before, or their tombstones are.
    ///
    /// 1. take the keys that are free;
    /// 2. look again at each: the same snapshot, no new reference, no new child, no file open;
    /// 3. one batch;
    /// 4. the reaper and the watchers, as after [`remove`](Self::remove).
    pub fn collect(&self, ns: &Namespace, doom: &mut dyn Doom) -> Result<()> {
        Self::refuse_layers(ns)?;
        let _running = self.running()?;
        let held = self.take_free(ns, doom);
        let batch = Batch::of(Step::StoreCollect);
        let mut removal = Removal { batch, removed: Vec::new(), tombstones: Vec::new() };
        for at in self.still_unneeded(ns, doom)? {
            let (namespace, key) = (ns.clone(), doom.key(at).clone());
            let info = Info { namespace, snapshot: self.existing(ns, &key)?, key };
            removal.tombstones.extend(self.add_removal(&mut removal.batch, &info)?);
            removal.removed.push(info);
        }
        if removal.removed.is_empty() {
            return Ok(());
        }
        self.store.write(removal.batch)?;
        drop(held);
        removal.tombstones.into_iter().for_each(|tombstone| self.reaper.push(tombstone));
        for info in removal.removed {
            if info.snapshot.volume != VolumeId::of(info.snapshot.id) {
                self.view_is_gone(&info);
            }
            self.usages.forget(info.snapshot.id);
            tracing::debug!(%ns, key = %info.key, id = %info.snapshot.id, "snapshot collected");
            self.tell(&Change::Removed(info));
        }
        Ok(())
    }

    /// Try-locks can't wait for each other, so their order doesn't matter.
    fn take_free(&self, ns: &Namespace, doom: &mut dyn Doom) -> Vec<Held<'_>> {
        let mut held = Vec::new();
        for at in doom.left() {
            let wanted = [(doom.key(at), Mode::Exclusive)];
            match self.locks.hold_within(ns, &wanted, Duration::ZERO) {
                Some(one) => held.push(one),
                None => doom.keep(at, "another operation works on it"),
            }
        }
        held
    }

    fn still_unneeded(&self, ns: &Namespace, doom: &mut dyn Doom) -> Result<Vec<usize>> {
        let together: HashSet<SnapshotKey> =
            doom.left().into_iter().map(|at| doom.key(at).clone()).collect();
        for at in doom.left() {
            if doom.goes(at)
                && let Some(why) = self.needed(ns, doom.key(at), doom.snapshot_id(at), &together)?
            {
                doom.keep(at, why);
            }
        }
        Ok(doom.left())
    }

    /// Why a snapshot may not be removed now. A child among those removed together is no reason:
    /// if it stays after all, that keeps its parent too.
    fn needed(
        &self,
        ns: &Namespace,
        key: &SnapshotKey,
        id: SnapshotId,
        together: &HashSet<SnapshotKey>,
    ) -> Result<Option<&'static str>> {
        let Some(snapshot) = self.store.snapshot(ns, key)?.filter(|found| found.id == id) else {
            return Ok(Some("it was removed meanwhile"));
        };
        if self.references.is_noted(ns, key) {
            return Ok(Some("something has come to refer to it"));
        }
        if snapshot.kind == Kind::Active && self.volumes.is_in_use(snapshot.volume) {
            return Ok(Some("files of it are open"));
        }
        let children = self.store.children(ns, key)?;
        let new = children.iter().any(|child| !together.contains(child));
        Ok(new.then_some("it has come to have a child"))
    }
}
