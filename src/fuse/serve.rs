//! Serving a request: at once, or in the pool.
//!
//! Each operation is asked first as one that may not wait. If it would have to, the pool asks again, and
//! answers.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use parking_lot::Mutex;
use rustix::io::Errno;

use super::backing::Backings;
use super::crowd::Crowd;
use super::ledger::Ledger;
use super::pool::Pool;
use super::proto::init::Agreed;
use super::proto::wire::OpenOut;
use super::session::MountConfig;
use super::stats::{Op, Stats};
use crate::fs::types::{Caller, NodeId};
use crate::fs::{Error, Fs, Result, Sink};
use crate::types::SnapshotId;

/// How many requests of one snapshot are served at a time; and how many by the pool.
const EACH: usize = 32;
const EACH_WAITING: usize = 16;

/// The tree behind the protocol.
pub struct Adapter {
    pub(super) inner: Arc<Inner>,
    pub(super) pool: Pool,
    /// Requests as they were received.
    pub(super) crowd: Crowd<Vec<u8>>,
}

/// A request's turn: what serves it, and for which snapshot.
pub struct Turn<'a> {
    pub(super) inner: &'a Arc<Inner>,
    pub(super) pool: &'a Pool,
    pub(super) snapshot: Option<SnapshotId>,
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
    /// Files that the kernel has open since before this daemon, which couldn't open them again.
    pub(super) lost: Mutex<HashSet<u64>>,
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
        let (opened_before, lost) = Default::default();
        Self {
            inner: Arc::new(Inner { fs, stats, backings, agreed, ledger, opened_before, lost }),
            pool: Pool::new(config.waiting_threads, EACH_WAITING),
            crowd: Crowd::new(EACH),
        }
    }
}

impl Turn<'_> {
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
            Err(Error::Os(errno)) => answer(self.inner, Err(errno)),
            Ok(done) => answer(self.inner, Ok(done)),
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
        let inner = Arc::clone(self.inner);
        self.pool.run(self.snapshot, move || {
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
}
