//! Tar archives, byte by byte.
//!
//! [`Reader`] accepts what Go's `archive/tar` accepts, which containerd and moby read layers with:
//! v7, ustar, star, PAX and GNU headers, GNU long names, the four GNU sparse formats, base-256
//! numbers. It agrees with it on where each entry begins and ends, for an archive that two readers
//! understand differently is how a layer hides files. Deliberate differences: GNU sparse and
//! contiguous files are regular files; PAX records of global headers are checked and ignored there
//! and here; all lengths are limited.
//!
//! Every byte of the stream is either handed out as file content or shown to a [`Tap`], in order,
//! so that whoever keeps both has the archive itself. [`write`] makes headers.
//!
//! Knows no filesystem. Nothing is allocated in proportion to what a header merely claims, and of
//! what is really there the reader holds one entry's headers: each up to 1 MiB, and a sparse file's
//! map up to 2^20 runs. [`Entry`] hands these to the caller; what outlives the entry is the caller's
//! to count.

mod header;
mod numbers;
mod pax;
mod reader;
mod sparse;
pub mod write;

use std::fmt;
use std::io;

pub use reader::Reader;

/// The unit of everything in an archive.
pub const BLOCK: usize = 512;

/// Sees the bytes of an archive that are not handed out as file content.
pub trait Tap {
    /// The next such bytes, in the archive's order.
    fn raw(&mut self, bytes: &[u8]) -> io::Result<()>;
}

/// Looks away.
impl Tap for () {
    fn raw(&mut self, _: &[u8]) -> io::Result<()> {
        Ok(())
    }
}

/// A point in time as archives give it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Time {
    /// Seconds since 1970.
    pub seconds: i64,
    /// 0 to 999,999,999, added to the seconds.
    pub nanoseconds: u32,
}

/// What an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A regular file with content.
    File,
    /// A directory.
    Directory,
    /// A symbolic link to [`Entry::link`].
    Symlink,
    /// Another name for the entry [`Entry::link`].
    HardLink,
    /// A character device.
    CharDevice,
    /// A block device.
    BlockDevice,
    /// A named pipe.
    Fifo,
}

/// Runs of content: offset in the file and length.
pub type Extents = Vec<(u64, u64)>;

/// One entry of an archive, its extended headers merged in.
#[derive(Clone, PartialEq, Eq)]
pub struct Entry {
    /// What it is.
    pub kind: Kind,
    /// Its name, as the archive has it.
    pub path: Vec<u8>,
    /// The target of a link.
    pub link: Vec<u8>,
    /// Permission, set-id and sticky bits.
    pub mode: u32,
    /// Owner.
    pub uid: i64,
    /// Group.
    pub gid: i64,
    /// Device number.
    pub device: (i64, i64),
    /// Modification time.
    pub mtime: Time,
    /// Access time, where the archive has one.
    pub atime: Option<Time>,
    /// Length of the file once unpacked.
    pub size: u64,
    /// The parts of a sparse file that the archive holds; `None` for other files: all of it.
    pub extents: Option<Extents>,
    /// Extended attributes, in the order of their records.
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

impl fmt::Debug for Entry {
    /// As `tar -tv` would show it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = String::from_utf8_lossy;
        write!(f, "{:?} {:?}", self.kind, text(&self.path))?;
        if !self.link.is_empty() {
            write!(f, " to {:?}", text(&self.link))?;
        }
        write!(f, " {:04o} {}:{} {} bytes", self.mode, self.uid, self.gid, self.size)?;
        write!(f, " at {}.{:09}", self.mtime.seconds, self.mtime.nanoseconds)?;
        for (name, value) in &self.xattrs {
            write!(f, " {}={:?}", text(name), text(value))?;
        }
        Ok(())
    }
}
