//! Ioctls on a mounted filesystem that have no safe wrapper: growing it, trimming it, settling it, stopping it.
#![allow(unsafe_code, reason = "these ioctls have no safe wrapper in rustix or nix")]

use std::io;
use std::os::fd::{AsFd, AsRawFd};

/// `_IOW('f', 16, __u64)`.
const EXT4_IOC_RESIZE_FS: libc::c_ulong = 0x4008_6610;
/// `_IOW('X', 110, struct xfs_growfs_data)`.
const XFS_IOC_FSGROWFSDATA: libc::c_ulong = 0x4010_586E;
/// `_IOWR('X', 121, struct fstrim_range)`.
const FITRIM: libc::c_ulong = 0xC018_5879;
/// `_IOW('f', 43, __u32)`.
const EXT4_IOC_CHECKPOINT: libc::c_ulong = 0x4004_662B;
/// `_IOR('X', 125, __u32)`: ext4's, xfs's and f2fs's.
const SHUTDOWN: libc::c_ulong = 0x8004_587D;
/// Without writing the log.
const NO_LOG_FLUSH: u32 = 2;

/// `struct xfs_growfs_data`.
#[repr(C)]
struct XfsGrowth {
    blocks: u64,
    inode_percent: u32,
    padding: u32,
}

/// `struct fstrim_range`.
#[repr(C)]
struct TrimRange {
    start: u64,
    length: u64,
    least: u64,
}

fn check(answer: libc::c_int) -> io::Result<()> {
    if answer < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Grows the mounted ext4 or ext2 below `root` to `blocks` filesystem blocks. Equal is a success.
pub fn grow_ext4(root: impl AsFd, blocks: u64) -> io::Result<()> {
    // SAFETY: the ioctl reads one u64, which outlives the call.
    // JUSTIFICATION: no safe wrapper exists; resize2fs as a process would need an attached mount.
    check(unsafe { libc::ioctl(root.as_fd().as_raw_fd(), EXT4_IOC_RESIZE_FS, &blocks) })
}

/// Grows the mounted xfs below `root` to `blocks` filesystem blocks. Equal is a success.
pub fn grow_xfs(root: impl AsFd, blocks: u64, inode_percent: u8) -> io::Result<()> {
    let growth = XfsGrowth { blocks, inode_percent: inode_percent.into(), padding: 0 };
    // SAFETY: the ioctl reads a whole xfs_growfs_data, which outlives the call.
    // JUSTIFICATION: no safe wrapper exists; xfs_growfs as a process would need an attached mount.
    check(unsafe { libc::ioctl(root.as_fd().as_raw_fd(), XFS_IOC_FSGROWFSDATA, &growth) })
}

/// Discards the free space of the mounted filesystem, in pieces of at least `least` bytes. How many bytes the
/// filesystem told the device of.
pub fn trim(root: impl AsFd, least: u64) -> io::Result<u64> {
    let mut range = TrimRange { start: 0, length: u64::MAX, least };
    // SAFETY: the ioctl reads and writes a whole fstrim_range, which outlives the call.
    // JUSTIFICATION: no safe wrapper exists; fstrim as a process would need an attached mount.
    check(unsafe { libc::ioctl(root.as_fd().as_raw_fd(), FITRIM, &mut range) })?;
    Ok(range.length)
}

/// Has the mounted ext4 below `root` write all of its journal to where it belongs. `ENODEV`: it has no journal;
/// `ENOTTY`: it is no ext4.
pub fn checkpoint_ext4(root: impl AsFd) -> io::Result<()> {
    let no_flags = 0_u32;
    // SAFETY: the ioctl reads one u32, which outlives the call.
    // JUSTIFICATION: no safe wrapper exists.
    check(unsafe { libc::ioctl(root.as_fd().as_raw_fd(), EXT4_IOC_CHECKPOINT, &no_flags) })
}

/// Stops the mounted filesystem at once, without writing anything more: from now on everything below `root` is an
/// I/O error, and the next mount finds it as after a power cut.
pub fn shut_down(root: impl AsFd) -> io::Result<()> {
    // SAFETY: the ioctl reads one u32, which outlives the call.
    // JUSTIFICATION: no safe wrapper exists.
    check(unsafe { libc::ioctl(root.as_fd().as_raw_fd(), SHUTDOWN, &NO_LOG_FLUSH) })
}
