//! What differs between two trees.
//!
//! Both directories of a pair are listed, sorted and merged, so paths come in byte order of their
//! components and memory holds one directory a level.
//!
//! Where it is known which inodes differ ([`Changed`]), only those are looked at, and directories
//! that lead to one. That holds below any two directories with one inode number: what isn't among
//! the changed inodes is the same file, and of a directory the same list of names, on both sides.

use std::cmp::Ordering;
use std::ffi::{CStr, CString};
use std::iter::Peekable;
use std::ops::ControlFlow;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{self, AtomicBool};
use std::vec::IntoIter;

use rustix::fs::{FileType, Stat, fstat, readlinkat};
use rustix::io::{Errno, pread};

use super::attributes::{self, File};
use super::changed::Changed;
use super::descent::Descent;
use super::open::{self, Lister};
use super::{Doing, Error, Result, check, if_there};

/// Bytes compared at a time.
const BUFFER: usize = 128 << 10;

/// What happened to a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ChangeKind {
    /// Only the new tree has it.
    Added,
    /// Both have it, and its kind, attributes or content differ.
    Modified,
    /// Only the old tree has it; what was below it is not listed.
    Deleted,
}

/// One difference.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Change<'a> {
    /// What happened.
    pub kind: ChangeKind,
    /// Relative to the root; empty for the root itself.
    pub path: &'a Path,
}

/// How thoroughly files are compared.
#[derive(Debug, Clone, Copy, Default)]
pub struct DiffOptions<'a> {
    /// Compare the bytes of all files of equal size, whatever their times say.
    pub content: bool,
    /// One tree's filesystem started as a block-for-block copy of the other's: entries with equal
    /// inode numbers and change times are the same, and are compared no further.
    pub same_lineage: bool,
    /// What may differ at all, where that is known.
    pub changed: Option<&'a Changed>,
}

/// Calls `visit` with each difference from `old` to `new`, in order, until it breaks.
///
/// Compared are kind, mode, owner, device number, link target, extended attributes, and of regular
/// files size and modification time. Equal times without nanoseconds prove nothing (tar files have
/// no others): then the bytes are compared. Directories' times are not compared. What is below an
/// added directory is added too; a directory that replaces a file is Modified and what is in it
/// Added. Trees may change meanwhile: what vanishes under way counts as absent.
pub fn diff(
    old: BorrowedFd<'_>,
    new: BorrowedFd<'_>,
    options: DiffOptions<'_>,
    cancel: &AtomicBool,
    visit: &mut dyn FnMut(Change<'_>) -> ControlFlow<()>,
) -> Result<()> {
    let mut walk = Walk {
        old: Descent::new(old)?,
        new: Descent::new(new)?,
        lister: Lister::new(),
        changed: options.changed.filter(|_| !options.content),
        options,
        cancel,
        visit,
    };
    walk.run().map(drop)
}

/// The sorted names of a directory, with the inode numbers.
type Names = Peekable<IntoIter<(CString, u64)>>;

/// A directory on the way down.
enum Frame {
    /// In both trees.
    Both { old: Names, new: Names },
    /// Only in the new tree.
    Added { new: Names },
}

struct Walk<'a> {
    old: Descent,
    new: Descent,
    lister: Lister,
    options: DiffOptions<'a>,
    changed: Option<&'a Changed>,
    cancel: &'a AtomicBool,
    visit: &'a mut dyn FnMut(Change<'_>) -> ControlFlow<()>,
}

/// An error, or the visitor's wish to stop.
type Step<T = ()> = Result<ControlFlow<(), T>>;

/// `?` for [`Step`].
macro_rules! go_on {
    ($step:expr) => {
        match $step? {
            ControlFlow::Continue(value) => value,
            ControlFlow::Break(()) => return Ok(ControlFlow::Break(())),
        }
    };
}

