//! Column family `ids`: id (u32, big-endian) → `namespace \0 key`.

use super::{Malformed, Snapshots, number};
use crate::types::{Namespace, SnapshotId, SnapshotKey};

/// Index of [`Snapshots`] by id, over all namespaces.
pub(in crate::meta) struct Ids;

impl Ids {
    pub(in crate::meta) fn row_key(id: SnapshotId) -> [u8; 4] {
        id.0.to_be_bytes()
    }

    pub(in crate::meta) fn decode_row_key(row_key: &[u8]) -> Result<SnapshotId, Malformed> {
        number(row_key).map(SnapshotId)
    }

    /// The row key that the snapshot has in [`Snapshots`].
    pub(in crate::meta) fn encode(ns: &Namespace, key: &SnapshotKey) -> Vec<u8> {
        Snapshots::row_key(ns, key)
    }

    pub(in crate::meta) fn decode(value: &[u8]) -> Result<(Namespace, SnapshotKey), Malformed> {
        Snapshots::decode_row_key(value)
    }
}
