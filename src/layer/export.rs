//! Writes the changes between two trees as a layer.
//!
//! The same trees give the same bytes: paths come in byte order, names of owners and access times
//! are left out, modification times are kept to the nanosecond. What a layer can't hold or
//! shouldn't is left out: sockets, `trusted.` extended attributes, SELinux labels. A name that would
//! be a whiteout in a layer is an error: leaving it out would lose it, and writing it would remove
//! something else.

use std::collections::{HashMap, HashSet};
use std::ffi::CString;
use std::io::Write;
use std::ops::ControlFlow;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{
    Dir, FileType, Mode, OFlags, ResolveFlags, Stat, fstat, getxattr, listxattr, major, minor,
    open, openat2, readlinkat,
};
use rustix::io::{Errno, pread};

use super::error::{Doing, Error, Result, text};
use super::stream::{self, CHUNK, Digesting};
use super::tar::{Entry, Kind, Time, write};
use crate::tree::{self, ChangeKind, Changed, DiffOptions};
use crate::types::DiffId;

const WHITEOUT: &[u8] = b".wh.";
/// The kernel's limit for one extended attribute, and for all names of one file.
const MOST_XATTR: usize = 64 << 10;

/// A layer that was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Written {
    /// Its digest.
    pub diff_id: DiffId,
    /// Its length.
    pub tar_size: u64,
    /// How many entries it has, whiteouts included.
    pub entries: u64,
}

/// Writes to `out` the layer that makes the tree `new` of the tree `old`.
///
/// Changed entries come with their directories, so that those get the right attributes again. A file
/// with several names is written once and its other names as hard links to it, the unchanged ones
/// too. Trees must not change meanwhile.
pub fn diff_tar(
    old: BorrowedFd<'_>,
    new: BorrowedFd<'_>,
    options: DiffOptions<'_>,
    out: impl Write + Send,
    cancel: &AtomicBool,
) -> Result<Written> {
    let (entries, diff_id, tar_size) = stream::digesting(out, |out| {
        let mut export = Export::new(new, options.changed, out);
        let mut result = Ok(());
        tree::diff(old, new, options, cancel, &mut |change| {
            result = export.change(change.kind, change.path);
            if result.is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        })?;
        result?;
        export.unchanged_links(cancel)?;
        export.out.put(&write::END)?;
        Ok(export.entries)
    })?;
    Ok(Written { diff_id, tar_size, entries })
}

/// An inode that has several names.
struct Linked {
    /// The name that its content was written under.
    source: Vec<u8>,
    /// Names not yet written.
    left: u64,
}

struct Export<'a, 'b> {
    root: BorrowedFd<'a>,
    /// What may have changed, where it is known.
    changed: Option<&'a Changed>,
    out: &'a mut Digesting<'b>,
    entries: u64,
    /// Directories that were written.
    directories: HashSet<Vec<u8>>,
    /// By inode number.
    linked: HashMap<u64, Linked>,
    /// Names of such inodes that were written.
    written: HashSet<Vec<u8>>,
}

/// What is in a path, seen through a descriptor that doesn't open it.
struct Found {
    fd: OwnedFd,
    stat: Stat,
}

impl<'a, 'b> Export<'a, 'b> {
    fn new(root: BorrowedFd<'a>, changed: Option<&'a Changed>, out: &'a mut Digesting<'b>) -> Self {
        Self {
            root,
            changed,
            out,
            entries: 0,
            directories: HashSet::new(),
            linked: HashMap::new(),
            written: HashSet::new(),
        }
    }

    fn change(&mut self, kind: ChangeKind, path: &Path) -> Result<()> {
        let path = path.as_os_str().as_bytes();
        // The root's attributes are the snapshot's own.
        if path.is_empty() {
            return Ok(());
        }
        match kind {
            ChangeKind::Deleted => self.whiteout(path),
            ChangeKind::Added | ChangeKind::Modified => self.write(path),
        }
    }

    fn whiteout(&mut self, path: &[u8]) -> Result<()> {
        self.parents(path)?;
        let (dir, name) = path.split_at(name_at(path));
        if name == b".wh..opq" {
            return Err(unspeakable(path));
        }
        let path = [dir, WHITEOUT, name].concat();
        self.header(&Entry { mode: 0o600, ..blank(Kind::File, path) })
    }

    /// Writes the directories above a path that aren't written yet.
    fn parents(&mut self, path: &[u8]) -> Result<()> {
        for (slash, _) in path.iter().enumerate().filter(|&(_, &byte)| byte == b'/') {
            if !self.directories.contains(&path[..slash]) {
                let found = self.find(&path[..slash])?;
                self.entry(&path[..slash], &found)?;
            }
        }
        Ok(())
    }

