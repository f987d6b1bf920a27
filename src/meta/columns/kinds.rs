//! Column family `kinds`: `namespace \0 kind \0 key` → id (u32, big-endian).

use super::{Malformed, join, namespace, number, snapshot_key, split};
use crate::types::{Kind, Namespace, SnapshotId, SnapshotKey};

/// Index of [`Snapshots`](super::Snapshots) by kind, for listing a directory of the FUSE root page
/// by page. A kind is one letter: `a`, `v`, `c`.
pub(in crate::meta) struct Kinds;

impl Kinds {
    pub(in crate::meta) fn row_key(ns: &Namespace, kind: Kind, key: &SnapshotKey) -> Vec<u8> {
        join(&[ns.as_str().as_bytes(), letter(kind), key.as_str().as_bytes()])
    }

    /// What the rows of one kind start with.
    pub(in crate::meta) fn prefix(ns: &Namespace, kind: Kind) -> Vec<u8> {
        join(&[ns.as_str().as_bytes(), letter(kind), b""])
    }

    pub(in crate::meta) fn decode_row_key(
        row_key: &[u8],
    ) -> Result<(Namespace, Kind, SnapshotKey), Malformed> {
        let (ns, rest) = split(row_key)?;
        let (kind_letter, key) = split(rest)?;
        let kind = Kind::ALL
            .into_iter()
            .find(|kind| letter(*kind) == kind_letter)
            .ok_or_else(|| Malformed::RowKey(row_key.to_vec()))?;
        Ok((namespace(ns)?, kind, snapshot_key(key)?))
    }

    pub(in crate::meta) fn encode(id: SnapshotId) -> [u8; 4] {
        id.0.to_be_bytes()
    }

    pub(in crate::meta) fn decode(value: &[u8]) -> Result<SnapshotId, Malformed> {
        number(value).map(SnapshotId)
    }
}

fn letter(kind: Kind) -> &'static [u8] {
    match kind {
        Kind::Active => b"a",
        Kind::View => b"v",
        Kind::Committed => b"c",
    }
}
