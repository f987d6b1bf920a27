//! What prepare and view have in common.

use std::time::SystemTime;

use super::error::{Error, Result};
use super::{Also, FILESYSTEM_LABEL, Info, MAX_SIZE_LABEL, Snapshots, events};
use crate::crashpoint::Step;
use crate::meta::Batch;
use crate::types::{
    Kind, Labels, LeaseId, Namespace, Snapshot, SnapshotId, SnapshotKey, Volume, VolumeId,
    check_labels,
};

/// What the caller asks for.
pub(super) struct Request<'a> {
    pub(super) ns: &'a Namespace,
    pub(super) key: &'a SnapshotKey,
    pub(super) kind: Kind,
    pub(super) parent: Option<&'a SnapshotKey>,
    pub(super) labels: Labels,
    /// From [`MAX_SIZE_LABEL`].
    pub(super) size: Option<u64>,
    /// From [`FILESYSTEM_LABEL`].
    pub(super) filesystem: Option<String>,
    /// The lease that holds it from the start.
    pub(super) lease: Option<&'a LeaseId>,
}

impl<'a> Request<'a> {
    /// Checks what can be checked without the store.
    pub(super) fn new(
        ns: &'a Namespace,
        key: &'a SnapshotKey,
        kind: Kind,
        parent: Option<&'a SnapshotKey>,
        labels: Labels,
        lease: Option<&'a LeaseId>,
    ) -> Result<Self> {
        check_labels(&labels)?;
        let size = max_size(&labels)?;
        let filesystem = filesystem(&labels)?;
        Ok(Self { ns, key, kind, parent, labels, size, filesystem, lease })
    }

    /// The size of a volume of its own, where the labels say one.
    pub(super) fn size(&self) -> Option<u64> {
        self.size
    }

    /// The new snapshot.
    pub(super) fn info(&self, id: SnapshotId, volume: VolumeId) -> Info {
        let now = SystemTime::now();
        let snapshot = Snapshot {
            id,
            kind: self.kind,
            parent: self.parent.cloned(),
            labels: self.labels.clone(),
            created: now,
            updated: now,
            usage: None,
            volume,
            collectable: self.lease.is_some(),
        };
        Info { namespace: self.ns.clone(), key: self.key.clone(), snapshot }
    }
}

fn max_size(labels: &Labels) -> Result<Option<u64>> {
    let Some(text) = labels.get(MAX_SIZE_LABEL) else { return Ok(None) };
    match text.parse() {
        Ok(size) if size > 0 => Ok(Some(size)),
        _ => Err(Error::InvalidArgument(format!(
            "label {MAX_SIZE_LABEL} is {text:?}: it takes a number of bytes greater than 0"
        ))),
    }
}

fn filesystem(labels: &Labels) -> Result<Option<String>> {
    match labels.get(FILESYSTEM_LABEL).map(String::as_str) {
        None => Ok(None),
        Some(name @ ("ext4" | "xfs" | "ext2")) => Ok(Some(name.to_owned())),
        Some(other) => Err(Error::InvalidArgument(format!(
            "label {FILESYSTEM_LABEL} is {other:?}: it takes ext4, xfs or ext2"
        ))),
    }
}

impl Snapshots {
    /// Checks, in containerd's order, that the parent may be one and that the key is free. Gives
    /// the parent. Both keys must be held.
    pub(super) fn check_new(&self, request: &Request<'_>) -> Result<Option<Snapshot>> {
        self.check_form(&request.labels)?;
        let parent = match request.parent {
            None => None,
            Some(parent) => Some(self.committed_parent(request.ns, parent)?),
        };
        if let Some(lease) = request.lease {
            self.existing_lease(request.ns, lease)?;
        }
        match self.store.snapshot(request.ns, request.key)? {
            Some(_) => Err(Error::AlreadyExists(request.key.to_string())),
            None => Ok(parent),
        }
    }

    /// The parent, if it exists and is committed.
    pub(super) fn committed_parent(
        &self,
        ns: &Namespace,
        parent: &SnapshotKey,
    ) -> Result<Snapshot> {
        match self.store.snapshot(ns, parent)? {
            None => Err(Error::ParentNotFound(parent.to_string())),
            Some(found) if found.kind == Kind::Committed => Ok(found),
            Some(found) => {
                Err(Error::ParentNotCommitted { parent: parent.to_string(), kind: found.kind })
            }
        }
    }

    /// Makes a snapshot with a volume of its own, empty or with `origin`'s content.
    ///
    /// After a crash, either the snapshot is there with its volume, or neither: a volume without a
    /// record is destroyed at the next start.
    ///
    /// 1. take an id that was never used;
    /// 2. make the volume, durably, under that id;
    /// 3. one batch names snapshot and volume.
    pub(super) fn create_with_volume(
        &self,
        request: Request<'_>,
        origin: Option<&Volume>,
        also: Also<'_>,
    ) -> Result<Info> {
        let lease = request.lease;
        let id = self.store.next_snapshot_id()?;
        let (backend, volume) = (self.volumes.backend(), VolumeId::of(id));
        let volume = match (&request.filesystem, origin) {
            (Some(filesystem), None) => {
                backend.create_formatted(volume, filesystem, request.size)?
            }
            (_, origin) => backend.create(volume, origin, request.size)?,
        };
        let info = request.info(id, volume.id);
        let mut batch = self.naming(&info, &volume);
        also(&info, &mut batch);
        match self.write_leased(batch, &info, lease) {
            Ok(()) => Ok(info),
            Err(error) => Err(self.undo_create(&volume, error)),
        }
    }

    /// The batch that names a new snapshot and its volume.
    pub(super) fn naming(&self, info: &Info, volume: &Volume) -> Batch {
        let mut batch = Batch::of(Step::StorePrepare);
        batch.insert_snapshot(&info.namespace, &info.key, &info.snapshot);
        batch.publish(events::prepared(&info.namespace, &info.key, &info.snapshot));
        batch.put_volume(volume);
        batch
    }

    /// Makes a snapshot that looks at its parent's volume; the batch is all there is to it.
    pub(super) fn create_sharing(&self, request: Request<'_>, volume: VolumeId) -> Result<Info> {
        let lease = request.lease;
        let info = request.info(self.store.next_snapshot_id()?, volume);
        let mut batch = Batch::of(Step::StoreView);
        batch.insert_snapshot(&info.namespace, &info.key, &info.snapshot);
        batch.publish(events::prepared(&info.namespace, &info.key, &info.snapshot));
        self.write_leased(batch, &info, lease)?;
        Ok(info)
    }

    /// A record that may have reached the disk must find its volume at the next start.
    pub(super) fn undo_create(&self, volume: &Volume, error: Error) -> Error {
        if matches!(&error, Error::Store(error) if error.may_have_been_written()) {
            return error;
        }
        match self.volumes.backend().destroy(volume) {
            Ok(()) => error,
            Err(rollback) => Error::Rollback { cause: Box::new(error), rollback },
        }
    }
}
