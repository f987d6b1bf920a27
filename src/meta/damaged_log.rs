//! A log that was damaged before its end: the note of it.
//!
//! RocksDB tells of the damage once. The opening that replays what is sound retires the log, so a start that dies after
//! it would leave a store that looks whole to the next one, and the volumes that only the lost changes named would pass
//! for garbage. So a note lies beside RocksDB's files from before that opening until the store itself says that volumes
//! are to be kept.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use super::error::{Error, Result};

/// Beside RocksDB's files.
const NOTE: &str = "thinfs.damaged-log";

/// Where the note is.
pub(super) struct Note(PathBuf);

impl Note {
    /// That of the store in `dir`, written or not.
    pub(super) fn of(dir: &Path) -> Self {
        Self(dir.join(NOTE))
    }

    /// Whether a log was damaged and the store doesn't say so yet.
    pub(super) fn is_there(&self) -> bool {
        self.0.exists()
    }

    /// When it returns, the note is on stable storage.
    pub(super) fn write(&self, why: &rocksdb::Error) -> Result<()> {
        let write = || {
            let mut file = File::create(&self.0)?;
            writeln!(file, "{why}")?;
            file.sync_all()?;
            self.sync_dir()
        };
        write().map_err(|source| self.failed("writing", source))
    }

    /// The store says it by now.
    pub(super) fn remove(&self) -> Result<()> {
        let remove = || fs::remove_file(&self.0).and_then(|()| self.sync_dir());
        remove().map_err(|source| self.failed("removing", source))
    }

    fn sync_dir(&self) -> io::Result<()> {
        File::open(self.0.parent().unwrap_or(Path::new(".")))?.sync_all()
    }

    fn failed(&self, doing: &str, source: io::Error) -> Error {
        Error::Io { what: format!("{doing} {}", self.0.display()), source }
    }
}
