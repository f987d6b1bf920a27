//! Serving a request: at once, or in the pool; and the way that an opened file goes.
//!
//! Each operation is asked first as one that may not wait. If it would have to, the pool asks again, and
//! answers.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use fuser::{FileHandle, FopenFlags, Generation, ReplyCreate, ReplyOpen};
use rustix::io::Errno;

use super::backing::Backings;
use super::convert::file_attr;
use super::pool::Pool;
use super::session::MountConfig;
use super::stats::{Op, Stats};
use crate::fs::types::{Caller, Entry, NodeId};
use crate::fs::{Asked, Error, Fs, Opened, Result, Sink};

/// The tree behind the protocol.
pub struct Adapter {
    pub(super) inner: Arc<Inner>,
    pub(super) pool: Pool,
    /// Whether to ask for passthrough.
    pub(super) passthrough: bool,
}

/// What answers need.
pub struct Inner {
    pub(super) fs: Arc<Fs>,
    pub(super) stats: Arc<Stats>,
    pub(super) backings: Backings,
}

impl Adapter {
    /// Serves `fs`.
    pub fn new(fs: Arc<Fs>, stats: Arc<Stats>, config: &MountConfig) -> Self {
        Self {
            inner: Arc::new(Inner { fs, stats, backings: Backings::default() }),
            pool: Pool::new(config.waiting_threads),
            passthrough: config.passthrough,
        }
    }

    /// Does the work and answers; in the pool if it would have to wait.
    pub(super) fn serve<T>(
        &self,
        op: Op,
        caller: Caller,
        work: impl Fn(&Fs, &Caller) -> Result<T> + Send + 'static,
        answer: impl FnOnce(&Inner, Result<T, Errno>) + Send + 'static,
    ) {
        self.inner.stats.count(op);
        match work(&self.inner.fs, &caller) {
            Err(Error::WouldWait) => self.wait(caller, work, answer),
            Err(Error::Os(errno)) => answer(&self.inner, Err(errno)),
            Ok(done) => answer(&self.inner, Ok(done)),
        }
    }

    /// Does the work in the pool, and answers there.
    pub(super) fn serve_waiting<T>(
        &self,
        op: Op,
        caller: Caller,
        work: impl FnOnce(&Fs, &Caller) -> Result<T> + Send + 'static,
        answer: impl FnOnce(&Inner, Result<T, Errno>) + Send + 'static,
    ) {
        self.inner.stats.count(op);
        self.wait(caller, work, answer);
    }

    fn wait<T>(
        &self,
        caller: Caller,
        work: impl FnOnce(&Fs, &Caller) -> Result<T> + Send + 'static,
        answer: impl FnOnce(&Inner, Result<T, Errno>) + Send + 'static,
    ) {
        self.inner.stats.count_waited();
        let inner = Arc::clone(&self.inner);
        self.pool.run(move || {
            let done = work(&inner.fs, &Caller { may_wait: true, ..caller });
            answer(&inner, done.map_err(waited_errno));
        });
    }
}

/// The errno of an operation that was allowed to wait.
pub fn waited_errno(error: Error) -> Errno {
    match error {
        Error::Os(errno) => errno,
        Error::WouldWait => {
            tracing::error!("an operation that was allowed to wait refused to");
            Errno::IO
        }
    }
}

impl Inner {
    /// Lists a directory whose volume has just been seen activated.
    pub(super) fn list(
        &self,
        caller: &Caller,
        node: NodeId,
        cookie: u64,
        attributes: bool,
        add: Sink<'_>,
    ) -> Result<(), Errno> {
        let caller = Caller { may_wait: true, ..*caller };
        self.fs.list(&caller, node, cookie, attributes, add).map_err(waited_errno)
    }

    /// How an opened file is to be read and written: by the kernel itself if it can.
    fn way(
        &self,
        opened: &Opened,
        asked: Asked,
        register: impl FnOnce() -> io::Result<fuser::BackingId>,
    ) -> Way {
        let node = opened.file.node;
        let Some(backing) = self.backings.open(node, register) else {
            return Way::Requests(request_flags(asked));
        };
        self.stats.count_passthrough();
        if asked.may_map_writable() {
            self.fs.begin_bypass(node);
        }
        Way::Passthrough(backing)
    }

    pub(super) fn answer_open(&self, opened: &Opened, asked: Asked, reply: ReplyOpen) {
        let handle = FileHandle(opened.handle);
        match self.way(opened, asked, || reply.open_backing(&opened.file.fd)) {
            Way::Passthrough(backing) => {
                reply.opened_passthrough(handle, FopenFlags::FOPEN_NOFLUSH, &backing)
            }
            Way::Requests(flags) => reply.opened(handle, flags),
        }
    }

    pub(super) fn answer_create(
        &self,
        entry: &Entry,
        opened: &Opened,
        asked: Asked,
        reply: ReplyCreate,
    ) {
        let handle = FileHandle(opened.handle);
        let attr = file_attr(&entry.known.attr);
        let generation = Generation(entry.generation.into());
        match self.way(opened, asked, || reply.open_backing(&opened.file.fd)) {
            Way::Passthrough(backing) => {
                // One time holds for name and attributes here, and mapped writes outdate the latter.
                let ttl = if asked.may_map_writable() { Duration::ZERO } else { entry.known.ttl };
                reply.created_passthrough(
                    &ttl,
                    &attr,
                    generation,
                    handle,
                    FopenFlags::FOPEN_NOFLUSH,
                    &backing,
                );
            }
            Way::Requests(flags) => {
                reply.created(&entry.known.ttl, &attr, generation, handle, flags)
            }
        }
    }
}

enum Way {
    Passthrough(Arc<fuser::BackingId>),
    Requests(FopenFlags),
}

fn request_flags(asked: Asked) -> FopenFlags {
    let direct = FopenFlags::FOPEN_DIRECT_IO | FopenFlags::FOPEN_PARALLEL_DIRECT_WRITES;
    FopenFlags::FOPEN_NOFLUSH | if asked.direct() { direct } else { FopenFlags::FOPEN_KEEP_CACHE }
}
