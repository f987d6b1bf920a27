//! Telling a block device that its content is no longer needed.
#![allow(unsafe_code, reason = "BLKDISCARD has no safe wrapper in rustix or nix")]

use std::fs::File;
use std::io::{self, Seek, SeekFrom};
use std::os::fd::AsRawFd;
use std::path::Path;

/// `_IO(0x12, 119)`.
const BLKDISCARD: libc::c_ulong = 0x1277;

/// Discards everything on a block device that nobody else has open.
pub fn discard_all(path: &Path) -> io::Result<()> {
    let mut device = File::options().write(true).open(path)?;
    let range: [u64; 2] = [0, device.seek(SeekFrom::End(0))?];
    // SAFETY: the ioctl reads two u64, start and length, which outlive the call.
    // JUSTIFICATION: no safe wrapper exists.
    let answer = unsafe { libc::ioctl(device.as_raw_fd(), BLKDISCARD, &range) };
    if answer < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
