//! Column family `digests`: `namespace \0 sha256(key)` → key.

use sha2::{Digest, Sha256};

use super::{Malformed, join, snapshot_key};
use crate::types::{Namespace, SnapshotKey};

/// Finds keys whose directory name is a digest, because the escaped key is longer than a file name
/// may be. Up to schema 2 it held every key over [`Digests::OF_SCHEMA_2`] bytes.
pub(in crate::meta) struct Digests;

impl Digests {
    /// Up to here no row was ever kept.
    pub(in crate::meta) const OF_SCHEMA_2: usize = 80;

    pub(in crate::meta) fn needed(key: &SnapshotKey) -> bool {
        !key.fits_a_name()
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
