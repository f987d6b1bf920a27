//! What can go wrong with the store.

use std::io;
use std::path::PathBuf;

pub use super::columns::Malformed;

/// The store's error. The message says what was being done to which object; the cause is the
/// source.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Somebody else has the store open.
    #[error("another thinfs daemon{} uses the metadata store {}", process(owner), dir.display())]
    InUse {
        /// The store's directory.
        dir: PathBuf,
        /// The process that has it, where known.
        owner: Option<u32>,
    },
    /// A later thinfs wrote this store. Nothing has been changed.
    #[error(
        "the metadata store {} has schema {found}, this thinfs knows up to {known}: \
         use a newer thinfs",
        dir.display()
    )]
    NewerSchema {
        /// The store's directory.
        dir: PathBuf,
        /// The schema version found.
        found: u32,
        /// The newest that this program knows.
        known: u32,
    },
    /// RocksDB could not open the store.
    #[error("opening the metadata store {}", dir.display())]
    Open {
        /// The store's directory.
        dir: PathBuf,
        /// RocksDB's reason.
        source: rocksdb::Error,
    },
    /// RocksDB writes batches in another form than this program does.
    #[error(
        "the RocksDB library encodes batches in a way that this thinfs doesn't know: use the version that it was built for"
    )]
    Foreign,
    /// A file operation around RocksDB failed.
    #[error("{what}")]
    Io {
        /// What was being done to which file.
        what: String,
        /// The system's reason.
        source: io::Error,
    },
    /// A step from one schema version to the next failed; the store still has the former version.
    #[error("migrating the metadata store to schema {to} ({what})")]
    Migration {
        /// The version that wasn't reached.
        to: u32,
        /// What the step does.
        what: &'static str,
        /// Why it failed.
        source: Box<Error>,
    },
    /// RocksDB could not read.
    #[error("reading {what} from the metadata store")]
    Read {
        /// Which object.
        what: String,
        /// RocksDB's reason.
        source: rocksdb::Error,
    },
    /// A batch could not be brought to stable storage. Whether the next start will find it is
    /// unknown.
    #[error(
        "writing to the metadata store failed; it accepts no more changes until thinfs is restarted"
    )]
    Write {
        /// RocksDB's reason.
        source: rocksdb::Error,
    },
    /// Whoever wrote the batch panicked. Whether the next start will find it is unknown.
    #[error(
        "writing to the metadata store panicked; it accepts no more changes until thinfs is restarted"
    )]
    WritePanicked,
    /// An earlier write failed; this one was not tried.
    #[error(
        "the metadata store accepts no changes since a write failed: restart thinfs ({reason})"
    )]
    Poisoned {
        /// The earlier failure.
        reason: String,
    },
    /// The store could not be copied.
    #[error("copying the metadata store to {}", dir.display())]
    Backup {
        /// Where to.
        dir: PathBuf,
        /// RocksDB's reason.
        source: rocksdb::Error,
    },
    /// The file that tells where the store begins is gone; opening it would make a new one.
    #[error(
        "the metadata store {} has lost its file CURRENT: `thinfs check --offline --repair` saves \
         what is there",
        .0.display()
    )]
    Headless(PathBuf),
    /// There is no store at this place.
    #[error("{} holds no metadata store", .0.display())]
    NoBackup(PathBuf),
    /// What stands in the store could not be understood.
    #[error("{what} in the metadata store is damaged")]
    Corrupt {
        /// Which object.
        what: String,
        /// What is wrong with it.
        source: Malformed,
    },
    /// All 2³² − 1 snapshot ids have been given.
    #[error("all snapshot ids of this metadata store have been used")]
    IdsExhausted,
}

impl Error {
    /// Whether a batch that failed with this error may yet be found by the next start. If so,
    /// nothing that the batch names may be destroyed; the next start compares store and backend and
    /// decides.
    pub fn may_have_been_written(&self) -> bool {
        matches!(self, Error::Write { .. } | Error::WritePanicked)
    }
}

fn process(owner: &Option<u32>) -> String {
    owner.map(|pid| format!(" (process {pid})")).unwrap_or_default()
}

/// The store's result.
pub type Result<T> = std::result::Result<T, Error>;
