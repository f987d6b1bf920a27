//! One method an operation: decode, call, encode.
//!
//! What serving is, stands in `serve`.

use std::cell::RefCell;
use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::SystemTime;

use fuser::{
    AccessFlags, BsdFileFlags, CopyFileRangeFlags, FileHandle, Filesystem, INodeNo, IoctlFlags,
    KernelConfig, LockOwner, OpenFlags, PollEvents, PollFlags, PollNotifier, RenameFlags,
    ReplyAttr, ReplyBmap, ReplyCreate, ReplyData, ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty,
    ReplyEntry, ReplyIoctl, ReplyLseek, ReplyOpen, ReplyPoll, ReplyStatfs, ReplyWrite, ReplyXattr,
    Request, TimeOrNow, WriteFlags,
};
use rustix::fs::SeekFrom;
use rustix::io::Errno;

use super::answer;
use super::convert::{caller, decode_device, errno, file_type, node, open_flags, set_time};
use super::init;
use super::serve::{Adapter, waited_errno};
use super::stats::Op;
use crate::fs::attributes::FileAttr;
use crate::fs::types::{Caller, Changes, Line, Rename};
use crate::fs::{Asked, Fs};

/// `FS_IOC_GETFLAGS` and its kin, as 64-bit and 32-bit programs call them.
const GET_FLAGS: [u32; 2] = [0x8008_6601, 0x8004_6601];
const SET_FLAGS: [u32; 2] = [0x4008_6602, 0x4004_6602];
const GET_EXTENDED: u32 = 0x801c_581f;
const SET_EXTENDED: u32 = 0x401c_5820;

