//! A log that was damaged before its end: the note of it, and what follows from it.
//!
//! RocksDB tells of the damage once. The opening that replays what is sound retires the log, so a start that dies after
//! it would leave a store that looks whole to the next one, and the volumes that only the lost changes named would pass
//! for garbage. So a note lies beside RocksDB's files from before that opening until the store itself says that volumes
//! are to be kept.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use rocksdb::{DB, WriteOptions};

use super::backup::LEAP;
use super::batch::Batch;
use super::columns::{Column, Events, System};
use super::encoded::Numbers;
use super::error::{Error, Result};
use super::rows;
use super::tail::Tail;
use crate::types::{Event, Topic};

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

/// Volumes that no record names are kept; ids and events of the lost changes are not given again. Durable on return.
pub(super) fn distrust(db: &DB, numbers: &Numbers) -> Result<()> {
    let what = || "the snapshot id counter".to_owned();
    let reserved_end = rows::get(db, Column::System, System::SNAPSHOT_IDS, what)?
        .map(|record| System::decode_snapshot_ids(&record))
        .transpose()
        .map_err(|source| Error::Corrupt { what: what(), source })?
        .unwrap_or(1);
    let last_event = Tail::load(db)?.bounds().last;
    let mut batch = Batch::default();
    batch.keep_unnamed("the store's log was damaged");
    let end = System::encode_snapshot_ids(reserved_end + LEAP);
    batch.put(Column::System, System::SNAPSHOT_IDS, end);
    let event = Event::new(Topic::STORE_REPAIR)
        .with("what", "the store's log was damaged: changes made after the damage are lost");
    batch.put(Column::Events, Events::row_key(last_event + LEAP), Events::encode(event));
    let mut durable = WriteOptions::default();
    durable.set_sync(true);
    db.write_opt(batch.into_rocksdb(numbers), &durable).map_err(|source| Error::Write { source })
}
