//! Where a walk stands in a tree.

use std::ffi::{CStr, CString, OsStr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::fstat;
use rustix::io::Errno;

use super::{Doing, Error, Result, if_there, open};

/// How many directories nearest to the current one stay open. Renames above them can't disturb
/// the walk; those further up are opened again through `..` and must prove to be the same.
const KEPT_OPEN: usize = 16;

/// A path from a tree's root to the current directory, with the descriptors to work there and to
/// go back up. Uses at most `KEPT_OPEN` + 2 descriptors at any depth.
pub(super) struct Descent {
    root: Level,
    below: Vec<Level>,
    /// The names of `below`, joined.
    path: PathBuf,
}

struct Level {
    /// Empty for the root.
    name: CString,
    /// `None`: closed for being far away.
    dir: Option<OwnedFd>,
    /// Device and inode number.
    identity: (u64, u64),
}

impl Level {
    fn new(name: CString, dir: OwnedFd) -> rustix::io::Result<Self> {
        let stat = fstat(&dir)?;
        Ok(Self { name, identity: (stat.st_dev, stat.st_ino), dir: Some(dir) })
    }
}

impl Descent {
    /// Starts at `root`, which the caller goes on owning.
    pub(super) fn new(root: BorrowedFd<'_>) -> Result<Self> {
        let root = open::again(root)
            .and_then(|dir| Level::new(CString::default(), dir))
            .doing("opening the root of the tree", PathBuf::new)?;
        Ok(Self { root, below: Vec::new(), path: PathBuf::new() })
    }

    /// The current directory. Its read position is the walk's own.
    pub(super) fn dir(&self) -> BorrowedFd<'_> {
        open_dir(self.below.last().unwrap_or(&self.root))
    }

    /// The current directory's inode number.
    pub(super) fn inode(&self) -> u64 {
        self.below.last().unwrap_or(&self.root).identity.1
    }

    /// The tree's root directory.
    pub(super) fn root(&self) -> BorrowedFd<'_> {
        open_dir(&self.root)
    }

    /// Goes down into a subdirectory. False: there is no such directory (any more).
    pub(super) fn enter(&mut self, name: &CStr) -> Result<bool> {
        let opened = match open::directory(self.dir(), name) {
            // A file or symlink has taken its place.
            Err(Errno::NOTDIR | Errno::LOOP) => Ok(None),
            opened => if_there(opened),
        };
        let level = opened
            .and_then(|dir| dir.map(|dir| Level::new(name.to_owned(), dir)).transpose())
            .doing("opening directory", || self.path_of(name))?;
        let Some(level) = level else { return Ok(false) };
        self.below.push(level);
        self.path.push(OsStr::from_bytes(name.to_bytes()));
        if let Some(far) = self.below.len().checked_sub(KEPT_OPEN + 1) {
            self.below[far].dir = None;
        }
        Ok(true)
    }

    /// Goes back up to the parent, and returns the name of the directory left. `None` at the root.
    pub(super) fn leave(&mut self) -> Result<Option<CString>> {
        let Some(left) = self.below.pop() else { return Ok(None) };
        self.path.pop();
        let closed = self.below.last().is_some_and(|level| level.dir.is_none());
        if closed {
            let parent = open::parent(open_dir(&left))
                .and_then(|dir| Level::new(CString::default(), dir))
                .doing("opening directory", || self.path.clone())?;
            let moved = || Error::Moved(self.path_of(&left.name));
            if self.below.last().is_none_or(|level| level.identity != parent.identity) {
                return Err(moved());
            }
            if let Some(level) = self.below.last_mut() {
                level.dir = parent.dir;
            }
        }
        Ok(Some(left.name))
    }

    /// The current directory's path below the root; empty at the root.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The path of an entry of the current directory.
    pub(super) fn path_of(&self, name: &CStr) -> PathBuf {
        self.path.join(OsStr::from_bytes(name.to_bytes()))
    }
}

fn open_dir(level: &Level) -> BorrowedFd<'_> {
    level.dir.as_ref().expect("the root and the current directory are always open").as_fd()
}