thread_local! {
    /// Where a thread's reads go before they are answered.
    static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

impl Filesystem for Adapter {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> io::Result<()> {
        init::agree(config, &self.inner.backings, self.passthrough);
        Ok(())
    }

    fn lookup(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let (parent, name) = (node(parent), name.to_owned());
        let work = move |fs: &Fs, caller: &Caller| fs.lookup(caller, parent, &name);
        self.serve(Op::Lookup, caller(request, 0), work, |_, found| answer::lookup(reply, found));
    }

    fn forget(&self, _: &Request, ino: INodeNo, lookups: u64) {
        self.inner.stats.count(Op::Forget);
        if let Some(large) = self.inner.fs.forget(node(ino), lookups) {
            self.pool.run(move || drop(large));
        }
    }

    fn getattr(&self, request: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        let work = move |fs: &Fs, caller: &Caller| fs.getattr(caller, node(ino));
        self.serve(Op::Getattr, caller(request, 0), work, |_, known| answer::attr(reply, known));
    }

    fn setattr(
        &self,
        request: &Request,
        ino: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        handle: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let changes =
            Changes { mode, uid, gid, size, atime: set_time(atime), mtime: set_time(mtime) };
        let handle = handle.map(|handle| handle.0);
        let work = move |fs: &Fs, caller: &Caller| fs.setattr(caller, node(ino), &changes, handle);
        self.serve(Op::Setattr, caller(request, 0), work, |_, known| answer::attr(reply, known));
    }

    fn readlink(&self, request: &Request, ino: INodeNo, reply: ReplyData) {
        let work = move |fs: &Fs, caller: &Caller| fs.readlink(caller, node(ino));
        self.serve(Op::Readlink, caller(request, 0), work, |_, target| match target {
            Ok(target) => reply.data(&target),
            Err(error) => reply.error(errno(error)),
        });
    }

    fn mknod(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        rdev: u32,
        reply: ReplyEntry,
    ) {
        let (parent, name) = (node(parent), name.to_owned());
        let work = move |fs: &Fs, caller: &Caller| {
            fs.mknod(caller, parent, &name, mode, decode_device(rdev))
        };
        self.serve(Op::Mknod, caller(request, umask), work, |_, entry| answer::entry(reply, entry));
    }

    fn mkdir(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        reply: ReplyEntry,
    ) {
        let (parent, name) = (node(parent), name.to_owned());
        let work = move |fs: &Fs, caller: &Caller| fs.mkdir(caller, parent, &name, mode);
        self.serve(Op::Mkdir, caller(request, umask), work, |_, entry| answer::entry(reply, entry));
    }

    fn unlink(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let (parent, name) = (node(parent), name.to_owned());
        let work = move |fs: &Fs, caller: &Caller| fs.unlink(caller, parent, &name);
        self.serve(Op::Unlink, caller(request, 0), work, |_, done| answer::empty(reply, done));
    }

    fn rmdir(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let (parent, name) = (node(parent), name.to_owned());
        let work = move |fs: &Fs, caller: &Caller| fs.rmdir(caller, parent, &name);
        self.serve(Op::Rmdir, caller(request, 0), work, |_, done| answer::empty(reply, done));
    }

    fn symlink(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        target: &Path,
        reply: ReplyEntry,
    ) {
        let (parent, name, target) = (node(parent), name.to_owned(), target.to_owned());
        let work = move |fs: &Fs, caller: &Caller| fs.symlink(caller, parent, &name, &target);
        self.serve(Op::Symlink, caller(request, 0), work, |_, entry| answer::entry(reply, entry));
    }

    fn rename(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        new_parent: INodeNo,
        new_name: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let rename = Rename {
            parent: node(parent),
            name: name.to_owned(),
            new_parent: node(new_parent),
            new_name: new_name.to_owned(),
            flags: rustix::fs::RenameFlags::from_bits_retain(flags.bits()),
        };
        let work = move |fs: &Fs, caller: &Caller| fs.rename(caller, &rename);
        self.serve(Op::Rename, caller(request, 0), work, |_, done| answer::empty(reply, done));
    }

    fn link(
        &self,
        request: &Request,
        ino: INodeNo,
        parent: INodeNo,
        name: &OsStr,
        reply: ReplyEntry,
    ) {
        let (parent, name) = (node(parent), name.to_owned());
        let work = move |fs: &Fs, caller: &Caller| fs.link(caller, node(ino), parent, &name);
        self.serve(Op::Link, caller(request, 0), work, |_, entry| answer::entry(reply, entry));
    }

    fn open(&self, request: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        let asked = Asked(open_flags(flags.0));
        let work = move |fs: &Fs, caller: &Caller| fs.open(caller, node(ino), asked);
        self.serve(Op::Open, caller(request, 0), work, move |inner, opened| match opened {
            Ok(opened) => inner.answer_open(&opened, asked, reply),
            Err(error) => reply.error(errno(error)),
        });
    }

    fn create(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        flags: i32,
        reply: ReplyCreate,
    ) {
        let (parent, name) = (node(parent), name.to_owned());
        let asked = Asked(open_flags(flags));
        let work = move |fs: &Fs, caller: &Caller| fs.create(caller, parent, &name, mode, asked);
        self.serve(Op::Create, caller(request, umask), work, move |inner, created| match created {
            Ok((entry, opened)) => inner.answer_create(&entry, &opened, asked, reply),
            Err(error) => reply.error(errno(error)),
        });
    }

    fn read(
        &self,
        _: &Request,
        _: INodeNo,
        handle: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        self.inner.stats.count(Op::Read);
        BUFFER.with_borrow_mut(|buffer| {
            buffer.resize(buffer.len().max(size as usize), 0);
            let part = &mut buffer[..size as usize];
            match self.inner.fs.file(handle.0).and_then(|file| file.read(part, offset)) {
                Ok(len) => reply.data(&part[..len]),
                Err(error) => reply.error(errno(waited_errno(error))),
            }
        });
    }

    fn write(
        &self,
        _: &Request,
        _: INodeNo,
        handle: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        self.inner.stats.count(Op::Write);
        let written = self.inner.fs.file(handle.0).and_then(|file| file.write(data, offset));
        answer::written(reply, written.map_err(waited_errno));
    }

    /// Refused once, the kernel asks no more: closing a file has nothing to wait for.
    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        self.inner.stats.count(Op::Flush);
        reply.error(fuser::Errno::ENOSYS);
    }

    fn release(
        &self,
        _: &Request,
        ino: INodeNo,
        handle: FileHandle,
        flags: OpenFlags,
        _: Option<LockOwner>,
        _: bool,
        reply: ReplyEmpty,
    ) {
        self.inner.stats.count(Op::Release);
        let passed = self.inner.backings.close(node(ino));
        if passed && Asked(open_flags(flags.0)).may_map_writable() {
            self.inner.fs.end_bypass(node(ino));
        }
        self.inner.fs.release(handle.0);
        reply.ok();
    }

    fn fsync(
        &self,
        request: &Request,
        _: INodeNo,
        handle: FileHandle,
        data_only: bool,
        reply: ReplyEmpty,
    ) {
        let work = move |fs: &Fs, _: &Caller| fs.file(handle.0)?.sync(data_only);
        self.serve_waiting(Op::Fsync, caller(request, 0), work, |_, done| {
            answer::empty(reply, done)
        });
    }

    /// Refused once, the kernel opens directories without asking, and caches what they list.
    fn opendir(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        self.inner.stats.count(Op::Opendir);
        reply.error(fuser::Errno::ENOSYS);
    }

    fn readdir(
        &self,
        request: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        let caller = caller(request, 0);
        let work = move |fs: &Fs, caller: &Caller| fs.ready(caller, node(ino));
        self.serve(Op::Readdir, caller, work, move |inner, ready| {
            let mut add = |line: &Line<'_>| {
                reply.add(
                    INodeNo(line.node.0),
                    line.cookie,
                    file_type(line.file_type),
                    OsStr::from_bytes(line.name),
                )
            };
            let listed =
                ready.and_then(|()| inner.list(&caller, node(ino), offset, false, &mut add));
            match listed {
                Ok(()) => reply.ok(),
                Err(error) => reply.error(errno(error)),
            }
        });
    }

    fn readdirplus(
        &self,
        request: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        mut reply: ReplyDirectoryPlus,
    ) {
        let caller = caller(request, 0);
        let work = move |fs: &Fs, caller: &Caller| fs.ready(caller, node(ino));
        self.serve(Op::Readdirplus, caller, work, move |inner, ready| {
            let mut add = |line: &Line<'_>| {
                let (attr, generation, ttl) = answer::line_entry(line);
                reply.add(
                    attr.ino,
                    line.cookie,
                    OsStr::from_bytes(line.name),
                    &ttl,
                    &attr,
                    generation,
                )
            };
            let listed =
                ready.and_then(|()| inner.list(&caller, node(ino), offset, true, &mut add));
            match listed {
                Ok(()) => reply.ok(),
                Err(error) => reply.error(errno(error)),
            }
        });
    }

    fn fsyncdir(&self, request: &Request, ino: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        let work = move |fs: &Fs, caller: &Caller| fs.fsync_directory(caller, node(ino));
        self.serve_waiting(Op::Fsyncdir, caller(request, 0), work, |_, done| {
            answer::empty(reply, done)
        });
    }

    fn statfs(&self, request: &Request, ino: INodeNo, reply: ReplyStatfs) {
        let work = move |fs: &Fs, caller: &Caller| fs.space(caller, node(ino));
        self.serve(Op::Statfs, caller(request, 0), work, |_, space| answer::space(reply, space));
    }

    fn setxattr(
        &self,
        request: &Request,
        ino: INodeNo,
        name: &OsStr,
        value: &[u8],
        flags: i32,
        _: u32,
        reply: ReplyEmpty,
    ) {
        let (name, value) = (name.to_owned(), value.to_owned());
        let work = move |fs: &Fs, caller: &Caller| {
            fs.setxattr(caller, node(ino), &name, &value, flags as u32)
        };
        self.serve(Op::Setxattr, caller(request, 0), work, |_, done| answer::empty(reply, done));
    }

    fn getxattr(
        &self,
        request: &Request,
        ino: INodeNo,
        name: &OsStr,
        size: u32,
        reply: ReplyXattr,
    ) {
        let name = name.to_owned();
        let work = move |fs: &Fs, caller: &Caller| fs.getxattr(caller, node(ino), &name);
        self.serve(Op::Getxattr, caller(request, 0), work, move |_, value| {
            answer::xattr(reply, size, value)
        });
    }

    fn listxattr(&self, request: &Request, ino: INodeNo, size: u32, reply: ReplyXattr) {
        let work = move |fs: &Fs, caller: &Caller| fs.listxattr(caller, node(ino));
        self.serve(Op::Listxattr, caller(request, 0), work, move |_, names| {
            answer::xattr(reply, size, names)
        });
    }

    fn removexattr(&self, request: &Request, ino: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let name = name.to_owned();
        let work = move |fs: &Fs, caller: &Caller| fs.removexattr(caller, node(ino), &name);
        self.serve(Op::Removexattr, caller(request, 0), work, |_, done| answer::empty(reply, done));
    }

    /// Refused once, the kernel asks no more: with `default_permissions` it decides by itself.
    fn access(&self, _: &Request, _: INodeNo, _: AccessFlags, reply: ReplyEmpty) {
        self.inner.stats.count(Op::Other);
        reply.error(fuser::Errno::ENOSYS);
    }

    fn bmap(&self, _: &Request, _: INodeNo, _: u32, _: u64, reply: ReplyBmap) {
        self.inner.stats.count(Op::Other);
        reply.error(fuser::Errno::ENOSYS);
    }

    fn poll(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        _: PollNotifier,
        _: PollEvents,
        _: PollFlags,
        reply: ReplyPoll,
    ) {
        self.inner.stats.count(Op::Other);
        reply.error(fuser::Errno::ENOSYS);
    }

    fn ioctl(
        &self,
        request: &Request,
        ino: INodeNo,
        _: FileHandle,
        _: IoctlFlags,
        command: u32,
        data: &[u8],
        _: u32,
        reply: ReplyIoctl,
    ) {
        let Some(wanted) = file_attr_request(command, data) else {
            self.inner.stats.count(Op::Ioctl);
            return reply.error(fuser::Errno::ENOTTY);
        };
        let work = move |fs: &Fs, caller: &Caller| fs.file_attr(caller, node(ino), &wanted);
        self.serve(Op::Ioctl, caller(request, 0), work, |_, done| match done {
            Ok(data) => reply.ioctl(0, &data),
            Err(error) => reply.error(errno(error)),
        });
    }

    fn fallocate(
        &self,
        request: &Request,
        _: INodeNo,
        handle: FileHandle,
        offset: u64,
        len: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        let work = move |fs: &Fs, _: &Caller| fs.file(handle.0)?.allocate(mode as u32, offset, len);
        self.serve_waiting(Op::Fallocate, caller(request, 0), work, |_, done| {
            answer::empty(reply, done)
        });
    }

    fn lseek(
        &self,
        request: &Request,
        _: INodeNo,
        handle: FileHandle,
        offset: i64,
        whence: i32,
        reply: ReplyLseek,
    ) {
        let work = move |fs: &Fs, _: &Caller| {
            let offset = u64::try_from(offset).map_err(|_| Errno::NXIO)?;
            let position = match whence {
                libc::SEEK_DATA => SeekFrom::Data(offset),
                libc::SEEK_HOLE => SeekFrom::Hole(offset),
                _ => return Err(Errno::INVAL.into()),
            };
            fs.file(handle.0)?.seek(position)
        };
        self.serve(Op::Lseek, caller(request, 0), work, |_, found| match found {
            Ok(found) => reply.offset(found as i64),
            Err(error) => reply.error(errno(error)),
        });
    }

    fn copy_file_range(
        &self,
        request: &Request,
        _: INodeNo,
        from: FileHandle,
        from_offset: u64,
        _: INodeNo,
        to: FileHandle,
        to_offset: u64,
        len: u64,
        _: CopyFileRangeFlags,
        reply: ReplyWrite,
    ) {
        let work = move |fs: &Fs, _: &Caller| {
            let target = fs.file(to.0)?;
            fs.file(from.0)?.copy_to(from_offset, &target, to_offset, len as usize)
        };
        self.serve_waiting(Op::CopyFileRange, caller(request, 0), work, |_, written| {
            answer::written(reply, written)
        });
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
