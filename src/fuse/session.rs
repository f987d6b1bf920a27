//! The mount's life: mounted, served, unmounted; and what a killed daemon left of an earlier one.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;

use rustix::fs::{AtFlags, CWD, StatxFlags};
use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::ledger::Ledger;
use super::proto::{Device, init};
use super::serve::Adapter;
use super::serving::Serving;
use super::stats::Stats;
use super::takeover::{self, Kept};
use crate::fs::{Fs, Kernel, Notice};

/// How many dead mounts may lie on top of each other.
const MAX_STALE: usize = 64;

/// How to mount.
#[derive(Debug, Clone)]
pub struct MountConfig {
    /// An existing directory.
    pub mountpoint: PathBuf,
    /// Threads that read requests and stay; there are more while all of these are busy.
    pub threads: usize,
    /// The most threads for requests that may take long.
    pub waiting_threads: usize,
    /// Whether the kernel may read and write backing files itself, where it can.
    pub passthrough: bool,
    /// Whether open files are written down, so that another daemon can take the mount over.
    pub outlives: bool,
    /// What `mount` and `df` show as the source.
    pub source: String,
}

impl MountConfig {
    /// The usual at this directory.
    pub fn at(mountpoint: impl Into<PathBuf>) -> Self {
        Self {
            mountpoint: mountpoint.into(),
            threads: 8,
            waiting_threads: 256,
            passthrough: true,
            outlives: false,
            source: "thinfs".to_owned(),
        }
    }
}

/// How an unmount ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unmounted {
    /// Nothing of it is left.
    Clean,
    /// Somebody still has files open or stands in it: it is out of sight, and served until they leave or
    /// the daemon ends.
    Lazy,
}

/// A mounted tree. Dropping it unmounts, lazily if need be.
#[derive(Debug)]
pub struct Session {
    mountpoint: PathBuf,
    fs: Arc<Fs>,
    stats: Arc<Stats>,
    device: Arc<Device>,
    ledger: Option<Arc<Ledger>>,
    serving: Option<Serving>,
    telling: Option<JoinHandle<()>>,
}

impl Session {
    /// Mounts the tree and serves it in threads of its own.
    pub fn mount(fs: Arc<Fs>, config: &MountConfig) -> io::Result<Self> {
        raise_descriptor_limit();
        let mountpoint = config.mountpoint.canonicalize()?;
        let device = Arc::new(Device::open()?);
        mount_fuse(device.as_ref(), &mountpoint, &config.source)?;
        let guard = MountGuard(&mountpoint);
        let agreed = init::agree(&device, config.passthrough)?;
        let stats = Arc::new(Stats::default());
        let ledger = match config.outlives {
            true => Some(Arc::new(Ledger::new(agreed, connection_of(&mountpoint)?)?)),
            false => None,
        };
        let adapter =
            Adapter::new(Arc::clone(&fs), Arc::clone(&stats), config, agreed, ledger.clone());
        let telling = fs.invalidator().start(ToKernel(Arc::clone(&device)))?;
        let serving = Serving::start(Arc::clone(&device), adapter, config.threads)?;
        std::mem::forget(guard);
        tracing::info!(mountpoint = %mountpoint.display(), "mounted");
        let (serving, telling) = (Some(serving), Some(telling));
        Ok(Self { mountpoint, fs, stats, device, ledger, serving, telling })
    }

    /// Takes over a mount whose daemon died: see [`super::takeover`].
    pub fn take_over(fs: Arc<Fs>, config: &MountConfig, kept: Kept) -> io::Result<Self> {
        raise_descriptor_limit();
        let Kept { device, ledger, open } = kept;
        fs.know_all_places().map_err(|error| io::Error::other(error.to_string()))?;
        let (stats, agreed, ledger) = (Arc::default(), ledger.agreed(), Some(Arc::new(ledger)));
        let adapter =
            Adapter::new(Arc::clone(&fs), Arc::clone(&stats), config, agreed, ledger.clone());
        takeover::reopen(&adapter.inner, &device, &open);
        if let Err(errno) = device.resend() {
            tracing::warn!(%errno, "the kernel can't send requests again: who waited for the daemon that died waits for ever");
        }
        let telling = Some(fs.invalidator().start(ToKernel(Arc::clone(&device)))?);
        let serving = Some(Serving::start(Arc::clone(&device), adapter, config.threads)?);
        // What changed while nobody could tell.
        fs.relist_all();
        let mountpoint = config.mountpoint.clone();
        Ok(Self { mountpoint, fs, stats, device, ledger, serving, telling })
    }

    /// What must be kept for another daemon to take the mount over: the connection, and the ledger. `None` if
    /// the mount isn't to outlive this one.
    pub fn to_keep(&self) -> Option<(BorrowedFd<'_>, BorrowedFd<'_>)> {
        self.ledger.as_ref().map(|ledger| (self.device.as_fd(), ledger.as_fd()))
    }

