//! What the filesystem below the directory can do.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, Mode, OFlags, fstatfs, openat, unlinkat};
use rustix::io::{Errno, write};

use super::layout::Layout;
use super::{Error, Result, io};
use crate::sys::handle::FileHandle;
use crate::tree;

/// Enough for any filesystem to give it blocks of its own.
static PROBE: [u8; 64 << 10] = [0x5a; 64 << 10];

/// Refuses a filesystem whose files can't be found again by handle.
pub(super) fn require_file_handles(dir: BorrowedFd<'_>, path: &Path) -> Result<()> {
    let context = |why: &str| {
        format!(
            "{} is on {}, {why}: choose a --root on ext4, xfs or btrfs",
            path.display(),
            filesystem(dir)
        )
    };
    match FileHandle::of(dir, "") {
        Ok(_) => Ok(()),
        Err(errno @ Errno::OPNOTSUPP) => {
            let context = context("which has no file handles");
            Err(Error::Io { context, source: errno.into() })
        }
        Err(errno) => {
            let context = context("whose file handles can't be had");
            Err(Error::Io { context, source: errno.into() })
        }
    }
}

/// Tries a reflink on two files of its own.
pub(super) fn has_reflink(layout: &Layout) -> Result<bool> {
    let tmp = layout.tmp();
    let probe = || {
        let from = unnamed_file(tmp, "probe-from")?;
        let mut written = 0;
        while written < PROBE.len() {
            written += write(&from, &PROBE[written..])?;
        }
        let to = unnamed_file(tmp, "probe-to")?;
        tree::clones(from.as_fd(), to.as_fd())
    };
    probe().map_err(io(|| format!("trying a reflink in {}", layout.path().display())))
}

/// A file that is gone when it is closed.
fn unnamed_file(dir: BorrowedFd<'_>, name: &str) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::CREATE | OFlags::TRUNC | OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = openat(dir, name, flags, Mode::RUSR | Mode::WUSR)?;
    unlinkat(dir, name, AtFlags::empty())?;
    Ok(file)
}

/// The filesystem's name, as people know it.
pub(super) fn filesystem(dir: BorrowedFd<'_>) -> &'static str {
    match fstatfs(dir).map(|stat| stat.f_type) {
        Ok(0xEF53) => "ext4",
        Ok(0x5846_5342) => "xfs",
        Ok(0x9123_683E) => "btrfs",
        Ok(0x0102_1994) => "tmpfs",
        Ok(0x8584_58f6) => "ramfs",
        Ok(0x794c_7630) => "overlayfs",
        Ok(0xF2F5_2010) => "f2fs",
        Ok(0x6969) => "nfs",
        Ok(0x2FC1_2FC1) => "zfs",
        Ok(0x6573_5546) => "a FUSE filesystem",
        Ok(_) | Err(_) => "a filesystem of another kind",
    }
}
