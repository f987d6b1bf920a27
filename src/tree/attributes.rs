//! What belongs to a file besides its bytes: owner, mode, times, extended attributes.

use std::collections::BTreeMap;
use std::ffi::{CStr, CString};
use std::os::fd::{AsRawFd, BorrowedFd};

use rustix::buffer::spare_capacity;
use rustix::fs::{
    AtFlags, FileType, Gid, Mode, Stat, Timespec, Timestamps, Uid, XattrFlags, chownat, fchmod,
    fchown, fgetxattr, flistxattr, fremovexattr, fsetxattr, futimens, lgetxattr, llistxattr,
    lsetxattr, utimensat,
};
use rustix::io::{Errno, Result};

use super::open;

/// Enough for nearly all names and values at the first try.
const USUAL: usize = 512;
/// The kernel's limit for one value, and for all names of one file.
const MOST: usize = 65536;

/// How xfs shows its ACLs a second time; the first is `system.posix_acl_*`, as everywhere.
const XFS_ACL: &[u8] = b"trusted.SGI_ACL_";

/// Names and values of all namespaces, ACLs and capabilities included.
pub(super) type Xattrs = BTreeMap<CString, Vec<u8>>;

/// A file whose attributes are wanted.
#[derive(Clone, Copy)]
pub(super) enum File<'a> {
    /// An open file or directory.
    Open(BorrowedFd<'a>),
    /// An entry of a directory that must not be opened or followed.
    Entry(BorrowedFd<'a>, &'a CStr),
}

/// Reads all extended attributes.
pub(super) fn xattrs(file: File<'_>) -> Result<Xattrs> {
    let names = match list(file) {
        Err(Errno::OPNOTSUPP) => return Ok(Xattrs::new()),
        names => names?,
    };
    let mut found = Xattrs::new();
    for name in names.split_inclusive(|&byte| byte == 0) {
        let name = CStr::from_bytes_with_nul(name).map_err(|_| Errno::IO)?;
        if name.to_bytes().starts_with(XFS_ACL) {
            continue;
        }
        match get(file, name) {
            // Removed since it was listed.
            Err(Errno::NODATA) => {}
            value => drop(found.insert(name.to_owned(), value?)),
        }
    }
    Ok(found)
}

fn list(file: File<'_>) -> Result<Vec<u8>> {
    growing(|buffer| match file {
        File::Open(fd) => flistxattr(fd, spare_capacity(buffer)),
        File::Entry(dir, name) => llistxattr(&*proc_path(dir, name), spare_capacity(buffer)),
    })
}

fn get(file: File<'_>, xattr: &CStr) -> Result<Vec<u8>> {
    growing(|buffer| match file {
        File::Open(fd) => fgetxattr(fd, xattr, spare_capacity(buffer)),
        File::Entry(dir, name) => lgetxattr(&*proc_path(dir, name), xattr, spare_capacity(buffer)),
    })
}

fn growing(mut read: impl FnMut(&mut Vec<u8>) -> Result<usize>) -> Result<Vec<u8>> {
    for capacity in [USUAL, MOST] {
        let mut buffer = Vec::with_capacity(capacity);
        match read(&mut buffer) {
            Err(Errno::RANGE) => {}
            read => return read.map(|_| buffer),
        }
    }
    Err(Errno::RANGE)
}

fn set(file: File<'_>, xattrs: &Xattrs) -> Result<()> {
    xattrs.iter().try_for_each(|(xattr, value)| match file {
        File::Open(fd) => fsetxattr(fd, &**xattr, value, XattrFlags::empty()),
        File::Entry(dir, name) => {
            lsetxattr(&*proc_path(dir, name), &**xattr, value, XattrFlags::empty())
        }
    })
}

/// The extended-attribute calls have no form with a directory descriptor before Linux 6.13. The
/// magic link leads to that very directory, and the last component isn't followed.
fn proc_path(dir: BorrowedFd<'_>, name: &CStr) -> CString {
    let mut path = format!("/proc/self/fd/{}/", dir.as_raw_fd()).into_bytes();
    path.extend_from_slice(name.to_bytes());
    CString::new(path).expect("a C string holds no NUL")
}

/// Gives an open file or directory the attributes of `stat` and `xattrs`. The order matters: a
/// change of owner clears capabilities and set-id bits, and anything but the times moves nothing
/// that the times show.
pub(super) fn apply(file: BorrowedFd<'_>, stat: &Stat, xattrs: &Xattrs) -> Result<()> {
    fchown(file, Some(Uid::from_raw(stat.st_uid)), Some(Gid::from_raw(stat.st_gid)))?;
    set(File::Open(file), xattrs)?;
    fchmod(file, Mode::from_raw_mode(stat.st_mode))?;
    futimens(file, &times(stat))
}

/// Like [`apply`], for a symlink, fifo, socket or device.
pub(super) fn apply_special(
    dir: BorrowedFd<'_>,
    name: &CStr,
    stat: &Stat,
    xattrs: &Xattrs,
) -> Result<()> {
    let owner = (Some(Uid::from_raw(stat.st_uid)), Some(Gid::from_raw(stat.st_gid)));
    chownat(dir, name, owner.0, owner.1, AtFlags::SYMLINK_NOFOLLOW)?;
    set(File::Entry(dir, name), xattrs)?;
    if open::kind(stat) != FileType::Symlink {
        open::chmod_special(dir, name, Mode::from_raw_mode(stat.st_mode))?;
    }
    utimensat(dir, name, &times(stat), AtFlags::SYMLINK_NOFOLLOW)
}

/// Takes back what a directory inherited when it was made: ACLs that its own children would
/// inherit in turn.
pub fn clear_acls(dir: BorrowedFd<'_>) -> Result<()> {
    for acl in [c"system.posix_acl_default", c"system.posix_acl_access"] {
        match fremovexattr(dir, acl) {
            Ok(()) | Err(Errno::NODATA | Errno::OPNOTSUPP) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

fn times(stat: &Stat) -> Timestamps {
    Timestamps {
        last_access: Timespec { tv_sec: stat.st_atime, tv_nsec: stat.st_atime_nsec as _ },
        last_modification: Timespec { tv_sec: stat.st_mtime, tv_nsec: stat.st_mtime_nsec as _ },
    }
}
