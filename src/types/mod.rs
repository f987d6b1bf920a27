//! The plain words that every layer speaks: namespaces, keys, kinds, ids, labels, usage.
//!
//! Nothing here does I/O or knows a library other than `std`, `serde` and `sha2` (a chain id is a
//! digest of digests). A value that exists
//! has been validated: constructors refuse what no layer could store.

mod digest;
mod event;
mod finding;
mod layer;
mod lease;
mod mount_form;
mod references;
mod snapshot;
mod volume;

pub use digest::{ChainId, DiffId, InvalidDigest};
pub use event::{Event, Published, Publisher, Topic};
pub use finding::Finding;
pub use layer::{
    GivenName, Holder, IMPORTING, Image, InvalidGivenName, LAYERS, Layer, MAX_DEPTH, RwLayer,
    is_in_the_making,
};
pub use lease::{LEASED_SNAPSHOT, Lease, LeaseId, Leased, MAX_LEASE_LEN, NamespaceRecord};
pub use mount_form::{MountForm, UnknownMountForm};
pub use references::{EXPIRE_LABEL, FLAT_LABEL, LabelReference, ROOT_LABEL, label_references};
pub use snapshot::{Counts, Snapshot};
pub use volume::{Backing, FaultyId, Pool, Template, Volume, VolumeState, Witness};

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;

/// Longest snapshot key or name, in bytes. containerd sends keys of some hundred bytes; the limit
/// keeps one key inside one RocksDB block and one virtual extended attribute.
pub const MAX_KEY_LEN: usize = 4096;
/// Longest label, key and value together, in bytes (containerd's `labels.Validate`).
pub const MAX_LABEL_LEN: usize = 4096;
/// Longest namespace name, in bytes (containerd's `identifiers.Validate`).
pub const MAX_NAMESPACE_LEN: usize = 76;

/// A word that could not become a [`SnapshotKey`], [`Namespace`] or label.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidName {
    /// The snapshot key is empty.
    #[error("a snapshot key must not be empty")]
    EmptyKey,
    /// The snapshot key is longer than [`MAX_KEY_LEN`].
    #[error("the snapshot key is {0} bytes long, the limit is {MAX_KEY_LEN}")]
    KeyTooLong(usize),
    /// The snapshot key holds a NUL byte.
    #[error("the snapshot key {0:?} holds a NUL byte")]
    NulInKey(String),
    /// The namespace is not of the form `[A-Za-z0-9]+([-_.][A-Za-z0-9]+)*`, at most 76 bytes.
    #[error(
        "the namespace {0:?} must be letters and digits joined by single '-', '_' or '.', at most {MAX_NAMESPACE_LEN} bytes"
    )]
    Namespace(String),
    /// The lease id isn't visible ASCII without `/`, at most 128 bytes.
    #[error(
        "the lease id {0:?} must be visible ASCII characters without '/', at most {MAX_LEASE_LEN}"
    )]
    Lease(String),
    /// A label is longer than [`MAX_LABEL_LEN`].
    #[error("the label {key:?} is {len} bytes long with its value, the limit is {MAX_LABEL_LEN}")]
    LabelTooLong {
        /// The label's key, cut to 64 characters.
        key: String,
        /// Length of key and value together, in bytes.
        len: usize,
    },
}

/// The name of a namespace. Nothing crosses a namespace: keys, parents and labels are looked up
/// inside one.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct Namespace(String);

impl Namespace {
    /// The namespace of the command line when none is named.
    pub const DEFAULT: &'static str = "default";

    /// Checks and wraps a namespace name.
    pub fn new(name: impl Into<String>) -> Result<Self, InvalidName> {
        let name = name.into();
        let well_formed = name.len() <= MAX_NAMESPACE_LEN
            && name
                .split(['-', '_', '.'])
                .all(|part| !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric()));
        if well_formed { Ok(Self(name)) } else { Err(InvalidName::Namespace(name)) }
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Default for Namespace {
    fn default() -> Self {
        Self(Self::DEFAULT.to_owned())
    }
}

impl fmt::Display for Namespace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Longest directory entry that Linux filesystems allow, in bytes.
pub const NAME_MAX: usize = 255;

/// A snapshot's key (active, view) or name (committed): one key space per namespace.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct SnapshotKey(String);

impl SnapshotKey {
    /// Checks and wraps a key: 1 to [`MAX_KEY_LEN`] bytes of UTF-8 without NUL.
    pub fn new(key: impl Into<String>) -> Result<Self, InvalidName> {
        let key = key.into();
        if key.is_empty() {
            return Err(InvalidName::EmptyKey);
        }
        if key.len() > MAX_KEY_LEN {
            return Err(InvalidName::KeyTooLong(key.len()));
        }
        if key.contains('\0') {
            return Err(InvalidName::NulInKey(key));
        }
        Ok(Self(key))
    }

