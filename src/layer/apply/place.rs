//! Finds places in a tree, below its root and nowhere else.
//!
//! A path of an archive is followed in userspace, one component at a time: each call names one
//! entry of a directory that was reached the same way, and follows no symlink. A symlink on the way
//! is read and its target followed by the same rules, with the tree's root as `/` and as its own
//! parent. So no path can lead out, and the result of a walk is the path's *true path*: relative to
//! the root, without symlinks.
//!
//! The targets of relative symlinks are cleaned as text before they are followed, as containerd
//! does: through `a -> b/../c`, `a/x` is `c/x` even where `b` is missing or a symlink. Elsewhere (an
//! absolute target, the target of a hard link) `..` means the true parent, as to the kernel.
//!
//! Directories seen stay open in a bounded cache by their true path. Whoever removes or replaces an
//! entry tells the cache.

use std::ffi::CString;
use std::num::NonZeroUsize;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;

use lru::LruCache;
use rustix::fs::{
    AtFlags, FileType, Mode, OFlags, RawMode, ResolveFlags, fchmod, fstat, mkdirat, openat2,
    readlinkat, statat,
};
use rustix::io::Errno;

use crate::layer::error::{Doing, Error, Result, text};

/// Symlinks followed in one walk (containerd's limit).
const MOST_LINKS: usize = 255;
/// Longest true path, as the kernel's own limit for paths.
const MOST_PATH: usize = 4096;
/// Directories kept open: few enough for a process allowed 1,024 descriptors.
const MOST_OPEN: usize = 256;
/// Directories that are missing on the way to an entry get this mode.
pub(super) const IMPLIED_MODE: RawMode = 0o755;

const BENEATH: ResolveFlags = ResolveFlags::BENEATH
    .union(ResolveFlags::NO_XDEV)
    .union(ResolveFlags::NO_MAGICLINKS)
    .union(ResolveFlags::NO_SYMLINKS);

const DIRECTORY: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// A directory that is open.
#[derive(Debug)]
pub(super) struct Directory {
    fd: OwnedFd,
    /// What is made in it belongs to root's group.
    pub for_root: bool,
}

impl Directory {
    fn new(fd: OwnedFd) -> rustix::io::Result<Rc<Self>> {
        // With the set-group-id bit, or where the filesystem is mounted so, entries get the directory's group.
        let for_root = fstat(&fd)?.st_gid == 0;
        Ok(Rc::new(Self { fd, for_root }))
    }
}

impl AsFd for Directory {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// A name in a directory that exists.
#[derive(Debug)]
pub(super) struct Place {
    pub dir: Rc<Directory>,
    pub name: CString,
    /// The true path of the entry.
    pub path: Vec<u8>,
}

/// The end of a walk.
struct Walked {
    /// The deepest directory that exists.
    dir: Rc<Directory>,
    /// Its true path.
    path: Vec<u8>,
    /// What is missing below it.
    missing: Vec<Vec<u8>>,
}

/// A tree, seen from its root.
pub(super) struct Tree {
    root: Rc<Directory>,
    open: LruCache<Vec<u8>, Rc<Directory>>,
}

/// Cleans a path as text: without `.`, empty components, and `..` (which stops at the root).
pub(super) fn clean(path: &[u8]) -> Vec<u8> {
    let mut components: Vec<&[u8]> = Vec::new();
    for component in path.split(|&byte| byte == b'/') {
        match component {
            b"" | b"." => {}
            b".." => drop(components.pop()),
            name => components.push(name),
        }
    }
    components.join(&b'/')
}

/// The path of an entry of a directory.
pub(super) fn join(dir: &[u8], name: &[u8]) -> Vec<u8> {
    if dir.is_empty() { name.to_vec() } else { [dir, b"/", name].concat() }
}

/// Directory and name of a path that has no slash at its end.
pub(super) fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|&byte| byte == b'/') {
        Some(slash) => (&path[..slash], &path[slash + 1..]),
        None => (&[], path),
    }
}

fn c_name(name: &[u8], path: &[u8]) -> Result<CString> {
    let refused = |_| Error::Refused { path: text(path), what: "a name holds a NUL byte" };
    CString::new(name).map_err(refused)
}

