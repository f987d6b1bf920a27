//! Detached mounts: a filesystem mounted with the new mount API and never attached to a mount
//! namespace, so that nobody else can hold it busy and the kernel lets go of it when the last
//! descriptor closes, also when the daemon dies.
//!
//! Knows block devices and option words; knows no volume and no pool. No unsafe code: rustix
//! wraps every call.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, FsPickFlags, MountAttrFlags, fsconfig_create, fsconfig_reconfigure,
    fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, fspick,
};

/// A step of the mount API that failed, with what the filesystem said about it.
#[derive(Debug, thiserror::Error)]
#[error("{step}{said}")]
pub struct MountError {
    /// What was being done.
    step: String,
    /// The kernel's own lines, each after a "; ".
    said: String,
    /// The errno.
    #[source]
    pub source: io::Error,
}

impl MountError {
    fn new(step: impl Into<String>, context: Option<BorrowedFd<'_>>, errno: Errno) -> Self {
        let said = context.map(messages).unwrap_or_default();
        Self { step: step.into(), said, source: errno.into() }
    }

    /// The errno, as rustix names it.
    pub fn errno(&self) -> Option<Errno> {
        Errno::from_io_error(&self.source)
    }
}

/// Mounts the filesystem on `source` without attaching it anywhere, and gives its descriptor.
/// The mount lives while this descriptor, or one opened below it, is open. `options` are the words
/// of `mount -o`: `flag` or `key=value`.
///
/// Mounted `noatime` (a read must not map new blocks) and `nodev` (nobody opens a device node
/// through this mount: users see it through FUSE, which has its own flags).
pub fn mount_detached(
    filesystem: &str,
    source: &Path,
    read_only: bool,
    options: &[String],
) -> Result<OwnedFd, MountError> {
    let context = fsopen(filesystem, FsOpenFlags::FSOPEN_CLOEXEC)
        .map_err(|e| MountError::new(format!("opening a context for {filesystem}"), None, e))?;
    let fail = |step: &str, e| {
        let step = format!("{step} for {filesystem} on {}", source.display());
        MountError::new(step, Some(context.as_fd()), e)
    };
    fsconfig_set_string(&context, "source", source).map_err(|e| fail("setting the source", e))?;
    if read_only {
        fsconfig_set_flag(&context, "ro").map_err(|e| fail("setting ro", e))?;
    }
    for option in options {
        set_option(context.as_fd(), option)
            .map_err(|e| fail(&format!("setting option {option:?}"), e))?;
    }
    fsconfig_create(&context).map_err(|e| fail("mounting", e))?;
    let attributes = MountAttrFlags::MOUNT_ATTR_NOATIME | MountAttrFlags::MOUNT_ATTR_NODEV;
    fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes)
        .map_err(|e| fail("making a detached mount", e))
}

/// Changes the mounted filesystem (not only this mount of it): read-only or not, and `options`.
/// EBUSY while a file is open for writing and `read_only` is asked for.
pub fn reconfigure(
    mount: impl AsFd,
    read_only: bool,
    options: &[String],
) -> Result<(), MountError> {
    let flags = FsPickFlags::FSPICK_EMPTY_PATH | FsPickFlags::FSPICK_CLOEXEC;
    let context = fspick(&mount, "", flags)
        .map_err(|e| MountError::new("opening the mounted filesystem's context", None, e))?;
    let fail = |step: &str, e| MountError::new(step, Some(context.as_fd()), e);
    fsconfig_set_flag(&context, if read_only { "ro" } else { "rw" })
        .map_err(|e| fail("setting ro or rw", e))?;
    for option in options {
        set_option(context.as_fd(), option)
            .map_err(|e| fail(&format!("setting option {option:?}"), e))?;
    }
    let change = if read_only { "turning read-only" } else { "turning read-write" };
    fsconfig_reconfigure(&context).map_err(|e| fail(change, e))
}

/// Opens the root directory of a detached mount for reading.
pub fn root_directory(mount: impl AsFd) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(mount, ".", flags, Mode::empty())?)
}

/// Whether this kernel has the new mount API (Linux 5.2) and knows `filesystem`.
pub fn probe(filesystem: &str) -> Result<(), MountError> {
    fsopen(filesystem, FsOpenFlags::FSOPEN_CLOEXEC)
        .map(drop)
        .map_err(|e| MountError::new(format!("asking the kernel for {filesystem}"), None, e))
}

fn set_option(context: BorrowedFd<'_>, option: &str) -> Result<(), Errno> {
    match option.split_once('=') {
        Some((key, value)) => fsconfig_set_string(context, key, value),
        None => fsconfig_set_flag(context, option),
    }
}

/// What the filesystem had to say: one line each read, "e text" or "w text".
fn messages(context: BorrowedFd<'_>) -> String {
    let mut said = String::new();
    let mut line = [0u8; 1024];
    while let Ok(length @ 1..) = rustix::io::read(context, &mut line) {
        said.push_str("; ");
        said.push_str(String::from_utf8_lossy(&line[..length]).trim_end());
    }
    said
}

/// Whether `path` is a block device, and its number if so.
pub fn block_device(path: &Path) -> io::Result<Option<(u32, u32)>> {
    use rustix::fs::{AtFlags, FileType, major, minor, statat};
    let stat = statat(CWD, path, AtFlags::empty())?;
    let is_block = FileType::from_raw_mode(stat.st_mode) == FileType::BlockDevice;
    Ok(is_block.then(|| (major(stat.st_rdev), minor(stat.st_rdev))))
}