    /// Where it is mounted.
    pub fn mountpoint(&self) -> &Path {
        &self.mountpoint
    }

    /// Requests since the mount.
    pub fn stats(&self) -> &Arc<Stats> {
        &self.stats
    }

    /// Whether it is still served: false once somebody else has unmounted it.
    pub fn is_alive(&self) -> bool {
        self.serving.as_ref().is_some_and(|serving| !serving.is_finished())
    }

    /// Unmounts. When this returns [`Unmounted::Clean`] no volume is pinned by the tree any more.
    pub fn unmount(mut self) -> io::Result<Unmounted> {
        self.end()
    }

    fn end(&mut self) -> io::Result<Unmounted> {
        let Some(serving) = self.serving.take() else {
            return Ok(Unmounted::Clean);
        };
        let ended =
            if serving.is_finished() { Ok(Unmounted::Clean) } else { detach(&self.mountpoint) };
        self.fs.invalidator().close();
        if matches!(ended, Ok(Unmounted::Clean)) {
            serving.join();
            if let Some(telling) = self.telling.take() {
                // It can only have panicked, and has said so.
                drop(telling.join());
            }
            self.fs.disconnect();
        }
        tracing::info!(mountpoint = %self.mountpoint.display(), ?ended, "unmounted");
        ended
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        if let Err(error) = self.end() {
            tracing::error!(%error, mountpoint = %self.mountpoint.display(), "cannot unmount");
        }
    }
}

/// Each file that somebody has open below the mount is a descriptor here, or two.
fn raise_descriptor_limit() {
    let limit = getrlimit(Resource::Nofile);
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }) {
        tracing::warn!(%error, ?limit, "cannot raise the limit of open files");
    }
}

/// Unmounts lazily a mount that didn't come to be.
struct MountGuard<'a>(&'a Path);

impl Drop for MountGuard<'_> {
    fn drop(&mut self) {
        if let Err(error) = unmount(self.0, UnmountFlags::DETACH) {
            tracing::warn!(%error, mountpoint = %self.0.display(), "cannot take back a failed mount");
        }
    }
}

fn mount_fuse(device: impl AsFd, mountpoint: &Path, source: &str) -> io::Result<()> {
    // suid and dev are what a root filesystem needs; allow_other with default_permissions lets the kernel
    // decide who may do what, as on any other filesystem.
    let options = format!(
        "fd={},rootmode=40000,user_id=0,group_id=0,default_permissions,allow_other",
        device.as_fd().as_raw_fd()
    );
    Ok(mount(
        source,
        mountpoint,
        "fuse.thinfs",
        MountFlags::empty(),
        Some(CString::new(options)?.as_c_str()),
    )?)
}

/// The kernel's number of the connection behind a mount, without a request.
fn connection_of(mountpoint: &Path) -> io::Result<u64> {
    let flags = AtFlags::STATX_DONT_SYNC;
    let stat = rustix::fs::statx(CWD, mountpoint, flags, StatxFlags::empty())?;
    Ok(stat.stx_dev_minor.into())
}

fn detach(mountpoint: &Path) -> io::Result<Unmounted> {
    match unmount(mountpoint, UnmountFlags::NOFOLLOW) {
        // EINVAL: somebody else was faster.
        Ok(()) | Err(Errno::INVAL) => Ok(Unmounted::Clean),
        Err(Errno::BUSY) => {
            unmount(mountpoint, UnmountFlags::NOFOLLOW | UnmountFlags::DETACH)?;
            Ok(Unmounted::Lazy)
        }
        Err(errno) => Err(errno.into()),
    }
}

/// Unmounts what a killed daemon left at this path, where every access answers "not connected". Says whether
/// there was anything.
pub fn clear_stale_mount(mountpoint: &Path) -> io::Result<bool> {
    for cleared in 0..MAX_STALE {
        // Attributes may be answered from the kernel's cache; the space is always asked for.
        match rustix::fs::statfs(mountpoint) {
            Err(Errno::NOTCONN) => {
                unmount(mountpoint, UnmountFlags::NOFOLLOW | UnmountFlags::DETACH)?
            }
            Ok(_) | Err(Errno::NOENT) => return Ok(cleared > 0),
            Err(errno) => return Err(errno.into()),
        }
    }
    Err(io::Error::other(format!("more than {MAX_STALE} dead mounts at {}", mountpoint.display())))
}

/// Sends notices by the session's device.
struct ToKernel(Arc<Device>);

impl Kernel for ToKernel {
    fn tell(&self, notice: &Notice) {
        let told = match notice {
            Notice::Entry(parent, name) => self.0.invalidate_name(parent.0, name),
            Notice::Content(node) => self.0.invalidate_node(node.0, 0),
        };
        if let Err(error) = told {
            // Nothing is mounted any more, or the kernel had nothing to drop.
            tracing::debug!(%error, ?notice, "notice not taken");
        }
    }
}