impl Tree {
    /// The tree below `root`.
    pub(super) fn new(root: BorrowedFd<'_>) -> Result<Self> {
        let root = openat2(root, c".", DIRECTORY, Mode::empty(), BENEATH)
            .and_then(Directory::new)
            .doing("opening the root of the tree", b"")?;
        let limit = NonZeroUsize::new(MOST_OPEN).expect("a constant above zero");
        Ok(Self { root, open: LruCache::new(limit) })
    }

    /// The place of a clean, non-empty path whose directories exist or are made.
    pub(super) fn place(&mut self, path: &[u8]) -> Result<Place> {
        let (parent, name) = split(path);
        let walked = self.walk(parent)?;
        let (dir, parent) = self.make_missing(walked)?;
        place_in(dir, &parent, name)
    }

    /// The place of a hard link's target; its directory must exist.
    pub(super) fn link_target(&mut self, link: &[u8]) -> Result<Place> {
        let (parent, name) = split(link);
        let walked = self.walk(parent)?;
        if !walked.missing.is_empty() {
            return Err(Errno::NOENT).doing("finding the target of a hard link", link);
        }
        if matches!(name, b"" | b"." | b"..") {
            return Err(Error::Refused { path: text(link), what: "a hard link to a directory" });
        }
        place_in(walked.dir, &walked.path, name)
    }

    /// The place of a true path whose directory exists.
    pub(super) fn known(&mut self, path: &[u8]) -> Result<Place> {
        let (parent, name) = split(path);
        let dir = self.dir(parent)?;
        place_in(dir, parent, name)
    }

    /// Opens an existing directory by its true path.
    pub(super) fn dir(&mut self, path: &[u8]) -> Result<Rc<Directory>> {
        if path.is_empty() {
            return Ok(self.root.clone());
        }
        if let Some(dir) = self.open.get(path) {
            return Ok(dir.clone());
        }
        let dir = c_name(path, path).and_then(|name| {
            openat2(&*self.root, name, DIRECTORY, Mode::empty(), BENEATH)
                .doing("opening directory", path)
        })?;
        self.keep(path, dir)
    }

    /// Remembers an open directory that has its owner.
    pub(super) fn keep(&mut self, path: &[u8], dir: OwnedFd) -> Result<Rc<Directory>> {
        let dir = Directory::new(dir).doing("reading attributes of", path)?;
        self.open.put(path.to_vec(), dir.clone());
        Ok(dir)
    }

    /// Forgets the directories at and below a path that is about to go.
    pub(super) fn forget(&mut self, path: &[u8]) {
        let inside = |known: &[u8]| {
            known.strip_prefix(path).is_some_and(|rest| rest.is_empty() || rest[0] == b'/')
        };
        let gone: Vec<_> = self
            .open
            .iter()
            .map(|(known, _)| known)
            .filter(|known| inside(known))
            .cloned()
            .collect();
        for path in gone {
            self.open.pop(&path);
        }
    }

    /// Follows a path as far as it exists.
    fn walk(&mut self, path: &[u8]) -> Result<Walked> {
        let mut at = Walked { dir: self.root.clone(), path: Vec::new(), missing: Vec::new() };
        if let Some(dir) = self.open.get(path) {
            // Only true paths are in the cache.
            return Ok(Walked { dir: dir.clone(), path: path.to_vec(), ..at });
        }
        let mut ahead: Vec<Vec<u8>> = components(path);
        let mut links = 0;
        while let Some(name) = ahead.pop() {
            match &*name {
                b"." => {}
                b".." => self.up(&mut at)?,
                _ if !at.missing.is_empty() => at.missing.push(name),
                _ => {
                    let Some(target) = self.step(&mut at, name)? else { continue };
                    links += 1;
                    if links > MOST_LINKS {
                        return Err(Errno::LOOP).doing("following symlinks of", path);
                    }
                    let target = if target.starts_with(b"/") {
                        target
                    } else {
                        clean(&join(&at.path, &target))
                    };
                    ahead.append(&mut components(&target));
                    at = Walked { dir: self.root.clone(), path: Vec::new(), missing: Vec::new() };
                }
            }
        }
        Ok(at)
    }

