//! What goes wrong with volumes.

use crate::types::VolumeId;

/// Why a volume could not be had, written or removed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Files are open for writing (or a write is running) and didn't finish in time. →
    /// FailedPrecondition / EBUSY
    #[error("volume {0} is in use: {1}")]
    Busy(VolumeId, String),
    /// The volume is sealed (committed). → EROFS
    #[error("volume {0} is read-only")]
    ReadOnly(VolumeId),
    /// The backend has no such volume. → EIO / Unavailable
    #[error("volume {0} is missing from the backend")]
    Missing(VolumeId),
    /// Pool, disk or id space is full. → ResourceExhausted / ENOSPC
    #[error("{0}")]
    NoSpace(String),
    /// The caller's flag was set, or thinfs is stopping.
    #[error("{0}")]
    Cancelled(String),
    /// The thin id isn't among those set aside. → NotFound
    #[error("thin id {0} is not set aside")]
    NotFaulty(u32),
    /// A system call failed.
    #[error("{context}")]
    Io {
        /// What was being done to which object.
        context: String,
        /// The system's answer.
        #[source]
        source: std::io::Error,
    },
    /// A layer below failed.
    #[error("{context}")]
    Backend {
        /// What was being done to which object.
        context: String,
        /// The layer's own error.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// What calls about volumes return.
pub type Result<T> = std::result::Result<T, Error>;