    fn write(&mut self, path: &[u8]) -> Result<()> {
        if self.directories.contains(path) {
            return Ok(());
        }
        let found = self.find(path)?;
        if found.kind() == FileType::Socket {
            return Ok(());
        }
        self.parents(path)?;
        self.entry(path, &found)
    }

    fn entry(&mut self, path: &[u8], found: &Found) -> Result<()> {
        if path[name_at(path)..].starts_with(WHITEOUT) {
            return Err(unspeakable(path));
        }
        if self.link(path, found)? {
            return Ok(());
        }
        let mut entry = found.entry(path)?;
        match found.kind() {
            FileType::RegularFile => return self.file(&entry, found),
            FileType::Directory => {
                self.directories.insert(path.to_vec());
                entry.path.push(b'/');
            }
            FileType::Symlink => {
                let target =
                    readlinkat(&found.fd, c"", Vec::new()).doing("reading symlink", path)?;
                entry.link = target.into_bytes();
            }
            _ => {}
        }
        self.header(&entry)
    }

    /// Writes a hard link if the inode has been written under another name.
    fn link(&mut self, path: &[u8], found: &Found) -> Result<bool> {
        if found.stat.st_nlink < 2 || found.kind() == FileType::Directory {
            return Ok(false);
        }
        self.written.insert(path.to_vec());
        let names = found.stat.st_nlink;
        let Some(linked) = self.linked.get_mut(&found.stat.st_ino) else {
            self.linked
                .insert(found.stat.st_ino, Linked { source: path.to_vec(), left: names - 1 });
            return Ok(false);
        };
        linked.left = linked.left.saturating_sub(1);
        let link = linked.source.clone();
        let entry = found.entry(path)?;
        self.header(&Entry { kind: Kind::HardLink, link, size: 0, device: (0, 0), ..entry })?;
        Ok(true)
    }

    fn file(&mut self, entry: &Entry, found: &Found) -> Result<()> {
        let file = found.reopen(OFlags::empty()).doing("opening", &entry.path)?;
        self.header(entry)?;
        let mut at = 0;
        while at < entry.size {
            let wanted = usize::try_from(entry.size - at).unwrap_or(usize::MAX).min(CHUNK);
            let read = match pread(&file, self.out.room(wanted)?, at) {
                Err(Errno::INTR) => continue,
                read => read.doing("reading", &entry.path)?,
            };
            if read == 0 {
                let path = text(&entry.path);
                return Err(Error::Refused { path, what: "it became shorter while it was read" });
            }
            self.out.filled(read);
            at += read as u64;
        }
        self.out.put(write::padding(entry.size))
    }

    fn header(&mut self, entry: &Entry) -> Result<()> {
        self.entries += 1;
        self.out.put(&write::header(entry))
    }

    /// Names of changed files that haven't changed themselves: without them, they would go on
    /// naming the old file.
    fn unchanged_links(&mut self, cancel: &AtomicBool) -> Result<()> {
        // What is in a directory that was moved has not changed, but it was written.
        let left = |(inode, linked): (&u64, &Linked)| (linked.left > 0).then_some(*inode);
        let known = self.changed.filter(|changed| {
            self.linked.iter().filter_map(left).all(|inode| changed.contains(inode))
        });
        let mut ahead = vec![Vec::new()];
        while let Some(dir) = ahead.pop() {
            if self.linked.values().all(|linked| linked.left == 0) {
                break;
            }
            if cancel.load(Ordering::Relaxed) {
                return Err(Error::Cancelled);
            }
            for path in self.entries_of(&dir, known)? {
                let found = self.find(&path)?;
                if found.kind() == FileType::Directory {
                    ahead.push(path);
                } else if self.linked.contains_key(&found.stat.st_ino)
                    && !self.written.contains(&path)
                {
                    self.parents(&path)?;
                    self.link(&path, &found)?;
                }
            }
        }
        Ok(())
    }

    /// The paths of a directory's entries that may lead to what is `known` to have changed, in reverse order.
    fn entries_of(&self, dir: &[u8], known: Option<&Changed>) -> Result<Vec<Vec<u8>>> {
        let found = self.find(if dir.is_empty() { b"." } else { dir })?;
        let mut paths = Vec::new();
        for entry in Dir::read_from(&found.reopen(OFlags::DIRECTORY).doing("opening", dir)?)
            .doing("reading directory", dir)?
        {
            let entry = entry.doing("reading directory", dir)?;
            let name = entry.file_name().to_bytes();
            let wanted = known.is_none_or(|changed| changed.touches(entry.ino()));
            if wanted && name != b"." && name != b".." {
                paths.push(if dir.is_empty() { name.to_vec() } else { [dir, b"/", name].concat() });
            }
        }
        paths.sort_unstable_by(|a, b| b.cmp(a));
        Ok(paths)
    }

