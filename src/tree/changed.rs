//! Which inodes differ between two trees, known beforehand, and the directories on the way to them.
//!
//! Whoever can compare the inodes themselves (a volume that started as a copy of another's blocks)
//! saves [`diff`](super::diff) from looking at everything. Inodes have numbers and no paths, and
//! files don't know their directories; so the directories that hold a changed file are looked for,
//! the likely ones first, until every name of every changed file is found. Directories do know
//! their parents: from each one found, `..` leads to the root.

use std::collections::{HashMap, HashSet};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;

use rustix::fs::{OFlags, fstat};
use rustix::io::Errno;

use super::open::{self, Lister};
use super::{Doing, Result, check};
use crate::sys::handle::FileHandle;

/// An inode that differs, as the new tree has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChangedInode {
    /// Its number.
    pub number: u32,
    /// What it is.
    pub is_directory: bool,
    /// How many names it has; none: it is gone.
    pub links: u32,
}

/// All that may differ between two trees, by inode number.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Changed {
    inodes: HashSet<u64>,
    /// Directories of the new tree that are among them or lead to one.
    above: HashSet<u64>,
}

/// Gives the numbers of more directories in which a changed file may be; `None`: that was all.
pub type More<'a> = &'a mut dyn FnMut() -> std::io::Result<Option<Vec<u32>>>;

impl Changed {
    /// Finds out where in the tree below `root` the changed inodes are. `changed` must hold every
    /// inode that differs, and `more` lead to all directories. `root` is the root of an ext4.
    pub fn locate(
        root: BorrowedFd<'_>,
        changed: &[ChangedInode],
        more: More<'_>,
        cancel: &AtomicBool,
    ) -> Result<Self> {
        let inodes = changed.iter().map(|inode| inode.number.into()).collect();
        let there = changed.iter().filter(|inode| inode.links > 0);
        let (directories, files): (Vec<&ChangedInode>, Vec<&ChangedInode>) =
            there.partition(|inode| inode.is_directory);
        let wanted = files.iter().map(|file| (file.number.into(), file.links)).collect();
        let top = fstat(root).doing("reading attributes of the root", PathBuf::new)?.st_ino;
        let changed = Self { inodes, above: HashSet::from([top]) };
        let lister = Lister::new();
        let mut search = Search { root, lister, wanted, seen: HashSet::new(), changed };
        for directory in directories {
            check(cancel)?;
            search.changed_directory(directory.number)?;
        }
        search.run(more, cancel)?;
        Ok(search.changed)
    }

    /// Whether this inode may differ.
    pub fn contains(&self, inode: u64) -> bool {
        self.inodes.contains(&inode)
    }

    /// Whether this inode may differ, or something below it.
    pub fn touches(&self, inode: u64) -> bool {
        self.contains(inode) || self.above.contains(&inode)
    }

    /// How many inodes differ.
    pub fn len(&self) -> usize {
        self.inodes.len()
    }

    /// How many directories there are to look into.
    pub fn above(&self) -> usize {
        self.above.len()
    }

    /// Whether nothing differs.
    pub fn is_empty(&self) -> bool {
        self.inodes.is_empty()
    }
}

struct Search<'a> {
    root: BorrowedFd<'a>,
    lister: Lister,
    /// Changed files of which this many names aren't found yet.
    wanted: HashMap<u64, u32>,
    /// Directories that were looked into.
    seen: HashSet<u32>,
    changed: Changed,
}

impl Search<'_> {
    fn changed_directory(&mut self, number: u32) -> Result<()> {
        let Some(directory) = self.open(number)? else { return Ok(()) };
        self.seen.insert(number);
        self.has_wanted(&directory)?;
        self.climb(directory)
    }

    fn run(&mut self, more: More<'_>, cancel: &AtomicBool) -> Result<()> {
        while !self.wanted.is_empty() {
            let next = more().map_err(|source| super::Error::Io {
                doing: "listing the directories of",
                path: PathBuf::new(),
                source,
            })?;
            // What is wanted still has gone meanwhile.
            let Some(directories) = next else { return Ok(()) };
            for number in directories {
                check(cancel)?;
                if self.wanted.is_empty() {
                    return Ok(());
                }
                self.look_into(number)?;
            }
        }
        Ok(())
    }

    fn look_into(&mut self, number: u32) -> Result<()> {
        if !self.seen.insert(number) {
            return Ok(());
        }
        let Some(directory) = self.open(number)? else { return Ok(()) };
        if self.has_wanted(&directory)? { self.climb(directory) } else { Ok(()) }
    }

    /// `None`: it is gone, or something else by now.
    fn open(&self, number: u32) -> Result<Option<OwnedFd>> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOATIME;
        match FileHandle::of_inode_number(number).open(self.root, flags) {
            Err(Errno::STALE | Errno::NOENT | Errno::NOTDIR) => Ok(None),
            opened => opened
                .map(Some)
                .doing("opening the directory with inode number", || number.to_string().into()),
        }
    }

    /// Takes the names in a directory off those that are wanted. True: there was one.
    fn has_wanted(&mut self, directory: &OwnedFd) -> Result<bool> {
        let Self { lister, wanted, .. } = self;
        let mut found = false;
        let listed = lister.each_inode(directory.as_fd(), |_, inode| {
            if let Some(left) = wanted.get_mut(&inode) {
                found = true;
                *left -= 1;
                if *left == 0 {
                    wanted.remove(&inode);
                }
            }
            Ok::<_, std::convert::Infallible>(())
        });
        match listed.doing("reading a directory below", PathBuf::new)? {
            Ok(()) => Ok(found),
        }
    }

    /// Marks a directory and all above it.
    fn climb(&mut self, directory: OwnedFd) -> Result<()> {
        let mut at = directory;
        loop {
            let number = fstat(&at).doing("reading attributes below", PathBuf::new)?.st_ino;
            if !self.changed.above.insert(number) {
                return Ok(());
            }
            at = open::parent(at.as_fd())
                .doing("opening the directory above inode number", || number.to_string().into())?;
        }
    }
}
