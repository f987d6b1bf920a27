//! How many requests of each kind the kernel has sent.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

macro_rules! operations {
    ($($variant:ident $name:literal),* $(,)?) => {
        /// A kind of request.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        #[allow(missing_docs, reason = "each is the FUSE operation of that name")]
        pub enum Op { $($variant),* }

        impl Op {
            /// All kinds.
            pub const ALL: &'static [Op] = &[$(Op::$variant),*];

            /// The name in FUSE's own words.
            pub fn name(self) -> &'static str {
                match self { $(Op::$variant => $name),* }
            }
        }
    };
}

operations! {
    Lookup "lookup", Forget "forget", Getattr "getattr", Setattr "setattr", Readlink "readlink", Mknod "mknod",
    Mkdir "mkdir", Unlink "unlink", Rmdir "rmdir", Symlink "symlink", Rename "rename", Link "link", Open "open",
    Create "create", Read "read", Write "write", Flush "flush", Release "release", Fsync "fsync", Opendir "opendir",
    Readdir "readdir", Readdirplus "readdirplus", Fsyncdir "fsyncdir", Statfs "statfs", Setxattr "setxattr",
    Getxattr "getxattr", Listxattr "listxattr", Removexattr "removexattr", Ioctl "ioctl", Fallocate "fallocate",
    Lseek "lseek", CopyFileRange "copy_file_range", Tmpfile "tmpfile",
    Statx "statx", Other "other",
}

/// Requests since the mount.
#[derive(Debug)]
pub struct Stats {
    counts: [AtomicU64; Op::ALL.len()],
    waited: AtomicU64,
    passthrough: AtomicU64,
    registered: AtomicU64,
}

impl Default for Stats {
    fn default() -> Self {
        Self {
            counts: std::array::from_fn(|_| AtomicU64::new(0)),
            waited: AtomicU64::new(0),
            passthrough: AtomicU64::new(0),
            registered: AtomicU64::new(0),
        }
    }
}

impl Stats {
    pub(super) fn count(&self, op: Op) {
        self.counts[op as usize].fetch_add(1, Relaxed);
    }

    pub(super) fn count_waited(&self) {
        self.waited.fetch_add(1, Relaxed);
    }

    pub(super) fn count_passthrough(&self) {
        self.passthrough.fetch_add(1, Relaxed);
    }

    pub(super) fn count_registered(&self) {
        self.registered.fetch_add(1, Relaxed);
    }

    /// Requests of one kind.
    pub fn of(&self, op: Op) -> u64 {
        self.counts[op as usize].load(Relaxed)
    }

    /// Requests that somebody waited for: all but `forget` and `release`.
    pub fn synchronous(&self) -> u64 {
        Op::ALL
            .iter()
            .filter(|op| !matches!(op, Op::Forget | Op::Release))
            .map(|op| self.of(*op))
            .sum()
    }

    /// Requests that were handed to the pool for what may take long.
    pub fn waited(&self) -> u64 {
        self.waited.load(Relaxed)
    }

    /// How often a file was opened whose content goes past the daemon.
    pub fn passthrough(&self) -> u64 {
        self.passthrough.load(Relaxed)
    }

    /// How often the kernel was given a file to read and write by itself. Less often than such files are opened: it
    /// keeps them.
    pub fn registered(&self) -> u64 {
        self.registered.load(Relaxed)
    }

    /// Every kind with its count.
    pub fn all(&self) -> Vec<(&'static str, u64)> {
        Op::ALL.iter().map(|op| (op.name(), self.of(*op))).collect()
    }
}