impl Walk<'_> {
    fn run(&mut self) -> Step {
        if self.roots_differ()? {
            go_on!(self.tell(ChangeKind::Modified, Path::new("")));
        }
        let mut stack = vec![self.list_both()?];
        while let Some(frame) = stack.last_mut() {
            check(self.cancel)?;
            let below = match frame {
                Frame::Both { old, new } => match next_pair(old, new, self.changed) {
                    Some(pair) => go_on!(self.pair(pair)),
                    None => {
                        stack.pop();
                        self.leave(true)?;
                        continue;
                    }
                },
                Frame::Added { new } => match new.next() {
                    Some((name, _)) => go_on!(self.added(&name)),
                    None => {
                        stack.pop();
                        self.leave(false)?;
                        continue;
                    }
                },
            };
            stack.extend(below);
        }
        Ok(ControlFlow::Continue(()))
    }

    fn leave(&mut self, both: bool) -> Result<()> {
        if both {
            self.old.leave()?;
        }
        self.new.leave()?;
        Ok(())
    }

    fn tell(&mut self, kind: ChangeKind, path: &Path) -> Step {
        Ok((self.visit)(Change { kind, path }))
    }

    fn tell_of(&mut self, kind: ChangeKind, name: &CStr) -> Step {
        let path = self.new.path_of(name);
        self.tell(kind, &path)
    }

    fn pair(&mut self, pair: Pair) -> Step<Option<Frame>> {
        match pair {
            Pair::Old(name) => {
                go_on!(self.tell_of(ChangeKind::Deleted, &name));
                Ok(ControlFlow::Continue(None))
            }
            Pair::New(name) => self.added(&name),
            Pair::Both(name) => {
                let (old, new) = (self.stat(&self.old, &name)?, self.stat(&self.new, &name)?);
                match (old, new) {
                    (Some(old), Some(new)) => self.both(&name, &old, &new),
                    (None, Some(_)) => self.added(&name),
                    (Some(_), None) => self.pair(Pair::Old(name)),
                    (None, None) => Ok(ControlFlow::Continue(None)),
                }
            }
        }
    }

    fn both(&mut self, name: &CStr, old: &Stat, new: &Stat) -> Step<Option<Frame>> {
        if self.differ(name, old, new)? {
            go_on!(self.tell_of(ChangeKind::Modified, name));
        }
        let (was, is) = (is_directory(old), is_directory(new));
        if was && is && self.old.enter(name)? {
            if self.new.enter(name)? {
                return self.list_both().map(|frame| ControlFlow::Continue(Some(frame)));
            }
            self.old.leave()?;
        } else if is && !was {
            return self.enter_added(name);
        }
        Ok(ControlFlow::Continue(None))
    }

    fn added(&mut self, name: &CStr) -> Step<Option<Frame>> {
        let Some(stat) = self.stat(&self.new, name)? else {
            return Ok(ControlFlow::Continue(None));
        };
        go_on!(self.tell_of(ChangeKind::Added, name));
        if is_directory(&stat) { self.enter_added(name) } else { Ok(ControlFlow::Continue(None)) }
    }

    fn enter_added(&mut self, name: &CStr) -> Step<Option<Frame>> {
        if !self.new.enter(name)? {
            return Ok(ControlFlow::Continue(None));
        }
        let new = names(&mut self.lister, &self.new)?;
        Ok(ControlFlow::Continue(Some(Frame::Added { new })))
    }

    fn list_both(&mut self) -> Result<Frame> {
        let inode = self.new.inode();
        if let Some(changed) = self.changed
            && self.old.inode() == inode
            && !changed.contains(inode)
        {
            // Both list the same.
            let new = names_of(&mut self.lister, &self.new, |inode| changed.touches(inode))?;
            return Ok(Frame::Both { old: new.clone(), new });
        }
        let old = names(&mut self.lister, &self.old)?;
        Ok(Frame::Both { old, new: names(&mut self.lister, &self.new)? })
    }

    fn stat(&self, tree: &Descent, name: &CStr) -> Result<Option<Stat>> {
        if_there(open::stat(tree.dir(), name))
            .doing("reading attributes of", || self.new.path_of(name))
    }

    fn roots_differ(&self) -> Result<bool> {
        let (old, new) = (self.old.dir(), self.new.dir());
        let differ = || {
            Ok(attributes_differ(&fstat(old)?, &fstat(new)?)
                || attributes::xattrs(File::Open(old))? != attributes::xattrs(File::Open(new))?)
        };
        differ().doing("comparing the roots", PathBuf::new)
    }

    /// Whether an entry of both trees differs, apart from what is below it.
    fn differ(&self, name: &CStr, old: &Stat, new: &Stat) -> Result<bool> {
        if attributes_differ(old, new) {
            return Ok(true);
        }
        if self.options.same_lineage && unchanged(old, new) {
            return Ok(false);
        }
        let entries = Entries { old: self.old.dir(), new: self.new.dir(), name };
        match entries.differ(old, new, self.options.content, self.cancel) {
            // It went away while we looked.
            Err(Errno::NOENT | Errno::STALE) => Ok(true),
            Err(Errno::CANCELED) => Err(Error::Cancelled),
            differ => differ.doing("comparing", || self.new.path_of(name)),
        }
    }
}

/// One name in two directories.
struct Entries<'a> {
    old: BorrowedFd<'a>,
    new: BorrowedFd<'a>,
    name: &'a CStr,
}

