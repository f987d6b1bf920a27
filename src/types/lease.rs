//! Leases: what holds resources for a while.

use std::fmt;
use std::time::SystemTime;

use serde::Serialize;

use super::{InvalidName, Labels, SnapshotKey};

/// Longest lease id, in bytes.
pub const MAX_LEASE_LEN: usize = 128;

/// Names a lease within its namespace: visible ASCII without `/`, at most [`MAX_LEASE_LEN`] bytes.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct LeaseId(String);

impl LeaseId {
    /// Checks and wraps a lease's id.
    pub fn new(id: impl Into<String>) -> Result<Self, InvalidName> {
        let id = id.into();
        let well_formed = (1..=MAX_LEASE_LEN).contains(&id.len())
            && id.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'/');
        if well_formed { Ok(Self(id)) } else { Err(InvalidName::Lease(id)) }
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for LeaseId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Holds resources until it is deleted or expires. When it expires stands in a label, as containerd
/// has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    /// Unique within its namespace.
    pub id: LeaseId,
    /// When it was made.
    pub created: SystemTime,
    /// The caller's labels, those that the collector knows included.
    pub labels: Labels,
}

/// What a lease holds: a kind's word and an id of that kind.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Leased {
    /// `snapshot`, `layer`, `rw`.
    pub kind: String,
    /// Of that kind.
    pub id: String,
}

impl Leased {
    /// The snapshot with this key.
    pub fn snapshot(key: &SnapshotKey) -> Self {
        Self { kind: LEASED_SNAPSHOT.to_owned(), id: key.as_str().to_owned() }
    }
}

/// The word that leases name snapshots with.
pub const LEASED_SNAPSHOT: &str = "snapshot";

/// What is kept of a namespace besides what lives in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamespaceRecord {
    /// When it was made.
    pub created: SystemTime,
    /// The caller's labels, those that the collector knows included.
    pub labels: Labels,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_id_is_visible_ascii_without_a_slash() {
        for good in ["l", "1700000000-aB_-=", "a:b", &"x".repeat(MAX_LEASE_LEN)] {
            assert!(LeaseId::new(good).is_ok(), "{good}");
        }
        for bad in ["", "a/b", "a b", "ü", "a\0", &"x".repeat(MAX_LEASE_LEN + 1)] {
            assert_eq!(LeaseId::new(bad), Err(InvalidName::Lease(bad.to_owned())));
        }
    }
}
