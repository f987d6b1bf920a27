//! What the rules refuse, and what can go wrong below them.

use crate::types::{InvalidName, Kind};
use crate::{meta, volume};

/// The error of every snapshot operation. The text names the snapshot; the cause is the source.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A key, namespace or label that can't be stored.
    #[error(transparent)]
    InvalidName(#[from] InvalidName),
    /// No snapshot has this key.
    #[error("snapshot {0:?} not found")]
    NotFound(String),
    /// The parent asked for doesn't exist.
    #[error("parent snapshot {0:?} not found")]
    ParentNotFound(String),
    /// The key or name is taken, by a snapshot of any kind.
    #[error("snapshot {0:?} already exists")]
    AlreadyExists(String),
    /// The parent asked for exists, but is no committed snapshot.
    #[error("parent {parent:?} is {kind}: only a committed snapshot can be a parent")]
    ParentNotCommitted {
        /// The parent's key.
        parent: String,
        /// What it is.
        kind: Kind,
    },
    /// The operation isn't for snapshots of this kind.
    #[error("snapshot {key:?} is {kind}, {needs}")]
    WrongKind {
        /// The snapshot's key.
        key: String,
        /// What it is.
        kind: Kind,
        /// What the operation needs.
        needs: &'static str,
    },
    /// Snapshots that have it as parent keep it from being removed.
    #[error("cannot remove snapshot {0:?}: it has children, remove them first")]
    HasChildren(String),
    /// A label or filter that says nothing sensible, or a parent that can't be changed.
    #[error("{0}")]
    InvalidArgument(String),
    /// The snapshot isn't in a state for this; trying again later may help.
    #[error("{0}")]
    FailedPrecondition(String),
    /// Something other than a snapshot (a lease, a namespace …) doesn't exist.
    #[error("{what} {name:?} not found")]
    NoSuch {
        /// What kind of thing.
        what: &'static str,
        /// Its name.
        name: String,
    },
    /// Something other than a snapshot has this name already.
    #[error("{what} {name:?} already exists")]
    Exists {
        /// What kind of thing.
        what: &'static str,
        /// Its name.
        name: String,
    },
    /// [`Snapshots::close`](super::Snapshots::close) was called.
    #[error("thinfs is stopping")]
    Stopping,
    /// The store failed.
    #[error(transparent)]
    Store(#[from] meta::Error),
    /// The volume layer or the backend failed.
    #[error(transparent)]
    Volume(#[from] volume::Error),
    /// A new volume could not be recorded and could not be destroyed either; the next start
    /// destroys it.
    #[error("{cause}; then undoing it failed, too: {rollback}")]
    Rollback {
        /// Why the record failed.
        #[source]
        cause: Box<Error>,
        /// Why the volume is still there.
        rollback: volume::Error,
    },
}

/// The result of every snapshot operation.
pub type Result<T> = std::result::Result<T, Error>;

/// An error with all its causes, in one line.
pub(crate) fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(source) = cause {
        text = format!("{text}: {source}");
        cause = source.source();
    }
    text
}