impl Entries<'_> {
    /// Compares what mode and owner don't tell. `ECANCELED`: the flag was set.
    fn differ(
        &self,
        old: &Stat,
        new: &Stat,
        content: bool,
        cancel: &AtomicBool,
    ) -> rustix::io::Result<bool> {
        if self.xattrs_differ()? {
            return Ok(true);
        }
        match open::kind(new) {
            FileType::Symlink => self.targets_differ(),
            FileType::RegularFile if old.st_size != new.st_size => Ok(true),
            FileType::RegularFile if content => self.bytes_differ(cancel),
            FileType::RegularFile if times_differ(old, new) => Ok(true),
            FileType::RegularFile if new.st_mtime_nsec == 0 => self.bytes_differ(cancel),
            _ => Ok(false),
        }
    }

    fn xattrs_differ(&self) -> rustix::io::Result<bool> {
        let old = attributes::xattrs(File::Entry(self.old, self.name))?;
        Ok(old != attributes::xattrs(File::Entry(self.new, self.name))?)
    }

    fn targets_differ(&self) -> rustix::io::Result<bool> {
        let old = readlinkat(self.old, self.name, Vec::new())?;
        Ok(old != readlinkat(self.new, self.name, Vec::new())?)
    }

    fn bytes_differ(&self, cancel: &AtomicBool) -> rustix::io::Result<bool> {
        let old = open::regular(self.old, self.name)?;
        let new = open::regular(self.new, self.name)?;
        let mut buffers = (vec![0; BUFFER], vec![0; BUFFER]);
        let mut at = 0;
        loop {
            if cancel.load(atomic::Ordering::Relaxed) {
                return Err(Errno::CANCELED);
            }
            let read = read_full(old.as_fd(), &mut buffers.0, at)?;
            if read != read_full(new.as_fd(), &mut buffers.1, at)?
                || buffers.0[..read] != buffers.1[..read]
            {
                return Ok(true);
            }
            if read == 0 {
                return Ok(false);
            }
            at += read as u64;
        }
    }
}

/// Reads until the buffer is full or the file ends.
fn read_full(file: BorrowedFd<'_>, buffer: &mut [u8], at: u64) -> rustix::io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match pread(file, &mut buffer[filled..], at + filled as u64)? {
            0 => break,
            read => filled += read,
        }
    }
    Ok(filled)
}

fn attributes_differ(old: &Stat, new: &Stat) -> bool {
    let device = |stat: &Stat| match open::kind(stat) {
        FileType::BlockDevice | FileType::CharacterDevice => stat.st_rdev,
        _ => 0,
    };
    (old.st_mode, old.st_uid, old.st_gid, device(old))
        != (new.st_mode, new.st_uid, new.st_gid, device(new))
}

/// Every change of an inode moves its change time.
fn unchanged(old: &Stat, new: &Stat) -> bool {
    (old.st_ino, old.st_ctime, old.st_ctime_nsec) == (new.st_ino, new.st_ctime, new.st_ctime_nsec)
}

fn times_differ(old: &Stat, new: &Stat) -> bool {
    (old.st_mtime, old.st_mtime_nsec) != (new.st_mtime, new.st_mtime_nsec)
}

fn is_directory(stat: &Stat) -> bool {
    open::kind(stat) == FileType::Directory
}

fn names(lister: &mut Lister, tree: &Descent) -> Result<Names> {
    names_of(lister, tree, |_| true)
}

/// The names of those inodes that are wanted.
fn names_of(lister: &mut Lister, tree: &Descent, wanted: impl Fn(u64) -> bool) -> Result<Names> {
    let mut names = Vec::new();
    lister
        .each_inode(tree.dir(), |name, inode| {
            if wanted(inode) {
                names.push((name.to_owned(), inode));
            }
            Ok(())
        })
        .doing("reading directory", || tree.path().to_owned())??;
    names.sort_unstable();
    Ok(names.into_iter().peekable())
}

/// Where a name is found.
enum Pair {
    Old(CString),
    New(CString),
    Both(CString),
}

/// The smallest name of two sorted lists, without what is known to be the same in both.
fn next_pair(old: &mut Names, new: &mut Names, changed: Option<&Changed>) -> Option<Pair> {
    loop {
        let order = match (old.peek(), new.peek()) {
            (Some((old, _)), Some((new, _))) => old.cmp(new),
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (None, None) => return None,
        };
        match order {
            Ordering::Less => return old.next().map(|(name, _)| Pair::Old(name)),
            Ordering::Greater => return new.next().map(|(name, _)| Pair::New(name)),
            Ordering::Equal => {
                let (was, is) = (old.next().map(|(_, inode)| inode), new.next());
                let same = |inode| was == Some(inode) && changed.is_some_and(|c| !c.touches(inode));
                match is {
                    Some((_, inode)) if same(inode) => {}
                    is => return is.map(|(name, _)| Pair::Both(name)),
                }
            }
        }
    }
}
