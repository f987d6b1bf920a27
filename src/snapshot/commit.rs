//! Commit: an active snapshot becomes a committed one, under its new name.

use std::sync::atomic::AtomicBool;
use std::time::SystemTime;

use super::error::{Error, Result};
use super::locks::Mode;
use super::references::named;
use super::{Also, Change, Info, Snapshots, events};
use crate::crashpoint::Step;
use crate::meta::Batch;
use crate::types::{Kind, Labels, LeaseId, Namespace, Snapshot, SnapshotKey, Volume, check_labels};

impl Snapshots {
    /// Commits the active snapshot `key` as `name`. The key is free afterwards; id and volume stay,
    /// labels are replaced, both times are now, and usage is recorded. `rebase`: the parent to
    /// record for a snapshot that was prepared without one; its volume holds all of its content and
    /// stays as it is.
    ///
    /// When it returns, the content is durable and can't be written any more. After a crash, either
    /// the snapshot is committed, or still active and intact. A commit that was refused leaves it
    /// writable.
    ///
    /// A block device that somebody has open stays his, with what he wrote and goes on writing: the committed snapshot
    /// has what was written until now, and the device is destroyed when he closes it.
    ///
    /// Errors, in this order: the name is taken, the key is missing, isn't active, its parent can't
    /// be changed, the new parent is missing, isn't committed; files are still open for writing
    /// ([`Busy`](crate::volume::Error::Busy)).
    pub fn commit(
        &self,
        ns: &Namespace,
        name: &SnapshotKey,
        key: &SnapshotKey,
        labels: Labels,
        rebase: Option<&SnapshotKey>,
    ) -> Result<Info> {
        self.commit_under(ns, name, key, labels, rebase, None)
    }

    /// [`commit`](Self::commit) under a lease, which holds the committed snapshot too. The leases
    /// that hold the active one hold it in any case.
    pub fn commit_under(
        &self,
        ns: &Namespace,
        name: &SnapshotKey,
        key: &SnapshotKey,
        labels: Labels,
        rebase: Option<&SnapshotKey>,
        lease: Option<&LeaseId>,
    ) -> Result<Info> {
        Self::refuse_layers(ns)?;
        self.commit_told(ns, (name, key), labels, rebase, (lease, &mut |_, _| {}))
    }

    /// [`commit`](Snapshots::commit) with more rows in its batch.
    pub fn commit_with(
        &self,
        ns: &Namespace,
        name: &SnapshotKey,
        key: &SnapshotKey,
        labels: Labels,
        rebase: Option<&SnapshotKey>,
        also: Also<'_>,
    ) -> Result<Info> {
        self.commit_told(ns, (name, key), labels, rebase, (None, also))
    }

    fn commit_told(
        &self,
        ns: &Namespace,
        (name, key): (&SnapshotKey, &SnapshotKey),
        labels: Labels,
        rebase: Option<&SnapshotKey>,
        with: (Option<&LeaseId>, Also<'_>),
    ) -> Result<Info> {
        check_labels(&labels)?;
        let (info, was, left) = self.commit_locked(ns, (name, key), labels, rebase, with)?;
        if let Some(left) = left {
            self.reaper.push(left);
        }
        tracing::info!(%ns, %name, %key, id = %info.snapshot.id, "snapshot committed");
        self.tell(&Change::Committed { key: key.clone(), info: info.clone(), was });
        Ok(info)
    }

    /// Also gives the labels of the active one, and the tombstone of a block device that somebody has open.
    ///
    /// 1. settle the content: no writer is left, all is flushed;
    /// 2. measure;
    /// 3. one batch: the key is gone, the name is there;
    /// 4. keep it so. If the batch was not written the seal is broken, and writing goes on; if
    ///    it may have been, the seal stays, for a committed snapshot must not change.
    fn commit_locked(
        &self,
        ns: &Namespace,
        (name, key): (&SnapshotKey, &SnapshotKey),
        labels: Labels,
        rebase: Option<&SnapshotKey>,
        (lease, also): (Option<&LeaseId>, Also<'_>),
    ) -> Result<(Info, Labels, Option<Volume>)> {
        let _running = self.running()?;
        let mut wanted = vec![(name, Mode::Exclusive), (key, Mode::Exclusive)];
        wanted.extend(rebase.map(|parent| (parent, Mode::Shared)));
        let _held = self.locks.hold(ns, &wanted);
        let _noted = self.references.note(ns, named(name, &labels));

        let active = self.check_commit(ns, name, key)?;
        let parent = self.parent_after(ns, key, &active, rebase)?;
        let volume = self.live_volume(active.volume)?;
        let origin = self.origin_of(&volume)?;

        let settled = self.settle(volume)?;
        let never = AtomicBool::new(false);
        let usage = self.volumes.usage(settled.volume(), origin.as_ref(), &never)?;
        let now = SystemTime::now();
        let committed = Snapshot {
            kind: Kind::Committed,
            parent,
            labels,
            created: now,
            updated: now,
            usage: Some(usage),
            ..active.clone()
        };
        let mut batch = Batch::of(Step::StoreCommit);
        batch.remove_snapshot(ns, key, &active);
        batch.insert_snapshot(ns, name, &committed);
        settled.record(&mut batch);
        batch.publish(events::committed(ns, key, name, &committed));
        let info = Info { namespace: ns.clone(), key: name.clone(), snapshot: committed };
        also(&info, &mut batch);
        match self.write_renamed(batch, key, &info, lease) {
            Ok(()) => Ok((info, active.labels, settled.keep(&self.volumes))),
            Err(error) => {
                if matches!(&error, Error::Store(error) if error.may_have_been_written()) {
                    // The next start finds out, and about the tombstone, too.
                    settled.keep(&self.volumes);
                }
                Err(error)
            }
        }
    }

    fn check_commit(
        &self,
        ns: &Namespace,
        name: &SnapshotKey,
        key: &SnapshotKey,
    ) -> Result<Snapshot> {
        if self.store.snapshot(ns, name)?.is_some() {
            return Err(Error::AlreadyExists(name.to_string()));
        }
        let active = self.existing(ns, key)?;
        match active.kind {
            Kind::Active => Ok(active),
            kind @ (Kind::View | Kind::Committed) => Err(Error::WrongKind {
                key: key.to_string(),
                kind,
                needs: "only an active one can be committed",
            }),
        }
    }

    /// The parent that the committed snapshot gets.
    fn parent_after(
        &self,
        ns: &Namespace,
        key: &SnapshotKey,
        active: &Snapshot,
        rebase: Option<&SnapshotKey>,
    ) -> Result<Option<SnapshotKey>> {
        let Some(rebase) = rebase else { return Ok(active.parent.clone()) };
        match &active.parent {
            Some(parent) if parent != rebase => Err(Error::InvalidArgument(format!(
                "cannot change the parent of snapshot {:?} from {:?} to {:?}: \
                 only one prepared without a parent can be rebased",
                key.as_str(),
                parent.as_str(),
                rebase.as_str()
            ))),
            Some(parent) => Ok(Some(parent.clone())),
            None => match self.committed_parent(ns, rebase) {
                Ok(_) => Ok(Some(rebase.clone())),
                // In a commit, the parent's kind is a matter of state, not of a wrong argument.
                Err(error @ Error::ParentNotCommitted { .. }) => {
                    Err(Error::FailedPrecondition(error.to_string()))
                }
                Err(error) => Err(error),
            },
        }
    }
}