    /// Goes one component down. `Some`: it is a symlink, with this target.
    fn step(&mut self, at: &mut Walked, name: Vec<u8>) -> Result<Option<Vec<u8>>> {
        let path = join(&at.path, &name);
        if path.len() > MOST_PATH {
            return Err(Errno::NAMETOOLONG).doing("following", &path);
        }
        if let Some(dir) = self.open.get(&path) {
            (at.dir, at.path) = (dir.clone(), path);
            return Ok(None);
        }
        let c_name = c_name(&name, &path)?;
        match openat2(&*at.dir, &c_name, DIRECTORY, Mode::empty(), BENEATH) {
            Ok(dir) => (at.dir, at.path) = (self.keep(&path, dir)?, path),
            Err(Errno::NOENT) => at.missing.push(name),
            Err(Errno::LOOP | Errno::NOTDIR) => {
                return readlinkat(&*at.dir, &c_name, Vec::new())
                    // No symlink either: a file stands where a directory is needed.
                    .map_err(|errno| if errno == Errno::INVAL { Errno::NOTDIR } else { errno })
                    .doing("following", &path)
                    .map(|target| Some(target.into_bytes()));
            }
            Err(errno) => return Err(errno).doing("opening directory", &path),
        }
        Ok(None)
    }

    /// Goes one component up, which at the root stays there.
    fn up(&mut self, at: &mut Walked) -> Result<()> {
        if at.missing.pop().is_none() {
            at.path = split(&at.path).0.to_vec();
            at.dir = self.dir(&at.path)?;
        }
        Ok(())
    }

    /// Makes the missing directories of a walk.
    fn make_missing(&mut self, at: Walked) -> Result<(Rc<Directory>, Vec<u8>)> {
        let Walked { mut dir, mut path, missing } = at;
        let length = missing.iter().fold(path.len(), |length, name| length + 1 + name.len());
        if length > MOST_PATH {
            // Said before any is made: a name of 1 MiB is half a million directories.
            let path = join(&path, &missing.join(&b'/'));
            return Err(Errno::NAMETOOLONG).doing("creating directory", &path);
        }
        for name in missing {
            path = join(&path, &name);
            let name = c_name(&name, &path)?;
            let mode = Mode::from_raw_mode(IMPLIED_MODE);
            let made = mkdirat(&*dir, &name, mode)
                .and_then(|()| openat2(&*dir, &name, DIRECTORY, Mode::empty(), BENEATH))
                .and_then(|made| fchmod(&made, mode).map(|()| made))
                .doing("creating directory", &path)?;
            dir = self.keep(&path, made)?;
        }
        Ok((dir, path))
    }
}

/// The components of a path, last first.
fn components(path: &[u8]) -> Vec<Vec<u8>> {
    let components = path.split(|&byte| byte == b'/').filter(|name| !name.is_empty());
    components.rev().map(<[u8]>::to_vec).collect()
}

fn place_in(dir: Rc<Directory>, parent: &[u8], name: &[u8]) -> Result<Place> {
    let path = join(parent, name);
    if path.len() > MOST_PATH {
        return Err(Errno::NAMETOOLONG).doing("finding", &path);
    }
    Ok(Place { dir, name: c_name(name, &path)?, path })
}

impl Place {
    /// What is there, a symlink itself included.
    pub(super) fn kind(&self) -> Result<Option<FileType>> {
        match statat(&*self.dir, &self.name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(FileType::from_raw_mode(stat.st_mode))),
            Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(errno).doing("reading attributes of", &self.path),
        }
    }

    /// Opens the directory that is there.
    pub(super) fn open_dir(&self) -> rustix::io::Result<OwnedFd> {
        openat2(&*self.dir, &self.name, DIRECTORY, Mode::empty(), BENEATH)
    }

    /// Opens the regular file that is there for reading.
    pub(super) fn open_file(&self) -> Result<OwnedFd> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        openat2(&*self.dir, &self.name, flags, Mode::empty(), BENEATH).doing("opening", &self.path)
    }

    /// The directory, as system calls want it.
    pub(super) fn at(&self) -> BorrowedFd<'_> {
        self.dir.as_fd()
    }
}
