//! What an operator can choose about the thin backend, as plain data.

use std::path::PathBuf;
use std::time::Duration;

pub use crate::thin::table::WhenFull;

/// Where the pool comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PoolSource {
    /// Sparse files `data.img` and `metadata.img` in `dir`, on loop devices: made when missing, found
    /// again when not.
    Auto {
        /// The directory of the two files.
        dir: PathBuf,
        /// Bytes of data; `None`: most of the free space. A larger number than that of an existing
        /// file grows it.
        size: Option<u64>,
        /// Bytes that the data file grows to by itself when it gets full; `None`: it doesn't.
        most: Option<u64>,
    },
    /// Two block devices that belong to thinfs alone.
    Devices {
        /// For the data.
        data: PathBuf,
        /// For the metadata.
        metadata: PathBuf,
    },
    /// A live thin-pool, made and taken down by somebody else, used by this root alone.
    Existing {
        /// Its device-mapper name.
        name: String,
    },
}

/// The filesystem inside a volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Filesystem {
    /// Small, quick to make and to mount.
    Ext4,
    /// Maps 65 MiB before anything is written, and mounts more slowly; for who knows why. Takes 300 MiB at least.
    Xfs,
    /// Without a journal: quicker to sync, checked by e2fsck after a crash.
    Ext2,
}

impl Filesystem {
    /// All there are.
    pub const ALL: [Filesystem; 3] = [Filesystem::Ext4, Filesystem::Xfs, Filesystem::Ext2];

    /// The one with this name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|filesystem| filesystem.as_str() == name)
    }

    /// Its name.
    pub fn as_str(self) -> &'static str {
        match self {
            Filesystem::Ext4 => "ext4",
            Filesystem::Xfs => "xfs",
            Filesystem::Ext2 => "ext2",
        }
    }

    /// The kernel's driver for it. ext4's reads ext2, too, and can grow it online.
    pub(super) fn driver(self) -> &'static str {
        match self {
            Filesystem::Ext4 | Filesystem::Ext2 => "ext4",
            Filesystem::Xfs => "xfs",
        }
    }

    /// The program that makes one, and the options that make it cheapest on a thin device: no
    /// reserved blocks (nobody's root lives off them here), a small journal, inode tables left
    /// for first use, and no discard of a device that is empty anyway. The resize inode would
    /// only take blocks: ext4 grows online without it. ext2 has no way to leave its inode tables for later, and
    /// new blocks of the pool are not zeroed: they are written.
    pub(super) fn mkfs(self) -> (&'static str, &'static [&'static str]) {
        match self {
            Filesystem::Ext4 => (
                "mkfs.ext4",
                &[
                    "-q",
                    "-F",
                    "-b",
                    "4096",
                    "-m",
                    "0",
                    "-O",
                    "^resize_inode",
                    "-J",
                    "size=4",
                    "-E",
                    "lazy_itable_init=1,lazy_journal_init=1,nodiscard,root_owner=0:0",
                ],
            ),
            Filesystem::Xfs => ("mkfs.xfs", &["-q", "-f", "-K"]),
            Filesystem::Ext2 => (
                "mkfs.ext2",
                &["-q", "-F", "-b", "4096", "-m", "0", "-E", "nodiscard,root_owner=0:0"],
            ),
        }
    }

    /// Debian's package with that program.
    pub(super) fn package(self) -> &'static str {
        match self {
            Filesystem::Ext4 | Filesystem::Ext2 => "e2fsprogs",
            Filesystem::Xfs => "xfsprogs",
        }
    }

    /// Options of every mount. Without `noinit_itable` the kernel would write all inode tables of an ext4 in
    /// the background: 160 MiB of each 10 GiB volume. Snapshots of an xfs have its UUID.
    pub(super) fn mount_options(self) -> &'static [&'static str] {
        match self {
            Filesystem::Ext4 | Filesystem::Ext2 => &["noinit_itable"],
            Filesystem::Xfs => &["nouuid"],
        }
    }
}

/// How to run the thin backend.
#[derive(Debug, Clone)]
pub struct ThinConfig {
    /// The root's private directory; ours is `thin/` below it.
    pub root: PathBuf,
    /// Where the pool comes from.
    pub source: PoolSource,
    /// Bytes of a volume that starts empty, when nobody says more.
    pub volume_size: u64,
    /// What is made in a volume that starts empty.
    pub filesystem: Filesystem,
    /// More words for mkfs; they come last, so they win.
    pub mkfs_options: Vec<String>,
    /// More options for mounting, each as `flag` or `key=value`.
    pub mount_options: Vec<String>,
    /// Whether a commit discards what was freed in the volume.
    pub trim_on_commit: bool,
    /// Bytes of a data block of a pool that we make: a multiple of 64 KiB.
    pub block_size: u64,
    /// What a pool that we make does with writes when it is full.
    pub when_full: WhenFull,
    /// Takes a pool that doesn't match its record; see [`super::Refusal::Witness`].
    pub force_adopt: bool,
    /// How long a deactivation waits for descriptors that are still open.
    pub patience: Duration,
}

impl ThinConfig {
    /// The embedded default below `root`.
    pub fn new(root: PathBuf) -> Self {
        Self {
            source: PoolSource::Auto { dir: root.join("thin"), size: None, most: None },
            root,
            volume_size: 10 << 30,
            filesystem: Filesystem::Ext4,
            mkfs_options: Vec::new(),
            mount_options: Vec::new(),
            trim_on_commit: true,
            block_size: 64 << 10,
            when_full: WhenFull::Error,
            force_adopt: false,
            patience: Duration::from_secs(5),
        }
    }

    /// Bytes that the data may grow to by itself; 0 where it doesn't.
    pub(super) fn data_most(&self) -> u64 {
        match self.source {
            PoolSource::Auto { most, .. } => most.unwrap_or(0),
            PoolSource::Devices { .. } | PoolSource::Existing { .. } => 0,
        }
    }

    /// Our private directory.
    pub(super) fn private(&self) -> PathBuf {
        self.root.join("thin")
    }
}
