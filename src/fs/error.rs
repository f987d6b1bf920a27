//! Errors of the file tree: an errno for whoever asked, a line in the log where it is our fault.

use rustix::io::Errno;

use crate::{snapshot, volume};

/// Why an operation did not happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// It would have to wait, and the caller said that it may not. Nothing has changed.
    #[error("the operation has to wait")]
    WouldWait,
    /// What the caller of the system call gets.
    #[error("{0}")]
    Os(Errno),
}

/// The result of an operation on the tree.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl From<Errno> for Error {
    fn from(errno: Errno) -> Self {
        Self::Os(errno)
    }
}

impl From<volume::Error> for Error {
    fn from(error: volume::Error) -> Self {
        let errno = volume_errno(&error);
        report(&error, errno);
        Self::Os(errno)
    }
}

impl From<snapshot::Error> for Error {
    fn from(error: snapshot::Error) -> Self {
        let errno = snapshot_errno(&error);
        report(&error, errno);
        Self::Os(errno)
    }
}

fn volume_errno(error: &volume::Error) -> Errno {
    match error {
        volume::Error::Busy(..) => Errno::BUSY,
        volume::Error::ReadOnly(_) => Errno::ROFS,
        volume::Error::NoSpace(_) => Errno::NOSPC,
        volume::Error::Cancelled(_) => Errno::INTR,
        volume::Error::Io { source, .. } => shortage(source).unwrap_or(Errno::IO),
        volume::Error::NotFaulty(_) => Errno::NOENT,
        volume::Error::Missing(_) | volume::Error::Backend { .. } => Errno::IO,
    }
}

/// What a caller understands of a volume that can't be had: that something ran out. The rest (a directory that is
/// gone, a superblock that is none) would read as if it were about the caller's own path.
fn shortage(error: &std::io::Error) -> Option<Errno> {
    let errno = Errno::from_io_error(error)?;
    matches!(errno, Errno::NOSPC | Errno::DQUOT | Errno::NOMEM | Errno::MFILE | Errno::NFILE)
        .then_some(errno)
}

fn snapshot_errno(error: &snapshot::Error) -> Errno {
    use snapshot::Error;
    match error {
        Error::NotFound(_) | Error::ParentNotFound(_) | Error::NoSuch { .. } => Errno::NOENT,
        Error::AlreadyExists(_) | Error::Exists { .. } => Errno::EXIST,
        Error::InvalidName(_) | Error::InvalidArgument(_) => Errno::INVAL,
        Error::WrongKind { .. } | Error::ParentNotCommitted { .. } => Errno::PERM,
        Error::HasChildren(_) | Error::FailedPrecondition(_) => Errno::BUSY,
        Error::Stopping => Errno::SHUTDOWN,
        Error::Store(_) => Errno::IO,
        Error::Volume(error) => volume_errno(error),
        Error::Rollback { cause, .. } => snapshot_errno(cause),
    }
}

/// What the caller did wrong is for the caller to know; what went wrong here is for the operator.
fn report(error: &dyn std::error::Error, errno: Errno) {
    if errno == Errno::IO {
        let causes: Vec<_> = std::iter::successors(error.source(), |cause| cause.source())
            .map(ToString::to_string)
            .collect();
        tracing::error!(%error, ?causes, "file operation failed");
    } else {
        tracing::debug!(%error, %errno, "file operation refused");
    }
}
