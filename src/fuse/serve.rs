//! Serving a request: at once, or in the pool; and the way that an opened file goes.
//!
//! Each operation is asked first as one that may not wait. If it would have to, the pool asks again, and
//! answers.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use rustix::fs::OFlags;
use rustix::io::Errno;

use super::backing::Backings;
use super::convert::entry_out;
use super::ledger::{Ledger, Record};
use super::pool::Pool;
use super::proto::flags::fopen;
use super::proto::init::Agreed;
use super::proto::wire::OpenOut;
use super::proto::{BackingId, Device, Reply, Request};
use super::session::MountConfig;
use super::stats::{Op, Stats};
use crate::fs::types::{Caller, Entry, Found, NodeId};
use crate::fs::{Asked, Error, Fs, Opened, Result, Sink};

/// The tree behind the protocol.
pub struct Adapter {
    pub(super) inner: Arc<Inner>,
    pub(super) pool: Pool,
}

/// What answers need.
pub struct Inner {
    pub(super) fs: Arc<Fs>,
    pub(super) stats: Arc<Stats>,
    pub(super) backings: Backings,
    pub(super) agreed: Agreed,
    /// Where open files are written down for a successor, if there may be one.
    pub(super) ledger: Option<Arc<Ledger>>,
    /// How files were opened, by requests that may be sent again.
    pub(super) opened_before: Mutex<HashMap<u64, OpenOut>>,
}

impl Adapter {
    /// Serves `fs` by what was agreed on with the kernel.
    pub fn new(
        fs: Arc<Fs>,
        stats: Arc<Stats>,
        config: &MountConfig,
        agreed: Agreed,
        ledger: Option<Arc<Ledger>>,
    ) -> Self {
        let backings = Backings::new(agreed.passthrough());
        let opened_before = Mutex::default();
        Self {
            inner: Arc::new(Inner { fs, stats, backings, agreed, ledger, opened_before }),
            pool: Pool::new(config.waiting_threads),
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

    /// A file is open from now on: what the kernel is told, and what a successor is.
    fn opened(&self, opened: &Opened, asked: Asked, reply: &Reply) -> OpenOut {
        let out = self.way(opened, asked, reply);
        if let Some(ledger) = &self.ledger {
            ledger.record(&Record {
                handle: out.fh,
                node: opened.file.node.0,
                unique: reply.unique(),
                flags: asked.0.bits(),
                open_flags: out.open_flags,
                backing: out.backing_id,
                spare: 0,
            });
        }
        out
    }

    /// A file is open that a daemon before this one opened.
    pub(super) fn reopen(&self, device: &Arc<Device>, record: &Record) -> Result<(), Errno> {
        let (node, asked) = (NodeId(record.node), Asked(OFlags::from_bits_retain(record.flags)));
        self.fs.reopen(node, asked, record.handle).map_err(waited_errno)?;
        let passed = record.backing != 0;
        self.backings.reopen(node, passed.then_some(|| BackingId::adopt(device, record.backing)));
        if passed && asked.may_map_writable() {
            self.fs.begin_bypass(node);
        }
        let (fh, open_flags) = (record.handle, record.open_flags);
        let out = OpenOut { fh, open_flags, backing_id: record.backing };
        self.opened_before.lock().insert(record.unique, out);
        Ok(())
    }

    /// The kernel has closed a file. Erased from the ledger first: a successor would not know whether the
    /// kernel still has the backing id.
    pub(super) fn closed(&self, node: NodeId, asked: Asked, handle: u64) {
        if self.fs.file(handle).is_err() {
            // Closed by a daemon before this one, which didn't get to say so.
            return;
        }
        if let Some(ledger) = &self.ledger {
            ledger.erase(handle);
        }
        let passed = self.backings.close(node);
        if passed && asked.may_map_writable() {
            self.fs.end_bypass(node);
        }
        self.fs.release(handle);
    }

    /// The answer to a request that was sent before, if the file is open since then.
    pub(super) fn answer_opened_before(
        &self,
        request: &Request<'_>,
        reply: Reply,
    ) -> Option<Reply> {
        if !request.is_resent() {
            return Some(reply);
        }
        match self.opened_before.lock().remove(&reply.unique()) {
            Some(out) => {
                reply.send(&out);
                None
            }
            None => Some(reply),
        }
    }

    /// The same for a file that was made by the request.
    pub(super) fn answer_created_before(
        &self,
        request: &Request<'_>,
        caller: &Caller,
        reply: Reply,
    ) -> Option<Reply> {
        if !request.is_resent() {
            return Some(reply);
        }
        let Some(out) = self.opened_before.lock().remove(&reply.unique()) else {
            return Some(reply);
        };
        let found = self.fs.file(out.fh).and_then(|file| {
            self.fs.lookup(&Caller { may_wait: true, ..*caller }, file.node, ".".as_ref())
        });
        match found.map_err(waited_errno) {
            Ok(Found::Entry(entry)) => reply.send_both(&entry_out(&entry), &out),
            Ok(Found::Absent(_)) => reply.error(Errno::STALE),
            Err(errno) => reply.error(errno),
        }
        None
    }

    /// How an opened file is to be read and written: by the kernel itself if it can.
    fn way(&self, opened: &Opened, asked: Asked, reply: &Reply) -> OpenOut {
        let node = opened.file.node;
        // Past us a file is changed with rights that are the same for all, so not one with privileges.
        let register = || match opened.file.has_privileges() {
            true => Err(Errno::PERM),
            false => BackingId::register(reply.device(), &opened.file.fd),
        };
        let Some(backing) = self.backings.open(node, register) else {
            let open_flags = request_flags(asked);
            return OpenOut { fh: opened.handle, open_flags, backing_id: 0 };
        };
        self.stats.count_passthrough();
        if asked.may_map_writable() {
            self.fs.begin_bypass(node);
        }
        let open_flags = fopen::NOFLUSH | fopen::PASSTHROUGH;
        OpenOut { fh: opened.handle, open_flags, backing_id: backing.number() }
    }

    pub(super) fn answer_open(&self, opened: &Opened, asked: Asked, reply: Reply) {
        let opened = self.opened(opened, asked, &reply);
        reply.send(&opened);
    }

    pub(super) fn answer_create(&self, entry: &Entry, opened: &Opened, asked: Asked, reply: Reply) {
        let opened = self.opened(opened, asked, &reply);
        let mut entry = *entry;
        if opened.open_flags & fopen::PASSTHROUGH != 0 && asked.may_map_writable() {
            // What is written by way of a mapping outdates them.
            entry.known.ttl = Duration::ZERO;
        }
        reply.send_both(&entry_out(&entry), &opened);
    }
}

fn request_flags(asked: Asked) -> u32 {
    let direct = fopen::DIRECT_IO | fopen::PARALLEL_DIRECT_WRITES;
    fopen::NOFLUSH | if asked.direct() { direct } else { fopen::KEEP_CACHE }
}
