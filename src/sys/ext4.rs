//! The one ext4 ioctl that has no safe wrapper: growing a mounted filesystem.
#![allow(unsafe_code, reason = "EXT4_IOC_RESIZE_FS has no safe wrapper in rustix or nix")]

use std::io;
use std::os::fd::{AsFd, AsRawFd};

/// `_IOW('f', 16, __u64)`.
const EXT4_IOC_RESIZE_FS: libc::c_ulong = 0x4008_6610;

/// Grows the mounted ext4 below `root` to `blocks` filesystem blocks. Equal is a success.
pub fn resize(root: impl AsFd, blocks: u64) -> io::Result<()> {
    // SAFETY: the ioctl reads one u64, which outlives the call.
    // JUSTIFICATION: no safe wrapper exists; resize2fs as a process would need an attached mount.
    let answer = unsafe { libc::ioctl(root.as_fd().as_raw_fd(), EXT4_IOC_RESIZE_FS, &blocks) };
    if answer < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
