//! The FUSE mount's place in the daemon's life: a dead daemon's mount is cleared before the start,
//! and at the stop ours goes, whoever still uses it.

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, UnmountFlags};

use super::error::{Error, Result};
use super::handover;
use super::stop::Stop;
use crate::fs::{Config, Fs};
use crate::fuse::{Kept, MountConfig, Session, clear_stale_mount};
use crate::grpc::Requests;
use crate::snapshot::Snapshots;

/// How long a stop waits for those who have files open or stand in the tree.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long the kernel may take to end the session once nobody uses it.
const ENDING: Duration = Duration::from_secs(1);
/// How long a changed snapshot may take to show. A request isn't failed for it.
const SETTLING: Duration = Duration::from_secs(2);
const POLL: Duration = Duration::from_millis(20);

/// Clears what a killed daemon left mounted.
pub(super) fn clear_stale(path: &Path) -> Result<()> {
    match clear_stale_mount(path) {
        Ok(true) => {
            tracing::info!(mount = %path.display(), "cleared the mount of a daemon that was killed")
        }
        Ok(false) => {}
        Err(source) => return Err(failed("clear", path)(source)),
    }
    Ok(())
}

/// The mounted tree.
#[derive(Debug)]
pub(super) struct Mount {
    path: PathBuf,
    fs: Arc<Fs>,
    session: Session,
    abort: Option<Abort>,
}

impl Mount {
    /// Mounts, or takes over what a daemon that died has left mounted.
    pub(super) fn new(path: &Path, snapshots: &Arc<Snapshots>, kept: Option<Kept>) -> Result<Self> {
        let fs = Fs::new(Arc::clone(snapshots), Config::default());
        let config = MountConfig { outlives: handover::is_offered(), ..MountConfig::at(path) };
        let session = match kept {
            Some(kept) => Session::take_over(Arc::clone(&fs), &config, kept)
                .map_err(failed("take over the mount", path))?,
            None => {
                let session =
                    Session::mount(Arc::clone(&fs), &config).map_err(failed("mount", path))?;
                if let Some((device, ledger)) = session.to_keep() {
                    handover::keep(device, ledger);
                }
                session
            }
        };
        let connection = rustix::fs::stat(path).map(|stat| rustix::fs::minor(stat.st_dev));
        let abort = connection.and_then(Abort::open).map_err(|error| {
            tracing::warn!(%error, "open files and bind mounts may hold up the stop: no control over the connection");
        });
        Ok(Self { path: path.to_owned(), fs, session, abort: abort.ok() })
    }

    /// A function that returns once the kernel shows every change that is durable by now.
    pub(super) fn settle(&self) -> Box<dyn Fn() + Send + Sync> {
        let fs = Arc::clone(&self.fs);
        Box::new(move || {
            if !fs.invalidator().settle(SETTLING) {
                tracing::warn!("the kernel has not yet taken note of a change after {SETTLING:?}");
            }
        })
    }

    /// A function that has the kernel ask anew which images there are.
    pub(super) fn images_changed(&self) -> impl Fn() + Send + Sync + 'static + use<> {
        // Weak, for the mount goes down before the layers do.
        let fs = Arc::downgrade(&self.fs);
        move || {
            if let Some(fs) = fs.upgrade() {
                fs.images_changed();
            }
        }
    }

    /// A function that tells what the kernel has asked so far.
    pub(super) fn requests(&self) -> Box<dyn Fn() -> Requests + Send + Sync> {
        let stats = Arc::clone(self.session.stats());
        Box::new(move || Requests {
            counts: stats.all(),
            synchronous: stats.synchronous(),
            waited: stats.waited(),
            passthrough: stats.passthrough(),
        })
    }

    /// False once somebody else has unmounted it.
    pub(super) fn is_alive(&self) -> bool {
        self.session.is_alive()
    }

    /// Unmounts. Those who use it are waited for, [`PATIENCE`] at most and not at all in a hurry;
    /// then they are cut off, so that every volume can be flushed and deactivated.
    pub(super) fn take_down(self, stop: &Stop) -> Result<()> {
        if self.session.to_keep().is_some() {
            handover::withdraw();
        }
        if self.is_alive() {
            self.detach(stop).map_err(|errno| failed("unmount", &self.path)(errno.into()))?;
            self.cut_off();
        }
        let Self { path, session, .. } = self;
        session.unmount().map(drop).map_err(failed("unmount", &path))
    }

    fn detach(&self, stop: &Stop) -> rustix::io::Result<()> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match rustix::mount::unmount(&self.path, UnmountFlags::NOFOLLOW) {
                // EINVAL: somebody else was faster.
                Ok(()) | Err(Errno::INVAL) => return Ok(()),
                Err(Errno::BUSY) if stop.is_hurried() || Instant::now() >= deadline => break,
                Err(Errno::BUSY) => std::thread::sleep(POLL),
                Err(errno) => return Err(errno),
            }
        }
        tracing::warn!(mount = %self.path.display(), "still in use (see `fuser -vm`): unmounted lazily");
        rustix::mount::unmount(&self.path, UnmountFlags::NOFOLLOW | UnmountFlags::DETACH)
    }

    /// Open files and bind mounts elsewhere keep the connection up; the end of the process would
    /// end it anyway, but then their writes would race with the flushing.
    fn cut_off(&self) {
        if self.ends_within(ENDING) {
            return;
        }
        tracing::warn!("cutting off open files and bind mounts of the snapshots");
        if let Some(Err(error)) = self.abort.as_ref().map(Abort::abort) {
            tracing::error!(%error, "cannot abort the FUSE connection");
        }
        if !self.ends_within(PATIENCE) {
            tracing::error!("the FUSE session does not end");
        }
    }

    fn ends_within(&self, patience: Duration) -> bool {
        let deadline = Instant::now() + patience;
        while self.is_alive() && Instant::now() < deadline {
            std::thread::sleep(POLL);
        }
        !self.is_alive()
    }
}

/// Tells the kernel to fail everything on our connection. Opened while the connection is certainly
/// ours: the kernel gives the number of one that has ended to the next mount, but what was opened
/// stays with the connection that it was opened for.
#[derive(Debug)]
pub(super) struct Abort(OwnedFd);

impl Abort {
    /// By way of a fusectl filesystem that is mounted nowhere.
    pub(super) fn open(connection: u32) -> rustix::io::Result<Self> {
        let context = rustix::mount::fsopen("fusectl", FsOpenFlags::FSOPEN_CLOEXEC)?;
        rustix::mount::fsconfig_create(&context)?;
        let root = rustix::mount::fsmount(
            &context,
            FsMountFlags::FSMOUNT_CLOEXEC,
            MountAttrFlags::empty(),
        )?;
        let path = format!("{connection}/abort");
        rustix::fs::openat(&root, path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty()).map(Self)
    }

    pub(super) fn abort(&self) -> rustix::io::Result<()> {
        rustix::io::write(&self.0, b"1").map(drop)
    }
}

fn failed(doing: &'static str, mount: &Path) -> impl FnOnce(io::Error) -> Error {
    let mount = mount.to_owned();
    move |source| Error::Fuse { doing, mount, source }
}
