//! Why the daemon didn't start, or ended by itself.

use std::io;
use std::path::{Path, PathBuf};

pub(super) type Result<T> = std::result::Result<T, Error>;

/// Why the daemon didn't start, or ended by itself.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The environment arms a crash point that doesn't exist.
    #[error(transparent)]
    CrashPoint(crate::crashpoint::Unknown),
    /// Mounting needs it.
    #[error("the daemon must run as root")]
    NotRoot,
    /// The kernel has no FUSE, or this container isn't given it.
    #[error("/dev/fuse is missing")]
    NoFuse,
    /// Another daemon is at work here.
    #[error("another daemon (pid {pid}) is using {}", root.display())]
    Locked {
        /// The root.
        root: PathBuf,
        /// What the lock file says.
        pid: String,
    },
    /// The root isn't a directory.
    #[error("the root {} is not a directory", .0.display())]
    RootNotDirectory(PathBuf),
    /// Someone else could swap what's inside.
    #[error("the root {} belongs to uid {uid}, not to us", path.display())]
    RootNotOurs {
        /// The root.
        path: PathBuf,
        /// Its owner.
        uid: u32,
    },
    /// The mount point isn't a directory.
    #[error("the mount point {} is not a directory", .0.display())]
    MountNotDirectory(PathBuf),
    /// Mounting would hide what is there.
    #[error("the mount point {} is not empty", .0.display())]
    MountNotEmpty(PathBuf),
    /// The root's data are in another backend.
    #[error("{} holds the data of the {holds} backend, but {asked} was asked for", root.display())]
    OtherBackend {
        /// The root.
        root: PathBuf,
        /// Which backend holds the data.
        holds: String,
        /// Which one was asked for.
        asked: String,
    },
    /// The record of the backend names none.
    #[error("the file {} names no backend: {says:?}", path.display())]
    UnknownBackend {
        /// The file.
        path: PathBuf,
        /// Its content.
        says: String,
    },
    /// dm-thin was asked for, or holds the data, and can't be used.
    #[error("the thin backend cannot be used: {0}")]
    NoThin(String),
    /// Block devices were asked for, and plain directories have none.
    #[error("mount-form block needs block devices, but the backend is native: {0}")]
    NoBlockDevices(String),
    /// A backend didn't start.
    #[error("cannot start the {name} backend")]
    Backend {
        /// Its name.
        name: &'static str,
        /// Why.
        #[source]
        source: crate::volume::Error,
    },
    /// The store can't be opened.
    #[error("cannot open the store")]
    Store(#[source] crate::meta::Error),
    /// The state that was found can't be served.
    #[error("cannot recover the snapshots")]
    Recover(#[source] crate::snapshot::Error),
    /// The collector's thread can't be started.
    #[error("cannot start the collector")]
    Collector(#[source] crate::snapshot::Error),
    /// The layers that were found can't be served.
    #[error("cannot restore the layers")]
    Layers(#[source] Box<crate::layer_store::Error>),
    /// Not everything could be closed.
    #[error("cannot close the snapshots")]
    Close(#[source] crate::snapshot::Error),
    /// Not everything could be flushed and deactivated.
    #[error("cannot take down the volumes")]
    TakeDown(#[source] crate::volume::Error),
    /// The FUSE filesystem can't be mounted or unmounted.
    #[error("cannot {doing} the FUSE filesystem at {}", mount.display())]
    Fuse {
        /// What was being done.
        doing: &'static str,
        /// The mount point.
        mount: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Somebody else unmounted it while it was served.
    #[error("the FUSE filesystem at {} was unmounted by somebody else", .0.display())]
    Unmounted(PathBuf),
    /// The socket can't be had.
    #[error(transparent)]
    Socket(#[from] crate::grpc::SocketError),
    /// The gRPC server ended.
    #[error(transparent)]
    Serve(#[from] crate::grpc::ServeError),
    /// A thread panicked: a bug. What was acknowledged is safe; going on wouldn't be.
    #[error("stopped after a panic in thread {thread}: {message}")]
    Panicked {
        /// The thread's name.
        thread: String,
        /// What it said, and where.
        message: String,
    },
    /// The file system refused.
    #[error("cannot {doing} {}", path.display())]
    Io {
        /// What was being done.
        doing: &'static str,
        /// To which file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The async runtime or the signal handlers can't be set up.
    #[error("cannot set up {0}")]
    Runtime(&'static str, #[source] io::Error),
}

impl Error {
    /// What the user can do, where that is known.
    pub fn remedy(&self) -> Option<&'static str> {
        match self {
            Self::NotRoot => Some("run `sudo thinfs serve`"),
            Self::NoFuse => {
                Some("load it with `modprobe fuse`; a container needs `--device /dev/fuse`")
            }
            Self::Locked { .. } => Some("stop that one, or choose another --root"),
            Self::RootNotDirectory(_) | Self::RootNotOurs { .. } => {
                Some("choose a directory of its own with --root")
            }
            Self::MountNotDirectory(_) | Self::MountNotEmpty(_) => {
                Some("choose an empty directory with --mount")
            }
            Self::OtherBackend { .. } => Some("leave --backend out, or choose another --root"),
            Self::NoThin(_) => {
                Some("use `--backend native`, which needs no device-mapper, with a fresh --root")
            }
            Self::NoBlockDevices(_) => {
                Some("leave --mount-form out, or see to it that dm-thin can be used")
            }
            Self::Recover(_) | Self::Layers(_) | Self::Store(_) => {
                Some("see what is wrong with `thinfs check --offline`; with --repair it mends it")
            }
            Self::UnknownBackend { .. }
            | Self::Backend { .. }
            | Self::Collector(_)
            | Self::Close(_)
            | Self::TakeDown(_)
            | Self::Fuse { .. }
            | Self::Unmounted(_)
            | Self::Socket(_)
            | Self::Serve(_)
            | Self::Panicked { .. }
            | Self::Io { .. }
            | Self::Runtime(..)
            | Self::CrashPoint(_) => None,
        }
    }
}

pub(super) fn failed(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::Io { doing, path, source }
}
