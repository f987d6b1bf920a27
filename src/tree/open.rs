//! Opening and listing what is in a directory, one component at a time.

use std::ffi::CStr;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::{
    AtFlags, CWD, FileType, Mode, OFlags, RawDir, ResolveFlags, SeekFrom, Stat, fstat, open,
    openat, openat2, seek, statat,
};
use rustix::io::{Errno, Result};

/// One component below a directory: no symlink, no other mount, nothing outside.
const BENEATH: ResolveFlags = ResolveFlags::BENEATH
    .union(ResolveFlags::NO_XDEV)
    .union(ResolveFlags::NO_MAGICLINKS)
    .union(ResolveFlags::NO_SYMLINKS);

/// Directories are read without touching their access times.
const DIRECTORY: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::NOATIME)
    .union(OFlags::CLOEXEC);

/// Room for a few hundred directory entries a call.
const LISTING_BUFFER: usize = 32 * 1024;

/// How often a lookup is tried again that met a rename. Each try has to lose a race of microseconds.
const TRIES: usize = 64;

/// Opens a subdirectory.
pub(super) fn directory(dir: BorrowedFd<'_>, name: &CStr) -> Result<OwnedFd> {
    beneath(dir, name, DIRECTORY, BENEATH)
}

/// Opens one component. With `RESOLVE_BENEATH` the kernel answers `EXDEV`, the same as for another
/// mount, when the entry is moved out of the directory between its lookup and the check that it is
/// still below (`complete_walk` in fs/namei.c): then it is looked up again, and found or gone.
fn beneath(
    dir: BorrowedFd<'_>,
    name: &CStr,
    flags: OFlags,
    resolve: ResolveFlags,
) -> Result<OwnedFd> {
    let open = || openat2(dir, name, flags, Mode::empty(), resolve);
    let mut result = open();
    for _ in 1..TRIES {
        match result {
            Err(Errno::XDEV | Errno::AGAIN) => result = open(),
            result => return result,
        }
    }
    result
}

/// Opens a directory again, with a read position of its own.
pub(super) fn again(dir: BorrowedFd<'_>) -> Result<OwnedFd> {
    openat(dir, c".", DIRECTORY, Mode::empty())
}

/// Opens a directory's parent. The caller checks that it is the one it came from.
pub(super) fn parent(dir: BorrowedFd<'_>) -> Result<OwnedFd> {
    openat(dir, c"..", DIRECTORY, Mode::empty())
}

/// A descriptor that names the entry without opening it, whatever it is.
pub(super) fn path_only(dir: BorrowedFd<'_>, name: &CStr) -> Result<OwnedFd> {
    beneath(
        dir,
        name,
        OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC,
        ResolveFlags::BENEATH | ResolveFlags::NO_XDEV | ResolveFlags::NO_MAGICLINKS,
    )
}

/// Opens a regular file for reading. `ESTALE`: it has become something else meanwhile, which isn't
/// opened, for opening a fifo blocks and opening a device acts.
pub(super) fn regular(dir: BorrowedFd<'_>, name: &CStr) -> Result<OwnedFd> {
    let named = path_only(dir, name)?;
    if kind(&fstat(&named)?) != FileType::RegularFile {
        return Err(Errno::STALE);
    }
    reopen(&named, OFlags::RDONLY | OFlags::NOATIME)
}

/// Opens what a path-only descriptor names.
fn reopen(named: &OwnedFd, flags: OFlags) -> Result<OwnedFd> {
    let path = format!("/proc/self/fd/{}", named.as_raw_fd());
    open(path, flags | OFlags::CLOEXEC, Mode::empty())
}

/// The entry's own attributes, a symlink's included.
pub(super) fn stat(dir: BorrowedFd<'_>, name: &CStr) -> Result<Stat> {
    statat(dir, name, AtFlags::SYMLINK_NOFOLLOW)
}

/// What kind of file it is.
pub(super) fn kind(stat: &Stat) -> FileType {
    FileType::from_raw_mode(stat.st_mode)
}

/// Changes a special file's mode: it can't be opened, and `fchmodat` would follow a symlink.
pub(super) fn chmod_special(dir: BorrowedFd<'_>, name: &CStr, mode: Mode) -> Result<()> {
    let named = path_only(dir, name)?;
    rustix::fs::chmodat(CWD, format!("/proc/self/fd/{}", named.as_raw_fd()), mode, AtFlags::empty())
}

/// Reads directories through one buffer.
pub(super) struct Lister {
    buffer: Box<[MaybeUninit<u8>]>,
}

impl Lister {
    pub(super) fn new() -> Self {
        Self { buffer: vec![MaybeUninit::uninit(); LISTING_BUFFER].into_boxed_slice() }
    }

    /// Calls `visit` with each name but `.` and `..`, from the beginning; an error of its ends the
    /// listing. The outer error is the listing's own.
    pub(super) fn each<E>(
        &mut self,
        dir: BorrowedFd<'_>,
        mut visit: impl FnMut(&CStr) -> std::result::Result<(), E>,
    ) -> Result<std::result::Result<(), E>> {
        self.each_inode(dir, |name, _| visit(name))
    }

    /// The same with each entry's inode number.
    pub(super) fn each_inode<E>(
        &mut self,
        dir: BorrowedFd<'_>,
        mut visit: impl FnMut(&CStr, u64) -> std::result::Result<(), E>,
    ) -> Result<std::result::Result<(), E>> {
        seek(dir, SeekFrom::Start(0))?;
        let mut entries = RawDir::new(dir, &mut self.buffer);
        while let Some(entry) = entries.next() {
            let entry = match entry {
                // The directory was removed while we read it: it holds nothing more.
                Err(Errno::NOENT) => break,
                entry => entry?,
            };
            let name = entry.file_name();
            if name == c"." || name == c".." {
                continue;
            }
            if let Err(error) = visit(name, entry.ino()) {
                return Ok(Err(error));
            }
        }
        Ok(Ok(()))
    }
}
