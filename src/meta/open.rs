//! Opening the store: one process at a time, never a schema that is newer than this program.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

use rocksdb::{
    BlockBasedOptions, Cache, ColumnFamilyDescriptor, DB, DBCompressionType, DBRecoveryMode,
    ErrorKind, LogLevel, Options, WriteOptions,
};
use rustix::fs::{FlockOperation, flock};

use super::backup::LEAP;
use super::batch::Batch;
use super::columns::{Column, Events, System};
use super::damaged_log::Note;
use super::encoded::Numbers;
use super::error::{Error, Result};
use super::migrations::{self, Migration};
use super::rows;
use super::tail::Tail;
use super::write::IdRange;
use crate::types::{Event, Topic};

/// Beside RocksDB's files; holds the owner's process id.
const LOCK_FILE: &str = "thinfs.lock";

/// Shared by all column families.
const BLOCK_CACHE: usize = 8 << 20;
/// Unwritten rows of one column family, at most. Smaller ones are written out so often under load that it costs more
/// than what is written.
const WRITE_BUFFER: usize = 4 << 20;
/// Unwritten rows of all of them, at most.
const WRITE_BUFFERS: usize = 32 << 20;
/// The log is cut once it is this long, so a start replays at most this much: some tenths of a second.
const LOG_LIMIT: u64 = 32 << 20;

/// Opens or makes the store in `dir` and brings it to the newest schema. The file is the lock: the
/// store is ours until it is closed.
///
/// Steps:
/// 1. take the lock, or say who has it;
/// 2. look at the schema version without changing anything;
/// 3. open for writing, which makes missing column families;
/// 4. if the log was damaged, now or before an earlier start that didn't get so far, note in the store what follows;
/// 5. run the missing migrations.
pub(super) fn open(dir: &Path, migrations: &[Migration]) -> Result<(DB, Numbers, File)> {
    make_dir(dir)?;
    let mut lock = lock(dir)?;
    if !dir.join("CURRENT").exists() && holds_rows(dir) {
        return Err(Error::Headless(dir.to_owned()));
    }
    let found = schema_of(dir)?.unwrap_or(0);
    let known = migrations::newest(migrations);
    if found > known {
        return Err(Error::NewerSchema { dir: dir.to_owned(), found, known });
    }
    sign(dir, &mut lock)?;
    let note = Note::of(dir);
    let db = open_for_writing(dir, &note)?;
    let numbers = Numbers::learn(&db).ok_or(Error::Foreign)?;
    if note.is_there() {
        distrust(&db, &numbers)?;
        note.remove()?;
    }
    migrations::run(&db, &numbers, found, migrations)?;
    Ok((db, numbers, lock))
}

pub(super) fn make_dir(dir: &Path) -> Result<()> {
    let failed =
        |source| Error::Io { what: format!("making the directory {}", dir.display()), source };
    if dir.is_dir() {
        return Ok(());
    }
    DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(failed)?;
    match dir.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        Some(parent) => File::open(parent).and_then(|parent| parent.sync_all()).map_err(failed),
        None => Ok(()),
    }
}

pub(super) fn lock(dir: &Path) -> Result<File> {
    let path = dir.join(LOCK_FILE);
    let failed = |source| Error::Io { what: format!("locking {}", path.display()), source };
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&path)
        .map_err(failed)?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(rustix::io::Errno::WOULDBLOCK) => {
            Err(Error::InUse { dir: dir.to_owned(), owner: owner(&mut file).unwrap_or(None) })
        }
        Err(errno) => Err(failed(errno.into())),
    }
}

fn owner(file: &mut File) -> io::Result<Option<u32>> {
    let mut pid = String::new();
    file.read_to_string(&mut pid)?;
    Ok(pid.trim().parse().ok())
}

fn sign(dir: &Path, lock: &mut File) -> Result<()> {
    lock.set_len(0).and_then(|()| writeln!(lock, "{}", std::process::id())).map_err(|source| {
        Error::Io { what: format!("writing {}", dir.join(LOCK_FILE).display()), source }
    })
}

/// Whether RocksDB has written something here, even if the file is lost that tells where it begins.
pub(super) fn holds_rows(dir: &Path) -> bool {
    let is_part = |entry: io::Result<std::fs::DirEntry>| {
        entry.is_ok_and(|entry| {
            let name = entry.file_name().to_string_lossy().into_owned();
            let filled = || entry.metadata().is_ok_and(|metadata| metadata.len() > 0);
            name.ends_with(".sst") || (name.ends_with(".log") && filled())
        })
    };
    std::fs::read_dir(dir).is_ok_and(|mut entries| entries.any(is_part))
}

