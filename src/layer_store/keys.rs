//! What the layer store's snapshots and locks are called.

use crate::types::{ChainId, GivenName, IMPORTING, SnapshotKey};

/// What the names of init layers start with.
pub(super) const INIT: &str = "init:";
/// What the keys of read-write layers start with.
pub(super) const RW: &str = "rw:";
const IMAGE: &str = "image:";

/// The committed snapshot of a layer, and the layer's lock.
pub(super) fn layer(chain: &ChainId) -> SnapshotKey {
    key(chain.to_string())
}

/// The active snapshot of an import.
pub(super) fn import(number: u64) -> SnapshotKey {
    key(format!("{IMPORTING}{number}"))
}

/// The active snapshot of a read-write layer, and its lock.
pub(super) fn rw(name: &GivenName) -> SnapshotKey {
    key(format!("{RW}{name}"))
}

/// The committed snapshot between a read-write layer and its parent.
pub(super) fn init(name: &GivenName) -> SnapshotKey {
    key(format!("{INIT}{name}"))
}

/// The lock of an image's name.
pub(super) fn image(name: &GivenName) -> SnapshotKey {
    key(format!("{IMAGE}{name}"))
}

fn key(text: String) -> SnapshotKey {
    SnapshotKey::new(text).expect("names and digests are short and hold no NUL")
}