    fn find(&self, path: &[u8]) -> Result<Found> {
        let name = CString::new(path).expect("paths of the kernel hold no NUL");
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let beneath = ResolveFlags::BENEATH
            | ResolveFlags::NO_XDEV
            | ResolveFlags::NO_MAGICLINKS
            | ResolveFlags::NO_SYMLINKS;
        openat2(self.root, &name, flags, Mode::empty(), beneath)
            .and_then(|fd| fstat(&fd).map(|stat| Found { fd, stat }))
            .doing("finding", path)
    }
}

impl Found {
    fn kind(&self) -> FileType {
        FileType::from_raw_mode(self.stat.st_mode)
    }

    /// Leads to the very inode, a symlink's own included.
    fn magic_link(&self) -> String {
        format!("/proc/self/fd/{}", self.fd.as_raw_fd())
    }

    /// Opens a file or directory for reading.
    fn reopen(&self, flags: OFlags) -> rustix::io::Result<OwnedFd> {
        let flags = flags | OFlags::RDONLY | OFlags::NOATIME | OFlags::CLOEXEC;
        open(self.magic_link(), flags, Mode::empty())
    }

    /// The entry for a path, without a link's target.
    fn entry(&self, path: &[u8]) -> Result<Entry> {
        let stat = &self.stat;
        let kind = match self.kind() {
            FileType::RegularFile => Kind::File,
            FileType::Directory => Kind::Directory,
            FileType::Symlink => Kind::Symlink,
            FileType::CharacterDevice => Kind::CharDevice,
            FileType::BlockDevice => Kind::BlockDevice,
            FileType::Fifo => Kind::Fifo,
            FileType::Socket | FileType::Unknown => {
                return Err(Error::Refused {
                    path: text(path),
                    what: "no layer holds such a file",
                });
            }
        };
        let is_device = matches!(kind, Kind::CharDevice | Kind::BlockDevice);
        Ok(Entry {
            mode: stat.st_mode & 0o7777,
            uid: stat.st_uid.into(),
            gid: stat.st_gid.into(),
            device: match is_device {
                true => (major(stat.st_rdev).into(), minor(stat.st_rdev).into()),
                false => (0, 0),
            },
            mtime: Time { seconds: stat.st_mtime, nanoseconds: stat.st_mtime_nsec as u32 },
            size: if kind == Kind::File { stat.st_size as u64 } else { 0 },
            xattrs: self.xattrs().doing("reading extended attributes of", path)?,
            ..blank(kind, path.to_vec())
        })
    }

    fn xattrs(&self) -> rustix::io::Result<Vec<(Vec<u8>, Vec<u8>)>> {
        let mut buffer = vec![0; MOST_XATTR];
        let length = match listxattr(self.magic_link(), &mut buffer[..]) {
            Err(Errno::OPNOTSUPP) => 0,
            length => length?,
        };
        let names = buffer[..length].to_vec();
        let mut xattrs = Vec::new();
        for name in names.split(|&byte| byte == 0).filter(|name| is_exported(name)) {
            let length = getxattr(self.magic_link(), name, &mut buffer[..])?;
            xattrs.push((name.to_vec(), buffer[..length].to_vec()));
        }
        Ok(xattrs)
    }
}

/// Where the last component begins.
fn name_at(path: &[u8]) -> usize {
    path.iter().rposition(|&byte| byte == b'/').map_or(0, |slash| slash + 1)
}

/// Written as it is, it would remove something where the layer is unpacked.
fn unspeakable(path: &[u8]) -> Error {
    Error::Refused { path: text(path), what: "in a layer, such a name means a removal" }
}

/// Not what is the host's own.
fn is_exported(name: &[u8]) -> bool {
    !name.is_empty() && !name.starts_with(b"trusted.") && name != b"security.selinux"
}

fn blank(kind: Kind, path: Vec<u8>) -> Entry {
    Entry {
        kind,
        path,
        link: Vec::new(),
        mode: 0,
        uid: 0,
        gid: 0,
        device: (0, 0),
        mtime: Time::EPOCH,
        atime: None,
        size: 0,
        extents: None,
        xattrs: Vec::new(),
    }
}
