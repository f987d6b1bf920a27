//! Names taken away or moved, in a snapshot; on the directories of snapshots see `manage`.
//!
//! A file whose last name goes is opened first and kept until the kernel forgets it: see `nodes`.

use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, Mode, OFlags, RenameFlags, fstat, openat, renameat_with, unlinkat};
use rustix::io::Errno;

use super::open::LARGE;
use super::slots::At;
use super::types::{Caller, NodeId, Rename, check_component};
use super::{Fs, Result};
use crate::volume::Writer;

impl Fs {
    /// `unlink`.
    pub fn unlink(&self, caller: &Caller, parent: NodeId, name: &OsStr) -> Result<()> {
        self.refuse_virtual(parent)?;
        self.remove_name(caller, parent, name, AtFlags::empty())
    }

    /// `rmdir`; directly in a directory of snapshots it removes one.
    pub fn rmdir(&self, caller: &Caller, parent: NodeId, name: &OsStr) -> Result<()> {
        if let Some(place) = self.place(parent) {
            return self.remove_named(caller, &place, name);
        }
        self.remove_name(caller, parent, name, AtFlags::REMOVEDIR)
    }

    fn remove_name(
        &self,
        caller: &Caller,
        parent: NodeId,
        name: &OsStr,
        flags: AtFlags,
    ) -> Result<()> {
        check_component(name)?;
        let (at, writer) = self.writable(caller, parent)?;
        let directory = self.cached.nodes.descriptor(&at)?;
        let victim = Victim::open(directory.as_fd(), name)?;
        unlinkat(&directory, name, flags)?;
        self.keep(&at, &writer, victim)
    }

    /// `rename`; between directories of snapshots it commits.
    pub fn rename(&self, caller: &Caller, rename: &Rename) -> Result<()> {
        check_component(&rename.name)?;
        check_component(&rename.new_name)?;
        match (self.place(rename.parent), self.place(rename.new_parent)) {
            (Some(from), Some(to)) => {
                return self.rename_snapshot(
                    caller,
                    (&from, &rename.name),
                    (&to, &rename.new_name),
                );
            }
            (None, None) if rename.parent.snapshot() == rename.new_parent.snapshot() => {}
            _ => return Err(Errno::XDEV.into()),
        }
        let (at, writer) = self.writable(caller, rename.parent)?;
        let new_at = self.at(caller, rename.new_parent)?;
        let (from, to) =
            (self.cached.nodes.descriptor(&at)?, self.cached.nodes.descriptor(&new_at)?);
        let replaces = !rename.flags.intersects(RenameFlags::EXCHANGE | RenameFlags::NOREPLACE);
        let victim = match Victim::open(to.as_fd(), &rename.new_name) {
            Ok(victim) if replaces => Some(victim),
            Ok(_) | Err(super::Error::Os(Errno::NOENT)) => None,
            Err(error) => return Err(error),
        };
        renameat_with(&from, &rename.name, &to, &rename.new_name, rename.flags)?;
        victim.map_or(Ok(()), |victim| self.keep(&at, &writer, victim))
    }

    fn keep(&self, at: &At, writer: &Writer, victim: Victim) -> Result<()> {
        let stat = fstat(&victim.0)?;
        if stat.st_nlink == 0 {
            let is_large = stat.st_blocks as u64 * 512 > LARGE;
            self.cached.nodes.keep_orphan(writer, at.slot.node(stat.st_ino)?, victim.0, is_large);
        }
        Ok(())
    }
}

/// A file that is about to lose a name.
struct Victim(OwnedFd);

impl Victim {
    fn open(directory: BorrowedFd<'_>, name: &OsStr) -> Result<Self> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Ok(Self(openat(directory, name, flags, Mode::empty())?))
    }
}
