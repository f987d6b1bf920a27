//! Operations on attributes, plain and extended.

use rustix::io::Errno;
use zerocopy::FromZeros;

use super::super::convert::{caller, caller_killing, node, set_time, statx_out};
use super::super::proto::flags::{SETXATTR_ACL_KILL_SGID, fattr};
use super::super::proto::wire::{
    GetxattrIn, IoctlIn, IoctlOut, SetattrIn, SetxattrExt, SetxattrIn,
};
use super::super::proto::{Reply, Request};
use super::super::serve::Turn;
use super::super::stats::Op;
use super::super::{again, answer};
use super::Decoded;
use crate::fs::Fs;
use crate::fs::attributes::FileAttr;
use crate::fs::types::{Caller, Changes, Moment};

/// `FS_IOC_GETFLAGS` and its kin, as 64-bit and 32-bit programs call them.
const GET_FLAGS: [u32; 2] = [0x8008_6601, 0x8004_6601];
const SET_FLAGS: [u32; 2] = [0x4008_6602, 0x4004_6602];
const GET_EXTENDED: u32 = 0x801c_581f;
const SET_EXTENDED: u32 = 0x401c_5820;

impl Turn<'_> {
    pub(super) fn getattr(&self, request: &Request<'_>, reply: Reply) -> Decoded {
        let file = node(request.header.nodeid);
        let work = move |fs: &Fs, caller: &Caller| fs.getattr(caller, file);
        self.serve(Op::Getattr, caller(request, 0), work, |_, known| answer::attr(reply, known));
        Ok(())
    }

    /// Sent only where the birth time is asked for.
    pub(super) fn statx(&self, request: &Request<'_>, reply: Reply) -> Decoded {
        let file = node(request.header.nodeid);
        let work = move |fs: &Fs, caller: &Caller| fs.attr_with_birth(caller, file);
        self.serve(Op::Statx, caller(request, 0), work, |_, known| match known {
            Ok((known, born)) => reply.send(&statx_out(&known, born)),
            Err(errno) => reply.error(errno),
        });
        Ok(())
    }

    pub(super) fn setattr(&self, mut request: Request<'_>, reply: Reply) -> Decoded {
        let asked: SetattrIn = request.take()?;
        let file = node(request.header.nodeid);
        let (changes, handle) = (changes(&asked), given(&asked, fattr::FH, asked.fh));
        let work = move |fs: &Fs, caller: &Caller| fs.setattr(caller, file, &changes, handle);
        let caller = caller_killing(&request, asked.valid & fattr::KILL_SUIDGID != 0);
        self.serve(Op::Setattr, caller, work, |_, known| answer::attr(reply, known));
        Ok(())
    }

    pub(super) fn readlink(&self, request: &Request<'_>, reply: Reply) -> Decoded {
        let link = node(request.header.nodeid);
        let work = move |fs: &Fs, caller: &Caller| fs.readlink(caller, link);
        self.serve(Op::Readlink, caller(request, 0), work, |_, target| match target {
            Ok(target) => reply.data(&target),
            Err(errno) => reply.error(errno),
        });
        Ok(())
    }

    pub(super) fn statfs(&self, request: &Request<'_>, reply: Reply) -> Decoded {
        let file = node(request.header.nodeid);
        let work = move |fs: &Fs, caller: &Caller| fs.space(caller, file);
        self.serve(Op::Statfs, caller(request, 0), work, |_, space| answer::space(reply, space));
        Ok(())
    }

    pub(super) fn setxattr(&self, mut request: Request<'_>, reply: Reply) -> Decoded {
        let SetxattrIn { size, flags } = request.take()?;
        let kills = self.inner.agreed.setxattr_flags()
            && request.take::<SetxattrExt>()?.setxattr_flags & SETXATTR_ACL_KILL_SGID != 0;
        let file = node(request.header.nodeid);
        let (name, value) = (request.name()?.to_owned(), request.bytes(size)?.to_owned());
        let resent = request.is_resent();
        let work = move |fs: &Fs, caller: &Caller| {
            let done = fs.setxattr(caller, file, &name, &value, flags);
            if resent { again::changed(done) } else { done }
        };
        let caller = caller_killing(&request, kills);
        self.serve(Op::Setxattr, caller, work, |_, done| answer::empty(reply, done));
        Ok(())
    }

    pub(super) fn getxattr(&self, mut request: Request<'_>, reply: Reply) -> Decoded {
        let GetxattrIn { size, .. } = request.take()?;
        let (file, name) = (node(request.header.nodeid), request.name()?.to_owned());
        let work = move |fs: &Fs, caller: &Caller| fs.getxattr(caller, file, &name);
        self.serve(Op::Getxattr, caller(&request, 0), work, move |_, value| {
            answer::xattr(reply, size, value);
        });
        Ok(())
    }

    pub(super) fn listxattr(&self, mut request: Request<'_>, reply: Reply) -> Decoded {
        let GetxattrIn { size, .. } = request.take()?;
        let file = node(request.header.nodeid);
        let work = move |fs: &Fs, caller: &Caller| fs.listxattr(caller, file);
        self.serve(Op::Listxattr, caller(&request, 0), work, move |_, names| {
            answer::xattr(reply, size, names);
        });
        Ok(())
    }

    pub(super) fn removexattr(&self, mut request: Request<'_>, reply: Reply) -> Decoded {
        let (file, name) = (node(request.header.nodeid), request.name()?.to_owned());
        let resent = request.is_resent();
        let work = move |fs: &Fs, caller: &Caller| {
            let done = fs.removexattr(caller, file, &name);
            if resent { again::changed(done) } else { done }
        };
        self.serve(Op::Removexattr, caller(&request, 0), work, |_, done| {
            answer::empty(reply, done);
        });
        Ok(())
    }

    pub(super) fn ioctl(&self, mut request: Request<'_>, reply: Reply) -> Decoded {
        let IoctlIn { cmd, in_size, .. } = request.take()?;
        let Some(wanted) = file_attr_request(cmd, request.bytes(in_size)?) else {
            self.inner.stats.count(Op::Ioctl);
            reply.error(Errno::NOTTY);
            return Ok(());
        };
        let file = node(request.header.nodeid);
        let work = move |fs: &Fs, caller: &Caller| fs.file_attr(caller, file, &wanted);
        self.serve(Op::Ioctl, caller(&request, 0), work, |_, done| match done {
            Ok(data) => reply.send_both(&IoctlOut::new_zeroed(), data.as_slice()),
            Err(errno) => reply.error(errno),
        });
        Ok(())
    }
}

