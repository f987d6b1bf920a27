//! Whole directory trees by descriptor: copy, disk usage, difference, removal.
//!
//! Every operation starts at a directory descriptor and goes down one component at a time, with
//! calls that never follow a symlink, never leave the tree (no `..` of the caller's, no other
//! mount) and never open a fifo, a socket or a device. Depth costs neither stack nor descriptors:
//! the walks are loops over an explicit stack (`descent::Descent`), and far-away ancestors are
//! closed and found again.
//!
//! Knows no volume and no snapshot: a tree is whatever is below the descriptor.

mod attributes;
mod changed;
mod copy;
mod descent;
mod diff;
mod open;
mod remove;
mod usage;

#[cfg(test)]
pub(crate) mod proptests;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;

use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::io::Errno;

pub use attributes::clear_acls;
pub use changed::{Changed, ChangedInode, More};
pub use copy::{Control, Copied, Method, Progress, clones, copy};
pub use diff::{Change, ChangeKind, DiffOptions, diff};
pub use remove::remove;
pub use usage::usage;

/// Why a tree operation gave up. Paths are relative to the tree's root.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The caller's flag was set.
    #[error("cancelled")]
    Cancelled,
    /// A call failed.
    #[error("{doing} {path:?}")]
    Io {
        /// What was being done, as in "reading directory".
        doing: &'static str,
        /// What it was done to.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// A directory was renamed to another place below us.
    #[error("directory {0:?} was moved while its tree was being walked")]
    Moved(PathBuf),
}

/// What tree operations return.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// The system's error number, where there is one.
    pub fn raw_os_error(&self) -> Option<i32> {
        match self {
            Error::Io { source, .. } => source.raw_os_error(),
            Error::Cancelled | Error::Moved(_) => None,
        }
    }
}

/// Gives a failed call its words.
trait Doing<T> {
    fn doing(self, doing: &'static str, path: impl FnOnce() -> PathBuf) -> Result<T>;
}

impl<T> Doing<T> for rustix::io::Result<T> {
    fn doing(self, doing: &'static str, path: impl FnOnce() -> PathBuf) -> Result<T> {
        self.map_err(|errno| Error::Io { doing, path: path(), source: errno.into() })
    }
}

/// `None` for what has vanished: trees may be in use while they are looked at.
fn if_there<T>(result: rustix::io::Result<T>) -> rustix::io::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(Errno::NOENT) => Ok(None),
        Err(errno) => Err(errno),
    }
}

fn check(cancel: &AtomicBool) -> Result<()> {
    if cancel.load(Ordering::Relaxed) { Err(Error::Cancelled) } else { Ok(()) }
}
