//! Copies a whole tree with everything that belongs to it.
//!
//! One thread walks: it makes directories, links and special files, and opens regular files at
//! both ends. A few threads fill those files, so at most [`IN_FLIGHT`] pairs of descriptors are
//! open. A directory gets its owner, mode, ACLs and times when all below it has been made; until
//! then it is 0700 and nothing below inherits from it.
//!
//! Kept: owners, modes, access and modification times to the nanosecond (directories' and
//! symlinks' too), hard links within the tree, extended attributes of all namespaces, devices,
//! fifos, sockets, holes. Not kept: inode flags (`chattr`), birth and change times.

mod data;
mod links;
mod walk;
mod workers;

use std::os::fd::BorrowedFd;
use std::sync::atomic::AtomicBool;
use std::thread;

use super::Result;

pub use data::clones;

/// Regular files that wait to be filled.
const IN_FLIGHT: usize = 64;
/// Threads that fill files: enough to overlap waiting for the disk, few enough to leave cores.
const MOST_WORKERS: usize = 4;

/// How far a copy has come.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Progress {
    /// Bytes of file content copied or cloned.
    pub bytes: u64,
    /// Inodes made.
    pub inodes: u64,
}

/// How the caller follows and stops a copy.
#[derive(Clone, Copy)]
pub struct Control<'a> {
    /// Set it, and the copy returns [`super::Error::Cancelled`] soon.
    pub cancel: &'a AtomicBool,
    /// Called from several threads, after each file and each few megabytes.
    pub progress: &'a (dyn Fn(Progress) + Sync),
}

/// How the bytes came over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// All files share their blocks with the originals (`FICLONE`).
    Reflink,
    /// At least one file was copied byte by byte.
    FullCopy,
}

/// What a copy made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Copied {
    /// Totals.
    pub total: Progress,
    /// `None`: there were no bytes to copy.
    pub method: Option<Method>,
}

/// Copies what is below `from`, and the attributes of `from` itself, to `to`: an empty directory
/// of the caller's that nobody else can reach. After an error or a crash `to` holds a part of the
/// tree, to be removed.
pub fn copy(from: BorrowedFd<'_>, to: BorrowedFd<'_>, control: Control<'_>) -> Result<Copied> {
    let work = workers::Work::new(control);
    let workers = thread::available_parallelism().map_or(1, usize::from).clamp(1, MOST_WORKERS);
    thread::scope(|scope| {
        let (sender, receiver) = workers::queue(IN_FLIGHT);
        for _ in 0..workers {
            let (work, receiver) = (&work, receiver.clone());
            scope.spawn(move || work.fill_all(&receiver));
        }
        drop(receiver);
        if let Err(error) = walk::Walk::new(from, to, &work, sender).and_then(walk::Walk::run) {
            work.fail(error);
        }
    });
    work.finish()
}
