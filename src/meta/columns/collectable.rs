//! Column family `collectable`: `namespace \0 key` → nothing.

use super::{Malformed, Snapshots};
use crate::types::{Namespace, SnapshotKey};

/// Index of [`Snapshots`] that were made under a lease: tells the collector in one look that a
/// namespace is none of its business.
pub(in crate::meta) struct Collectable;

impl Collectable {
    pub(in crate::meta) fn row_key(ns: &Namespace, key: &SnapshotKey) -> Vec<u8> {
        Snapshots::row_key(ns, key)
    }

    /// What the rows of a namespace start with.
    pub(in crate::meta) fn prefix(ns: &Namespace) -> Vec<u8> {
        Snapshots::prefix(ns)
    }

    /// Namespace and key.
    pub(in crate::meta) fn decode_row_key(
        row_key: &[u8],
    ) -> Result<(Namespace, SnapshotKey), Malformed> {
        Snapshots::decode_row_key(row_key)
    }
}