fn given<T>(asked: &SetattrIn, flag: u32, value: T) -> Option<T> {
    (asked.valid & flag != 0).then_some(value)
}

fn changes(asked: &SetattrIn) -> Changes {
    let moment = |seconds, nanoseconds| Moment { seconds, nanoseconds };
    let has = |flag| asked.valid & flag != 0;
    let (atime, mtime) =
        (moment(asked.atime, asked.atimensec), moment(asked.mtime, asked.mtimensec));
    Changes {
        mode: given(asked, fattr::MODE, asked.mode),
        uid: given(asked, fattr::UID, asked.uid),
        gid: given(asked, fattr::GID, asked.gid),
        size: given(asked, fattr::SIZE, asked.size),
        atime: set_time(given(asked, fattr::ATIME, atime), has(fattr::ATIME_NOW)),
        mtime: set_time(given(asked, fattr::MTIME, mtime), has(fattr::MTIME_NOW)),
    }
}

fn file_attr_request(command: u32, data: &[u8]) -> Option<FileAttr> {
    match command {
        _ if GET_FLAGS.contains(&command) => Some(FileAttr::GetFlags),
        _ if SET_FLAGS.contains(&command) => {
            Some(FileAttr::SetFlags(u32::from_ne_bytes(data.get(..4)?.try_into().ok()?)))
        }
        GET_EXTENDED => Some(FileAttr::GetExtended),
        SET_EXTENDED => Some(FileAttr::SetExtended(data.try_into().ok()?)),
        _ => None,
    }
}
