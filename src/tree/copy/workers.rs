//! Filling files on several threads, and what those threads share.

use std::ffi::{CString, OsStr};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use parking_lot::Mutex;
use rustix::fs::Stat;

use super::super::attributes::{self, File};
use super::super::{Doing, Error, Result};
use super::{Control, Copied, Method, Progress, data};

/// A regular file that has been made and is to be filled.
pub(super) struct Job {
    pub(super) from: OwnedFd,
    pub(super) to: OwnedFd,
    pub(super) stat: Stat,
    pub(super) dir: Arc<Path>,
    pub(super) name: CString,
}

impl Job {
    pub(super) fn path(&self) -> PathBuf {
        self.dir.join(OsStr::from_bytes(self.name.as_bytes()))
    }
}

/// The receiving end, shared by the workers.
pub(super) type Jobs = Arc<Mutex<Receiver<Job>>>;

/// A bounded queue: the walk waits when the workers are behind.
pub(super) fn queue(length: usize) -> (SyncSender<Job>, Jobs) {
    let (sender, receiver) = sync_channel(length);
    (sender, Arc::new(Mutex::new(receiver)))
}

/// What the walk and the workers know together.
pub(super) struct Work<'a> {
    control: Control<'a>,
    /// The first failure; everybody stops soon after.
    failure: Mutex<Option<Error>>,
    failed: AtomicBool,
    /// Cleared when the filesystem turns out to have no reflink.
    may_clone: AtomicBool,
    cloned: AtomicBool,
    copied: AtomicBool,
    bytes: AtomicU64,
    inodes: AtomicU64,
}

impl<'a> Work<'a> {
    pub(super) fn new(control: Control<'a>) -> Self {
        Self {
            control,
            failure: Mutex::new(None),
            failed: AtomicBool::new(false),
            may_clone: AtomicBool::new(true),
            cloned: AtomicBool::new(false),
            copied: AtomicBool::new(false),
            bytes: AtomicU64::new(0),
            inodes: AtomicU64::new(0),
        }
    }

    /// Fills files until the walk has sent all. After a failure it only drains the queue.
    pub(super) fn fill_all(&self, jobs: &Jobs) {
        loop {
            // A statement of its own, so that the lock isn't held while the file is filled.
            let job = jobs.lock().recv();
            let Ok(job) = job else { return };
            if self.failed.load(Ordering::Relaxed) {
                continue;
            }
            if let Err(error) = self.fill(&job) {
                self.fail(error);
            }
        }
    }

    fn fill(&self, job: &Job) -> Result<()> {
        let (from, to) = (job.from.as_fd(), job.to.as_fd());
        let xattrs = attributes::xattrs(File::Open(from))
            .doing("reading extended attributes of", || job.path())?;
        match data::copy(self, job)? {
            Some(Method::Reflink) => self.cloned.store(true, Ordering::Relaxed),
            Some(Method::FullCopy) => self.copied.store(true, Ordering::Relaxed),
            None => {}
        }
        attributes::apply(to, &job.stat, &xattrs).doing("setting attributes of", || job.path())?;
        self.made_inode();
        Ok(())
    }

    /// Keeps the first error and stops the others.
    pub(super) fn fail(&self, error: Error) {
        self.failure.lock().get_or_insert(error);
        self.failed.store(true, Ordering::Relaxed);
    }

    /// Fails when the caller cancelled, or another thread has failed already.
    pub(super) fn go_on(&self) -> Result<()> {
        super::super::check(self.control.cancel)?;
        super::super::check(&self.failed)
    }

    pub(super) fn made_inode(&self) {
        self.inodes.fetch_add(1, Ordering::Relaxed);
        self.report();
    }

    pub(super) fn made_bytes(&self, bytes: u64) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        self.report();
    }

    pub(super) fn may_clone(&self) -> bool {
        self.may_clone.load(Ordering::Relaxed)
    }

    pub(super) fn never_clone(&self) {
        self.may_clone.store(false, Ordering::Relaxed);
    }

    fn total(&self) -> Progress {
        Progress {
            bytes: self.bytes.load(Ordering::Relaxed),
            inodes: self.inodes.load(Ordering::Relaxed),
        }
    }

    fn report(&self) {
        (self.control.progress)(self.total());
    }

    /// The outcome, once all threads are done.
    pub(super) fn finish(self) -> Result<Copied> {
        let total = self.total();
        if let Some(error) = self.failure.into_inner() {
            return Err(error);
        }
        let method = match (self.copied.into_inner(), self.cloned.into_inner()) {
            (true, _) => Some(Method::FullCopy),
            (false, true) => Some(Method::Reflink),
            (false, false) => None,
        };
        Ok(Copied { total, method })
    }
}
