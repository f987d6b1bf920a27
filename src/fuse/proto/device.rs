//! `/dev/fuse`: one descriptor, from which any number of threads read requests and to which they write answers.
//!
//! The descriptor *is* the connection: while anybody holds it, the mount lives, and requests that were read but
//! not answered stay with it. So it is not cloned for each thread (`FUSE_DEV_IOC_CLONE`): the kernel fails
//! what was read by way of a clone when that clone is closed, and would so fail it at the death of a daemon.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, IoSlice};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;

use rustix::io::{Errno, read, writev};
use zerocopy::IntoBytes;

use super::flags::notify;
use super::wire::{NotifyInvalEntry, NotifyInvalInode, OutHeader};
use crate::sys::fuse;

/// The most pieces of an answer behind its header.
const MOST_PARTS: usize = 3;

/// An open `/dev/fuse`.
#[derive(Debug)]
pub struct Device(OwnedFd);

impl Device {
    /// A new connection, not yet mounted.
    pub fn open() -> io::Result<Self> {
        Ok(Self(File::options().read(true).write(true).open("/dev/fuse")?.into()))
    }

    /// A connection that another process began.
    pub fn adopt(descriptor: OwnedFd) -> Self {
        Self(descriptor)
    }

    /// Asks for all requests that were read and not answered, once more: also for those that somebody is about to
    /// answer at this moment, and whose answers the kernel takes no more then. So before any is read. Linux 6.9.
    pub fn resend(&self) -> rustix::io::Result<()> {
        self.send(notify::RESEND, 0, &[])
    }

    /// Waits for the next request; `None` once nothing is mounted any more.
    pub fn receive<'b>(&self, buffer: &'b mut [u8]) -> rustix::io::Result<Option<&'b [u8]>> {
        loop {
            match read(&self.0, &mut *buffer) {
                Ok(len) => return Ok(Some(&buffer[..len])),
                Err(Errno::NODEV) => return Ok(None),
                // A request that was taken back, a signal.
                Err(Errno::NOENT | Errno::INTR | Errno::AGAIN) => {}
                Err(errno) => return Err(errno),
            }
        }
    }

    /// Answers a request. False: who asked is gone, and there is nobody to tell.
    pub fn answer(&self, unique: u64, error: i32, parts: &[&[u8]]) -> bool {
        let sent = self.send(error, unique, parts);
        if let Err(errno) = sent {
            tracing::debug!(%errno, unique, "answer not taken");
        }
        sent.is_ok()
    }

    /// Tells the kernel to drop a node's attributes and, from `offset` on unless that is negative, its content.
    pub fn invalidate_node(&self, ino: u64, offset: i64) -> rustix::io::Result<()> {
        let notice = NotifyInvalInode { ino, off: offset, len: 0 };
        self.send(notify::INVAL_INODE, 0, &[notice.as_bytes()])
    }

    /// Tells the kernel to drop a name.
    pub fn invalidate_name(&self, parent: u64, name: &OsStr) -> rustix::io::Result<()> {
        let notice = NotifyInvalEntry { parent, namelen: name.len() as u32, flags: 0 };
        self.send(notify::INVAL_ENTRY, 0, &[notice.as_bytes(), name.as_bytes(), b"\0"])
    }

    fn send(&self, error: i32, unique: u64, parts: &[&[u8]]) -> rustix::io::Result<()> {
        let len = size_of::<OutHeader>() + parts.iter().map(|part| part.len()).sum::<usize>();
        let header = OutHeader { len: len as u32, error, unique };
        let mut slices = [IoSlice::new(&[]); MOST_PARTS + 1];
        slices[0] = IoSlice::new(header.as_bytes());
        for (slice, part) in slices[1..].iter_mut().zip(parts) {
            *slice = IoSlice::new(part);
        }
        writev(&self.0, &slices[..=parts.len()]).map(drop)
    }
}

impl AsFd for Device {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// A file that the kernel may read and write by itself, until this is dropped.
#[derive(Debug)]
pub struct BackingId {
    device: Arc<Device>,
    number: u32,
}

impl BackingId {
    /// Registers an open file. The kernel uses the credentials that this thread has now.
    pub fn register(device: &Arc<Device>, file: impl AsFd) -> rustix::io::Result<Self> {
        let number = fuse::open_backing(device.as_ref(), file)?;
        Ok(Self { device: Arc::clone(device), number })
    }

    /// One that a process before this one registered on the same connection.
    pub fn adopt(device: &Arc<Device>, number: u32) -> Self {
        Self { device: Arc::clone(device), number }
    }

    /// What the kernel calls it.
    pub fn number(&self) -> u32 {
        self.number
    }
}

impl Drop for BackingId {
    fn drop(&mut self) {
        if let Err(errno) = fuse::close_backing(self.device.as_ref(), self.number) {
            tracing::debug!(%errno, number = self.number, "backing file not given back");
        }
    }
}
