//! Column family `children`: `namespace \0 parent \0 child` → nothing.

use super::{Malformed, join, namespace, snapshot_key, split};
use crate::types::{Namespace, SnapshotKey};

/// Index of [`Snapshots`](super::Snapshots) by parent.
pub(in crate::meta) struct Children;

impl Children {
    pub(in crate::meta) fn row_key(
        ns: &Namespace,
        parent: &SnapshotKey,
        child: &SnapshotKey,
    ) -> Vec<u8> {
        join(&[ns.as_str().as_bytes(), parent.as_str().as_bytes(), child.as_str().as_bytes()])
    }

    /// What the rows of one parent's children start with.
    pub(in crate::meta) fn prefix(ns: &Namespace, parent: &SnapshotKey) -> Vec<u8> {
        join(&[ns.as_str().as_bytes(), parent.as_str().as_bytes(), b""])
    }

    /// Namespace, parent, child.
    pub(in crate::meta) fn decode_row_key(
        row_key: &[u8],
    ) -> Result<(Namespace, SnapshotKey, SnapshotKey), Malformed> {
        let (ns, rest) = split(row_key)?;
        let (parent, child) = split(rest)?;
        Ok((namespace(ns)?, snapshot_key(parent)?, snapshot_key(child)?))
    }
}
