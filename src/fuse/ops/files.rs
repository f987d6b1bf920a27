//! Operations on regular files: open, read, write, and what else works on an open one.

use std::cell::RefCell;

use rustix::fs::SeekFrom;
use rustix::io::Errno;

use super::super::convert::{caller, caller_killing, node, open_flags};
use super::super::proto::flags::{FSYNC_FDATASYNC, OPEN_KILL_SUIDGID, WRITE_KILL_SUIDGID};
use super::super::proto::wire::{
    CopyFileRangeIn, CreateIn, FallocateIn, FsyncIn, LseekIn, LseekOut, OpenIn, ReadIn, ReleaseIn,
    WriteIn,
};
use super::super::proto::{Reply, Request};
use super::super::serve::{Turn, waited_errno};
use super::super::stats::Op;
use super::super::{again, answer};
use super::Decoded;
use crate::fs::types::Caller;
use crate::fs::{Asked, Fs, Result as FsResult};

thread_local! {
    /// Where a thread's reads go before they are answered.
    static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

impl Turn<'_> {
    pub(super) fn open(&self, mut request: Request<'_>, reply: Reply) -> Decoded {
        let OpenIn { flags, open_flags: more } = request.take()?;
        let asked = Asked(open_flags(flags));
        let file = node(request.header.nodeid);
        let Some(reply) = self.inner.answer_opened_before(&request, reply) else { return Ok(()) };
        let work = move |fs: &Fs, caller: &Caller| fs.open(caller, file, asked);
        let caller = caller_killing(&request, more & OPEN_KILL_SUIDGID != 0);
        self.serve(Op::Open, caller, work, move |inner, opened| match opened {
            Ok(opened) => inner.answer_open(&opened, asked, reply),
            Err(errno) => reply.error(errno),
        });
        Ok(())
    }

    pub(super) fn create(&self, mut request: Request<'_>, reply: Reply) -> Decoded {
        let CreateIn { flags, mode, umask, .. } = request.take()?;
        let (parent, name) = (node(request.header.nodeid), request.name()?.to_owned());
        let asked = Asked(open_flags(flags));
        let (caller, resent) = (caller(&request, umask), request.is_resent());
        let before = self.inner.answer_created_before(&request, reply);
        let Some(reply) = before else { return Ok(()) };
        let work = move |fs: &Fs, caller: &Caller| {
            let done = fs.create(caller, parent, &name, mode, asked);
            if resent { again::created(fs, caller, parent, &name, asked, done) } else { done }
        };
        self.serve(Op::Create, caller, work, move |inner, created| match created {
            Ok((entry, opened)) => inner.answer_create(&entry, &opened, asked, reply),
            Err(errno) => reply.error(errno),
        });
        Ok(())
    }

    /// The name that the kernel sends is made up.
    pub(super) fn tmpfile(&self, mut request: Request<'_>, reply: Reply) -> Decoded {
        let CreateIn { flags, mode, umask, .. } = request.take()?;
        let (parent, asked) = (node(request.header.nodeid), Asked(open_flags(flags)));
        let caller = caller(&request, umask);
        let before = self.inner.answer_created_before(&request, reply);
        let Some(reply) = before else { return Ok(()) };
        let work = move |fs: &Fs, caller: &Caller| fs.create_nameless(caller, parent, mode, asked);
        self.serve(Op::Tmpfile, caller, work, move |inner, created| match created {
            Ok((entry, opened)) => inner.answer_create(&entry, &opened, asked, reply),
            Err(errno) => reply.error(errno),
        });
        Ok(())
    }

    pub(super) fn read(&self, mut request: Request<'_>, reply: Reply) -> Decoded {
        let ReadIn { fh, offset, size, .. } = request.take()?;
        self.inner.stats.count(Op::Read);
        BUFFER.with_borrow_mut(|buffer| {
            buffer.resize(buffer.len().max(size as usize), 0);
            let part = &mut buffer[..size as usize];
            match self.inner.fs.file(fh).and_then(|file| file.read(part, offset)) {
                Ok(len) => reply.data(&part[..len]),
                Err(error) => reply.error(waited_errno(error)),
            }
        });
        Ok(())
    }

    pub(super) fn write(&self, mut request: Request<'_>, reply: Reply) -> Decoded {
        let WriteIn { fh, offset, size, write_flags, .. } = request.take()?;
        let caller = caller_killing(&request, write_flags & WRITE_KILL_SUIDGID != 0);
        let data = request.bytes(size)?;
        self.inner.stats.count(Op::Write);
        let written = self.inner.fs.file(fh).and_then(|file| file.write(&caller, data, offset));
        answer::written(reply, written.map_err(waited_errno));
        Ok(())
    }

    pub(super) fn release(&self, mut request: Request<'_>, reply: Reply) -> Decoded {
        let ReleaseIn { fh, flags, .. } = request.take()?;
        let file = node(request.header.nodeid);
        self.inner.stats.count(Op::Release);
        self.inner.closed(file, Asked(open_flags(flags)), fh);
        reply.ok();
        Ok(())
    }

    pub(super) fn fsync(&self, mut request: Request<'_>, reply: Reply) -> Decoded {
        let FsyncIn { fh, fsync_flags, .. } = request.take()?;
        let data_only = fsync_flags & FSYNC_FDATASYNC != 0;
        let work = move |fs: &Fs, _: &Caller| fs.file(fh)?.sync(data_only);
        self.serve_waiting(Op::Fsync, caller(&request, 0), work, |_, done| {
            answer::empty(reply, done);
        });
        Ok(())
    }

    pub(super) fn fallocate(&self, mut request: Request<'_>, reply: Reply) -> Decoded {
        let FallocateIn { fh, offset, length, mode, .. } = request.take()?;
        let work =
            move |fs: &Fs, caller: &Caller| fs.file(fh)?.allocate(caller, mode, offset, length);
        self.serve_waiting(Op::Fallocate, caller(&request, 0), work, |_, done| {
            answer::empty(reply, done);
        });
        Ok(())
    }

    pub(super) fn lseek(&self, mut request: Request<'_>, reply: Reply) -> Decoded {
        let LseekIn { fh, offset, whence, .. } = request.take()?;
        let work = move |fs: &Fs, _: &Caller| fs.file(fh)?.seek(position(offset, whence)?);
        self.serve(Op::Lseek, caller(&request, 0), work, |_, found| match found {
            Ok(offset) => reply.send(&LseekOut { offset }),
            Err(errno) => reply.error(errno),
        });
        Ok(())
    }

    pub(super) fn copy_file_range(&self, mut request: Request<'_>, reply: Reply) -> Decoded {
        let CopyFileRangeIn { fh_in, off_in, fh_out, off_out, len, .. } = request.take()?;
        let work = move |fs: &Fs, caller: &Caller| {
            let target = fs.file(fh_out)?;
            fs.file(fh_in)?.copy_to(caller, off_in, &target, off_out, len as usize)
        };
        self.serve_waiting(Op::CopyFileRange, caller(&request, 0), work, |_, written| {
            answer::written(reply, written);
        });
        Ok(())
    }
}

fn position(offset: i64, whence: u32) -> FsResult<SeekFrom> {
    let offset = u64::try_from(offset).map_err(|_| Errno::NXIO)?;
    match whence as i32 {
        libc::SEEK_DATA => Ok(SeekFrom::Data(offset)),
        libc::SEEK_HOLE => Ok(SeekFrom::Hole(offset)),
        _ => Err(Errno::INVAL.into()),
    }
}
