//! Column family `digests`: `namespace \0 sha256(key)` → key.

use sha2::{Digest, Sha256};

use super::{Malformed, join, snapshot_key};
use crate::types::{Namespace, SnapshotKey};

/// Finds keys whose directory name is a digest, because the escaped key is longer than a file name
/// may be. Kept for every key over [`Digests::FROM`] bytes.
pub(in crate::meta) struct Digests;

impl Digests {
    /// Escaping makes at most three bytes of one, and a file name holds 255: a shorter key always
    /// fits.
    pub(in crate::meta) const FROM: usize = 80;

    pub(in crate::meta) fn needed(key: &SnapshotKey) -> bool {
        key.as_str().len() > Self::FROM
    }

    pub(in crate::meta) fn of(key: &SnapshotKey) -> [u8; 32] {
        Sha256::digest(key.as_str().as_bytes()).into()
    }

    /// The digest may hold NULs; it is the last word, and of fixed length.
    pub(in crate::meta) fn row_key(ns: &Namespace, digest: &[u8; 32]) -> Vec<u8> {
        join(&[ns.as_str().as_bytes(), digest])
    }

    pub(in crate::meta) fn encode(key: &SnapshotKey) -> Vec<u8> {
        key.as_str().as_bytes().to_vec()
    }

    pub(in crate::meta) fn decode(value: &[u8]) -> Result<SnapshotKey, Malformed> {
        snapshot_key(value)
    }
}
