//! The ioctls of `/dev/fuse`.
#![allow(unsafe_code, reason = "sys/ is where it lives")]

use std::os::fd::{AsFd, AsRawFd};

use rustix::io::{Errno, Result};

/// `struct fuse_backing_map` of `<linux/fuse.h>`.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct BackingMap {
    fd: i32,
    flags: u32,
    padding: u64,
}

nix::ioctl_write_ptr!(
    /// Registers a file that the kernel is to read and write by itself.
    fuse_dev_ioc_backing_open, 229, 1, BackingMap
);
nix::ioctl_write_ptr!(
    /// Takes that back.
    fuse_dev_ioc_backing_close, 229, 2, u32
);

/// `FUSE_DEV_IOC_BACKING_OPEN`: the number of a new backing file.
pub fn open_backing(device: impl AsFd, file: impl AsFd) -> Result<u32> {
    let map = BackingMap { fd: file.as_fd().as_raw_fd(), flags: 0, padding: 0 };
    // SAFETY: the request reads exactly one `struct fuse_backing_map`; both descriptors are borrowed.
    // JUSTIFICATION: no crate wraps this request apart from a FUSE library.
    let number = unsafe { fuse_dev_ioc_backing_open(device.as_fd().as_raw_fd(), &map) };
    number.map(|number| number as u32).map_err(errno)
}

/// `FUSE_DEV_IOC_BACKING_CLOSE`.
pub fn close_backing(device: impl AsFd, number: u32) -> Result<()> {
    // SAFETY: the request reads exactly one `uint32_t`; the descriptor is borrowed.
    // JUSTIFICATION: no crate wraps this request apart from a FUSE library.
    unsafe { fuse_dev_ioc_backing_close(device.as_fd().as_raw_fd(), &number) }.map_err(errno)?;
    Ok(())
}

fn errno(error: nix::errno::Errno) -> Errno {
    Errno::from_raw_os_error(error as i32)
}
