//! New names in a snapshot: files, directories, special files, symlinks, hard links.
//!
//! What is made belongs to the caller, under the caller's umask or the directory's default ACL: the backing
//! filesystem decides that, because it is asked with the caller's ids.

use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use rustix::fs::{
    AtFlags, FileType, Mode, OFlags, fstat, linkat, makedev, mkdirat, mknodat, openat, symlinkat,
};
use rustix::io::Errno;

use super::nodes::Descriptor;
use super::open::{Asked, Backing, Opened};
use super::slots::At;
use super::types::{Caller, Entry, NodeId, check_component};
use super::{Fs, Result};
use crate::sys::creds;
use crate::sys::handle::FileHandle;
use crate::volume::Writer;

/// The set-group-id bit of a mode.
const SET_GROUP_ID: u32 = 0o2000;

impl Fs {
    /// `mkdir`; directly in a directory of snapshots it prepares one.
    pub fn mkdir(&self, caller: &Caller, parent: NodeId, name: &OsStr, mode: u32) -> Result<Entry> {
        check_component(name)?;
        if let Some(place) = self.place(parent) {
            return self.prepare_named(caller, &place, name);
        }
        self.make(caller, parent, name, mode, |directory| {
            mkdirat(directory, name, Mode::from_raw_mode(mode & 0o7777))
        })
    }

    /// `mknod`: a regular file, FIFO, socket or device node.
    pub fn mknod(
        &self,
        caller: &Caller,
        parent: NodeId,
        name: &OsStr,
        mode: u32,
        device: (u32, u32),
    ) -> Result<Entry> {
        self.refuse_virtual(parent)?;
        self.make(caller, parent, name, mode, |directory| {
            let (file_type, permissions) =
                (FileType::from_raw_mode(mode), Mode::from_raw_mode(mode & 0o7777));
            mknodat(directory, name, file_type, permissions, makedev(device.0, device.1))
        })
    }

    /// `symlink`.
    pub fn symlink(
        &self,
        caller: &Caller,
        parent: NodeId,
        name: &OsStr,
        target: &Path,
    ) -> Result<Entry> {
        self.refuse_virtual(parent)?;
        self.make(caller, parent, name, 0, |directory| symlinkat(target, directory, name))
    }

    /// `link`: one more name for a node of the same snapshot.
    pub fn link(
        &self,
        caller: &Caller,
        node: NodeId,
        parent: NodeId,
        name: &OsStr,
    ) -> Result<Entry> {
        self.refuse_virtual(parent)?;
        check_component(name)?;
        if node.snapshot() != parent.snapshot() {
            return Err(Errno::XDEV.into());
        }
        let at = self.at(caller, parent)?;
        let file_at = self.at(caller, node)?;
        let _writer = at.writer(caller)?;
        let (directory, file) =
            (self.cached.nodes.descriptor(&at)?, self.cached.nodes.descriptor(&file_at)?);
        linkat(&file, "", &directory, name, AtFlags::EMPTY_PATH)?;
        self.cached.nodes.has_name(node);
        self.entry_below(&at, directory.as_fd(), name)
    }

    /// Creates a regular file and opens it.
    ///
    /// The kernel asks only for a name that it knows to be absent, and takes what it gets for new, without
    /// checking permissions. So a file that is there already is never opened here: `ESTALE` makes the kernel
    /// look the name up again.
    pub fn create(
        &self,
        caller: &Caller,
        parent: NodeId,
        name: &OsStr,
        mode: u32,
        asked: Asked,
    ) -> Result<(Entry, Opened)> {
        self.refuse_virtual(parent)?;
        check_component(name)?;
        let (at, writer) = self.writable(caller, parent)?;
        let directory = self.cached.nodes.descriptor(&at)?;
        let flags = asked.backing_flags().difference(OFlags::TRUNC)
            | OFlags::CREATE
            | OFlags::EXCL
            | OFlags::NOFOLLOW;
        let open = || openat(&directory, name, flags, Mode::from_raw_mode(mode & 0o7777));
        let file = match as_caller(caller, mode, open) {
            Err(Errno::EXIST) if !asked.exclusive() => return Err(Errno::STALE.into()),
            file => file?,
        };
        let entry = self.entry(&at, &fstat(&file)?, &FileHandle::of(&file, "")?)?;
        drop(directory);
        let at = At { node: entry.known.attr.node, ..at };
        let writer = asked.writes().then_some(writer);
        Ok((entry, self.open.insert(at, asked, Backing::open(file, None), writer)))
    }

    fn make(
        &self,
        caller: &Caller,
        parent: NodeId,
        name: &OsStr,
        mode: u32,
        make: impl FnOnce(BorrowedFd<'_>) -> rustix::io::Result<()>,
    ) -> Result<Entry> {
        check_component(name)?;
        let (at, _writer) = self.writable(caller, parent)?;
        let directory: Descriptor<'_> = self.cached.nodes.descriptor(&at)?;
        as_caller(caller, mode, || make(directory.as_fd()))?;
        self.entry_below(&at, directory.as_fd(), name)
    }

    /// A node of a snapshot that may be changed.
    pub(super) fn writable(&self, caller: &Caller, node: NodeId) -> Result<(At, Writer)> {
        let at = self.at(caller, node)?;
        let writer = at.writer(caller)?;
        Ok((at, writer))
    }

    /// Virtual directories hold nothing but what the store knows.
    pub(super) fn refuse_virtual(&self, node: NodeId) -> Result<()> {
        if node.snapshot().is_some() { Ok(()) } else { Err(Errno::PERM.into()) }
    }
}

/// With the caller's ids and umask. Whether the caller may set the set-group-id bit the kernel has decided,
/// knowing all of the caller's groups.
pub(super) fn as_caller<T>(
    caller: &Caller,
    mode: u32,
    work: impl FnOnce() -> rustix::io::Result<T>,
) -> rustix::io::Result<T> {
    creds::prepare_thread()?;
    let work = || creds::as_caller(caller.uid, caller.gid, caller.umask, work);
    if mode & SET_GROUP_ID != 0 { creds::with_fsetid(work) } else { work() }
}
