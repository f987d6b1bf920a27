//! File handles: a filesystem's own name for an inode, good for opening it without a path.
//!
//! `name_to_handle_at` and `open_by_handle_at` in safe clothes. Needs `CAP_DAC_READ_SEARCH`.
#![allow(unsafe_code, reason = "sys/ is where it lives")]

use std::fmt;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

use rustix::fs::OFlags;
use rustix::io::{Errno, Result};
use rustix::path::Arg;

/// `MAX_HANDLE_SZ` of the kernel: no filesystem's handle is longer.
const MAX_LEN: usize = 128;
/// `FILEID_INO32_GEN` of the kernel: the handle is a 32-bit inode number and a generation.
const INO32_GEN: i32 = 1;

/// A handle, as the kernel lays it out.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct FileHandle {
    len: u32,
    kind: i32,
    bytes: [u8; MAX_LEN],
}

impl FileHandle {
    /// The handle of a file below an open directory; with an empty name, of the descriptor's own file.
    pub fn of(directory: impl AsFd, name: impl Arg) -> Result<Self> {
        let mut handle = Self { len: MAX_LEN as u32, kind: 0, bytes: [0; MAX_LEN] };
        let mut mount_id = 0;
        let directory = directory.as_fd().as_raw_fd();
        name.into_with_c_str(|name| {
            let flags = if name.is_empty() { libc::AT_EMPTY_PATH } else { 0 };
            // SAFETY: `name` is NUL-terminated, `handle` has the kernel's layout with room for the
            // `len` bytes that it announces, and both outlive the call.
            // JUSTIFICATION: neither rustix nor nix wraps this call.
            let done = unsafe {
                libc::name_to_handle_at(
                    directory,
                    name.as_ptr(),
                    (&raw mut handle).cast(),
                    &mut mount_id,
                    flags,
                )
            };
            if done == 0 { Ok(()) } else { Err(last_errno()) }
        })?;
        Ok(handle)
    }

    /// The handle of an inode of ext2, ext3 or ext4, where generation 0 matches any.
    pub fn of_inode_number(ino: u32) -> Self {
        let mut bytes = [0; MAX_LEN];
        bytes[..4].copy_from_slice(&ino.to_ne_bytes());
        Self { len: 8, kind: INO32_GEN, bytes }
    }

    /// The inode's generation, where the handle is made of inode number and generation; else 0.
    pub fn generation(&self) -> u32 {
        if self.kind != INO32_GEN {
            return 0;
        }
        u32::from_ne_bytes([self.bytes[4], self.bytes[5], self.bytes[6], self.bytes[7]])
    }

    /// Opens the file. `mount` is any descriptor on its filesystem that is not `O_PATH`.
    pub fn open(&self, mount: impl AsFd, flags: OFlags) -> Result<OwnedFd> {
        let mut handle = *self;
        let flags = (flags | OFlags::CLOEXEC).bits() as i32;
        // SAFETY: `handle` has the kernel's layout and outlives the call, which only reads it.
        // JUSTIFICATION: neither rustix nor nix wraps this call.
        let fd = unsafe {
            libc::open_by_handle_at(mount.as_fd().as_raw_fd(), (&raw mut handle).cast(), flags)
        };
        if fd < 0 {
            return Err(last_errno());
        }
        // SAFETY: the call gave us this new descriptor; nobody else knows it.
        // JUSTIFICATION: the C library hands out raw numbers.
        Ok(unsafe { OwnedFd::from_raw_fd(fd) })
    }

    /// The handle's type and bytes, for keeping: most are far shorter than the longest.
    pub fn to_boxed(&self) -> BoxedHandle {
        BoxedHandle { kind: self.kind, bytes: self.bytes[..self.len as usize].into() }
    }
}

impl fmt::Debug for FileHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FileHandle({}, {:02x?})", self.kind, &self.bytes[..self.len as usize])
    }
}

/// A handle that takes no more room than it needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BoxedHandle {
    kind: i32,
    bytes: Box<[u8]>,
}

impl BoxedHandle {
    /// The handle in the form that can be opened.
    pub fn unboxed(&self) -> FileHandle {
        let mut bytes = [0; MAX_LEN];
        bytes[..self.bytes.len()].copy_from_slice(&self.bytes);
        FileHandle { len: self.bytes.len() as u32, kind: self.kind, bytes }
    }
}

fn last_errno() -> Errno {
    Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    #[test]
    fn handle_opens_the_file_it_was_made_of() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("a"), "content").unwrap();
        let root = std::fs::File::open(dir.path()).unwrap();
        let handle = FileHandle::of(&root, "a").unwrap().to_boxed().unboxed();
        let mut text = String::new();
        std::fs::File::from(handle.open(&root, OFlags::RDONLY).unwrap())
            .read_to_string(&mut text)
            .unwrap();
        assert_eq!(text, "content");
    }

    #[test]
    fn removed_file_has_no_handle() {
        let dir = tempfile::tempdir().unwrap();
        let root = std::fs::File::open(dir.path()).unwrap();
        assert_eq!(FileHandle::of(&root, "absent").unwrap_err(), Errno::NOENT);
    }
}