    /// The key as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether it fits into a directory entry, with what can't stand there escaped, three bytes each. One that doesn't
    /// is known by its digest there.
    pub fn fits_a_name(&self) -> bool {
        let escaped = self.0.bytes().filter(|byte| Self::is_escaped(*byte)).count();
        self.0.len() + 2 * escaped <= NAME_MAX
    }

    /// Whether this byte of a key is escaped in a directory entry.
    pub fn is_escaped(byte: u8) -> bool {
        byte.is_ascii_control() || matches!(byte, b'/' | b'%')
    }
}

impl fmt::Display for SnapshotKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What a snapshot is. Drawn with its transitions at [`crate::snapshot`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Read-write, has a key.
    Active,
    /// Read-only, has a key.
    View,
    /// Read-only, has a name, may be a parent.
    Committed,
}

impl Kind {
    /// All kinds, in the order in which listings show them.
    pub const ALL: [Kind; 3] = [Kind::Active, Kind::View, Kind::Committed];

    /// The lower-case word that filters, directories and output use.
    pub fn as_str(self) -> &'static str {
        match self {
            Kind::Active => "active",
            Kind::View => "view",
            Kind::Committed => "committed",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// Identifies a snapshot for ever: given at prepare or view, kept by commit, never used again.
/// Also the upper half of the node ids and inode numbers below the FUSE root, where 0 stands for
/// the virtual directories; so ids start at 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct SnapshotId(pub u32);

impl fmt::Display for SnapshotId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Identifies a volume for ever. A volume is named after the snapshot that it was made for
/// ([`VolumeId::of`]); a view of a committed snapshot looks at its parent's volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct VolumeId(pub u32);

impl VolumeId {
    /// The volume made for this snapshot.
    pub fn of(snapshot: SnapshotId) -> Self {
        Self(snapshot.0)
    }
}

impl fmt::Display for VolumeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Labels as the caller gave them; internal state never lives here.
pub type Labels = BTreeMap<String, String>;

/// Refuses labels over [`MAX_LABEL_LEN`].
pub fn check_labels(labels: &Labels) -> Result<(), InvalidName> {
    for (key, value) in labels {
        let len = key.len() + value.len();
        if len > MAX_LABEL_LEN {
            return Err(InvalidName::LabelTooLong { key: key.chars().take(64).collect(), len });
        }
    }
    Ok(())
}

/// What one snapshot holds of its own, without its parents.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Usage {
    /// Bytes of storage.
    pub size: u64,
    /// Inodes.
    pub inodes: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn namespaces_are_containerds_identifiers() {
        for good in ["default", "k8s.io", "a-b_c.d", "0", &"x".repeat(MAX_NAMESPACE_LEN)] {
            assert_eq!(Namespace::new(good).map(|ns| ns.to_string()), Ok(good.to_owned()));
        }
        for bad in ["", "-a", "a.", "a..b", "a/b", "a b", "ü", "a\0", &"x".repeat(77)] {
            assert_eq!(Namespace::new(bad), Err(InvalidName::Namespace(bad.to_owned())));
        }
        assert_eq!(Namespace::default().as_str(), "default");
    }

    #[test]
    fn snapshot_keys_are_any_text_without_nul_up_to_the_limit() {
        for good in ["a/b c:d", "..", "\n", "日", &"k".repeat(MAX_KEY_LEN)] {
            assert_eq!(SnapshotKey::new(good).map(|key| key.to_string()), Ok(good.to_owned()));
        }
        assert_eq!(SnapshotKey::new(""), Err(InvalidName::EmptyKey));
        assert_eq!(SnapshotKey::new("a\0b"), Err(InvalidName::NulInKey("a\0b".into())));
        let long = "k".repeat(MAX_KEY_LEN + 1);
        assert_eq!(SnapshotKey::new(long), Err(InvalidName::KeyTooLong(4097)));
    }

    #[test]
    fn a_label_may_have_4096_bytes_with_its_value() {
        let label = |len: usize| Labels::from([("key".to_owned(), "v".repeat(len - 3))]);
        assert_eq!(check_labels(&label(MAX_LABEL_LEN)), Ok(()));
        let refused = InvalidName::LabelTooLong { key: "key".into(), len: 4097 };
        assert_eq!(check_labels(&label(MAX_LABEL_LEN + 1)), Err(refused));
    }

    #[test]
    fn kinds_are_shown_in_lower_case_and_take_a_width() {
        assert_eq!(format!("{:<10}|{}", Kind::Active, Kind::Committed), "active    |committed");
    }
}