/// The schema version of the store in `dir`; `None` where there is no store yet, or none that got
/// as far as its first migration. RocksDB is opened read-only: no file of the store changes.
fn schema_of(dir: &Path) -> Result<Option<u32>> {
    if !dir.join("CURRENT").exists() {
        return Ok(None);
    }
    let failed = |source| Error::Open { dir: dir.to_owned(), source };
    let options = Options::default();
    let columns = DB::list_cf(&options, dir).map_err(failed)?;
    if !columns.iter().any(|name| name == Column::System.name()) {
        return Ok(None);
    }
    let db =
        DB::open_cf_for_read_only(&options, dir, [Column::System.name()], false).map_err(failed)?;
    rows::get(&db, Column::System, System::SCHEMA, || "the schema version".into())?
        .map(|record| {
            System::decode_schema(&record)
                .map_err(|source| Error::Corrupt { what: "the schema version".into(), source })
        })
        .transpose()
}

/// A log whose end is missing is what a power cut leaves: what was acknowledged is there. One with
/// a damaged record before its end is not: it is replayed up to there, what was acknowledged later
/// is lost, and volumes that it named would pass for garbage. RocksDB tells the two apart when it
/// is told to accept neither.
///
/// The second opening retires the damaged log, so the note is written before it.
pub(super) fn open_for_writing(dir: &Path, note: &Note) -> Result<DB> {
    let mut strict = store_options();
    strict.set_wal_recovery_mode(DBRecoveryMode::AbsoluteConsistency);
    match open_with(dir, &strict) {
        Err(Error::Open { source, .. }) if source.kind() == ErrorKind::Corruption => {
            if is_damaged_log(&source) {
                note.write(&source)?;
                tracing::error!(dir = %dir.display(), %source, "the metadata store's log is damaged: changes made after the damage are lost; volumes that they named are kept until `thinfs check --repair`");
            }
            open_with(dir, &store_options())
        }
        other => other,
    }
}

/// What RocksDB says of a record in the middle of the log, not of one that the log's end cuts off.
pub(super) fn is_damaged_log(error: &rocksdb::Error) -> bool {
    error.kind() == ErrorKind::Corruption && error.as_ref().contains("checksum mismatch")
}

/// Volumes that no record names are kept; ids and events of the lost changes are not given again. Durable on return.
fn distrust(db: &DB, numbers: &Numbers) -> Result<()> {
    let reserved_end = IdRange::load(db)?.into_inner().reserved_end();
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

fn open_with(dir: &Path, options: &Options) -> Result<DB> {
    let cache = Cache::new_lru_cache(BLOCK_CACHE)
        .map_err(|source| Error::Open { dir: dir.to_owned(), source })?;
    let columns = Column::ALL
        .map(|column| ColumnFamilyDescriptor::new(column.name(), column_options(&cache)));
    DB::open_cf_descriptors(options, dir, columns).map_err(|source| match names_the_lock(&source) {
        true => Error::InUse { dir: dir.to_owned(), owner: None },
        false => Error::Open { dir: dir.to_owned(), source },
    })
}

/// RocksDB's own lock: held by a program other than thinfs.
fn names_the_lock(error: &rocksdb::Error) -> bool {
    error.kind() == rocksdb::ErrorKind::IOError && error.as_ref().contains("/LOCK:")
}

/// Small: some ten thousand snapshots fit into a few megabytes. Of the log, the longest sound
/// beginning is replayed (RocksDB's default); every batch is synced, so an acknowledged one lies
/// within it.
///
/// RocksDB's text log holds the options and no more. What goes wrong comes to us as a result, and once that file can't
/// be written, as on a full disk, the RocksDB of Debian 12 (7.8, compiled with its assertions) ends the process at its
/// next line.
fn store_options() -> Options {
    let mut options = Options::default();
    options.create_if_missing(true);
    options.create_missing_column_families(true);
    options.set_max_open_files(256);
    options.set_max_background_jobs(2);
    options.set_db_write_buffer_size(WRITE_BUFFERS);
    options.set_max_total_wal_size(LOG_LIMIT);
    options.set_log_level(LogLevel::Fatal);
    options.set_keep_log_file_num(4);
    options.set_stats_dump_period_sec(0);
    options.set_stats_persist_period_sec(0);
    options
}

fn column_options(cache: &Cache) -> Options {
    let mut table = BlockBasedOptions::default();
    table.set_block_cache(cache);
    table.set_cache_index_and_filter_blocks(true);
    table.set_bloom_filter(10.0, false);
    let mut options = Options::default();
    options.set_block_based_table_factory(&table);
    options.set_write_buffer_size(WRITE_BUFFER);
    options.set_compression_type(DBCompressionType::None);
    options
}
