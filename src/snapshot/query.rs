//! Questions that a look into the store answers. None takes a lock.

use std::collections::BTreeMap;

use super::error::{Error, Result};
use super::{Info, Snapshots};
use crate::types::{Counts, Kind, Namespace, SnapshotId, SnapshotKey};

impl Snapshots {
    /// The snapshot with this key.
    pub fn stat(&self, ns: &Namespace, key: &SnapshotKey) -> Result<Info> {
        let snapshot = self.existing(ns, key)?;
        Ok(Info { namespace: ns.clone(), key: key.clone(), snapshot })
    }

    /// The snapshot with this id, in whatever namespace.
    pub fn stat_id(&self, id: SnapshotId) -> Result<Option<Info>> {
        let found = self.store.snapshot_by_id(id)?;
        Ok(found.map(|(namespace, key, snapshot)| Info { namespace, key, snapshot }))
    }

    /// The snapshot with this key, if it may be mounted: a committed one is there to be a parent
    /// only.
    pub fn mounts(&self, ns: &Namespace, key: &SnapshotKey) -> Result<Info> {
        let info = self.stat(ns, key)?;
        match info.snapshot.kind {
            Kind::Active | Kind::View => Ok(info),
            kind @ Kind::Committed => Err(Error::WrongKind {
                key: key.to_string(),
                kind,
                needs: "only an active one or a view can be mounted",
            }),
        }
    }

    /// Up to `limit` snapshots of one kind with keys greater than `after`, in key order.
    pub fn page(
        &self,
        ns: &Namespace,
        kind: Kind,
        after: Option<&SnapshotKey>,
        limit: usize,
    ) -> Result<Vec<(SnapshotKey, SnapshotId)>> {
        Ok(self.store.page(ns, kind, after, limit)?)
    }

    /// Namespaces that hold at least one snapshot, in order.
    pub fn namespaces(&self) -> Result<Vec<Namespace>> {
        Ok(self.store.namespaces()?)
    }

    /// How many snapshots each namespace holds that holds any; costs the same over any number.
    pub fn counts(&self) -> BTreeMap<Namespace, Counts> {
        self.store.counts()
    }

    /// The key with this SHA-256, of those too long for a directory name.
    pub fn key_by_digest(&self, ns: &Namespace, digest: &[u8; 32]) -> Result<Option<SnapshotKey>> {
        Ok(self.store.key_by_digest(ns, digest)?)
    }
}
