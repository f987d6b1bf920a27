//! Layers, read-write layers and images, as the layers above the store see them.

use std::collections::BTreeMap;
use std::fmt;
use std::time::SystemTime;

use super::{ChainId, DiffId, Namespace, SnapshotId, SnapshotKey};

/// The namespace that holds the layer store's snapshots. containerd's socket never shows it, and
/// only the layer store changes what is in it.
pub const LAYERS: &str = "layers";
/// What the keys of layers start with that are being unpacked.
pub const IMPORTING: &str = "import:";
/// Most layers that may stand on one another (moby's limit, which overlayfs gave it).
pub const MAX_DEPTH: u32 = 125;
/// Longest name of an image or a read-write layer, in bytes.
const MAX_NAME: usize = 255;

/// Whether this is a layer that is being unpacked. The daemon writes to it behind the kernel's back,
/// so nobody may look into it through FUSE before it is whole.
pub fn is_in_the_making(ns: &Namespace, key: &SnapshotKey) -> bool {
    ns.as_str() == LAYERS && key.as_str().starts_with(IMPORTING)
}

/// A text that can't name an image or a read-write layer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} cannot be a name: 1 to {MAX_NAME} bytes, no control characters or spaces, and not the form of a digest"
)]
pub struct InvalidGivenName(String);

/// The name that a user gives to an image or a read-write layer.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct GivenName(String);

impl GivenName {
    /// Checks and wraps a name. What looks like a digest is none, so that a name and a chain id
    /// can't be taken for each other.
    pub fn new(name: impl Into<String>) -> Result<Self, InvalidGivenName> {
        let name = name.into();
        let sound = (1..=MAX_NAME).contains(&name.len())
            && !name.starts_with("sha256:")
            && !name.chars().any(|c| c.is_control() || c.is_whitespace());
        if sound { Ok(Self(name)) } else { Err(InvalidGivenName(name.chars().take(100).collect())) }
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for GivenName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// All that is known of one layer but its chain id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layer {
    /// sha256 of its uncompressed tar.
    pub diff_id: DiffId,
    /// The layer that it stands on.
    pub parent: Option<ChainId>,
    /// Its committed snapshot; also names its tar-split record.
    pub snapshot: SnapshotId,
    /// How many layers there are from the base up to this one, 1 for a base.
    pub depth: u32,
    /// Length of its uncompressed tar.
    pub tar_size: u64,
    /// Sizes of the files in its tar.
    pub size: u64,
    /// Entries of its tar.
    pub entries: u64,
    /// When it was imported (UTC).
    pub created: SystemTime,
}

/// Who refers to a layer, and so keeps it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Holder {
    /// Whoever imported it or asked for it; counted.
    User,
    /// An image whose top it is.
    Image(GivenName),
    /// A read-write layer on it.
    Rw(GivenName),
    /// A layer on it.
    Child(ChainId),
    /// The import of a layer on it, while it runs.
    Import(SnapshotId),
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Holder::User => f.write_str("user"),
            Holder::Image(name) => write!(f, "image {name}"),
            Holder::Rw(name) => write!(f, "read-write layer {name}"),
            Holder::Child(chain) => write!(f, "layer {chain}"),
            Holder::Import(id) => write!(f, "import {id}"),
        }
    }
}

/// All that is known of one read-write layer but its name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RwLayer {
    /// The layer that it stands on; `None`: it started empty.
    pub parent: Option<ChainId>,
    /// Its active snapshot.
    pub snapshot: SnapshotId,
    /// The committed snapshot between parent and read-write layer, with what init put there.
    pub init: Option<SnapshotId>,
    /// The security label that its user mounts it with.
    pub mount_label: String,
    /// Storage options as given; `size` is what thinfs knows.
    pub storage: BTreeMap<String, String>,
    /// How often it was created or got, and not released.
    pub references: u32,
    /// When it was created (UTC).
    pub created: SystemTime,
}

/// All that is known of one image but its name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// Its topmost layer; `None`: it has no layers.
    pub top: Option<ChainId>,
    /// Its configuration, byte for byte: the sha256 of it is the image's id.
    pub config: Vec<u8>,
    /// When it was imported (UTC).
    pub created: SystemTime,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_what_registries_write_and_never_digests() {
        for good in ["web", "docker.io/library/debian:12", "a@sha256:00", "日", &"x".repeat(255)] {
            assert_eq!(GivenName::new(good).unwrap().as_str(), good);
        }
        for bad in ["", "a b", "a\n", "\u{7f}", "sha256:00", &"x".repeat(256)] {
            assert!(GivenName::new(bad).is_err(), "{bad:?}");
        }
    }
}
