//! The file attribute ioctls that rustix doesn't wrap.
#![allow(unsafe_code, reason = "sys/ is where it lives")]

use std::os::fd::{AsFd, AsRawFd};

use rustix::io::{Errno, Result};

/// `struct fsxattr` of `<linux/fs.h>`, byte for byte: extended flags, extent size hint, project id.
pub type FsXattr = [u8; 28];

nix::ioctl_read!(
    /// Reads the extended file attributes.
    fs_ioc_fsgetxattr, b'X', 31, FsXattr
);
nix::ioctl_write_ptr!(
    /// Sets the extended file attributes.
    fs_ioc_fssetxattr, b'X', 32, FsXattr
);

/// `FS_IOC_FSGETXATTR`.
pub fn get_fsxattr(file: impl AsFd) -> Result<FsXattr> {
    let mut value = [0; 28];
    // SAFETY: the request reads exactly one `struct fsxattr` into the buffer of that size.
    // JUSTIFICATION: rustix has no wrapper.
    unsafe { fs_ioc_fsgetxattr(file.as_fd().as_raw_fd(), &mut value) }.map_err(errno)?;
    Ok(value)
}

/// `FS_IOC_FSSETXATTR`.
pub fn set_fsxattr(file: impl AsFd, value: &FsXattr) -> Result<()> {
    // SAFETY: the request reads exactly one `struct fsxattr` from the buffer of that size.
    // JUSTIFICATION: rustix has no wrapper.
    unsafe { fs_ioc_fssetxattr(file.as_fd().as_raw_fd(), value) }.map_err(errno)?;
    Ok(())
}

fn errno(error: nix::errno::Errno) -> Errno {
    Errno::from_raw_os_error(error as i32)
}
