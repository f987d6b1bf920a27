//! Attributes changed: `chmod`, `chown`, `truncate`, `utimensat`, and the flags of `chattr`.

use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::{
    AtFlags, CWD, IFlags, Mode, OFlags, StatxFlags, Timespec, Timestamps, UTIME_NOW, UTIME_OMIT,
    chmodat, chownat, ftruncate, ioctl_getflags, ioctl_setflags, readlinkat, statx, utimensat,
};
use rustix::io::Errno;
use rustix::process::{Gid, Uid};

use super::nodes::proc_path;
use super::slots::At;
use super::tree::Place;
use super::types::{Caller, Changes, Known, Moment, NodeId, SetTime};
use super::{Error, Fs, Result, privileges};
use crate::sys::{creds, ioctl};

/// The file attribute ioctls that pass.
#[derive(Debug, Clone)]
pub enum FileAttr {
    /// `FS_IOC_GETFLAGS`
    GetFlags,
    /// `FS_IOC_SETFLAGS`
    SetFlags(u32),
    /// `FS_IOC_FSGETXATTR`
    GetExtended,
    /// `FS_IOC_FSSETXATTR`
    SetExtended(ioctl::FsXattr),
}

impl Fs {
    /// Changes what is asked, in the order length, owner, permissions, times; `handle` is the open file
    /// through which it was asked, if any.
    pub fn setattr(
        &self,
        caller: &Caller,
        node: NodeId,
        changes: &Changes,
        handle: Option<u64>,
    ) -> Result<Known> {
        if self.place(node).is_some() {
            return Err(Errno::PERM.into());
        }
        creds::prepare_thread()?;
        let (at, _writer) = self.writable(caller, node)?;
        if let Some(size) = changes.size {
            self.truncate(caller, &at, size, handle)?;
        }
        let file = self.cached.nodes.descriptor(&at)?;
        if changes.uid.is_some() || changes.gid.is_some() {
            let (uid, gid) = (changes.uid.map(Uid::from_raw), changes.gid.map(Gid::from_raw));
            // Which bits go is decided below, by the caller's right alone: the kernel says "all" of any chown.
            let caller = Caller { fsetid: None, ..*caller };
            let change = || chownat(&file, "", uid, gid, AtFlags::EMPTY_PATH);
            privileges::change(&caller, &file, change)?;
        }
        if let Some(mode) = changes.mode {
            change_mode(&file, mode)?;
        }
        if (changes.atime, changes.mtime) != (SetTime::Keep, SetTime::Keep) {
            let times = Timestamps {
                last_access: timespec(changes.atime),
                last_modification: timespec(changes.mtime),
            };
            utimensat(&file, "", &times, AtFlags::EMPTY_PATH)?;
        }
        self.known_now(node, &file)
    }

    fn truncate(&self, caller: &Caller, at: &At, size: u64, handle: Option<u64>) -> Result<()> {
        if !caller.may_wait && self.is_large(at, size)? {
            return Err(Error::WouldWait);
        }
        let cut = |file: BorrowedFd<'_>| privileges::change(caller, file, || ftruncate(file, size));
        match handle.and_then(|handle| self.open.get(handle).ok()) {
            Some(file) if file.check_writer().is_ok() => Ok(cut(file.fd()?)?),
            _ => {
                let file = self.cached.nodes.open(at, OFlags::WRONLY | OFlags::NONBLOCK)?;
                Ok(cut(file.as_fd())?)
            }
        }
    }

    /// The attributes of a node, and when it came to be, where that is known.
    pub fn attr_with_birth(
        &self,
        caller: &Caller,
        node: NodeId,
    ) -> Result<(Known, Option<Moment>)> {
        let known = self.getattr(caller, node)?;
        if self.place(node).is_some() {
            return Ok((known, None));
        }
        let Some(at) = self.cached.slots.at_once(&self.snapshots, node)? else {
            // A root of which nothing is known yet.
            return Ok((known, None));
        };
        let file = self.cached.nodes.descriptor(&at)?;
        let stat = statx(&file, "", AtFlags::EMPTY_PATH, StatxFlags::BTIME)?;
        let born = Moment { seconds: stat.stx_btime.tv_sec, nanoseconds: stat.stx_btime.tv_nsec };
        let has_birth = stat.stx_mask & StatxFlags::BTIME.bits() != 0;
        Ok((known, has_birth.then_some(born)))
    }

    /// `readlink`.
    pub fn readlink(&self, caller: &Caller, node: NodeId) -> Result<Vec<u8>> {
        match self.place(node) {
            Some(Place::Image(_, top)) => return Ok(self.tree.target(&top).into_bytes()),
            Some(_) => return Err(Errno::INVAL.into()),
            None => {}
        }
        let at = self.at(caller, node)?;
        Ok(readlinkat(self.cached.nodes.descriptor(&at)?, "", Vec::new())?.into_bytes())
    }

    /// A file attribute ioctl: the four bytes, or `struct fsxattr`, that it answers.
    pub fn file_attr(&self, caller: &Caller, node: NodeId, request: &FileAttr) -> Result<Vec<u8>> {
        if self.place(node).is_some() {
            return Err(Errno::NOTTY.into());
        }
        let at = self.at(caller, node)?;
        let _writer = match request {
            FileAttr::GetFlags | FileAttr::GetExtended => None,
            FileAttr::SetFlags(_) | FileAttr::SetExtended(_) => Some(at.writer(caller)?),
        };
        let file = self.cached.nodes.open(&at, OFlags::RDONLY | OFlags::NONBLOCK)?;
        Ok(match request {
            FileAttr::GetFlags => ioctl_getflags(&file)?.bits().to_ne_bytes().to_vec(),
            FileAttr::SetFlags(flags) => {
                ioctl_setflags(&file, IFlags::from_bits_retain(*flags))?;
                Vec::new()
            }
            FileAttr::GetExtended => ioctl::get_fsxattr(&file)?.to_vec(),
            FileAttr::SetExtended(value) => {
                ioctl::set_fsxattr(&file, value)?;
                Vec::new()
            }
        })
    }
}

/// `chmod` knows no descriptor without rights (`O_PATH`) before Linux 6.6; through /proc all do.
/// The kernel has decided whether the caller may set the set-group-id bit.
fn change_mode(file: impl AsFd, mode: u32) -> Result<()> {
    let change =
        || chmodat(CWD, proc_path(file), Mode::from_raw_mode(mode & 0o7777), AtFlags::empty());
    Ok(if mode & 0o2000 != 0 { creds::with_fsetid(change) } else { change() }?)
}

fn timespec(time: SetTime) -> Timespec {
    match time {
        SetTime::Keep => Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
        SetTime::Now => Timespec { tv_sec: 0, tv_nsec: UTIME_NOW },
        SetTime::To(moment) => {
            Timespec { tv_sec: moment.seconds, tv_nsec: moment.nanoseconds.into() }
        }
    }
}
