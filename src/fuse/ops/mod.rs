//! One method an operation: decode, call, encode. What serving is, stands in `serve`.
//!
//! A method that finds its request garbled returns the error, and with that drops the reply, which answers
//! `EIO`.

mod attributes;
mod files;
mod listing;
mod names;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use rustix::io::Errno;

use super::convert::node;
use super::proto::flags::opcode;
use super::proto::wire::{BatchForgetIn, ForgetIn, ForgetOne};
use super::proto::{Device, Reply, Request};
use super::serve::{Adapter, Turn};
use super::stats::Op;

/// What decoding came to. The request itself is answered by its [`Reply`].
type Decoded = Result<(), Errno>;

impl Adapter {
    /// Serves one request as it was received, or leaves it to those who serve its snapshot already.
    pub fn handle(&self, device: &Arc<Device>, bytes: &[u8]) {
        let Some(request) = Request::parse(bytes) else {
            return tracing::error!(len = bytes.len(), "garbled request");
        };
        let snapshot = request.snapshot();
        if !self.crowd.begin(snapshot, || bytes.to_vec()) {
            return;
        }
        let turn = Turn { inner: &self.inner, pool: &self.pool, snapshot };
        turn.serve_request(device, request);
        while let Some(bytes) = self.crowd.end(snapshot) {
            if let Some(request) = Request::parse(&bytes) {
                turn.serve_request(device, request);
            }
        }
    }
}

impl Turn<'_> {
    /// A panic ends the request, which is answered with `EIO`, not the thread.
    fn serve_request(&self, device: &Arc<Device>, request: Request<'_>) {
        let opcode = request.header.opcode;
        match catch_unwind(AssertUnwindSafe(|| self.dispatch(device, request))) {
            Ok(Ok(())) => {}
            Ok(Err(errno)) => tracing::error!(%errno, opcode, "garbled request"),
            Err(_) => tracing::error!(opcode, "a file operation panicked; its caller got EIO"),
        }
    }

    fn dispatch(&self, device: &Arc<Device>, request: Request<'_>) -> Decoded {
        let code = request.header.opcode;
        match code {
            opcode::FORGET => return self.forget(request),
            opcode::BATCH_FORGET => return self.batch_forget(request),
            // Whoever gave up waiting still gets the answer, soon.
            opcode::INTERRUPT | opcode::NOTIFY_REPLY => return Ok(()),
            _ => {}
        }
        let reply = Reply::new(Arc::clone(device), request.header.unique);
        match code {
            opcode::LOOKUP => self.lookup(request, reply),
            opcode::GETATTR => self.getattr(&request, reply),
            opcode::STATX => self.statx(&request, reply),
            opcode::SETATTR => self.setattr(request, reply),
            opcode::READLINK => self.readlink(&request, reply),
            opcode::SYMLINK => self.symlink(request, reply),
            opcode::MKNOD => self.mknod(request, reply),
            opcode::MKDIR => self.mkdir(request, reply),
            opcode::UNLINK => self.unlink(request, reply),
            opcode::RMDIR => self.rmdir(request, reply),
            opcode::RENAME => self.rename(request, reply),
            opcode::RENAME2 => self.rename2(request, reply),
            opcode::LINK => self.link(request, reply),
            opcode::OPEN => self.open(request, reply),
            opcode::CREATE => self.create(request, reply),
            opcode::TMPFILE => self.tmpfile(request, reply),
            opcode::READ => self.read(request, reply),
            opcode::WRITE => self.write(request, reply),
            opcode::RELEASE => self.release(request, reply),
            opcode::FSYNC => self.fsync(request, reply),
            opcode::FALLOCATE => self.fallocate(request, reply),
            opcode::LSEEK => self.lseek(request, reply),
            opcode::COPY_FILE_RANGE => self.copy_file_range(request, reply),
            opcode::IOCTL => self.ioctl(request, reply),
            opcode::READDIR => self.readdir(request, reply, false),
            opcode::READDIRPLUS => self.readdir(request, reply, true),
            opcode::FSYNCDIR => self.fsyncdir(&request, reply),
            opcode::STATFS => self.statfs(&request, reply),
            opcode::SETXATTR => self.setxattr(request, reply),
            opcode::GETXATTR => self.getxattr(request, reply),
            opcode::LISTXATTR => self.listxattr(request, reply),
            opcode::REMOVEXATTR => self.removexattr(request, reply),
            _ => {
                self.refuse(code, reply);
                Ok(())
            }
        }
    }

    /// Refused once, the kernel asks no more, and
    /// - of `FLUSH`: closes without asking; closing a file has nothing to wait for;
    /// - of `OPENDIR`: opens directories without asking, and caches what they list;
    /// - of `ACCESS`: decides by itself, as `default_permissions` has it do anyway.
    fn refuse(&self, code: u32, reply: Reply) {
        self.inner.stats.count(match code {
            opcode::FLUSH => Op::Flush,
            opcode::OPENDIR => Op::Opendir,
            _ => Op::Other,
        });
        if code == opcode::DESTROY { reply.ok() } else { reply.error(Errno::NOSYS) }
    }

    fn forget(&self, mut request: Request<'_>) -> Decoded {
        let forget: ForgetIn = request.take()?;
        self.inner.stats.count(Op::Forget);
        self.forget_node(request.header.nodeid, forget.nlookup);
        Ok(())
    }

    fn batch_forget(&self, mut request: Request<'_>) -> Decoded {
        let batch: BatchForgetIn = request.take()?;
        for _ in 0..batch.count {
            let forget: ForgetOne = request.take()?;
            self.inner.stats.count(Op::Forget);
            self.forget_node(forget.nodeid, forget.nlookup);
        }
        Ok(())
    }

    fn forget_node(&self, nodeid: u64, lookups: u64) {
        if let Some(large) = self.inner.fs.forget(node(nodeid), lookups) {
            // Not as one of its snapshot: those may be waiting for a commit that waits for this.
            self.pool.run(None, move || drop(large));
        }
    }
}
